"""DiffusionGemma as transformers has it: canvases by its sampler, states from its decoder."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from unspoken import models
from unspoken.backbone.diffusion.canvas import CanvasModel, Laid
from unspoken.backbone.diffusion.sampling import Draft
from unspoken.backbone.loaded import placed, shared
from unspoken.errors import IncompatibleModels
from unspoken.types import Context, Denoising, Spec

__all__ = ["DiffusionGemma"]

_OWN = ("block", "remask", "guidance", "until", "threshold", "capture")
_PLAIN = {field.name: field.default for field in fields(Denoising)}


class DiffusionGemma(CanvasModel):
    """DiffusionGemma as a diffusion model with `max_tokens`, `steps` and `temperature`.

    Its canvases have the length that it was trained with (256). What is written beyond `max_tokens`
    is cut. There is no mask: words that the sampler does not accept are drawn anew. Temperature 0
    means the checkpoint's schedule. Rows are denoised one by one, each from its seed, because
    transformers draws noise for a whole batch. transformers returns no hidden states, so those of
    the last layer are taken from the decoder. passes: of the encoder and of the decoder.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "diffusion gemma") -> None:
        super().__init__(model, tokenizer, name=name)
        known = model.generation_config.eos_token_id or model.config.text_config.eos_token_id
        self.ends = tuple(known) if isinstance(known, Sequence) else (known,)

    @classmethod
    def from_pretrained(
        cls, name: str, *, dtype: str | torch.dtype = "auto", device: str | None = None, **hf: Any
    ) -> DiffusionGemma:
        """Load google/diffusiongemma-26B-A4B-it or another one; `hf` goes to transformers."""
        from transformers import DiffusionGemmaForBlockDiffusion  # a second to import

        where = models.resolve(name)
        with models.explained(name):
            tokenizer = models.load_tokenizer(name, where, **shared(hf))
            model: Any = DiffusionGemmaForBlockDiffusion.from_pretrained(where, dtype=dtype, **hf)
        return cls(placed(model, dtype, device), tokenizer, name=name)

    def _describe(self) -> Spec:
        found = self._spec()
        return replace(found, gives=("text", "hidden"), takes=("text",), states="written")

    def score(self, context: Context, answers: Sequence[str | Sequence[int]]) -> Tensor:
        raise IncompatibleModels(self._refusal("has no likelihood here"))

    def _denoise(self, laid: Laid, settings: Denoising) -> Draft:
        odd = [name for name in _OWN if getattr(settings, name) != _PLAIN[name]]
        if odd:
            raise IncompatibleModels(
                f"{self.name!r} has its own sampler, which has no {', '.join(odd)}. Leave "
                "that out, and set max_tokens, steps and temperature"
            )
        top = self.facts.layers
        if any(layer not in (-1, top) for layer in laid.layers):
            raise IncompatibleModels(
                f"{self.name!r} gives the states of its last layer alone, -1 or {top}, but "
                f"{list(laid.layers)} are asked for. Train the projector on layer -1"
            )
        prompts = [laid.run.ids[b][laid.run.mask[b]] for b in range(laid.batch)]
        drawn = zip(prompts, settings.seeds(laid.batch), strict=True)
        rows = [self._row(prompt, settings, seed) for prompt, seed in drawn]
        states = torch.stack([row.states[-1] for row in rows])
        ids = torch.stack([row.ids for row in rows])
        passes = max(row.passes for row in rows)
        return Draft(ids, passes, {layer: states for layer in laid.layers})

    def _row(self, prompt: Tensor, settings: Denoising, seed: int) -> Draft:
        """A canvas (n,) after a prompt (S,), and its last states (n, W)."""
        size, states, passes = settings.max_tokens, list[Tensor](), 0

        def encoded(out: Any) -> None:
            nonlocal passes
            passes += 1
            states.append(torch.empty(0))  # a new canvas

        def decoded(out: Any) -> None:
            nonlocal passes
            passes += 1
            states[-1] = out.last_hidden_state[0]

        low, drafts = settings.temperature, _Drafts(self, settings.steps)
        with _Drawing(torch.Generator(self.device).manual_seed(seed)):
            out = _telling(self.model, encoder=encoded, decoder=decoded).generate(
                prompt[None],
                max_new_tokens=size,
                max_denoising_steps=settings.steps,
                streamer=drafts,
                disable_compile=True,  # the copy lives for one row
                **({"t_min": low, "t_max": 1.0001 * low} if low else {}),  # equal ones are refused
            )
        ids = out.sequences[0, len(prompt) :][:size]
        last = torch.cat(states)[:size]
        self._check_numbers(last)
        return Draft(ids, passes, {-1: last})


def _telling(model: Any, **tell: Callable[[Any], None]) -> Any:
    """The same model, weights and all, whose parts tell what they return.

    A copy, because other threads may be writing with the original.
    """
    twin, inner = copy(model), copy(model.model)
    parts = {name: _part(inner._modules[name], told) for name, told in tell.items()}
    inner._modules = {**inner._modules, **parts}
    twin._modules = {**twin._modules, "model": inner}
    return twin


def _part(module: Any, tell: Callable[[Any], None]) -> Any:
    twin = copy(module)

    def forward(*args: Any, **kwargs: Any) -> Any:
        out = module.forward(*args, **kwargs)
        tell(out)
        return out

    twin.forward = forward
    return twin


class _Drawing(TorchFunctionMode):
    """While it is on, torch draws from a generator in this thread, and not from its own.

    transformers gives a sampler no generator. torch's own belongs to the whole process.
    """

    drawn = (torch.randint, torch.multinomial)

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        own = {"generator": self.generator} if func in self.drawn else {}
        return func(*args, **{**(kwargs or {}), **own})


class _Drafts:
    """Passes canvases to the function that is watching, as a streamer of transformers."""

    def __init__(self, model: DiffusionGemma, steps: int) -> None:
        self.model, self.steps, self.step = model, steps, 0
        self.last: Tensor | None = None

    def put(self, value: Tensor) -> None:
        self.step, self.last = 0, None

    def put_draft(self, value: Tensor) -> None:
        self.step += 1
        new = torch.ones_like(value) if self.last is None else value != self.last
        self.last = value
        nothing = torch.zeros_like(value, dtype=torch.bool)
        self.model.show(value, new.bool(), nothing, self.step, self.steps)

    def end(self) -> None:
        pass
