"""One of each thing that is kept on disk, made with tiny models, and what comes of using it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from unspoken import kept, models
from unspoken.agents import Agent, Role
from unspoken.anchors import AnchorPool
from unspoken.audit import Audit, read_log
from unspoken.backbone import Backbone
from unspoken.channels import Handoff
from unspoken.evaluation.arm import Prediction
from unspoken.evaluation.statistics import Interval
from unspoken.evaluation.store import Store
from unspoken.pipeline import Edge, Pipeline
from unspoken.projectors import EmbeddingProjector, Fuser, MemoryProjector, load_projector
from unspoken.results import write_page
from unspoken.testing import tiny_backbone
from unspoken.training import StoredStates, TrainingPlan, fit
from unspoken.types import Prompt, Settings, Text, Usage
from unspoken.wire import Message

__all__ = ["THINGS", "Thing"]

WORDS = "Ada keeps the green key in a drawer by the window, and nobody else knows of it."


@dataclass(frozen=True)
class Thing:
    """make: fills a folder, by seed. use: what a reader gets of it, comparable by ==."""

    name: str
    make: Callable[[Path, int], object]
    use: Callable[[Path], Any]
    suffixes: tuple[str, ...] = (".json", ".jsonl", ".safetensors", ".pt", ".bin", "")

    def counts(self, path: Path) -> bool:
        """Whether a file is part of the thing."""
        return path.is_file() and path.suffix in self.suffixes


_models: dict[int, Backbone] = {}


def _model(seed: int = 0) -> Backbone:
    return _models.setdefault(seed, tiny_backbone("llama", seed=seed))


def _digest(tensors: dict[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        found.update(f"{name}{tuple(tensor.shape)}".encode() + flat.numpy().tobytes())
    return found.hexdigest()


# -- pools -----------------------------------------------------------------------------------------


def _prompt(n: int) -> Prompt:
    lead, share = Text(("Plan. Solve it. "[: 6 + n],), shared=True), Text((WORDS,), share="fact")
    return Prompt((lead, share, Text((f" So, {n}?",))))


def make_pool(folder: Path, seed: int) -> None:
    pool = AnchorPool("shifted" if seed else "anchored")
    for n in range(3):
        pool.wrap(_model()).read(_prompt(n))
    pool.save(folder)


def use_pool(folder: Path) -> Any:
    pool = AnchorPool("anchored")
    pool.load(folder)
    pool.check()
    reader = pool.wrap(_model())
    read = reader.read(_prompt(2))
    words = reader.write(read.context, Settings(max_tokens=6)).words
    kv = {f"{n}{m}": one for n, pair in enumerate(read.context.kv) for m, one in enumerate(pair)}
    return words, read.served, _digest(kv)


# -- trained ---------------------------------------------------------------------------------------


def _projector(kind: str, seed: int) -> Any:
    torch.manual_seed(seed)
    if kind == "embedding":
        return EmbeddingProjector(source_width=8, target_width=4, layers=[0, 2], hidden=6)
    if kind == "fusion":
        heads = {"source_heads": 1, "source_dim": 4, "target_heads": 2, "target_dim": 4}
        made = Fuser(**heads, layers=[(0, 0), (1, 0)], hidden=4, inner=4, noise="gumbel")
        made.begin(1.0)
        return made
    sizes: Any = {"source": (1, 1, 4), "target": (1, 1, 4), "rotary": (2, 2)}
    made = MemoryProjector(**sizes, target_width=4, width=4, hidden=4)
    made.tokenizer = _model().tokenizer.backend_tokenizer
    return made


def _use_module(made: Any) -> Any:
    settings = {name: value for name, value in vars(made).items() if not name.startswith("_")}
    settings.pop("tokenizer", None)
    tokenizer = getattr(made, "tokenizer", None)
    words = tokenizer.encode(WORDS).ids if tokenizer else None
    return type(made).__name__, words, str(settings), _digest(made.state_dict())


def projector(kind: str) -> Thing:
    def make(folder: Path, seed: int) -> None:
        _projector(kind, seed).save_pretrained(folder)

    return Thing(f"projector {kind}", make, lambda folder: _use_module(load_projector(folder)))


def make_published(folder: Path, seed: int) -> None:
    _projector("fusion", seed).to_published(folder)


def use_published(folder: Path) -> Any:
    return _use_module(Fuser.from_published(folder))


def make_adapter(folder: Path, seed: int) -> None:
    from unspoken.training.lora import save_lora, with_lora

    adapted = with_lora(_model(), 3000 * (seed + 1), seed=seed)
    with torch.no_grad():
        for parameter in adapted.adapter.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    folder.mkdir(parents=True)
    save_lora(adapted, folder)


def use_adapter(folder: Path) -> Any:
    from unspoken.training.lora import load_lora

    model = load_lora(_model(), folder)
    read = model.read(Prompt((Text((WORDS,)),)))
    return model.fingerprint, model.write(read.context, Settings(max_tokens=4)).words


def make_pair(folder: Path, seed: int) -> None:
    from unspoken.recipe import load_recipe
    from unspoken.relay.relay import Relay
    from unspoken.relay.train import train_projector
    from unspoken.tasks import load_task

    short = ["task={name: people, size: 50}", f"seed={seed}"]
    recipe: Any = load_recipe("mixing", [*short, "prompts={shots: 0, note_instructions: ''}"])
    relay = Relay(recipe, _model(2), _model(), load_task(recipe.task))
    train_projector(relay, folder)


def use_pair(folder: Path) -> Any:
    from unspoken.relay.pair import load_pipeline

    pipeline = load_pipeline(folder, sender=_model(2), receiver=_model())
    run = pipeline.run({"context": "Ada keeps a parrot.", "question": "What does Ada keep?"})
    agents = [(one.name, one.role, one.settings) for one in pipeline.agents.values()]
    return run.answer, str(agents), run.usage.wire, str(pipeline.edges[0].pack)


# -- training --------------------------------------------------------------------------------------


class _Sum:
    """Learns the sum of three numbers."""

    size = 8

    def __init__(self, net: nn.Module) -> None:
        self.net, self.x = net, torch.randn(12, 3, generator=torch.Generator().manual_seed(1))

    def length(self, row: int) -> int:
        return 1

    def loss(self, rows: Any, step: int) -> Tensor:
        x = self.x[list(rows)]
        return (self.net(x)[:, 0] - x.sum(1)).square().mean()

    def validate(self) -> float:
        return float(self.loss(range(8, 12), 0))


def _fit(folder: Path, steps: int) -> Any:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    plan = TrainingPlan(steps=steps, batch_size=4, lr=0.05, every=2, bf16=False)
    history = fit(net, _Sum(net), plan, folder / "key" / "c.pt", title="toy")
    return history, _digest(net.state_dict())


def make_checkpoint(folder: Path, seed: int) -> None:
    _fit(folder, 4 + 2 * seed)


# -- cached and kept -------------------------------------------------------------------------------

ITEMS = [{"context": f"Ada keeps {n} keys.", "question": "How many?"} for n in range(5)]


def _states(folder: Path, seed: int) -> StoredStates:
    agent = Agent("s", _model(seed), role=Role(template="{context}"))
    return StoredStates(agent, ITEMS, (0, 2), folder)


def use_states(folder: Path) -> Any:
    found = _states(folder, 0).states(range(5))
    return _digest({"values": found.values.clone(), "mask": found.mask.clone()})


_ROWS = [
    Prediction(f"q{n}", "What?", ("a", "b"), "a é", True, {"s": "x"}, "q0", Usage(read=n), {})
    for n in range(3)
]


def make_answers(folder: Path, seed: int) -> None:
    store = Store(folder)
    store.keep("predictions/a.jsonl", f"key {seed}", list[Prediction], _ROWS)
    store.keep("likelihoods/a.json", f"key {seed}", Interval, Interval(0.25, 0.5 + seed / 10))


def use_answers(folder: Path) -> Any:
    store, key = Store(folder), "key 0"
    rows = store.get("predictions/a.jsonl", key, list[Prediction], lambda: _ROWS)
    return rows, store.get("likelihoods/a.json", key, Interval, lambda: Interval(0.25, 0.5))


_RESULTS = Path(__file__).parent / "results"


def make_results(folder: Path, seed: int) -> None:
    name = "rate-qasc" if seed else "relay-qasc"  # of a second study: another run is no damage
    content = json.loads((_RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(kept.digested(content), indent=1) + "\n")


def use_results(folder: Path) -> Any:
    return write_page(folder).read_text(encoding="utf-8").replace(str(folder), "")


# -- audits and conversions ------------------------------------------------------------------------


def make_audit(folder: Path, seed: int) -> None:
    reader = Agent("reader", _model(), role=Role(template="{context}"))
    solver = Agent("solver", _model(), settings=Settings(max_tokens=2))
    pipeline = Pipeline(
        [reader, solver], [Edge("reader", "solver", Handoff())], audit=Audit(folder)
    )
    for n in range(2):
        pipeline.run({"context": f"Ada keeps {n + 5 * seed} keys.", "question": "How many?"})


def use_audit(folder: Path) -> Any:
    lines = read_log(folder)
    return lines, [Message.load(folder / line["file"]).to_bytes() for line in lines]


def _convert(model: models.Packaged, parts: list[Path], folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(hashlib.sha256(b"w").digest() * 40)
    (folder / "config.json").write_text(json.dumps({"layers": 3, "heads": [1, 2]}))
    models._seal(model, folder)


def use_conversion(folder: Path) -> Any:
    toy = models.Packaged("toy", (), "00", "MIT", "a toy")
    with (
        patch.dict(models.PACKAGED, {"toy": toy}),
        patch.object(models, "_convert", _convert),
        patch.dict(os.environ, {"UNSPOKEN_CACHE": str(folder)}),
    ):
        found = Path(models.resolve("toy"))
    names = ("config.json", "model.safetensors")
    return [(found / name).read_bytes() for name in names]


def make_conversion(folder: Path, seed: int) -> None:
    use_conversion(folder)
    if seed:
        path = folder / "models" / "toy" / "manifest.json"
        path.write_text(path.read_text().replace("sha256", "sha512"))


THINGS = (
    Thing("pool", make_pool, use_pool),
    projector("embedding"),
    projector("memory"),
    projector("fusion"),
    Thing("published", make_published, use_published),
    Thing("adapter", make_adapter, use_adapter),
    Thing("pair", make_pair, use_pair),
    Thing("checkpoint", make_checkpoint, lambda folder: _fit(folder, 4)),
    Thing("states", lambda folder, seed: _states(folder, seed), use_states),
    Thing("answers", make_answers, use_answers),
    Thing("results", make_results, use_results),
    Thing("audit", make_audit, use_audit),
    Thing("conversion", make_conversion, use_conversion),
)
