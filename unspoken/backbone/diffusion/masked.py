"""Masked diffusion with any bidirectional model: an encoder, or a causal one opened by a mask."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from unspoken import models
from unspoken.backbone.diffusion.canvas import CanvasModel, Laid
from unspoken.backbone.diffusion.layouts import Masked
from unspoken.backbone.diffusion.published import published
from unspoken.backbone.diffusion.sampling import Draft, Guess, denoise
from unspoken.backbone.loaded import placed, shared
from unspoken.backbone.once import once
from unspoken.errors import IncompatibleModels
from unspoken.layout import VECTOR
from unspoken.types import Context, Denoising, Spec, counted

__all__ = ["DiffusionBackbone"]

_RAREST = 1e-3  # the smallest mask ratio, as in LLaDA's guidelines: its weight is a thousand


class DiffusionBackbone(CanvasModel):
    """A masked-diffusion model, frozen, and its tokenizer: LLaDA (arXiv 2502.09992).

    masked: how it is used, see `Masked`. Causal models attend in both directions here, which is
    checked once on the model. Prompts are tokens and, if the model takes embeddings, vectors.
    Each step is a forward pass over prompt and canvas.

    >>> from unspoken.testing import tiny_diffusion
    >>> from unspoken.types import Denoising, Prompt, Text
    >>> model = tiny_diffusion("llada")
    >>> context = model.read(Prompt((Text(("two plus two is",)),))).context
    >>> model.write(context, Denoising(max_tokens=8, steps=4)).passes
    4
    """

    def __init__(
        self, model: Any, tokenizer: Any, masked: Masked, *, name: str = "diffusion model"
    ) -> None:
        super().__init__(model, tokenizer, name=name)
        self.masked = masked
        configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        known = masked.ends or configured or tokenizer.eos_token_id
        self.ends = tuple(known) if isinstance(known, Sequence) else (known,)
        self._accepts = frozenset(signature(model.forward).parameters)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        masked: Masked | None = None,
        *,
        dtype: str | torch.dtype = "auto",
        device: str | None = None,
        **hf: Any,
    ) -> DiffusionBackbone:
        """Load a model for diffusion by its short name, a local folder or a Hugging Face name.

        masked: how it is used. By default that is what `save_pretrained` left in the folder, or
        what is known of LLaDA and Dream, see `published`. Raises `UnknownName`, `DataError`.
        """
        where = models.resolve(name)
        common = shared(hf)
        with models.explained(name):
            known = None if masked else published(where, **common)
            if known is not None:
                tokenizer = known.load_tokenizer(where, **common)
                masked, model = known.masked, known.load(where, dtype=dtype, **hf)
            else:
                tokenizer = models.load_tokenizer(name, where, **common)
                masked = masked or Masked.load(Path(where))
                auto: Any = (
                    AutoModelForMaskedLM if masked.head == "masked" else AutoModelForCausalLM
                )
                model = auto.from_pretrained(where, dtype=dtype, **hf)
        return cls(placed(model, dtype, device), tokenizer, masked, name=name)

    def save_pretrained(self, folder: Path) -> None:
        """Write the model, its tokenizer and `masked`, for `from_pretrained`."""
        models.plain(self.model).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.masked.save(folder)

    def _describe(self) -> Spec:
        embeds = "inputs_embeds" in self._accepts
        return replace(
            self._spec(),
            gives=("text", "hidden"),
            takes=("text", "vectors") if embeds else ("text",),
            states="written",
        )

    @property
    def _before(self) -> Sequence[int]:
        return self._bos if self.masked.before is None else self.masked.before

    # -- write -------------------------------------------------------------------------------------

    def _denoise(self, laid: Laid, settings: Denoising) -> Draft:
        self._check_open()
        size, passes, mask = settings.max_tokens, 0, self.masked.mask
        start = torch.full((laid.batch, size), mask, device=self.device)
        frame = self._frame(laid, torch.ones_like(start, dtype=torch.bool))
        unprompted = frame.without_prompt(mask) if settings.guidance else None
        early = laid.layers if settings.capture == "last" else ()

        def predict(canvas: Tensor, window: slice) -> Guess:
            nonlocal passes
            passes += 1 if unprompted is None else 2
            logits, states = self._forward(frame, canvas, window, early)
            if unprompted is not None:  # LLaDA's guidance: w + 1 with the prompt, -w without it
                without, _ = self._forward(unprompted, canvas, window)
                logits = logits + settings.guidance * (logits - without)
            self._check_words(logits)
            return Guess(logits, states)

        draft = denoise(predict, start, mask, self.ends, settings, self._tell)
        states = draft.states
        if laid.layers and settings.capture == "clean":
            passes += 1
            _, states = self._forward(frame, draft.ids, slice(0, 1), laid.layers)
        return Draft(draft.ids, passes, states)

    def _tell(self, canvas: Tensor, new: Tensor, step: int, steps: int) -> None:
        self.show(canvas, new, canvas == self.masked.mask, step, steps)

    def _frame(self, laid: Laid, canvas: Tensor) -> _Frame:
        """The prompt around canvases with these real positions (B, n), and the fixed inputs."""
        run, after = laid.run, len(self.masked.behind)
        real = pad(torch.cat((run.mask, canvas), 1), (0, after), value=True)
        closed = torch.zeros(real.shape, dtype=self.dtype, device=self.device)
        closed = closed.masked_fill(~real, torch.finfo(self.dtype).min)[:, None, None]
        fixed: dict[str, Any] = {"attention_mask": closed.expand(-1, 1, real.shape[1], -1)}
        if "position_ids" in self._accepts:
            fixed["position_ids"] = counted(real)
        if "use_cache" in self._accepts:
            fixed["use_cache"] = False
        return _Frame(run.ids, run.vectors, fixed)

    def _forward(
        self, frame: _Frame, canvas: Tensor, window: slice, layers: Sequence[int] = ()
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """One pass: the logits of some positions of a canvas, and states (B, n, W) of all of it.

        Both are taken where the words are predicted: with `shift`, one position before them.
        """
        begin, size = frame.ids.shape[1] - int(self.masked.shift), canvas.shape[1]
        after = canvas.new_tensor(self.masked.behind).expand(canvas.shape[0], -1)
        ids = torch.cat((frame.ids, canvas, after), 1)
        wanted = torch.arange(window.start, window.stop, device=self.device) + begin
        out = self.model(
            **self._inputs(ids, frame.vectors),
            **frame.fixed,
            **({"logits_to_keep": wanted} if "logits_to_keep" in self._accepts else {}),
            output_hidden_states=bool(layers),
        )
        logits = out.logits if "logits_to_keep" in self._accepts else out.logits[:, wanted]
        return logits, {n: out.hidden_states[n][:, begin : begin + size] for n in layers}

    def _inputs(self, ids: Tensor, vectors: Tensor | None) -> dict[str, Tensor]:
        if vectors is None:
            return {"input_ids": ids}
        embedded = self.embed(ids.clamp(min=0))
        places = (ids == VECTOR)[..., None]
        return {"inputs_embeds": embedded.masked_scatter(places, vectors.to(embedded.dtype))}

    # -- score -------------------------------------------------------------------------------------

    def score(
        self, context: Context, answers: Sequence[str | Sequence[int]], *, seed: int = 0
    ) -> Tensor:
        """A bound (B,) on the negative log-likelihood of each row's answer in nats, differentiable.

        LLaDA (arXiv 2502.09992), equation 3: with a mask ratio t of U(0, 1), the cross-entropy of
        the masked positions over t. One sample a row, by `seed`. Different from the authors' code,
        the ratios of a batch are spread evenly (arXiv 2107.00630), which does not change the mean.
        An answer is all that follows the prompt: give it with ends if the canvas is longer.
        """
        self._check_open()
        laid = self._laid(context)
        ids = [self.tokens(one) if isinstance(one, str) else list(one) for one in answers]
        if len(ids) != laid.batch or not all(ids):
            raise ValueError(f"need {laid.batch} answers of at least one token, got {answers!r}")
        rows = [torch.tensor(row, device=self.device) for row in ids]
        targets = pad_sequence(rows, batch_first=True, padding_value=-100)
        real = targets >= 0
        ratio, hidden = _masking(targets.shape, seed)
        ratio, hidden = ratio.to(self.device), hidden.to(self.device) & real
        canvas = torch.where(hidden, self.masked.mask, targets).clamp(min=0)
        window = slice(0, targets.shape[1])
        logits, _ = self._forward(self._frame(laid, real), canvas, window)
        loss = cross_entropy(logits[hidden].float(), targets[hidden], reduction="none")
        each = torch.zeros(targets.shape, device=self.device).masked_scatter(hidden, loss.float())
        nats = each.sum(1) / ratio
        if not nats.requires_grad:
            self._check_numbers(nats)
        return nats

    # -- both directions ---------------------------------------------------------------------------

    def _check_open(self) -> None:
        if not self._open:
            raise IncompatibleModels(
                f"{self.name!r} sees only what is before a position, whatever mask it is "
                "given, so it cannot fill a canvas. Load it with attn_implementation='sdpa'"
            )

    @once
    def _open(self) -> bool:
        """Whether the first position sees the last one. Tried once on this model."""
        mask = torch.zeros(1, 1, 4, 4, dtype=self.dtype, device=self.device)
        seen: list[Tensor] = []
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            for last in (4, 5):
                ids = torch.tensor([[1, 2, 3, last]], device=self.device)
                out = self.model(input_ids=ids, attention_mask=mask)
                seen.append(out.logits[:, 0])
        return not torch.equal(*seen)


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """A prompt around canvases: ids (B, S), vectors (N, W) in it, and the inputs of every pass."""

    ids: Tensor
    vectors: Tensor | None
    fixed: dict[str, Any]

    def without_prompt(self, mask: int) -> _Frame:
        """The same positions with the prompt masked."""
        return replace(self, ids=torch.full_like(self.ids, mask), vectors=None)


def _masking(shape: torch.Size, seed: int) -> tuple[Tensor, Tensor]:
    """The mask ratio of each of B rows (B,), and what is masked by it (B, n)."""
    rng = torch.Generator().manual_seed(seed)
    spread = (torch.rand(1, generator=rng) + torch.arange(shape[0]) / shape[0]) % 1
    ratio = _RAREST + (1 - _RAREST) * spread
    return ratio, torch.rand(shape, generator=rng) < ratio[:, None]
