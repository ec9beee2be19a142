"""The page of a folder: whole, on its own, escaped, and with the numbers of its files."""

from __future__ import annotations

import json
import re
import shutil
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.pages import ATTACK, folder_of_results, told, usable_bits
from unspoken.errors import DataError
from unspoken.page import Examples
from unspoken.page.axis import Axis
from unspoken.results import read_results, refresh, write_page
from unspoken.studies.comparison import Compared
from unspoken.studies.comparison.examples import disagreements, predictions

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Outline(HTMLParser):
    """What a page is made of; refuses tags that are not closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        for tag in {*self.open}:
            self.words[tag] = self.words.get(tag, "") + data

    def values(self, name: str) -> list[str]:
        return [value or "" for _, attrs in self.tags if (value := attrs.get(name)) is not None]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for found, attrs in self.tags if found == tag]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = folder_of_results(tmp_path_factory.mktemp("page"))
    results = told(folder)
    results["notes"]["projector_folder"] = "."
    (folder / "results.json").write_text(json.dumps(results))
    write_page(folder)
    return folder


@pytest.fixture(scope="module")
def page(out: Path) -> str:
    return (out / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    return Outline(page)


# On its own --------------------------------------------------------------------------------------


def test_nothing_is_fetched(page: str, outline: Outline) -> None:
    for name in ("src", "href", "action", "data", "srcset", "poster", "style", "xlink:href"):
        for value in outline.values(name):
            assert value.startswith(("#", "data:")), (name, value)
    assert not re.search(r"url\(|@import|https?:|fetch\(|XMLHttp", page)
    assert not any(name.startswith("on") for _, attrs in outline.tags for name in attrs)


def test_the_policy_allows_the_style_and_the_script_that_stand_there(outline: Outline) -> None:
    policy = next(
        attrs["content"]
        for attrs in outline.all("meta")
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        assert len(outline.all(tag)) == 1
        known = b64encode(sha256(outline.words[tag].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{known}'" in policy


def test_ids_are_unique_and_links_lead_somewhere(outline: Outline) -> None:
    ids = outline.values("id")
    assert len(ids) == len(set(ids))
    links = [value[1:] for value in outline.values("href") if value.startswith("#")]
    assert {*links, *outline.values("aria-labelledby")} <= set(ids)
    assert len(links) > 6


def test_pictures_and_tables_say_what_they_are(outline: Outline) -> None:
    charts = [attrs.get("aria-label") for _, attrs in outline.tags if attrs.get("role") == "img"]
    assert len(charts) == 5  # rates, plan, telephone, edges, gates
    assert all(charts)
    assert outline.all("img") == []  # so dark mode has no white boxes
    assert len(outline.all("caption")) == len(outline.all("table")) - len(
        [attrs for attrs in outline.all("article")]
    )
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert outline.all("html")[0] == {"lang": "en"}


# What models wrote -------------------------------------------------------------------------------


def test_answers_questions_and_messages_are_escaped(page: str, outline: Outline) -> None:
    assert ATTACK not in page
    assert "document.title" not in outline.words["script"]
    assert len([src for src in outline.values("src") if not src.startswith("data:")]) == 0
    for tag in ("td", "details", "h3"):  # answer, words heard, question
        assert "<script>document.title='broken'</script>" in outline.words[tag]


@pytest.mark.parametrize("place", ["channel", "model", "task", "note"])
def test_names_are_escaped_too(place: str, tmp_path: Path) -> None:
    out = folder_of_results(tmp_path, more=False)
    results = told(out)
    match place:
        case "channel":
            results["channels"][ATTACK] = results["channels"].pop("text")
            for arm in results["arms"]:
                arm["channel"] = ATTACK if arm["channel"] == "text" else arm["channel"]
        case "model":
            results["models"][0]["name"] = ATTACK
        case "task":
            results["task"]["name"] = ATTACK
        case _:
            results["notes"][ATTACK] = ATTACK
    (out / "results.json").write_text(json.dumps(results))
    text = write_page(out).read_text(encoding="utf-8")
    assert ATTACK not in text
    assert ATTACK in Outline(text).words["body"]


# The numbers -------------------------------------------------------------------------------------


def test_every_arm_and_every_difference_is_on_the_page(out: Path, outline: Outline) -> None:
    results, words = told(out), outline.words["main"]
    for arm in results["arms"]:
        right = (
            f"{100 * arm['accuracy']:.1f} ({100 * arm['ci_low']:.0f}-{100 * arm['ci_high']:.0f})"
        )
        for cell in (right, f"{arm['tokens_read']:,.0f}", f"{arm['wire_bytes']:,.0f}"):
            assert cell in words
    for name, worth in results["channels"].items():
        assert name in words
        for kind in ("gain", "content"):
            one = worth[kind]
            value = f"{100 * one['value']:+.1f} [{100 * one['low']:+.1f}, {100 * one['high']:+.1f}]"
            assert value in words
    assert "4.20 [3.80, 4.50]" in words  # bits
    assert "D(R) = 0.90 exp(-0.60 R) + 0.10" in words


def test_whiskers_stand_where_the_interval_ends(tmp_path: Path) -> None:
    out = folder_of_results(tmp_path, more=False)
    results = told(out)
    results["channels"] = {"text": results["channels"]["text"]}
    content = {"value": 0.0, "low": -0.5, "high": 0.5, "p": 1.0}
    results["channels"]["text"].update(gain=content, content=content)
    results["arms"] = [arm for arm in results["arms"] if arm["channel"] == "text"]
    (out / "results.json").write_text(json.dumps(results))
    lines = Outline(write_page(out).read_text(encoding="utf-8")).all("line")
    first = [attrs for attrs in lines if attrs["class"] == "whisker"][:3]
    axis = Axis.over([-50.0, 0.0, 50.0])
    assert [axis.low, axis.high] == [-60, 60]
    ends = [(attrs["x1"], attrs["x2"]) for attrs in first]
    assert ends == [("8.33%", "91.67%"), ("8.33%", "8.33%"), ("91.67%", "91.67%")]


def test_facts_of_every_run_and_the_command(out: Path, outline: Outline) -> None:
    words = outline.words["main"]
    for told_ in ("weights 2e29ef2e3c12763a", "torch 2.13.0+cpu", "train/test 0", "seed"):
        assert told_ in words
    assert "54 training items" in words
    assert outline.words["code"] == f"unspoken report {out} --again {out}-again"


def test_each_side_pays_what_the_answers_cost(outline: Outline) -> None:
    caption = "Means for each item, with the right message"
    assert caption in outline.words["caption"]
    assert "receiver" in outline.words["td"]


STUDIES = ("plan", "telephone", "edges")
EVERYTHING = {"main", "worth", "accuracy", "bits", "rate", "gates", "examples", "facts", *STUDIES}


@pytest.mark.parametrize(
    "gone",
    ["results.json", "worth.json", "rate.json", "predictions", *(f"{one}.json" for one in STUDIES)],
)
def test_what_was_not_measured_is_not_there(gone: str, out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    path = copy / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = set(Outline(write_page(copy).read_text(encoding="utf-8")).values("id"))
    lost = {
        "results.json": {"worth", "accuracy", "gates", "examples"},
        "worth.json": {"bits"},
        "rate.json": {"rate"},
        "predictions": {"examples"},
        **{f"{one}.json": {one} for one in STUDIES},
    }
    assert found == EVERYTHING - lost[gone]


@pytest.mark.parametrize(
    ("study", "title"),
    [
        ("plan", "When does a team pay?"),
        ("telephone", "What is left after some hops?"),
        ("edges", "Which edges matter?"),
    ],
)
def test_a_study_has_a_page_of_its_own_with_its_numbers(
    study: str, title: str, out: Path, tmp_path: Path
) -> None:
    shutil.copyfile(out / f"{study}.json", tmp_path / f"{study}.json")
    found = Outline(write_page(tmp_path).read_text(encoding="utf-8"))
    assert found.words["h1"] == title
    assert set(found.values("id")) == {"main", study, "facts"}
    assert len([attrs for _, attrs in found.tags if attrs.get("role") == "img"]) == 1
    results, words = json.loads((tmp_path / f"{study}.json").read_text()), found.words["main"]
    match study:
        case "plan":
            cells = [f"{one['measured']:+.2f}" for one in results["votes"]]
            assert results["verdict"] in words
        case "telephone":
            hops = [hop for chain in results["channels"].values() for hop in chain]
            cells = [f"{hop['bits']['value']:.1f}" for hop in hops]
        case _:
            bits = [edge["gain_bits"] for edge in results["edges"]]
            cells = [f"{one['value']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]" for one in bits]
    assert cells
    for cell in cells:
        assert cell in found.words["td"]


def test_bits_that_were_measured_alone_replace_those_of_the_comparison(tmp_path: Path) -> None:
    out = folder_of_results(tmp_path, more=False)
    results = told(out)
    found = usable_bits().to_dict()["channels"][0]
    results["information"] = {"text": {**found, "bits": {"value": 1.11, "low": 1, "high": 2}}}
    (out / "results.json").write_text(json.dumps(results))
    alone = Outline(write_page(out).read_text(encoding="utf-8"))
    assert "1.11 [1.00, 2.00]" in alone.words["main"]
    usable_bits().save(out)
    both = Outline(write_page(out).read_text(encoding="utf-8"))
    assert "1.11 [1.00, 2.00]" not in both.words["main"]
    assert "4.20 [3.80, 4.50]" in both.words["main"]
    assert both.values("id").count("bits") == 1


def test_without_a_recipe_the_page_says_so(out: Path, tmp_path: Path) -> None:
    results = told(out)
    del results["notes"]["recipe"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    text = write_page(tmp_path).read_text(encoding="utf-8")
    assert "This folder keeps no recipe" in text
    assert "--again" not in text


@pytest.mark.parametrize(
    "committed",
    ["relay-qasc", "memory-qasc", "memory-transfer", "fusion-cities", "planner-qasc"],
)
def test_committed_results_make_a_page(committed: str, tmp_path: Path) -> None:
    out = folder_of_results(tmp_path, committed=committed, more=False)
    Outline(write_page(out).read_text(encoding="utf-8"))


# Where channels disagree -------------------------------------------------------------------------


def compared(folder: Path) -> Compared:
    report = next(one.report for one in read_results(folder) if one.study.name == "comparison")
    assert isinstance(report, Compared)
    return report


def test_the_most_evenly_divided_items_come_first(out: Path) -> None:
    found = disagreements(compared(out), out, most=1000)
    assert found is not None
    told_, shown = found
    assert isinstance(shown, Examples)
    assert f"on {len(shown.shown)} of 100 items. They are below" in told_
    even: list[int] = []
    for example in shown.shown:
        right = sum(answers[0].right for _, _, answers in example.rows if answers[0])
        assert 0 < right < len(example.rows)
        even.append(abs(2 * right - len(example.rows)))
    assert even == sorted(even)
    few = disagreements(compared(out), out, most=3)
    assert few is not None
    assert few[0].endswith("3 of them are below, the most evenly divided first.")
    assert isinstance(few[1], Examples)
    assert few[1].shown == shown.shown[:3]


@pytest.mark.parametrize("damage", ["short", "wrong", "broken", "strange"])
def test_answers_of_another_run_are_left_out(damage: str, tmp_path: Path) -> None:
    out = folder_of_results(tmp_path, more=False)
    path = out / "predictions" / "embedding-matched.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    match damage:
        case "short":
            rows.pop()
        case "wrong":
            rows[0]["correct"] = not rows[0]["correct"]
        case "strange":
            del rows[0]["question"]
        case _:
            pass
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text + "{" if damage == "broken" else text, encoding="utf-8")
    report = compared(out)
    (arm,) = (
        one for one in report.arms if (one.channel, one.condition) == ("embedding", "matched")
    )
    if damage == "broken":
        with pytest.raises(DataError, match="its last line has no end; run the command again"):
            predictions(out, arm)
        return
    assert predictions(out, arm) == ()
    found = disagreements(report, out)
    assert found is not None
    assert isinstance(found[1], Examples)
    assert all(name != "embedding" for one in found[1].shown for name, _, _ in one.rows)


# Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            None,
            "holds no results.json, worth.json, rate.json, plan.json, telephone.json, edges.json, "
            "blame.json or fronts.json",
        ),
        ("{", "is no JSON"),
        ("[]", "holds no JSON object"),
        ("[" * 200_000, "nested too deeply"),
        ('{"arms": NaN}', "NaN is no finite number"),
        ('{"arms": [], "channels": {}}', "is not of this version: models"),
        ('{"arms": 3}', "is not of this version: arms"),
    ],
)
def test_what_is_no_result_is_refused(content: str | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(DataError, match=re.escape(said)):
        write_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_folder_in_the_place_of_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").mkdir()
    with pytest.raises(DataError, match=r"cannot read .*results\.json: Is a directory; run the"):
        write_page(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda c: c["arms"][0].update(accuracy=7.0),
            "arms.0.accuracy: .* less than or",
        ),
        (lambda c: c["arms"][0].update(n=0), "arms.0.n: .* greater than or equal to 1"),
        (lambda c: c["arms"][0].update(ci_low=-0.1), "arms.0.ci_low"),
        (lambda c: c["arms"][0].update(seconds=-1), "arms.0.seconds"),
        (lambda c: c["channels"]["text"]["gain"].update(p=1.5), "channels.text.gain.p"),
        (lambda c: c["task"].pop("items"), "cannot be shown .KeyError: 'items'"),
        (lambda c: c["models"].append({}), "cannot be shown .KeyError: 'name'"),
    ],
)
def test_numbers_that_no_measurement_has_are_not_drawn(
    change: Callable[[Any], Any], said: str, tmp_path: Path
) -> None:
    out = folder_of_results(tmp_path, more=False)
    results = told(out)
    change(results)
    (out / "results.json").write_text(json.dumps(results))
    with pytest.raises(DataError, match=said):
        write_page(out)


def test_results_that_were_changed_are_refused(tmp_path: Path) -> None:
    usable_bits().save(tmp_path)
    write_page(tmp_path)
    text = (tmp_path / "worth.json").read_text()
    (tmp_path / "worth.json").write_text(text.replace('"seed": ', '"seed": 1'))
    with pytest.raises(DataError, match=r"worth\.json is damaged: .*; run the command again"):
        write_page(tmp_path)


def test_a_measurement_does_not_fail_for_what_stands_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rate.json").write_text("{")
    usable_bits().save(tmp_path)
    refresh(tmp_path)
    assert (tmp_path / "worth.json").exists()
    assert not (tmp_path / "report.html").exists()
    assert "no report.html is written" in capsys.readouterr().err
