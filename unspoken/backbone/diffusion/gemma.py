"""DiffusionGemma as transformers has it: canvases by its sampler, states by a hook."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

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
    means the checkpoint's schedule. Rows are denoised one by one, each from the same seed, because
    transformers draws noise for a whole batch. transformers returns no hidden states, so a hook
    takes those of the last layer from the decoder. passes: of the encoder and of the decoder.
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
        rows = [self._row(laid.run.ids[b][laid.run.mask[b]], settings) for b in range(laid.batch)]
        states = torch.stack([row.states[-1] for row in rows])
        ids = torch.stack([row.ids for row in rows])
        passes = max(row.passes for row in rows)
        return Draft(ids, passes, {layer: states for layer in laid.layers})

    def _row(self, prompt: Tensor, settings: Denoising) -> Draft:
        """A canvas (n,) after a prompt (S,), and its last states (n, W)."""
        size, states, passes = settings.max_tokens, list[Tensor](), 0

        def encoded(*_: Any) -> None:
            nonlocal passes
            passes += 1
            states.append(torch.empty(0))  # a new canvas

        def decoded(module: Any, args: Any, out: Any) -> None:
            nonlocal passes
            passes += 1
            states[-1] = out.last_hidden_state[0]

        low, drafts = settings.temperature, _Drafts(self, settings.steps)
        with ExitStack() as opened, torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            inner = self.model.model
            opened.callback(inner.encoder.register_forward_pre_hook(encoded).remove)
            opened.callback(inner.decoder.register_forward_hook(decoded).remove)
            out = self.model.generate(
                prompt[None],
                max_new_tokens=size,
                max_denoising_steps=settings.steps,
                streamer=drafts,
                **({"t_min": low, "t_max": 1.0001 * low} if low else {}),  # equal ones are refused
            )
        ids = out.sequences[0, len(prompt) :][:size]
        return Draft(ids, passes, {-1: torch.cat(states)[:size]})


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
