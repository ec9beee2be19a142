"""Test doubles: tiny random models made in milliseconds, and a model that follows a script.

>>> tiny_backbone("gemma").spec.window
16
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from unspoken.backbone import Backbone, DiffusionBackbone, DiffusionGemma, Masked
from unspoken.backbone.generation import cut
from unspoken.errors import IncompatibleModels, unknown
from unspoken.seeding import seeded
from unspoken.types import (
    KV,
    TEXT,
    Context,
    Finish,
    Need,
    OnText,
    Prompt,
    Read,
    Settings,
    Spec,
    Spelling,
    Text,
    Words,
    counted,
    left_pad,
)

__all__ = [
    "DIFFUSION_KINDS",
    "KINDS",
    "ScriptCache",
    "ScriptedModel",
    "tiny_backbone",
    "tiny_diffusion",
    "tiny_diffusion_gemma",
]

_SPECIAL = ["<pad>", "<bos>", "<eos>", "<turn>"]
_VOCAB = len(_SPECIAL) + 256
_CHAT = (
    "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)


def _sizes(width: int, layers: int) -> dict[str, Any]:
    return {
        "vocab_size": _VOCAB,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "initializer_range": 0.3,
    }


def _config(kind: str, width: int, layers: int) -> Any:
    sizes = _sizes(width, layers)
    match kind:
        case "llama":
            return LlamaConfig(**sizes)
        case "qwen":
            return Qwen3Config(**sizes, tie_word_embeddings=True)
        case "gemma":
            kinds = ["full_attention" if n % 2 else "sliding_attention" for n in range(layers)]
            return Gemma3TextConfig(
                **sizes, sliding_window=16, layer_types=kinds, query_pre_attn_scalar=16
            )
        case "gpt2":
            return GPT2Config(
                vocab_size=_VOCAB, n_embd=width, n_layer=layers, n_head=4, n_positions=256
            )
        case _:
            raise unknown("tiny model", kind, KINDS)


KINDS = ("llama", "qwen", "gemma", "gpt2")
"""llama: no `<bos>`, chat template; qwen: tied; gemma: `<bos>`, window 16; gpt2: no rotation."""


def tiny_backbone(
    kind: str = "llama", *, width: int = 32, layers: int = 3, seed: int = 0
) -> Backbone:
    """A random model of some thousand parameters. Equal arguments give equal weights."""
    with seeded(seed):
        model = (
            AutoModelForCausalLM.from_config(_config(kind, width, layers))
            .eval()
            .requires_grad_(False)
        )
    return Backbone(model, _tokenizer(bos=kind == "gemma"), name=f"tiny-{kind}-{width}-{seed}")


DIFFUSION_KINDS = ("llada", "dream", "bert")
"""llada: a Llama opened by a mask; dream: a Qwen2, its logits shifted; bert: an encoder."""


def tiny_diffusion(
    kind: str = "llada", *, width: int = 32, layers: int = 3, seed: int = 0
) -> DiffusionBackbone:
    """A random masked-diffusion model. Its mask is the token `<turn>`."""
    sizes = _sizes(width, layers)
    match kind:
        case "llada":
            sizes |= {"num_key_value_heads": 4, "head_dim": width // 4}
            config: Any = LlamaConfig(**sizes)
        case "dream":
            config = Qwen2Config(**sizes)
        case "bert":
            config = BertConfig(**sizes)
        case _:
            raise unknown("tiny diffusion model", kind, DIFFUSION_KINDS)
    encoder = kind == "bert"
    auto: Any = AutoModelForMaskedLM if encoder else AutoModelForCausalLM
    with seeded(seed):
        model = auto.from_config(config).eval().requires_grad_(False)
    masked = Masked(
        mask=_SPECIAL.index("<turn>"),
        shift=kind == "dream",
        before=(1,) if encoder else None,
        behind=(2,) if encoder else (),
        head="masked" if encoder else "causal",
    )
    return DiffusionBackbone(
        model, _tokenizer(bos=False), masked, name=f"tiny-{kind}-{width}-{seed}"
    )


def tiny_diffusion_gemma(*, canvas: int = 16, seed: int = 0) -> DiffusionGemma:
    """A random DiffusionGemma with two layers and canvases of some positions."""
    from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

    text = {
        **_sizes(32, 2),
        "global_head_dim": 16,
        "num_global_key_value_heads": 2,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
        "num_experts": 2,
        "top_k_experts": 1,
        "moe_intermediate_size": 16,
    }
    sight = {"model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 16}
    sight |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = DiffusionGemmaConfig(
        text_config=text, vision_config={**sight, "head_dim": 8}, canvas_length=canvas
    )
    with seeded(seed):
        model = DiffusionGemmaForBlockDiffusion(config).eval().requires_grad_(False)
    return DiffusionGemma(model, _tokenizer(bos=True), name=f"tiny-diffusion-gemma-{seed}")


def _tokenizer(*, bos: bool) -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: n for n, token in enumerate(_SPECIAL + letters)}
    raw = Tokenizer(BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(_SPECIAL)
    if bos:
        raw.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side="left",
        chat_template=None if bos else _CHAT,
    )


@dataclass(frozen=True, slots=True, eq=False)
class ScriptCache:
    """What a `ScriptedModel` has read, word for word. It holds no tensors."""

    words: tuple[str, ...]

    @property
    def batch(self) -> int:
        return len(self.words)

    @property
    def nbytes(self) -> int:
        return sum(len(row.encode()) for row in self.words)

    def rows(self, index: slice, keep: Tensor | None = None) -> ScriptCache:
        return ScriptCache(self.words[index])

    def expand(self, batch: int) -> ScriptCache:
        return ScriptCache(self.words * batch)

    def kv(self) -> KV:
        raise IncompatibleModels("a script keeps words, not keys and values; use a causal model")


class ScriptedModel:
    """A `Model` without weights: a function returns its answer to the words that it has read.

    Characters are its tokens. Its own answer costs one nat in all. Any other answer costs one nat a
    character more. It reads and writes only words, so it works in every study that reads and
    scores, but not where a cache or a table is needed.

    >>> model = ScriptedModel(lambda words: " Paris" if "France" in words else " no idea")
    >>> context = model.read(Prompt((Text(("The capital of France is",)),))).context
    >>> model.write(context).words, round(float(model.score(context, [" Paris"])), 1)
    ((' Paris',), 1.0)
    """

    def __init__(self, script: Callable[[str], str], *, name: str = "script") -> None:
        self.script = script
        self._spec = Spec(
            name=name,
            width=1,
            layers=1,
            kv_heads=1,
            head_dim=1,
            weights=f"script-{name}",
            tokenizer="characters",
            gives=("text",),
            takes=("text",),
        )

    @property
    def spec(self) -> Spec:
        return self._spec

    def tokens(self, words: str) -> list[int]:
        return [ord(letter) for letter in words]

    def encode(
        self, words: str, frames: Sequence[tuple[int, int]] | None = None
    ) -> tuple[list[int], list[int]]:
        return self.tokens(words), list(range(1, len(words) + 1))

    def chat(
        self,
        system: str,
        user: str,
        *,
        past: Sequence[tuple[str, str]] = (),
        now: datetime | None = None,
        **options: Any,
    ) -> str:
        return system + "".join(asked + said for asked, said in past) + user

    def shorten(self, words: str, limit: int) -> str:
        return words[:limit]

    def embed(self, ids: Tensor) -> Tensor:
        raise IncompatibleModels("a script has no embeddings; use a model with weights")

    def read(self, prompt: Prompt, *, needs: frozenset[Need] = frozenset({TEXT})) -> Read:
        if odd := sorted({need.kind for need in needs} - {"text"}):
            raise IncompatibleModels(f"a script gives words, not {odd[0]}; use a causal model")
        rows = [""] * prompt.batch
        for segment in prompt.segments:
            if not isinstance(segment, Text):
                raise IncompatibleModels("a script reads only words; use the channel 'text'")
            rows = [row + more for row, more in zip(rows, segment.words, strict=True)]
        ids, mask = left_pad([torch.tensor(self.tokens(row)) for row in rows])
        ends, _ = left_pad([torch.arange(1, len(row) + 1) for row in rows], -1)
        spelling = Spelling(tuple(rows), ends)
        cache = ScriptCache(tuple(rows))
        context = Context(cache, mask, ids[:, -1], spelling, counted(mask))
        return Read(tuple(map(len, rows)), passes=1, found=context)

    def write(
        self,
        context: Context,
        settings: Settings = Settings(),
        on_text: OnText | None = None,
    ) -> Words:
        words = [cut(self.script(row), settings.stop) for row in context.spelling.words]
        finish: list[Finish] = [
            "stop" if len(row) <= settings.max_tokens else "length" for row in words
        ]
        words = [row[: settings.max_tokens] for row in words]
        if on_text is not None:
            for n, row in enumerate(words):
                on_text(n, row)
        ids = tuple(tuple(self.tokens(row)) for row in words)
        lengths = tuple(map(len, words))
        return Words(tuple(words), lengths, max(lengths), ids=ids, finish=tuple(finish))

    def score(self, context: Context, answers: Sequence[str | Sequence[int]]) -> Tensor:
        rows = zip(context.spelling.words, answers, strict=True)
        return torch.tensor([self._surprise(row, answer) for row, answer in rows])

    def _surprise(self, words: str, answer: str | Sequence[int]) -> float:
        given = answer if isinstance(answer, str) else "".join(map(chr, answer))
        same = given.strip() == self.script(words).strip()
        return 1.0 if same else 1.0 + len(given)
