"""Agents in other processes: the same answers to the bit, and what happens when one is lost."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from multiprocessing import Pipe, active_children
from multiprocessing.connection import Connection
from multiprocessing.resource_tracker import ensure_running
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import torch

from tests.contract.cases import CASES
from tests.events import heard
from tests.unit import workers
from unspoken.agents import Agent
from unspoken.backbone import Backbone
from unspoken.channels import Channel, Embedding, Handoff, TextChannel
from unspoken.errors import (
    ContextTooLong,
    EmptyPrompt,
    IncompatibleModels,
    MissingExtra,
    PipelineError,
    UnknownName,
    WireError,
    WorkerError,
    WorkerTimeout,
)
from unspoken.events import Event, TurnStarted, WordsWritten
from unspoken.executors import Executor, Processes, RayActors
from unspoken.executors.lines import Line, Segment, SharedLine
from unspoken.pipeline import Edge, Pipeline, Run
from unspoken.wire import Message

TRANSPORTS = ("pipe", "shared_memory", "tcp")
ITEMS = [
    {"context": "Ada keeps the key in a drawer.", "question": "Where is it?"},
    {"context": "Bo has none.", "question": "Does Bo have the key?"},
    {"context": "Cy left his under a bench.", "question": "Which bench?"},
]
FIELDS = {name: tuple(item[name] for item in ITEMS) for name in ITEMS[0]}
MAKES = (
    partial(workers.tiny, "sharer", "qwen", 48, "{context}"),
    partial(workers.tiny, "reader", "llama", 32, "{messages}{context}"),
    partial(workers.tiny, "solver", "llama"),
)
LATENT = ("embedding-prompt", "memory", "fusion")


def executor(transport: str) -> Executor:
    return RayActors() if transport == "ray" else Processes(transport)  # pyright: ignore


@pytest.fixture(scope="module", params=[*TRANSPORTS, "ray"])
def transport(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "ray":
        ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
        yield "ray"
        assert not ray.is_initialized()  # the pipeline that started it has ended it
    else:
        yield request.param


@pytest.fixture(scope="module")
def channels(
    tiny: Callable[..., Backbone], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Channel]:
    """Every kind, from the sharer to the solver; the trained ones are read from a folder."""
    made: dict[str, Channel] = {
        "text": TextChannel(limit=5),
        "verbatim": TextChannel(verbatim=True),
    }
    for case in CASES:
        if case.name in LATENT:
            torch.manual_seed(0)
            made[case.name] = case.make(tiny("qwen", width=48), tiny("llama"))
    folder = tmp_path_factory.mktemp("projector")
    made["embedding-prompt"].projector.save_pretrained(folder)  # pyright: ignore
    made["embedding-prompt"] = Embedding(str(folder))
    return made


@pytest.fixture(scope="module")
def edges(channels: dict[str, Channel]) -> list[Edge]:
    """A chain, a fan-out of one message, a fan-in of five, and a way back."""
    return [
        *(Edge("sharer", "solver", channels[name]) for name in LATENT),
        Edge("sharer", "solver", channels["text"]),
        Edge("sharer", "reader", channels["text"]),
        Edge("reader", "solver", Handoff()),
        Edge("solver", "reader", channels["verbatim"]),
    ]


@pytest.fixture(scope="module")
def here(edges: list[Edge]) -> Pipeline:
    return Pipeline(MAKES, edges, rounds=2)


@pytest.fixture(scope="module")
def there(transport: str, edges: list[Edge]) -> Iterator[Pipeline]:
    with Pipeline(MAKES, edges, rounds=2, executor=executor(transport)) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def puppets(transport: str) -> Iterator[Pipeline]:
    """A sender and a receiver that do what they are told; a turn may take two seconds."""
    makes = [partial(workers.Puppet, name) for name in ("sender", "receiver")]
    place = RayActors(timeout=2) if transport == "ray" else Processes(transport, timeout=2)  # pyright: ignore
    edge = Edge("sender", "receiver", TextChannel())
    with Pipeline(makes, [edge], executor=place) as pipeline:  # pyright: ignore
        yield pipeline


def timeless(run: Run) -> Run:
    turns = [replace(turn, usage=replace(turn.usage, seconds=0.0, wait=0.0)) for turn in run.turns]
    return Run(run.answer, tuple(turns))


def answer(run: Run) -> tuple[list[str], int]:
    """Where the puppets run, and the letters that the last one heard."""
    words = [str(turn.text).split() for turn in run.turns]
    return [pid for pid, _ in words], int(words[-1][1])


# -- the same answers ------------------------------------------------------------------------------


@pytest.mark.dist
def test_runs_are_those_of_the_local_pipeline(here: Pipeline, there: Pipeline) -> None:
    batched = there.run_many(ITEMS, batch_size=3, elsewhere=ITEMS[1:] + ITEMS[:1])
    expected = here.run_many(ITEMS, batch_size=3, elsewhere=ITEMS[1:] + ITEMS[:1])
    assert [timeless(run) for run in batched] == [timeless(run) for run in expected]
    run, words = heard(there, ITEMS[0])
    assert timeless(run) == timeless(here.run(ITEMS[0]))
    assert "".join(words) == run.turns[-1].text
    assert run.usage.wire > 10_000


@pytest.mark.dist
def test_messages_and_caches_are_the_same_to_the_bit(
    here: Pipeline, there: Pipeline, edges: list[Edge]
) -> None:
    """What the solver holds after each message travels, too: it answers over the hand-over."""
    handover = edges[-2]
    for edge in edges[:4]:
        caches: list[bytes] = []
        for pipeline in (here, there):
            sharer, solver = (pipeline._participants[name] for name in ("sharer", "solver"))
            sent = sharer.take_turn(FIELDS, [], [edge]).messages
            heard = [(edge, message) for message in sent]
            (cache,) = solver.take_turn(FIELDS, heard, [handover]).messages
            caches += [whole(sent[0]), whole(cache)]
        assert caches[:2] == caches[2:], edge.channel.name
        assert caches[0] != caches[1]


def whole(message: Any) -> bytes:
    """The bytes of a message, whatever stands for it."""
    match message:
        case Message():
            return message.to_bytes()
        case Segment():
            return bytes(message.read())
        case bytes():
            return message
        case _:
            import ray

            return ray.get(message).tobytes()


@pytest.mark.dist
def test_what_does_not_fit_is_refused_before_anything_is_read(there: Pipeline) -> None:
    class Placed:
        def place(self, agents: Sequence[Any], edges: Sequence[Edge], opened: ExitStack):
            return list(there._participants.values())

    heard = [Edge(name, "solver", TextChannel()) for name in ("reader", "sharer")]
    for edge, error in (
        (Edge("sharer", "solver", Handoff()), IncompatibleModels),
        (Edge("solver", "sharer", TextChannel()), PipelineError),  # it has no place for messages
        (Edge("solver", "nobody", TextChannel()), UnknownName),
    ):
        with pytest.raises(error) as locally:
            Pipeline(MAKES, [*heard, edge])
        with pytest.raises(error) as remotely:
            Pipeline(MAKES, [*heard, edge], executor=Placed())
        assert str(remotely.value) == str(locally.value)
    with pytest.raises(PipelineError, match="run in other processes"):
        there.without_messages()


@pytest.mark.dist
def test_errors_of_ours_come_back_as_they_are(there: Pipeline, here: Pipeline) -> None:
    long = {"context": "word " * 100, "question": "?"}
    with pytest.raises(ContextTooLong) as locally:
        here.stream(long)
    with pytest.raises(ContextTooLong) as remotely:
        there.stream(long)  # so before any turn
    assert str(remotely.value) == str(locally.value)
    assert "in the worker of agent 'sharer'" in remotely.value.__notes__[0]
    assert timeless(there.run(ITEMS[0])) == timeless(here.run(ITEMS[0]))


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.dist
def test_a_worker_that_raises_can_be_asked_again(puppets: Pipeline) -> None:
    pids, letters = answer(puppets.run("hello"))
    assert len({*pids, str(os.getpid())}) == 3
    assert letters == workers.LETTERS
    with pytest.raises(WorkerError, match="agent 'sender' raised KeyError: 'the lexicon'"):
        puppets.run("sender raise")
    with pytest.raises(EmptyPrompt, match="nothing to read"):
        puppets.run("receiver refuse")
    assert answer(puppets.run("hello")) == (pids, letters)


@pytest.mark.dist
def test_a_run_that_is_given_up_ends_in_the_worker_too(puppets: Pipeline, transport: str) -> None:
    """The sender waits until it is cancelled. Else it would be killed, and another one answer."""
    if transport == "ray":
        pytest.skip("an actor ends its turn first")
    before = answer(puppets.run("hello"))
    with puppets.stream("sender wait") as events:
        assert isinstance(next(events), TurnStarted)
    assert events.run is not None
    assert events.run.finish == "cancelled"
    assert answer(puppets.run("hello")) == before


@pytest.mark.dist
def test_runs_side_by_side_do_not_mix(puppets: Pipeline) -> None:
    async def both() -> list[Run]:
        return await asyncio.gather(*(puppets.arun(f"run {n}") for n in range(4)))

    assert len({str(answer(run)) for run in asyncio.run(both())}) == 1


@pytest.mark.dist
def test_a_lost_worker_is_named_and_started_again(puppets: Pipeline, transport: str) -> None:
    pids, letters = answer(puppets.run("hello"))
    with pytest.raises(WorkerError, match="of agent 'receiver' was") as lost:
        puppets.run_many(["a", "receiver die", "bb"], batch_size=1)
    assert [answer(lost.value.done[n]) for n in (0, 2)] == [(pids, letters)] * 2
    assert lost.value.done.keys() == {0, 2}
    if transport != "ray":
        assert "SIGKILL" in str(lost.value)
    after, heard = answer(puppets.run("hello"))
    assert after[0] == pids[0]  # the other one goes on
    assert after[1] != pids[1]
    assert heard == letters


@pytest.mark.dist
def test_a_worker_that_hangs_is_ended_in_time(puppets: Pipeline, transport: str) -> None:
    if transport in ("shared_memory", "tcp"):
        pytest.skip("the time limit is kept by the same lines as over a pipe")
    start = monotonic()
    with pytest.raises(WorkerTimeout, match=r"'receiver' did not answer within 2 s.*timeout="):
        puppets.run("receiver stop")
    assert monotonic() - start < 4


@pytest.mark.dist
def test_a_message_that_is_cut_is_never_heard(puppets: Pipeline, transport: str) -> None:
    if transport == "ray":
        pytest.skip("its object store shows an object when it is whole")
    deed, error = ("hang", WorkerTimeout) if transport == "tcp" else ("die", WorkerError)
    with pytest.raises(error, match="agent 'sender'"):
        puppets.run(f"sender cut and {deed}")
    assert answer(puppets.run("hello"))[1] == workers.LETTERS


@pytest.mark.dist
def test_a_receiver_may_be_lost_while_it_is_told(puppets: Pipeline, transport: str) -> None:
    if transport != "pipe":
        pytest.skip("what the pipeline does then is the same as over a pipe")
    puppets.run("receiver trap")
    with pytest.raises(WorkerError, match="process of agent 'receiver' was killed by SIGKILL"):
        puppets.run("hello")


@pytest.mark.dist
def test_what_listens_may_raise(puppets: Pipeline, transport: str) -> None:
    """The rest of the reply is thrown away with the worker, not taken for the next one."""
    if transport != "pipe":
        pytest.skip("what the pipeline does then is the same as over a pipe")

    def interrupted(event: Event) -> None:
        if isinstance(event, WordsWritten):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        puppets._tell(["hello"], ["hello"], interrupted, words=True)  # pyright: ignore
    assert answer(puppets.run("hello"))[1] == workers.LETTERS


@pytest.mark.dist
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_key_of_a_worker_is_not_shown(puppets: Pipeline, transport: str) -> None:
    """Neither in the list of processes nor in what a worker hands on to its own."""
    if transport != "tcp":
        pytest.skip("only over TCP is there anybody to admit")
    pids, _ = answer(puppets.run("hello"))
    keys = [agent._worker._key for agent in puppets._participants.values()]  # pyright: ignore
    assert len(keys) == 2
    for pid in (*pids, os.getpid()):
        shown = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
        for key in keys:
            assert not any(form in one for one in shown for form in (key, key.hex().encode()))


@pytest.mark.dist
def test_nothing_is_left_behind() -> None:
    ensure_running()  # Python keeps one line to it for good
    gc.collect()
    before, others = set(os.listdir("/proc/self/fd")), set(active_children())
    for make, said in (
        (workers.broken, "agent number 1 raised FileNotFoundError: no such model"),
        (partial(os._exit, 3), "agent number 1 ended with exit code 3"),
    ):
        with pytest.raises(WorkerError, match=said):
            Pipeline([make], executor=Processes())  # pyright: ignore
    makes = [partial(workers.Puppet, name) for name in ("sender", "receiver")]
    edge, place = (
        Edge("sender", "receiver", TextChannel()),
        Processes("shared_memory", limit=100_000),
    )
    with Pipeline(makes, [edge], executor=place) as pipeline:  # pyright: ignore
        assert len(set(active_children()) - others) == 2
        with pytest.raises(WireError, match=r"of agent 'sender' over 'text' has 300,\d{3} bytes"):
            pipeline.run("hello")
    with pytest.raises(PipelineError, match="agent 'sender' was closed"):
        pipeline.run("hello")
    gc.collect()  # what other tests had open may be closed by now
    assert set(os.listdir("/proc/self/fd")) <= before
    assert set(active_children()) <= others
    assert not [name for name in os.listdir("/dev/shm") if "unspoken" in name]


SCRIPT = """
import signal
from functools import partial
from tests.unit.workers import Puppet
from unspoken import Pipeline, Processes

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    with Pipeline([partial(Puppet, "one")], executor=Processes()) as pipeline:
        print(pipeline.run("?").answer, flush=True)
        pipeline.run("one hang")
"""


@pytest.mark.dist
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_workers_end_with_their_pipeline(number: signal.Signals, tmp_path: Path) -> None:
    """Even in the middle of a turn; Ctrl-C goes to every process of a terminal."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    running = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stdout is not None
    worker = int(running.stdout.readline().split()[0])
    assert running.stdout.readline() == "hanging\n"  # the next turn has begun
    if number == signal.SIGINT:
        os.killpg(running.pid, number)
    else:
        os.kill(running.pid, number)
    _, told = running.communicate(timeout=20)
    assert told.count("KeyboardInterrupt") == (number == signal.SIGINT)
    end = monotonic() + 5
    while Path(f"/proc/{worker}").exists() and monotonic() < end:
        sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()


# -- without processes -----------------------------------------------------------------------------


@pytest.fixture(params=["pipe", "shared_memory"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Line, Line, Connection]]:
    """A worker's end, the pipeline's end, and what the worker's end writes to."""
    one, other = Pipe()
    if request.param == "pipe":
        lines = Line(one, 1000), Line(other, 1000)
    else:
        lines = SharedLine(one, 1000, maps=True), SharedLine(other, 1000, maps=False)
    yield *lines, one
    for line in lines:
        line.close()


def test_a_line_carries_heads_and_messages(ends: tuple[Line, Line, Connection]) -> None:
    worker, pipeline, _ = ends
    for messages in ([], [b""], [b"one", b"x" * 1000]):
        worker.send(b"head", messages)
        head, passed = pipeline.receive()
        pipeline.send(head, [message for message in passed for _ in range(2)])  # to two receivers
        assert worker.receive() == (b"head", [message for message in messages for _ in range(2)])


def test_a_line_takes_no_more_than_its_limit(ends: tuple[Line, Line, Connection]) -> None:
    worker, pipeline, _ = ends
    worker.send(b"head", [b"x" * 1001])
    with pytest.raises(OSError, match=r"bad message length|1,001 bytes, at most 1,000"):
        pipeline.receive()


def test_a_claim_makes_no_room(ends: tuple[Line, Line, Connection]) -> None:
    _, pipeline, raw = ends
    os.write(raw.fileno(), b"\xff\xff\xff\xff" + (1 << 60).to_bytes(8, "big"))
    with pytest.raises(OSError, match="bad message length"):
        pipeline.receive()


@pytest.mark.parametrize("keep", [1, 4, 6, 12, 30])
def test_half_a_message_is_none(ends: tuple[Line, Line, Connection], keep: int) -> None:
    worker, pipeline, raw = ends
    whole = (8).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"head"
    whole += (100).to_bytes(4, "big") + b"x" * 100
    os.write(raw.fileno(), whole[:keep])
    worker.close()
    with pytest.raises((OSError, EOFError)):
        pipeline.receive()


def test_a_segment_is_nobody_elses_and_goes_with_its_last_holder() -> None:
    names, handles = set(os.listdir("/dev/shm")), len(os.listdir("/proc/self/fd"))
    segment = Segment.holding(b"bytes")
    mine, other = segment.read(), segment.read()
    mine[0:1] = b"B"
    assert (bytes(mine), bytes(other)) == (b"Bytes", b"bytes")
    assert set(os.listdir("/dev/shm")) == names
    del segment
    assert bytes(mine) == b"Bytes"
    del mine, other
    assert len(os.listdir("/proc/self/fd")) == handles


def test_what_cannot_go_elsewhere_is_refused(tiny: Callable[..., Backbone]) -> None:
    for agent, said in (
        (Agent("solver", tiny("llama")), "agent 'solver' is made already"),
        (lambda: Agent("solver", tiny("llama")), "not a lambda"),
    ):
        with pytest.raises(PipelineError, match=said):
            Pipeline([agent], executor=Processes())
    with pytest.raises(UnknownName, match="did you mean 'pipe'"):
        Processes("pipes")  # pyright: ignore
    for wrong in ({"timeout": 0}, {"start": -1.0}, {"limit": 0}):
        with pytest.raises(PipelineError, match="time limits are seconds above 0"):
            Processes(**wrong)  # pyright: ignore


def test_a_missing_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'unspoken\[ray\]'"):
        Pipeline(MAKES, executor=RayActors())


def test_a_pipeline_here_makes_its_agents_and_closes() -> None:
    with Pipeline(MAKES[2:]) as pipeline:
        assert pipeline.answerer.name == "solver"
    assert pipeline.run("still here?").turns
