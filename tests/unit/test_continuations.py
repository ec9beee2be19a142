"""Continuations are scored as lm-eval's own model `hf` scores them; each check has a twin."""

from __future__ import annotations

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

from tests.judged import MERGING, TOKENIZERS, alone, apart, judge, model_of, near, plain, request
from unspoken.agents import Agent, Role
from unspoken.channels import TextChannel
from unspoken.errors import ContextTooLong, DataError, EmptyPrompt, IncompatibleModels
from unspoken.harness import PipelineLM
from unspoken.pipeline import Edge, Pipeline
from unspoken.testing import tiny_backbone, tiny_diffusion

pytestmark = pytest.mark.numbers

PLAIN = [("Q: who?\nA:", " Ada"), ("Q: who?\nA:", "Ada said so,\nand Bo too"), ("yes", " yes yes")]
SPACED = [
    ("Q: who?\nA: ", "Ada"),
    ("Q: who?\nA: ", " yes"),
    ("Q: who?\nA:\n", "yes"),
    ("Q: who?\nA:\n\n", "\nyes"),
    ("Q: who?\nA:\t", "née"),
    ("Q: who?\nA: \n ", " Ada"),
    ("Q: who?\nA:\N{NO-BREAK SPACE}", "Ada"),
]
JOINED = [("it is un", "ée?"), ("say hell", "o yes"), ("so h", "ello, he"), ("say y", "es yes")]


def agree(kind: str, *texts: tuple[str, str]) -> bool:
    asked = [request(*one) for one in texts]
    return near(alone(model_of(kind)).loglikelihood(asked), judge(kind).loglikelihood(asked))


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("texts", [*PLAIN, *SPACED, *JOINED])
def test_a_continuation_is_scored_as_by_hf(kind: str, texts: tuple[str, str]) -> None:
    assert agree(kind, texts)


@pytest.mark.parametrize(
    ("kind", "texts"),
    [(k, t) for k in TOKENIZERS for t in SPACED] + [(k, t) for k in MERGING for t in JOINED],
)
def test_two_texts_tokenised_apart_would_be_another_score(
    kind: str, texts: tuple[str, str]
) -> None:
    ((known, _),) = judge(kind).loglikelihood([request(*texts)])
    assert abs(apart(model_of(kind), *texts) - known) > 0.02


def test_a_continuation_without_a_token_is_refused_where_hf_breaks_off() -> None:
    lm, hf = alone(model_of("byte pairs")), judge("byte pairs")
    for context, continuation in (("say hel", "lo"), ("say it", "")):
        with pytest.raises(AssertionError):
            hf.loglikelihood([request(context, continuation)])
        with pytest.raises(DataError, match=f"{continuation!r} of .* has no token of its own"):
            lm.loglikelihood([request(context, continuation)])


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_many_requests_at_once_are_scored_as_by_hf(kind: str) -> None:
    choices = ("Ada", " Ada", " yes", "\nno one", " né")
    contexts = [f"{words}\nA:{end}" for words in ("Who?", "Why was it so?") for end in ("", " ")]
    asked = [request(context, choice) for choice in choices for context in contexts]
    found = alone(model_of(kind), batch_size=4).loglikelihood(asked)
    known = judge(kind).loglikelihood(asked)
    assert near(found, known)
    assert not near([*found[1:], found[0]], known)


def test_what_greedy_decoding_would_write_is_said_as_by_hf() -> None:
    contexts = [f"{n} and {n} is" for n in range(6)]
    asked = [request(words, chr(n)) for words in contexts for n in range(33, 127)]
    known = judge("bytes").loglikelihood(asked)
    assert 0 < sum(greedy for _, greedy in known) < len(asked)
    assert near(alone(model_of("bytes"), batch_size=64).loglikelihood(asked), known)


# Nothing before ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("continuation", ["it was so", " it was so", "yes", "<bos>it was"])
def test_after_nothing_a_continuation_is_scored_as_by_hf(kind: str, continuation: str) -> None:
    assert agree(kind, ("", continuation))
    known = judge(kind).loglikelihood([request("", continuation)])
    assert not near([(apart(model_of(kind), "<pad>", continuation), False)], known)


def test_a_control_token_in_a_request_is_spelled_and_hf_takes_it_as_one() -> None:
    assert not agree("bytes with bos", ("<bos>it", " was so"))
    assert agree("bytes with bos", ("<b0s>it", " was so"))


@pytest.mark.parametrize("kind", ["bytes with bos", "metaspace", "normalized"])
def test_white_space_with_nothing_before_it_belongs_to_the_continuation(kind: str) -> None:
    assert agree(kind, (" ", "it was"), ("\n", " it was"), ("\n\n ", "yes"))


def test_white_space_after_nothing_is_scored_where_hf_breaks_off() -> None:
    lm, hf = alone(model_of("bytes")), judge("bytes")
    with pytest.raises(AssertionError):
        hf.loglikelihood([request("\n", "it was")])
    known = hf.loglikelihood([request("", "\nit was")])
    assert near(lm.loglikelihood([request("\n", "it was")]), known)


def test_a_request_without_a_text_is_refused_where_an_agent_reads_more() -> None:
    model, asked = model_of("bytes"), [request("", " a")]
    for role in (Role("Answer.\n", chat=False), Role("", "Q: {question}", chat=False), Role()):
        with pytest.raises(EmptyPrompt, match="question"):
            alone(model, role).loglikelihood(asked)
    agents = [Agent(name, model, role=Role(chat=False)) for name in ("reader", "solver")]
    line = Pipeline(agents, [Edge("reader", "solver", TextChannel(limit=2))])
    with pytest.raises(EmptyPrompt, match="question"):
        PipelineLM(line).loglikelihood(asked)


# Length, and models that cannot tell -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gemma", "gpt2"])
def test_what_does_not_fit_is_refused_where_hf_drops_the_beginning(kind: str) -> None:
    model = tiny_backbone(kind)
    lm, hf, bos = alone(model), plain(model), len(model._bos)
    fits = request("a" * (250 - bos), "b" * 7)  # the last token of a continuation is not read
    assert near(lm.loglikelihood([fits]), hf.loglikelihood([fits]))
    for longer in (request("a" * (250 - bos), "b" * 8), request("a" * 300, "b")):
        assert hf.loglikelihood([longer])[0][0] < 0
        with pytest.raises(ContextTooLong, match="256"):
            lm.loglikelihood([longer])


def test_a_model_that_does_not_score_token_by_token_is_refused() -> None:
    lm = PipelineLM(Pipeline([Agent("solver", tiny_diffusion())]))
    with pytest.raises(IncompatibleModels, match="are scored by a causal model, and 'tiny-llada"):
        lm.loglikelihood([request("Q", " a")])
