"""Every family, scored through a pipeline and by lm-eval's own model `hf`."""

from __future__ import annotations

from copy import deepcopy

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

from tests.judged import alone, apart, near, plain, request
from unspoken.backbone import Backbone
from unspoken.testing import _tokenizer

from .models import MORE, NAMES, NOT_BUILT, build, build_more

pytestmark = pytest.mark.filterwarnings("default")  # those of families are not ours

SOME = ("llama", "gemma3", "gpt2", "mamba", "rope-dynamic", "alibi-falcon", "lora")
BUILT = tuple(name for name in (*NAMES, *MORE) if name not in NOT_BUILT)
SPACED = ("Q: what is it?\nA: ", "no")
TEXTS = [("Q: what is it?\nA:", " yes"), SPACED, ("What?\n", " yes, it is"), ("", " it was")]


def judged(name: str) -> None:
    """Asserts that scores are those of hf. Twin: texts that are tokenised one by one."""
    made = build_more(name) if name in MORE else build(name)
    model = Backbone(made.eval().requires_grad_(False), _tokenizer(bos=False), name=name)
    hf = plain(deepcopy(model), max_length=128)  # one family says -1
    asked = [request(*texts) for texts in TEXTS]
    known = hf.loglikelihood(asked)
    assert near(alone(model).loglikelihood(asked), known)
    assert abs(apart(model, *SPACED) - known[1][0]) > 0.02


@pytest.mark.parametrize("name", SOME)
def test_some_families_are_scored_as_by_hf(name: str) -> None:
    judged(name)


@pytest.mark.zoo
@pytest.mark.parametrize("name", [name for name in BUILT if name not in SOME])
def test_all_families_are_scored_as_by_hf(name: str) -> None:
    judged(name)
