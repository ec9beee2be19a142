# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Many prompts that are known ahead: each common beginning is read once, and dropped after."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch

from unspoken.backbone.reading import Reading
from unspoken.backbone.rereading import TokenCache
from unspoken.backbone.rows import WritingRow
from unspoken.backbone.writing import Writing
from unspoken.layout import Chunk, Part, spell
from unspoken.scheduling import Group, Request, grouped
from unspoken.types import TEXT, Context, Prompt, Settings, Spelling, Words

__all__ = ["Offline"]


class Offline(Reading, Writing):
    """A model that answers many prompts in the order that suits it."""

    def write_all(self, prompts: Sequence[Prompt], settings: Sequence[Settings]) -> list[Words]:
        """Read prompts and write after each, as `read` and `write` do, in their order.

        Prompts of one row of words are grouped by common beginnings (BatchLLM, arXiv 2412.03594). A
        beginning is read once, and dropped after its last prompt. While one prompt is read, others
        are written. The words have no cache.

        >>> from unspoken.testing import tiny_backbone
        >>> from unspoken.types import Text
        >>> prompts = [Prompt((Text((f"what is {n}?",)),)) for n in range(3)]
        >>> [words.tokens for words in tiny_backbone().write_all(prompts, [Settings(2)] * 3)]
        [(2,), (2,), (2,)]
        """
        laid = [self.lay_out(prompt) for prompt in prompts]
        plain = [n for n, parts in enumerate(laid) if self._shares(parts)]
        groups = grouped([_ids(laid[n]) for n in plain])
        groups = [replace(one, members=tuple(plain[n] for n in one.members)) for one in groups]
        groups += [Group(0, (n,)) for n in range(len(laid)) if n not in set(plain)]
        order = [n for group in groups for n in group.members]

        def contexts() -> Iterator[Context]:
            for group in groups:
                for n in group.members:
                    if group.begin:
                        parts = _cut(laid[n], group.begin)
                        yield self.read_parts(parts, 1, needs=frozenset({TEXT})).context
                    else:
                        yield self.read(prompts[n]).context
                self._opening = ((), ())

        words = self.write_each(zip(contexts(), (settings[n] for n in order), strict=True))
        found = dict(zip(order, words, strict=True))
        return [found[n] for n in range(len(prompts))]

    def write_each(
        self, asked: Iterable[tuple[Context, Settings]], *, ahead: int = 8
    ) -> Iterator[Words]:
        """What `write` gives for each context, in their order, while the next ones are read.

        ahead: how many contexts wait beyond the rows that the scheduler takes. The words have no
        cache, so that contexts are free again.
        """
        waiting, most = deque[Request[WritingRow]](), self.scheduler.limits.max_rows + ahead
        try:
            for context, own in asked:
                self.check_room(context.length, own.max_tokens, whole=self.keeps)
                if isinstance(context.cache, TokenCache):
                    yield from map(self._awaited, _drained(waiting))
                    yield replace(self.write(context, own), cache=None)
                    continue
                tasks = self.tasks(context, self.rows(context, own))
                waiting.append(self.scheduler.submit(tasks))
                del context, tasks
                while len(waiting) > most:
                    yield self._awaited(waiting.popleft())
            yield from map(self._awaited, _drained(waiting))
        finally:
            for request in waiting:
                request.__exit__()

    def _awaited(self, request: Request[WritingRow]) -> Words:
        return self.finished(request.wait())

    def _shares(self, parts: Sequence[Part]) -> bool:
        """Whether a prompt is one row of words, whose beginning can be read apart."""
        words = all(isinstance(part, Chunk) and part.vectors is None for part in parts)
        return words and len(parts[0].mask) == 1 and self.keeps and self.border is None


def _drained(waiting: deque[Request[WritingRow]]) -> Iterator[Request[WritingRow]]:
    while waiting:
        yield waiting.popleft()


def _ids(parts: Sequence[Part]) -> list[int]:
    return [token for part in parts if isinstance(part, Chunk) for token in part.ids[0].tolist()]


def _cut(parts: Sequence[Part], begin: int) -> list[Part]:
    """A prompt of one row of words as its first tokens, which are shared, and the rest."""
    runs = [part for part in parts if isinstance(part, Chunk)]
    ids, mask = (torch.cat([getattr(run, name) for run in runs], 1) for name in ("ids", "mask"))
    spelled = spell(parts, 1)
    words, ends = spelled.words[0], spelled.ends
    at = max(0, int(ends[:, :begin].max()))
    after = torch.where(ends[:, begin:] < 0, -1, ends[:, begin:] - at)
    first = Spelling((words[:at],), ends[:, :begin])
    head = Chunk(ids[:, :begin], mask[:, :begin], first, shared=True, bos=runs[0].bos)
    return [head, Chunk(ids[:, begin:], mask[:, begin:], Spelling((words[at:],), after))]
