"""A receiver that learns: low-rank adapters on all its linear layers, by peft."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from torch import Tensor, nn

from unspoken import kept
from unspoken.backbone import Backbone
from unspoken.errors import Damaged, DataError, IncompatibleModels, MissingExtra, TrainingError
from unspoken.layout import Chunk
from unspoken.seeding import seeded
from unspoken.types import KV, Spec, counted

__all__ = ["Adapted", "load_lora", "save_lora", "with_lora"]

_FILE, _CONFIG, _KIND = "adapter_model.safetensors", "adapter_config.json", "adapter"
_PREFIX = "base_model.model."  # of every name in peft's files


class Adapted(Backbone):
    """A backbone in training: LoRA (arXiv 2106.09685) on all linear layers, the rest frozen.

    A layer W (n, m) becomes W + 2 B A, with A (rank, m) drawn at random and B (n, rank) zero.
    `adapter` holds only these matrices, in float32: give it to `fit`. Gradients reach them through
    all that is read, with a shared opening, which is therefore read anew every time. W is the
    tensor of `base` itself, not a copy.
    """

    def __init__(self, base: Backbone, config: Any, *, seed: int = 0) -> None:
        model = deepcopy(base.model, {id(p): p for p in base.model.parameters()})
        with seeded(seed):
            model = _peft().inject_adapter_in_model(config, model)
        model.requires_grad_(False)
        super().__init__(model, base.tokenizer, name=f"{base.name}+lora")
        self.base, self.config = base, config
        self.adapter = nn.ParameterDict()
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.float()
                self.adapter[name.replace(".", "/")] = parameter.requires_grad_(True)

    @property
    def size(self) -> int:
        """The number of trained parameters."""
        return sum(parameter.numel() for parameter in self.adapter.parameters())

    @property
    def spec(self) -> Spec:
        """As it was at first: weights that still change have no identity that could be shared."""
        return self.facts

    def _describe(self) -> Spec:
        return replace(super()._describe(), weights=uuid4().hex[:16])

    def frozen(self) -> Backbone:
        """End the training: the model as it is now, with an identity, which keeps its opening."""
        return Backbone(self.model.requires_grad_(False), self.tokenizer, name=self.name)

    def read_opening(self, run: Chunk) -> KV:
        return self.pass_over((), run.mask[:, :0], run, counted(run.mask))[0]

    def read_front(self, kv: KV, read: Sequence[Chunk], run: Chunk, at: Tensor) -> KV:
        return self.pass_over(kv, run.mask.new_ones(1, int(at[0, 0])), run, at)[0]


def with_lora(backbone: Backbone, parameters: int, *, seed: int) -> Adapted:
    """Adapt a backbone, at the rank whose number of parameters is nearest to `parameters`.

    The backbone stays as it is, and shares its weights. Raises `MissingExtra` without peft, and
    `TrainingError` when even rank 1 is further from `parameters` than no adapter at all.
    """
    one = Adapted(backbone, _config(1)).size
    rank = round(parameters / one)
    if not rank:
        raise TrainingError(
            f"{parameters} parameters are too few for LoRA on {backbone.name!r}: a rank takes "
            f"{one}. Allow at least that many"
        )
    return Adapted(backbone, _config(rank), seed=seed)


def save_lora(adapted: Adapted, folder: Path) -> None:
    """Write the adapter as peft does, so that `PeftModel.from_pretrained` can read it too."""
    found = _peft().get_peft_model_state_dict(adapted.model, save_embedding_layers=False)
    tensors = {_PREFIX + name: value.detach() for name, value in found.items()}
    adapted.config.save_pretrained(str(folder))
    settings = kept.content_digest(kept.read_json(folder / _CONFIG))
    content = {"base": adapted.base.fingerprint, "settings": settings}
    kept.save(folder / _FILE, _KIND, content, tensors)


def load_lora(backbone: Backbone, folder: Path) -> Backbone:
    """The backbone with an adapter from `save_lora`, frozen and ready for use.

    Raises `IncompatibleModels` when the adapter was trained on other weights, `DataError` when
    there is none, `MissingExtra` without peft.
    """
    peft = _peft()
    if not (folder / _FILE).is_file():
        raise DataError(f"{folder} holds no {_FILE}. Give a folder that `save_lora` wrote")
    with kept.advising("train the adapter again"):
        found = kept.load_weights(folder / _FILE, _KIND)
        base = str(found.content.get("base", "unknown"))
        if not backbone.spec.is_known_as(base):
            raise IncompatibleModels(
                f"the adapter in {folder} was trained on weights {base}, but {backbone.name!r} has "
                f"{backbone.fingerprint}. Load that model, or train an adapter for this one"
            )
        adapted = Adapted(backbone, _read_config(folder, found))
        wanted = peft.get_peft_model_state_dict(adapted.model, save_embedding_layers=False)
        names = {_PREFIX + name: tensor for name, tensor in wanted.items()}
        kept.check_tensors(found.tensors, names, folder / _FILE)
    tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in found.tensors.items()}
    peft.set_peft_model_state_dict(adapted.model, tensors)
    return adapted.frozen()


def _read_config(folder: Path, found: kept.Tensors) -> Any:
    """The settings that the weights were written with, at the rank that they have."""
    path = folder / _CONFIG
    settings = kept.read_json(path)
    if found.digest and found.content["settings"] != kept.content_digest(settings):
        raise Damaged(f"{path} and {_FILE} were not written together")
    ranks = {len(one) for name, one in found.tensors.items() if ".lora_A." in name and one.ndim}
    if ranks != {settings.get("r")}:
        raise Damaged(f"{path} has rank {settings.get('r')}, but the weights have {sorted(ranks)}")
    try:
        return _peft().LoraConfig.from_pretrained(str(folder))
    except (TypeError, ValueError, KeyError) as error:
        raise Damaged(f"{path} has settings that make no adapter: {error}") from error


def _config(rank: int) -> Any:
    return _peft().LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingExtra(
            "LoRA needs peft; install it with: pip install 'unspoken[lora]'"
        ) from error
    return peft
