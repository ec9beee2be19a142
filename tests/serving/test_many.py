"""Many at once: the queue, the end of a server, its health and what it counts."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import openai
import pytest

from tests.bench import Bench
from tests.serving.conftest import Running, Serve, body
from tests.serving.models import Paced, long_model, pair, scripted, solver
from tests.serving.test_requests import is_refused
from tests.serving.test_streams import asked, until
from unspoken.cli import main
from unspoken.errors import PipelineError, RecipeError
from unspoken.serving import ServedPipeline

HI = ("user", "hi")
KEYS = ["the-key-of-ada-long", "the-key-of-bob-long"]


class Counted(Paced):
    """Counts how often words are made tokens."""

    looked = 0

    def encode(self, words: str, frames: Any = None) -> Any:
        self.looked += 1
        return super().encode(words, frames)

    def tokens(self, words: str) -> Any:
        self.looked += 1
        return super().tokens(words)


def test_a_full_queue_refuses_before_anything_is_read(serve: Serve) -> None:
    model = Counted("yes")
    running = serve(solver(model), running=1, waiting=1)
    with ExitStack() as open_:
        open_.enter_context(closing(asked(running, body(HI))))
        model.asked.acquire()
        open_.enter_context(closing(asked(running, body(HI))))
        until(running, "waiting", 1)
        looked = model.looked
        for stream in (False, True):
            response = running.post(body(HI, stream=stream))
            assert is_refused(response, 429)
            assert int(response.headers["retry-after"]) >= 1
        with pytest.raises(openai.RateLimitError):
            running.chat(HI)
        assert model.looked == looked
        assert running.service.workers.waiting == 1
        model.allow()


def test_only_so_many_bodies_are_read_at_once(serve: Serve) -> None:
    running = serve(scripted("yes"), running=1, waiting=1)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
    with ExitStack() as open_:
        for _ in range(2):
            slow = socket.create_connection(("127.0.0.1", running.port))
            open_.enter_context(closing(slow))
            slow.sendall(head)
        while running.service._receiving < 2:
            running.get("/health")
        assert is_refused(running.post(body(HI)), 429)
    while running.service._receiving:
        running.get("/health")
    assert running.chat(HI).choices[0].message.content == "yes"


def test_one_user_cannot_fill_the_queue(serve: Serve) -> None:
    model = Paced("yes")
    running = serve(solver(model), keys=KEYS, running=1, waiting=4, waiting_each=1)
    bob = {"Authorization": f"Bearer {KEYS[1]}"}

    def ask(key: str) -> Any:
        return asked(running, body(HI), key)

    with ExitStack() as open_:
        open_.enter_context(closing(ask(KEYS[0])))
        model.asked.acquire()
        open_.enter_context(closing(ask(KEYS[0])))
        until(running, "waiting", 1)
        assert is_refused(running.post(body(HI)), 429)
        open_.enter_context(closing(ask(KEYS[1])))
        until(running, "waiting", 2)
        assert is_refused(running.post(body(HI), headers=bob), 429)
        model.allow()
    until(running, "waiting", 0)


def test_health_is_told_while_prompts_are_read(serve: Serve) -> None:
    """Were words made tokens in the loop, nobody would answer here."""
    told = Event()

    class Slow(Counted):
        def read(self, prompt: Any, **more: Any) -> Any:
            assert told.wait(60)
            return super().read(prompt, **more)

    model = Slow("yes")
    running = serve(solver(model), running=4)
    with ExitStack() as open_:
        for _ in range(6):
            open_.enter_context(closing(asked(running, body(HI))))
        until(running, "waiting", 2)
        assert running.get("/health").json() == {"status": "ok"}
        assert running.get("/ready").status_code == 200
        assert "unspoken_waiting_requests 2.0" in running.get("/metrics").text
        told.set()
        model.allow()


def test_a_batch_that_does_not_move_is_not_healthy(serve: Serve) -> None:
    running = serve(seconds=1e-9)
    service = running.service
    (name,) = service.schedulers
    state = service.schedulers[name]()
    stuck = type(state)(waiting=0, running=1, steps=5, written=5)
    service.schedulers[name] = lambda: stuck
    assert running.get("/health").status_code == 200  # it was not seen before
    running.get("/health")
    assert running.get("/health").status_code == 503
    assert running.get("/ready").status_code == 503


def test_a_server_that_ends_answers_what_it_has_begun(serve: Serve) -> None:
    model = Paced("abc")
    running = serve(solver(model))
    with running.client() as client:
        stream = client.chat.completions.create(**body(HI, stream=True))
        next(stream)
        running.server.handle_exit(signal.SIGTERM, None)
        assert running.get("/health").status_code == 200
        assert running.get("/ready").status_code == 503
        response = running.post(body(HI))
        assert is_refused(response, 503)
        assert "retry-after" in response.headers
        model.allow()
        pieces = list(stream)
    assert "".join(one.choices[0].delta.content or "" for one in pieces) == "abc"
    assert pieces[-1].choices[0].finish_reason == "stop"


def test_a_second_signal_gives_up_what_is_running(serve: Serve) -> None:
    model = Paced("abc")
    running = serve(solver(model))
    with running.client() as client:
        stream = client.chat.completions.create(**body(HI, stream=True))
        next(stream)
        model.asked.acquire()
        for _ in range(2):
            running.server.handle_exit(signal.SIGTERM, None)
        with pytest.raises(openai.APIError):
            list(stream)
    assert model.ended.wait(60)
    assert model.finish == "cancelled"


def test_metrics_have_fixed_labels(serve: Serve) -> None:
    running = serve(pair(tokens=4))
    usage = running.chat(HI).usage
    running.post(body(HI, model="nobody"))
    running.get("/nowhere")
    before = running.get("/metrics").text
    for n in range(10):
        running.post(body(HI, model=f"nobody {n}"))
        running.get(f"/nowhere/{n}")
        running.get(f"/v1/models/nobody-{n}")
    after = running.get("/metrics").text
    assert len(before.splitlines()) + 2 >= len(after.splitlines())  # 404 of a known path
    assert "nobody" not in after
    values = dict(line.rsplit(" ", 1) for line in after.splitlines() if line[0] != "#")
    assert float(values['unspoken_time_to_first_token_seconds_count{model="solver"}']) == 1
    assert float(values['unspoken_time_per_output_token_seconds_count{model="solver"}']) == 1
    kinds = [f'unspoken_tokens_total{{kind="{one}",model="solver"}}' for one in ("read", "reused")]
    assert sum(float(values[kind]) for kind in kinds) == usage.prompt_tokens
    written = float(values['unspoken_tokens_total{kind="written",model="solver"}'])
    assert written == usage.completion_tokens
    assert float(values['unspoken_channel_bytes_total{channel="text",model="solver"}']) > 0
    rows = [value for name, value in values.items() if "batch_rows_total" in name]
    assert float(rows[0]) > 0


def test_pipelines_on_one_model_share_its_batch(serve: Serve) -> None:
    model = long_model()
    running = serve({"one": solver(model, 4), "two": solver(model, 4)})
    assert [one["id"] for one in running.get("/v1/models").json()["data"]] == ["one", "two"]
    for name in ("one", "two"):
        running.chat(HI, model=name)
    assert len(running.service.schedulers) == 1
    assert model.scheduler.state().written > 4  # a first word may come with the prompt


def test_agents_elsewhere_are_not_served() -> None:
    class Elsewhere:
        @property
        def agents(self) -> Any:
            raise PipelineError("agents run in other processes")

    with pytest.raises(PipelineError, match="other processes"):
        ServedPipeline(Elsewhere())  # type: ignore[arg-type]


# -- the command -----------------------------------------------------------------------------------


def recipe(bench: Bench, name: str = "team", tokens: int = 8) -> Path:
    """A recipe of one agent on a tiny model."""
    path = bench.home / f"{name}.yaml"
    path.write_text(
        f"kind: pipeline\nagents:\n  - {{name: solver, model: {bench.models['receiver']}, "
        f"max_tokens: {tokens}}}\n"
    )
    return path


def test_recipes_of_one_name_are_refused(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(bench)
    for words in ([str(path), str(path)], ["dtype=float32", str(path)]):
        with pytest.raises(SystemExit) as end:
            main(["serve", *words])
        assert end.value.code == 1
        assert RecipeError.__name__ in capsys.readouterr().err


def test_a_host_for_others_needs_keys_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "no-such-recipe", "--host", "0.0.0.0"])
    assert "keys" in capsys.readouterr().err


@contextmanager
def command(bench: Bench, *more: str) -> Iterator[tuple[subprocess.Popen[str], Running]]:
    """`unspoken serve` of a tiny model, in a process of its own."""
    words = ["serve", str(recipe(bench, tokens=200)), "--port", "0", *more]
    line = [sys.executable, "-m", "unspoken", *words]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said.startswith("serving team at http://127.0.0.1:")
            port = int(said.rpartition(":")[2].partition("/")[0])
            running = Running(None, None, port)  # type: ignore[arg-type]
            with running.http:
                yield process, running
        finally:
            process.kill()


@pytest.mark.dist
def test_the_command_serves_and_ends_by_a_signal(bench: Bench) -> None:
    with command(bench) as (process, running), running.client() as client:
        stream = client.chat.completions.create(**body(HI, model="team", stream=True))
        next(stream)
        process.send_signal(signal.SIGTERM)
        reasons = [piece.choices[0].finish_reason for piece in stream]
        assert reasons[-1] in ("stop", "length")
        assert process.wait(60) == 0


@pytest.mark.dist
def test_what_was_kept_is_found_after_a_kill(bench: Bench) -> None:
    """One server keeps a conversation, the next one is killed, the third one knows it."""
    folder = bench.home / "kept"
    more = {"model": "team", "max_tokens": 8}

    def again(running: Running) -> tuple[Any, int]:
        told = running.chat(*first, **more)
        return told.choices[0].message.content, told.usage.prompt_tokens_details.cached_tokens

    with command(bench, "--cache-folder", str(folder)) as (process, running):
        asked = ("user", "Where is the key of the attic?")
        said = running.chat(asked, **more).choices[0].message.content
        first = [asked, ("assistant", said), ("user", "And who has it now?")]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(before) == 1
    assert not any(path.stat().st_mode & 0o077 for path in (folder, *folder.rglob("*")))
    with command(bench, "--cache-folder", str(folder)) as (process, running):
        answer, known = again(running)
        assert known > 30
        with running.client() as client:
            stream = client.chat.completions.create(**body(HI, stream=True, model="team"))
            next(stream)
            process.kill()
            with pytest.raises((openai.APIError, httpx.HTTPError)):
                list(stream)
        assert process.wait(60) == -signal.SIGKILL
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    with command(bench, "--cache-folder", str(folder)) as (_, running):
        assert again(running) == (answer, known)


def test_a_folder_that_is_damaged_is_refused_before_anybody_is_served(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    place = bench.home / "kept" / "local" / "pool.safetensors"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"no cache")
    with pytest.raises(SystemExit):
        main(["serve", str(recipe(bench)), "--cache-folder", str(bench.home / "kept")])
    assert "damaged" in capsys.readouterr().err
