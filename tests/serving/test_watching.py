"""The page that shows agents at work, as a server gives it: its files, and who gets them."""

from __future__ import annotations

import re
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.bench import Bench
from tests.serving.conftest import Running, Serve
from tests.serving.models import pair
from tests.serving.test_guard import FOREIGN, KEY
from tests.serving.test_many import recipe
from tests.serving.test_requests import is_refused
from unspoken import serving
from unspoken.agents import Agent, Edge, Role
from unspoken.audit import Audit, read_log
from unspoken.backbone.diffusion import Frame, watching
from unspoken.channels import make_channel
from unspoken.cli import main
from unspoken.pipeline import Pipeline
from unspoken.serving import ServedPipeline
from unspoken.testing import ScriptedModel, tiny_backbone, tiny_diffusion
from unspoken.types import Settings

HOME = Path(serving.__file__).parent / "page"
FILES = sorted(path.name for path in HOME.iterdir())
KINDS = {"css": "text/css", "js": "text/javascript", "txt": "text/plain"}
LIBRARY = {  # dagre 3.1.3, as npm has it: https://www.npmjs.com/package/@dagrejs/dagre
    "dagre.min.js": "54a503e346f93ca0bb10abe7999587e037262935687aca45eb4e4b0f64bbb578",
    "dagre.LICENSE.txt": "6a349742a6cb219d5a2fc8d0844f6d89a6efc62e20c664450d884fc7ff2d6015",
}


@pytest.mark.parametrize("name", ["", *FILES])
def test_a_browser_may_run_its_scripts_alone(tiny_server: Running, name: str) -> None:
    response = tiny_server.get(f"/page/{name}" if name else "/")
    assert response.status_code == 200
    assert response.content == (HOME / (name or "index.html")).read_bytes()
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    kind = KINDS.get(name.rpartition(".")[2], "text/html")
    assert response.headers["content-type"] == f"{kind}; charset=utf-8"


@pytest.mark.parametrize("name", FILES)
def test_it_names_no_address_and_makes_no_html_of_words(name: str) -> None:
    words = (HOME / name).read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[\w./]+", words)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", words)
    assert not re.search(r"localStorage|sessionStorage|document\.cookie", words)


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_is_as_its_authors_published_it(name: str) -> None:
    assert sha256((HOME / name).read_bytes()).hexdigest() == LIBRARY[name]
    assert (HOME / name).stat().st_size < 50_000


@pytest.mark.parametrize("path", ["nobody.js", "..%2fpages.py", "../pages.py", "%2e%2e/app.py", ""])
def test_there_are_no_other_files(tiny_server: Running, path: str) -> None:
    assert is_refused(tiny_server.get(f"/page/{path}"), 404)


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_without_keys_the_page_is_for_this_machine(
    tiny_server: Running, headers: dict[str, str]
) -> None:
    for path in ("/", "/page/main.js"):
        assert is_refused(tiny_server.get(path, headers=headers), 403)


def test_with_keys_the_page_can_ask_for_one(serve: Serve) -> None:
    running = serve(keys=[KEY])
    nobody = {"Authorization": ""}
    assert running.get("/", headers=nobody).status_code == 200
    assert is_refused(running.get("/v1/models", headers=nobody), 401)


def test_a_model_tells_its_agents_and_edges(serve: Serve) -> None:
    model, reader = tiny_backbone(), Role(template="{context}{notes}{messages}{question}")
    agents = [Agent("a", ScriptedModel(str), role=reader), Agent("b", model), Agent("c", model)]
    edges = [Edge("b", "a", make_channel("text")), Edge("c", "b", make_channel("handoff"))]
    running = serve({"pair": pair(), "team": ServedPipeline(Pipeline(agents, edges, answer="a"))})
    with running.client() as client:
        listed = [one.model_dump() for one in client.models.list()]
    found = {one["id"]: one["unspoken"] for one in listed}
    assert found["team"] == {
        "agents": [
            {"name": "c", "model": model.spec.name},
            {"name": "b", "model": model.spec.name},
            {"name": "a", "model": "script"},
        ],
        "edges": [
            {"from": "b", "to": "a", "channel": "text"},
            {"from": "c", "to": "b", "channel": "handoff"},
        ],
        "rounds": 1,
        "fields": ["context", "notes"],
        "talks": False,
    }
    assert found["pair"]["talks"]
    assert [one["name"] for one in found["pair"]["agents"]] == ["planner", "solver"]


@pytest.mark.parametrize("more", [[], ["--no-browser"]], ids=str)
def test_a_browser_opens_on_command(
    more: list[str], bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    opened, addresses = Event(), list[str]()

    def open_(address: str) -> bool:
        addresses.append(address)
        opened.set()
        return True

    def fake(served: dict[str, ServedPipeline], **given: Any) -> None:
        assert list(served) == ["team"]
        assert (given["host"], given["keys"]) == ("127.0.0.1", ())
        given["ready"]("http://127.0.0.1:1")
        assert opened.wait(0 if more else 60) != bool(more)

    monkeypatch.setattr("webbrowser.open", open_)
    monkeypatch.setattr(serving, "serve", fake)
    with pytest.raises(SystemExit) as end:
        main(["watch", str(recipe(bench)), *more])
    assert not end.value.code
    assert addresses == ([] if more else ["http://127.0.0.1:1"])
    assert capsys.readouterr().out == "watch team at http://127.0.0.1:1\n"


def test_receivers_say_what_they_make_of_messages(serve: Serve, tmp_path: Path) -> None:
    model = tiny_backbone()
    agents = [Agent(name, model, settings=Settings(8)) for name in ("a", "b", "c")]
    edges = [Edge("a", "b", make_channel("handoff")), Edge("b", "c", make_channel("text"))]
    Pipeline(agents, edges, audit=Audit(tmp_path, shadow=True)).run("Where?")
    shadows = [line["shadow"] for line in read_log(tmp_path)]
    running = serve({"team": Pipeline(agents, edges)})
    asked = {"model": "team", "extra_body": {"unspoken": {"readings": True}}}
    shown = running.chat(("user", "Where?"), **asked).unspoken["messages"]
    assert [[one["reading"]["words"]] for one in shown] == shadows
    assert all(any(words) for words in shadows)
    plain = running.chat(("user", "Where?"), model="team", extra_body={"unspoken": True})
    assert all("reading" not in one for one in plain.unspoken["messages"])


def test_vectors_have_their_nearest_words(serve: Serve) -> None:
    agents = [Agent(name, tiny_backbone(), settings=Settings(8)) for name in ("a", "b")]
    running = serve({"team": Pipeline(agents, [Edge("a", "b", make_channel("soft"))])})
    asked = {"model": "team", "extra_body": {"unspoken": {"readings": True}}}
    (sent,) = running.chat(("user", "Where?"), **asked).unspoken["messages"]
    assert [len(words) for words in sent["reading"]["nearest"]] == [3] * sent["positions"]


@pytest.mark.parametrize("channel", ["text", "handoff"])
def test_a_canvas_is_told_as_it_fills(serve: Serve, channel: str) -> None:
    planner, model = tiny_diffusion(), tiny_backbone()
    agents = [Agent("planner", planner), Agent("solver", model), Agent("judge", model)]
    agents = [replace(agent, settings=Settings(8)) for agent in agents]
    edges = [Edge("planner", "solver", make_channel("text"))]
    edges.append(Edge("solver", "judge", make_channel(channel)))
    frames = list[Frame]()
    with watching(frames.append):
        Pipeline(agents, edges).run("Where?")
    pieces = serve({"team": Pipeline(agents, edges)}).pieces(
        ("user", "Where?"), model="team", extra_body={"unspoken": True}
    )
    told = [piece.unspoken for piece in pieces if hasattr(piece, "unspoken")]
    canvases = [one for one in told if one["type"] == "canvas"]
    assert {one["agent"] for one in canvases} == {"planner"}
    known = [(list(frame.words), frame.step, frame.steps) for frame in frames]
    shown = [(one["words"], one["pass"], one["passes"]) for one in canvases]
    assert shown == known[-len(shown) :]


def test_the_replay_in_the_docs_is_of_this_page() -> None:
    kept = (HOME / "keep.js").read_text(encoding="utf-8")
    names = re.findall(r'"(\w+\.js)"', kept.partition("const MODULES = ")[2].partition("\n")[0])
    replay = (HOME.parents[2] / "docs" / "watch-replay.html").read_text(encoding="utf-8")
    defined = list[str]()
    for name in names:
        code = (HOME / name).read_text(encoding="utf-8")
        code = re.sub(r"^import .*;$", "", code, flags=re.M)
        code = re.sub(r"^export ", "", code, flags=re.M)
        assert code.strip() in replay, f"{name} has changed; run python -m benchmarks.watched"
        defined += re.findall(r"^(?:async )?(?:function|const|class) (\w+)", code, re.M)
    assert len(names) == 6
    assert len(defined) == len(set(defined)), "in one script no two modules may share a name"
