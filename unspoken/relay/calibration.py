"""What a closed form is fitted to: texts, and the states of both models at the same positions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Literal

import torch
from torch import Tensor

from unspoken.agents import Agent
from unspoken.files import writing
from unspoken.projectors import MemoryProjector, ReadByBoth
from unspoken.projectors.alignment import align, ends_in, mean_embeddings, shared_vocabulary
from unspoken.relay.relay import Relay
from unspoken.tasks import Item
from unspoken.terminal import track
from unspoken.training.precision import in_bfloat16
from unspoken.types import CACHE, Need, Prompt, Text

__all__ = ["Calibration", "OnDisk", "aligned_states", "calibration_texts", "read_by_both"]

Calibration = Literal["text", "random", "both"]

_WORDS = 24  # in a random text, about as long as a fact


def calibration_texts(
    relay: Relay, items: Sequence[Item], calibration: Calibration, count: int
) -> list[str]:
    """`count` facts of the task, as many random texts, or half of each.

    A random text is a row of random words that both vocabularies have. In prose the next word can
    be guessed, and a map may rely on that. In a random row only the word itself tells what it is.
    """
    facts = 0 if calibration == "random" else count if calibration == "text" else count // 2
    texts = [item.context for item in items[:facts]]
    return [*texts, *(_random(relay, count - facts) if calibration != "text" else ())]


def _random(relay: Relay, count: int) -> Iterator[str]:
    ours, _ = shared_vocabulary(relay.sender, relay.receiver)
    words: list[str] = relay.sender.tokenizer.batch_decode([[n] for n in ours])
    words = [word for word in words if word.isprintable() and word.strip()]
    rng = Random(relay.recipe.seed)
    for _ in range(count):
        yield "".join(rng.choices(words, k=_WORDS)).strip()


def _batches(texts: Sequence[str], title: str) -> Iterator[list[str]]:
    order = sorted(dict.fromkeys(texts), key=len)  # a set has another order in each process
    batches = [order[n : n + 16] for n in range(0, len(order), 16)]
    yield from track(batches, title)


@torch.no_grad()
def aligned_states(
    relay: Relay, agent: Agent, layers: Sequence[int], texts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """The sender's states where a word of the receiver ends, and that word's embedding.

    (n, N, W of the sender) and (n, W of the receiver).
    """
    needs = frozenset(Need("hidden", layer) for layer in layers)
    states: list[Tensor] = []
    targets: list[Tensor] = []
    for batch in _batches(texts, "states of the sender"):
        fields = {"context": tuple(batch)}
        hidden = agent.read(fields, needs=needs).hidden
        values = torch.stack([hidden[layer].values for layer in layers], 2)
        mask = hidden[layers[0]].mask
        for text, real, kept in zip(_read(agent, fields), values, mask, strict=True):
            place, word = (
                part.to(real.device) for part in align(text, relay.sender, relay.receiver)
            )
            count, mean = mean_embeddings(place, word, int(kept.sum()), relay.receiver.table)
            states.append(real[kept][count > 0].float())
            targets.append(mean[count > 0])
    return torch.cat(states), torch.cat(targets)


def _read(agent: Agent, fields: dict[str, tuple[str, ...]]) -> list[str]:
    before, after = agent.role.render(fields)
    return [first + rest for first, rest in zip(before, after, strict=True)]


@torch.no_grad()
def read_by_both(
    relay: Relay, agent: Agent, projector: MemoryProjector, texts: Sequence[str]
) -> Iterator[ReadByBoth]:
    """What both models make of the same positions, some texts at a time, in bfloat16."""
    for batch in _batches(texts, "caches of both models"):
        with in_bfloat16(relay.receiver.device):
            sent = agent.read({"context": tuple(batch)}, needs=frozenset({CACHE})).cached
            received = relay.receiver.read(_as_read(relay, batch), needs=frozenset({CACHE})).cached
        assert sent is not None
        assert received is not None
        assert sent.spelling is not None
        assert received.spelling is not None
        found, wanted = projector.states(sent), projector.targets(received)
        front = len(received.spelling.words[0]) - len(batch[0]) - 1
        states: list[Tensor] = []
        tokens: list[Tensor] = []
        targets: list[Tensor] = []
        for row in range(len(batch)):
            words, ends = sent.spelling.words[row], sent.spelling.ends[row]
            place, _, ids = ends_in(words, ends.cpu(), 0, projector.tokenizer)
            states.append(found[row, place.to(found.device)].bfloat16())
            tokens.append(ids)
            targets.append(wanted[row, received.spelling.ends[row] > front].bfloat16())
        yield ReadByBoth(torch.cat(states), torch.cat(tokens), torch.cat(targets))


class OnDisk:
    """Blocks of tensors in files of a folder, read one at a time, as often as they are passed over.

    Raises `StorageError` if there is no room for them: 20 kB a token for each of the two models, as
    large as SmolLM2-135M and Gemma-3-270M.
    """

    def __init__(self, blocks: Iterable[ReadByBoth], folder: Path) -> None:
        self._paths: list[Path] = []
        for n, block in enumerate(blocks):
            path = folder / f"{n}.pt"
            with writing(path), path.open("wb") as file:
                torch.save(tuple(block), file)
            self._paths.append(path)

    def __iter__(self) -> Iterator[ReadByBoth]:
        for path in self._paths:
            yield ReadByBoth(*torch.load(path, mmap=True, weights_only=True))


def _as_read(relay: Relay, texts: Sequence[str]) -> Prompt:
    """The facts as the receiver would read them as words."""
    opening = Text((relay.instructions,) * len(texts), shared=True)
    return Prompt((opening, Text(tuple(f"Fact: {text}" for text in texts))), 1)
