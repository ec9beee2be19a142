"""Nothing from outside acts on a terminal: it is shown, and stays what it is."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.table import Table

from unspoken import cli, terminal
from unspoken.cli import main
from unspoken.commands import asking, measuring
from unspoken.commands.saying import say, say_json, say_traceback
from unspoken.errors import PipelineError
from unspoken.events import RunEnded, Tell, WordsWritten
from unspoken.runs import Run, Turn
from unspoken.streaming import Stream
from unspoken.terminal import PlainConsole, escaped, progress, track
from unspoken.types import Text, Usage, Vectors
from unspoken.wire import Header, Message

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b1A\r\b\x7f\u202egnp.exe\u2066\u2028\ud800"
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u206f\ud800-\udfff]")
LETTERS = (
    "naïve Ångström",
    "北京 is",
    "שלום עולם\u200f",
    "مرحبا",
    "👩‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🙂",
    "a\tb\nc",
    "\\u001b",
)
SENT = HOSTILE.replace("\ud800", "")  # a message is UTF-8
HEADER = Header(channel=SENT[:64], sender=SENT, role=SENT, weights="w", tokenizer="t")


def shown(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main(arguments)
    out, err = capsys.readouterr()
    assert not ACTS.search(out + err), (out, err)
    return out + err


@pytest.mark.parametrize("words", LETTERS)
def test_letters_of_any_script_stay(words: str):
    assert escaped(words) == words


def test_every_control_and_every_override_is_shown():
    acting = [chr(n) for n in (*range(0x20), *range(0x7F, 0xA0)) if chr(n) not in "\t\n"]
    acting += list("\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ud800\udfff")
    for one in acting:
        assert escaped(f"a{one}b") == f"a\\u{ord(one):04x}b"
    assert escaped("a\nb", line=True) == "a\\u000ab"


def test_json_stays_the_same_content(capsys: pytest.CaptureFixture[str]):
    content = {"words": [HOSTILE, *LETTERS]}
    say_json(content)
    out = capsys.readouterr().out
    assert not ACTS.search(out)
    assert json.loads(out) == content
    assert "北京" in out


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_message_cannot_clear_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
):
    values = torch.ones(1, 1, 2)
    for payload in (Text((SENT,)), Vectors(values, torch.ones(1, 1, dtype=torch.bool))):
        Message(HEADER, payload).save(tmp_path / "m")
        assert "owned" in shown("inspect", str(tmp_path / "m"), *options, capsys=capsys)


def test_a_message_cannot_add_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    Message(HEADER, Text(("true\nbytes\n  999",))).save(tmp_path / "m")
    out = shown("inspect", str(tmp_path / "m"), capsys=capsys)
    assert [line for line in out.split("\n") if line.strip() == "999"] == []


def test_errors_that_quote(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = Message(HEADER, Text(("x",))).to_bytes()
    (tmp_path / "m").write_bytes(data.replace(b'\\"version\\":2', b'\\"version\\":"\xc2\x9b"'))
    shown("inspect", str(tmp_path / "m"), capsys=capsys)
    shown("inspect", str(tmp_path / SENT), capsys=capsys)
    shown("ask", SENT.replace("\x00", ""), "Who?", capsys=capsys)
    shown("recipes", "show", SENT, capsys=capsys)


def test_a_recipe_is_shown_and_does_not_act(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "own.yaml").write_text(f"# {SENT}\nkind: pipeline\n", encoding="utf-8")
    assert "owned" in shown("recipes", "show", str(tmp_path / "own.yaml"), capsys=capsys)


def test_an_answer_is_shown_and_does_not_act(capsys: pytest.CaptureFixture[str]):
    class Hostile:
        order = (f"a\n{HOSTILE}",)

        def stream(self, query: Any) -> Stream:
            def work(tell: Tell) -> None:
                tell(WordsWritten(self.order[0], 1, 1, HOSTILE))
                tell(RunEnded(Run(HOSTILE, (Turn(self.order[0], 1, HOSTILE, Usage()),))))

            return Stream(work)

    asking._show(Hostile(), {})  # pyright: ignore
    out, err = capsys.readouterr()
    assert not ACTS.search(out + err)
    assert "owned" in out
    assert len(err.split("\n")) == 2  # a name is no second line


def test_a_table_shows_names_and_takes_no_markup(capsys: pytest.CaptureFixture[str]):
    class Hostile:
        study: Any
        out = Path()

        def run(self) -> Any:
            return self

        def table(self) -> Table:
            table = Table("agent", title=f"[/b]{HOSTILE}")
            table.add_row(f"[link=http://evil]{HOSTILE}[/nothing]")
            return table

        def findings(self) -> list[str]:
            return [HOSTILE]

        def to_dict(self) -> dict[str, Any]:
            return {}

    one = Hostile()
    one.study = type("Study", (), {"name": "s", "title": HOSTILE, "file": "f"})
    measuring._measured(one, quiet=False)  # pyright: ignore
    out, err = capsys.readouterr()
    assert not ACTS.search(out + err)
    assert "[link=http://evil]" in re.sub(r"\s|│|┃", "", out)


def test_progress_takes_no_markup(monkeypatch: pytest.MonkeyPatch):
    written = io.StringIO()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", written)
    assert list(track([1, 2], f"[/b] {HOSTILE}")) == [1, 2]
    assert "\x1b]0;" not in written.getvalue()
    assert "\u202e" not in written.getvalue()


def told(monkeypatch: pytest.MonkeyPatch, seconds: Sequence[float], done: int = 0) -> str:
    """What `progress` writes into a file, where the clock shows these seconds."""
    written, clock = io.StringIO(), iter(seconds)
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setattr(terminal, "monotonic", lambda: next(clock))
    with progress(f"[b]training {HOSTILE}", 40, done=done) as tell:
        for part in range(done + 10, 50, 10):
            tell(part, f"loss {1 / part:.3f}")
    return written.getvalue()


def test_progress_in_a_log_is_lines(monkeypatch: pytest.MonkeyPatch):
    found = told(monkeypatch, [0, 20, 30, 60, 80])
    lines = [line.partition(": ")[2] for line in found.splitlines() if "training" in line]
    assert lines == [
        "10 of 40, loss 0.100, 0:01:00 left",
        "30 of 40, loss 0.033, 0:00:20 left",
        "40 of 40, loss 0.025, took 0:01:20",
    ]
    assert "\r" not in found
    assert not ACTS.search(found)


def test_what_an_earlier_run_did_takes_no_time(monkeypatch: pytest.MonkeyPatch):
    found = told(monkeypatch, [0, 20, 40], done=20)
    assert "30 of 40, loss 0.033, 0:00:20 left" in found


def test_progress_in_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch):
    written = io.StringIO()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "stderr", written)
    with progress("training", 4) as tell:
        tell(3, "loss 0.125")
    assert re.search(r"3/4.*loss 0\.125", written.getvalue())
    assert "\r" in written.getvalue()


def test_an_error_that_is_not_ours(capsys: pytest.CaptureFixture[str]):
    try:
        raise KeyError(HOSTILE) from ValueError(HOSTILE)
    except KeyError as error:
        say_traceback(type(error), error, error.__traceback__)
    assert not ACTS.search(capsys.readouterr().err)


def test_the_trace_of_a_worker(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def fail(**given: Any) -> None:
        error = PipelineError(HOSTILE)
        error.add_note(HOSTILE)
        raise error

    monkeypatch.setattr(cli, "app", fail)
    shown("ask", capsys=capsys)


def test_colours_of_our_own_stay(capsys: pytest.CaptureFixture[str]):
    console = PlainConsole()
    console.print("x", style="bold")
    say("plain", bold=True)
    assert "plain" in capsys.readouterr().out


_OTHERS = {
    *("terminal.py", "commands/saying.py"),
    "view.py",  # escapes word by word
}


def test_no_other_way_leads_to_a_terminal():
    """All that is printed goes through `say`, `PlainConsole` or `track`."""
    package = Path(cli.__file__).parent
    writes = re.compile(r"\b(typer\.s?echo|print|sys\.std(out|err)\.write|Console|Progress)\(")
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for line in path.read_text().split("\n")
        if (one := writes.search(line))
        and not re.search(
            r"(console|Console\(.*)\.print\(|>>> |fingerprint\(|\"", line[: one.end()]
        )
    }
    assert found - _OTHERS == set()
