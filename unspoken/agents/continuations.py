"""What comes after an agent's prompt, tokenised together with it, as lm-eval's own models do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unspoken.agents.agent import Agent, Incoming
from unspoken.errors import DataError
from unspoken.protocols import Model, assesses, tabled
from unspoken.types import FieldValue, Prompt, Text

__all__ = ["assess"]


@torch.no_grad()
def assess(
    agent: Agent,
    fields: Mapping[str, FieldValue],
    incoming: Sequence[Incoming],
    continuations: Sequence[str],
) -> tuple[Tensor, Tensor]:
    """How unlikely each continuation is (B,), in nats, and whether greedy decoding writes it (B,).

    All come after the same item and the same messages, of one row. Raises `IncompatibleModels` for
    a model that cannot tell, and `DataError` for a continuation without a token of its own.

    >>> from unspoken.testing import tiny_backbone
    >>> losses, greedy = assess(Agent("a", tiny_backbone()), {"question": "1 + 1 ="}, [], [" 2"])
    >>> losses.shape, greedy.tolist()
    (torch.Size([1]), [False])
    """
    model, count = assesses(agent.model, "continuations are scored"), len(continuations)
    mail = [Incoming(one.channel, one.message.repeat(count)) for one in incoming]
    border = None if mail else _nothing_before(agent, fields, count)
    if border is None:
        rows = {name: (words,) * count for name, words in fields.items()}
        border = _border(agent.prompt(rows, mail))
    answers = [border.tokens(model, one) for one in continuations]
    return model.assess(agent.read_prompt(border.prompt, mail).context, answers)


@dataclass(frozen=True, slots=True)
class _Border:
    """Where a prompt of equal rows ends and continuations begin.

    prompt: what is read. words: the text at its end that is tokenised in one piece. space: the
    white space that stood after it and is read with the continuation. skip: a token that does not
    count at the beginning of a continuation.
    """

    prompt: Prompt
    words: str
    space: str
    skip: tuple[int, ...] = ()

    def tokens(self, model: Model, continuation: str) -> list[int]:
        """The tokens of all that, less as many as the prompt's words alone have."""
        read = len(model.tokens(self.words)) if self.words else 0
        ids = model.tokens(self.words + self.space + continuation)[read:]
        if self.skip == tuple(ids[:1]):
            ids = ids[1:]
        if not ids:
            raise DataError(
                f"the continuation {continuation!r} of {self.words[-40:]!r} has no token of its "
                "own: it is empty, or one token spells its words and those before it. Begin it "
                "with a space (target_delimiter in the task)"
            )
        return ids


def _border(prompt: Prompt) -> _Border:
    """The white space at the end of a prompt goes to the continuation, if words remain."""
    begin = len(prompt.segments)
    while begin and isinstance(last := prompt.segments[begin - 1], Text) and not last.shared:
        begin -= 1
    texts = [one for one in prompt.segments[begin:] if isinstance(one, Text)]
    given = "".join(one.words[0] for one in texts)
    kept = _stripped(texts) if given.strip() else texts
    words = "".join(one.words[0] for one in kept)
    segments = (*prompt.segments[:begin], *kept)
    return _Border(replace(prompt, segments=segments), words, given[len(words) :])


def _stripped(texts: Sequence[Text]) -> list[Text]:
    """Texts of equal rows without the white space at their end."""
    kept = list(texts)
    for n in reversed(range(len(kept))):
        kept[n] = replace(kept[n], words=tuple(row.rstrip() for row in kept[n].words))
        if kept[n].words[0]:
            break
    return kept


def _nothing_before(agent: Agent, fields: Mapping[str, FieldValue], count: int) -> _Border | None:
    """An agent with nothing to read reads one token instead: `<bos>`, or else its end token.

    None if there is something to read, and for an agent that reads instructions or the like.
    """
    names = agent.role.fields
    given = fields.get(names[0], "") if len(names) == 1 else None
    if not isinstance(given, str) or given.strip() or not _reads_only_its_field(agent):
        return None
    tokenizer = tabled(agent.model, "a request without a text is read with").tokenizer
    first = tokenizer.bos_token or tokenizer.eos_token or ""
    prompt = Prompt((Text((first,) * count, frame=True),))
    return _Border(prompt, "", given, skip=tuple(agent.model.tokens(first)))


def _reads_only_its_field(agent: Agent) -> bool:
    (name,) = agent.role.fields
    segments = agent.prompt({name: ("x",)}).segments
    words = [one.words[0] if isinstance(one, Text) else None for one in segments]
    return [one for one in words if one != ""] == ["x"]
