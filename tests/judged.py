"""lm-eval's own model `hf` beside a pipeline of the same weights, and tiny models of many borders.

lm-eval is an extra: a test that imports this skips first if it is not installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.harness import PipelineLM
from unspoken.pipeline import Pipeline
from unspoken.testing import tiny_backbone
from unspoken.types import Prompt, Text

__all__ = [
    "MERGING",
    "TOKENIZERS",
    "alone",
    "apart",
    "judge",
    "model_of",
    "near",
    "plain",
    "request",
]


def request(context: str, continuation: str) -> Instance:
    return Instance("loglikelihood", {}, (context, continuation), 0)


def plain(backbone: Backbone, **how: Any) -> HFLM:
    """lm-eval's own model `hf` with a copy of the weights."""
    tokenizer = deepcopy(backbone.tokenizer)
    return HFLM(deepcopy(backbone.model), tokenizer=tokenizer, backend="causal", **how)


def alone(model: Backbone, role: Role | None = None, **how: Any) -> PipelineLM:
    """One agent that reads the question and nothing else, or by another role."""
    role = role or Role("", "{question}", chat=False)
    return PipelineLM(Pipeline([Agent("solver", model, role=role)]), **how)


def apart(model: Backbone, context: str, continuation: str) -> float:
    """The score of two texts that are tokenised one by one, which is wrong at some borders."""
    read = model.read(Prompt((Text((context,)),))).context
    return -float(model.score(read, [continuation]))


Scored = Sequence[tuple[float, bool]]


def near(got: Scored, want: Scored) -> bool:
    """Whether scores are equal but for rounding, and what greedy decoding would write too."""
    pairs = list(zip(got, want, strict=True))
    return all(abs(a - b) < 1e-3 and same is other for (a, same), (b, other) in pairs)


# Tiny models with tokenizers that merge ----------------------------------------------------------

_SPECIAL = ["<pad>", "<bos>", "<eos>"]
_PIECES = ["hello", "né", " yes", "  ", "\n\n", " né"]
_LETTERS = [*map(chr, range(33, 127)), *"▁\n\téü\N{NO-BREAK SPACE}"]


def _merged(letters: Sequence[str], pieces: Sequence[str]) -> BPE:
    """A vocabulary of letters, and of pieces that are joined letter by letter."""
    vocab, merges = dict.fromkeys([*_SPECIAL, *letters]), list[tuple[str, str]]()
    for piece in pieces:
        for n in range(1, len(piece)):
            if piece[: n + 1] not in vocab:
                vocab[piece[: n + 1]] = None
                merges.append((piece[:n], piece[n]))
    return BPE(vocab={token: n for n, token in enumerate(vocab)}, merges=merges)


def _byte_pairs() -> Tokenizer:
    """Byte pairs that may reach over a space, so that a token can hold what two texts give."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = [level.pre_tokenize_str(piece)[0][0] for piece in _PIECES]
    raw = Tokenizer(_merged(sorted(pre_tokenizers.ByteLevel.alphabet()), pieces))
    raw.pre_tokenizer, raw.decoder = level, decoders.ByteLevel()
    return raw


def _metaspace() -> Tokenizer:
    """A space before the first word, and `<bos>`, as sentencepiece has it."""
    raw = Tokenizer(_merged(_LETTERS, [piece.replace(" ", "▁") for piece in _PIECES]))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    raw.decoder = decoders.Metaspace()
    raw.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return raw


def _normalized() -> Tokenizer:
    """A space before every text, also behind a special token, as in the first Llamas."""
    raw = _metaspace()
    marks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    raw.normalizer, raw.pre_tokenizer = normalizers.Sequence(marks), None
    return raw


_MADE = {
    "byte pairs": _byte_pairs,
    "byte pairs without bos": _byte_pairs,
    "metaspace": _metaspace,
    "normalized": _normalized,
}
MERGING = tuple(_MADE)
TOKENIZERS = ("bytes", "bytes with bos", *_MADE)


@cache
def model_of(kind: str) -> Backbone:
    """A tiny random model with a tokenizer of some kind."""
    if kind not in _MADE:
        return tiny_backbone("gemma" if "bos" in kind else "llama")
    raw = _MADE[kind]()
    raw.add_special_tokens(_SPECIAL)
    bos = None if "without" in kind else "<bos>"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token=bos, eos_token="<eos>"
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 400}
    config = LlamaConfig(**sizes, num_attention_heads=4, initializer_range=0.3, pad_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Backbone(LlamaForCausalLM(config).eval().requires_grad_(False), tokenizer, name=kind)


@cache
def judge(kind: str) -> HFLM:
    return plain(model_of(kind), batch_size=3)
