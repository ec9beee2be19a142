"""What was sent is kept; what it says is shown; and who may hear it is checked first."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from unspoken.agents import Agent, Incoming, Role
from unspoken.audit import Audit, describe, nearest, read_log, reading
from unspoken.backbone import Backbone
from unspoken.channels import Channel, Embedding, Handoff, TextChannel
from unspoken.cli import main
from unspoken.errors import Damaged, IncompatibleModels, PipelineError, StorageError, WireError
from unspoken.executors import Here
from unspoken.pipeline import Edge, Pipeline
from unspoken.projectors import EmbeddingProjector
from unspoken.types import CacheSegment, Settings, Text, Vectors
from unspoken.wire import Header, Int8, Layers, LowRank, Message, Seal, Tokens

ITEM = {"context": "The key is in the attic.", "question": "Where is it?"}
FIELDS = {name: (words,) for name, words in ITEM.items()}
SHORT = Settings(max_tokens=6)
Tiny = Callable[..., Backbone]


@pytest.fixture
def reader(tiny: Tiny) -> Agent:
    return Agent(
        "reader", tiny("llama"), role=Role("Read well.\nNow.", "{context}"), settings=SHORT
    )


@pytest.fixture
def solver(tiny: Tiny) -> Agent:
    role = Role("Answer.", "{messages}Q: {question}\nA:", "{message}")
    return Agent("solver", tiny("llama"), role=role, settings=SHORT)


def embedding(model: Backbone) -> Embedding:
    torch.manual_seed(0)
    spec = model.spec
    return Embedding(
        EmbeddingProjector(
            source_width=spec.width,
            target_width=spec.width,
            hidden=8,
            target_weights=spec.weights,
            target_tokenizer=spec.tokenizer,
        )
    )


def sent(reader: Agent, channel: Channel) -> Message:
    return channel.send(reader.compute(FIELDS, needs=channel.needs)[0])


# -- what a header says ----------------------------------------------------------------------------


def test_every_field_of_a_header_is_filled(reader: Agent, solver: Agent, tmp_path: Path):
    model, channel = reader.model, embedding(reader.model)
    edges = [Edge("reader", "solver", channel, shadow=True)]
    run = Pipeline([reader, solver], edges, audit=tmp_path).run(ITEM)
    line = read_log(tmp_path)[0]
    header = Message.load(tmp_path / line["file"]).header
    assert header.sender == "reader"
    assert header.role == "Read well."
    assert header.step == 1
    assert len(header.task) == 1
    assert (header.weights, header.tokenizer) == (model.spec.weights, model.spec.tokenizer)
    assert (header.receiver, header.receiver_tokenizer) == (header.weights, header.tokenizer)
    assert header.dtype == "float32"
    assert len(header.projector) == 16
    assert header.shadow == (run.turns[0].text,)
    assert run.turns[0].usage.wire == line["bytes"]
    cache = sent(reader, Handoff()).header
    assert cache.kinds == ("full",) * 3
    assert not cache.projector


def test_a_trained_projector_has_another_fingerprint(reader: Agent):
    channel = embedding(reader.model)
    before = sent(reader, channel)
    with torch.no_grad():
        channel.projector.outer.bias[0] += 0.1
    assert sent(reader, channel).header.projector != before.header.projector
    with pytest.raises(IncompatibleModels, match=r"projector [0-9a-f]{16}, but"):
        channel.accept(before, reader.model.spec)


def test_one_item_is_one_task_everywhere(reader: Agent, solver: Agent, tmp_path: Path):
    middle = Agent("middle", reader.model, role=Role(template="{messages}{question}"))
    edges = [Edge("reader", "middle", Handoff()), Edge("middle", "solver", TextChannel(limit=3))]
    line = Pipeline([reader, middle, solver], edges, audit=tmp_path)
    line.run(ITEM)
    line.run({**ITEM, "question": "Who?"})
    first, second, third, _ = read_log(tmp_path)
    assert first["task"] == second["task"] != third["task"]
    assert [row["step"] for row in (first, second, third)] == [1, 2, 1]
    assert first["run"] == second["run"] != third["run"]


def test_a_gemma_says_which_layers_see_a_window(tiny: Tiny):
    header = sent(Agent("reader", tiny("gemma"), role=Role(template="{context}")), Handoff()).header
    assert header.kinds == ("sliding", "full", "sliding")
    assert header.window == 16


# -- who may hear it -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("receiver", "0123456789abcdef"),
        ("receiver_tokenizer", "0123456789abcdef"),
        ("channel", "text"),
        ("weights", "0123456789abcdef"),
        ("tokenizer", "0123456789abcdef"),
        ("projector", "0123456789abcdef"),
        ("kinds", ("sliding", "full", "full")),
        ("window", 8),
    ],
)
def test_a_message_for_others_is_refused_before_anything_is_read(
    reader: Agent, solver: Agent, passes, field: str, value: object
):
    channel = Handoff()
    message = sent(reader, channel)
    forged = Message(message.header.model_copy(update={field: value}), message.payload)
    arrival = Incoming(channel, Message.from_bytes(forged.to_bytes()))
    with passes(solver.model) as seen, pytest.raises(IncompatibleModels) as refused:
        solver.compute(FIELDS, [arrival])
    assert not seen
    assert "from 'reader'" in str(refused.value)
    assert solver.model.name in str(refused.value)


def test_other_weights_refuse_the_bytes_of_a_handover(reader: Agent, tiny: Tiny):
    message = Message.from_bytes(sent(reader, Handoff()).to_bytes())
    other = Agent("other", tiny("llama", seed=1))
    with pytest.raises(IncompatibleModels, match=r"receiver weights [0-9a-f]{16}, but"):
        other.compute(FIELDS, [Incoming(Handoff(), message)])


def test_another_payload_than_the_channel_takes_in(reader: Agent, solver: Agent):
    message = sent(reader, Handoff())
    words = Message(message.header, Text(("hi",)))
    with pytest.raises(IncompatibleModels, match="carries Text, but channel 'handoff'"):
        solver.compute(FIELDS, [Incoming(Handoff(), words)])


def test_a_message_for_more_items_is_refused(reader: Agent, solver: Agent):
    two = {name: words * 2 for name, words in FIELDS.items()}
    message = Handoff().send(reader.compute(two, needs=Handoff().needs)[0])
    with pytest.raises(IncompatibleModels, match="has 2 rows, but 'solver' works on 1 items"):
        solver.compute(FIELDS, [Incoming(Handoff(), message)])


# -- packed on the way -----------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [Int8(), LowRank(rank=2), Tokens(share=0.5)], ids=repr)
def test_a_receiver_hears_what_the_bytes_would_give(reader: Agent, solver: Agent, pack):
    line = Pipeline([reader, solver], [Edge("reader", "solver", Handoff(), pack)])
    run = line.run(ITEM)
    message = sent(reader, Handoff()).pack(pack)
    loaded = Message.from_bytes(message.to_bytes())
    state, _ = solver.compute(FIELDS, [Incoming(Handoff(), loaded)])
    assert state.text == (run.turns[1].text,)
    step = message.header.model_copy(update={"step": 1})
    assert run.turns[0].usage.wire == replace(message, header=step).nbytes


def test_edges_that_pack_otherwise_send_their_own(reader: Agent, solver: Agent, tmp_path: Path):
    other = Agent("other", solver.model, role=solver.role, settings=SHORT)
    channel = Handoff()
    edges = [Edge("reader", "solver", channel), Edge("reader", "other", channel, Int8())]
    edges.append(Edge("other", "solver", TextChannel()))
    Pipeline([reader, other, solver], edges, audit=tmp_path).run(ITEM)
    kinds = {row["receiver"]: row["packing"] for row in read_log(tmp_path) if row["step"] == 1}
    assert kinds == {"solver": "lossless", "other": "int8"}


def test_layers_that_the_sender_has_not_are_refused_at_once(reader: Agent, solver: Agent):
    with pytest.raises(IncompatibleModels, match=r"keeps layers \[7\]"):
        Pipeline([reader, solver], [Edge("reader", "solver", Handoff(), Layers(layers=(0, 7)))])


# -- the log ---------------------------------------------------------------------------------------


def test_every_message_is_kept(reader: Agent, solver: Agent, tmp_path: Path):
    line = Pipeline([reader, solver], [Edge("reader", "solver", Handoff())], audit=tmp_path / "a")
    items = [ITEM, {**ITEM, "context": "It is here."}, {**ITEM, "context": "Nobody knows it."}]
    runs = line.run_many(items, batch_size=2)
    rows = read_log(tmp_path / "a")
    assert [len(row["task"]) for row in rows] == [2, 1]
    for row in rows:
        data = (tmp_path / "a" / row["file"]).read_bytes()
        assert sha256(data).hexdigest() == row["sha256"]
        assert len(data) == row["bytes"]
        assert Message.from_bytes(data).header.channel == row["channel"] == "handoff"
        assert row["shadow"] is None
    assert sum(row["cost"]["read"] for row in rows) == sum(run.turns[0].usage.read for run in runs)


def test_a_pool_keeps_the_log(reader: Agent, solver: Agent, tmp_path: Path):
    from unspoken.anchors import AnchorPool

    line = Pipeline([reader, solver], [Edge("reader", "solver", Handoff())], audit=tmp_path)
    line.served_by(AnchorPool("exact")).run(ITEM)
    assert len(read_log(tmp_path)) == 1


def test_agents_elsewhere_cannot_be_audited(tmp_path: Path):
    class Elsewhere(Here):
        def place(self, agents, edges, opened):  # pyright: ignore
            return [SimpleNamespace(name="far", role=Role(), spec=None)]

    with pytest.raises(PipelineError, match="these run elsewhere; leave out the executor"):
        Pipeline([], executor=Elsewhere(), audit=tmp_path)


def test_shadows_are_the_receivers_reading(reader: Agent, solver: Agent, tmp_path: Path):
    audit = Audit(tmp_path, shadow=True)
    line = Pipeline([reader, solver], [Edge("reader", "solver", Handoff())], audit=audit)
    run = line.run(ITEM)
    row = read_log(tmp_path)[0]
    message = Message.load(tmp_path / row["file"])
    assert row["shadow"] == list(reading(message, solver.model, Handoff()))
    unseen = Pipeline([reader, solver], [Edge("reader", "solver", Handoff())]).run(ITEM)
    assert run.answer == unseen.answer
    assert run.usage.read == unseen.usage.read


def test_a_sealed_log_is_read_with_its_keys(reader: Agent, solver: Agent, tmp_path: Path):
    seal = Seal(sign=bytes(32))
    audit = Audit(tmp_path, seal=seal)
    Pipeline([reader, solver], [Edge("reader", "solver", Handoff())], audit=audit).run(ITEM)
    row = read_log(tmp_path)[0]
    assert Message.load(tmp_path / row["file"], seal).header.sender == "reader"


@pytest.mark.parametrize("damage", ["line", "no line", "message", "no message", "deep"])
def test_a_log_that_is_not_as_it_was_written_is_refused(
    damage: str, reader: Agent, solver: Agent, tmp_path: Path
):
    audit = Audit(tmp_path)
    Pipeline([reader, solver], [Edge("reader", "solver", Handoff())], audit=audit).run(ITEM)
    index = tmp_path / "index.jsonl"
    (file,) = (tmp_path / "messages").iterdir()
    match damage:
        case "line":
            index.write_bytes(
                index.read_bytes().replace(b'"receiver": "solver"', b'"receiver": "x"')
            )
        case "no line":
            index.write_bytes(b"")
        case "message":
            data = file.read_bytes()
            file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "no message":
            file.unlink()
        case _:
            index.write_bytes(b"[" * 100_000 + b"\n")
    if damage == "no line":
        with pytest.warns(UserWarning, match=r"index\.jsonl lacks 1 messages"):
            assert read_log(tmp_path) == []
    else:
        with pytest.raises(Damaged, match="what it says is lost"):
            read_log(tmp_path)


def test_a_line_that_was_cut_is_taken_away(tmp_path: Path):
    audit = Audit(tmp_path)
    audit.append({"n": 1})
    with (tmp_path / "index.jsonl").open("ab") as file:
        file.write(b'{"n": 2, "half')
    with pytest.warns(UserWarning, match="lacks 1 messages or lines"):
        assert read_log(tmp_path) == [{"n": 1}]
    audit.append({"n": 3})
    assert read_log(tmp_path) == [{"n": 1}, {"n": 3}]
    assert read_log(tmp_path / "nowhere") == []


def test_a_log_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        Audit(tmp_path / "file").append({})


SECRET = "hunter2 is under the doormat"
SEALS = {
    "signed": Seal(sign=bytes(range(32))),
    "encrypted": Seal(encrypt=bytes(range(32))),
    "both": Seal(sign=bytes(range(40)), encrypt=bytes(range(32))),
}


@pytest.mark.parametrize("name", SEALS)
def test_a_sealed_index_says_nothing_of_what_was_said(tiny: Tiny, tmp_path: Path, name: str):
    """Neither words nor role nor question, and no plain hash by which one could be guessed."""
    seal, item = SEALS[name], {"context": SECRET, "question": f"Where is {SECRET}?"}
    reader = Agent("reader", tiny("llama"), role=Role(SECRET, "{context}"), settings=SHORT)
    solver = Agent("solver", tiny("llama"), settings=SHORT)
    edge = Edge("reader", "solver", TextChannel(verbatim=True), shadow=True)
    Pipeline([reader, solver], [edge], audit=Audit(tmp_path, shadow=True, seal=seal)).run(item)
    index = (tmp_path / "index.jsonl").read_text()
    message = Message.load(tmp_path / read_log(tmp_path)[0]["file"], seal)
    (task,) = message.header.task
    assert SECRET in str(message.payload)
    for word in (*SECRET.split(), task, *message.header.shadow):
        assert len(word.strip()) < 4 or word not in index  # short ones are in base64 by chance
    (line,) = read_log(tmp_path, seal)
    assert SECRET in line["shadow"][0]
    assert line["task"] != [task]
    if seal.encrypt is not None:
        kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert SECRET.encode() not in kept
        assert task.encode() not in kept


def test_keyed_ids_tell_equal_items_and_depend_on_the_key():
    one, other = Seal(sign=bytes(32)), Seal(sign=bytes(range(32)))
    assert one.hidden("a") == one.hidden("a") != one.hidden("b")
    assert one.hidden("a") != other.hidden("a")


def test_a_sealed_shadow_is_opened_by_its_key_alone(tiny: Tiny, tmp_path: Path):
    agents = [Agent(name, tiny("llama"), settings=SHORT) for name in ("reader", "solver")]
    edge = Edge("reader", "solver", TextChannel())
    seal = SEALS["encrypted"]
    Pipeline(agents, [edge], audit=Audit(tmp_path, shadow=True, seal=seal)).run("Who?")
    with pytest.raises(WireError, match="not encrypted with this key"):
        read_log(tmp_path, Seal(encrypt=bytes(32)))


# -- what it says ----------------------------------------------------------------------------------


HEADER = Header(channel="embedding", sender="s", weights="w", tokenizer="t")


def test_words_near_to_vectors_are_found(tiny: Tiny):
    model = tiny("llama")
    ids = torch.tensor([model.tokens("cat"), model.tokens("owl")])
    mask = torch.tensor([[True, True, True], [False, True, True]])
    message = Message(HEADER, Vectors(3 * model.embed(ids), mask))
    found = nearest(message, model, count=2)
    assert [[near[0] for near in row] for row in found] == [["c", "a", "t"], ["w", "l"]]
    assert {len(near) for row in found for near in row} == {2}
    wide = Message(HEADER, Vectors(torch.ones(2, 3, 5), mask))
    assert nearest(wide, model) == []


def test_a_reading_depends_on_the_message(reader: Agent, tiny: Tiny):
    model = tiny("llama")
    texts = ("The key is in the attic.", "Nobody knows where it is, nobody.")
    said = set()
    for text in texts:
        fields = {**FIELDS, "context": (text,)}
        message = Handoff().send(reader.compute(fields, needs=Handoff().needs)[0])
        assert reading(message, model) == reading(message, model, Handoff())
        said.add(reading(message, model))
    assert len(said) == 2
    assert reading(Message(HEADER, Text(("as it is",))), model) == ("as it is",)


def test_a_reading_by_other_weights_is_refused(reader: Agent, tiny: Tiny):
    message = sent(reader, Handoff())
    with pytest.raises(IncompatibleModels, match="read it with that model"):
        reading(message, tiny("llama", seed=1))
    wide = Message(HEADER, Vectors(torch.ones(1, 1, 5), torch.ones(1, 1).bool()))
    with pytest.raises(IncompatibleModels, match="give the projector"):
        reading(wide, reader.model)


def test_norms_are_of_real_positions():
    mask = torch.tensor([[False, True, True]])
    keys = torch.tensor([9.0, 3, 5]).view(1, 1, 3, 1).expand(1, 2, 3, 4)
    header = Header(channel="c", sender="s", weights="", tokenizer="")
    message = Message(header, CacheSegment.of(((keys, keys * 2),), mask))
    told = describe(message)
    assert told["norms"] == {"keys": [8.0], "values": [16.0]}
    assert told["odd"] == 0
    values = torch.tensor([[[9.0, 0], [3, 4], [torch.nan, 0]]])
    told = describe(replace(message, payload=Vectors(values, mask)))
    assert told["norms"][0][0] == 5
    assert told["odd"] == 1


def test_inspect_shows_a_file(reader: Agent, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = reader.model
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    message = sent(reader, embedding(model)).pack(Int8())
    message.save(tmp_path / "m")

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(["inspect", str(tmp_path / "m"), *arguments])
        assert end.value.code == 0
        return capsys.readouterr().out

    told = json.loads(run("--json"))
    assert told["header"]["sender"] == "reader"
    assert told["bytes"] == message.nbytes < told["bytes_unpacked"]
    assert told["layout"]["packing"]["kind"] == "int8"
    assert "reading" not in told
    told = json.loads(run("--json", "--model", str(tmp_path / "model")))
    assert len(told["nearest"][0]) == len(told["norms"][0])
    assert isinstance(told["reading"][0], str)
    shown = run("--model", str(tmp_path / "model"))
    assert "sender: reader" in shown
    assert "more" in shown


@pytest.mark.parametrize(
    ("option", "key", "says"),
    [
        ("--sign-key", b"", "at least 32 bytes, not 0"),
        ("--sign-key", b"short", "at least 32 bytes, not 5"),
        ("--sign-key", bytes(1 << 17), "is no key: it has more than"),
        ("--sign-key", None, "cannot read a key"),
        ("--key", b"", "32 bytes, not 0"),
        ("--key", bytes(33), "32 bytes, not 33"),
        ("--key", None, "cannot read a key"),
    ],
)
def test_inspect_refuses_what_is_no_key(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    key: bytes | None,
    says: str,
):
    """An empty key had checked nothing, and the forged message was shown."""
    file = tmp_path / "key"
    if key is not None:
        file.write_bytes(key)
    Message(HEADER, Text(("forged",))).save(tmp_path / "m")
    with pytest.raises(SystemExit, match="1"):
        main(["inspect", str(tmp_path / "m"), option, str(file)])
    out, err = capsys.readouterr()
    assert not out
    assert says in err
    assert str(file) in err
    assert err.startswith("SealError: ")


def test_inspect_wants_the_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    key = bytes(range(32))
    (tmp_path / "key").write_bytes(key)
    header = Header(channel="text", sender="s", weights="", tokenizer="")
    Message(header, Text(("hi",))).save(tmp_path / "m", Seal(encrypt=key))
    with pytest.raises(SystemExit) as end:
        main(["inspect", str(tmp_path / "m")])
    assert end.value.code == 1
    assert "is encrypted; read it with the keys" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(["inspect", str(tmp_path / "m"), "--key", str(tmp_path / "key"), "--json"])
    assert end.value.code == 0
    assert json.loads(capsys.readouterr().out)["words"] == ["hi"]
