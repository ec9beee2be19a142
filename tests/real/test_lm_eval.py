"""The packaged models, scored through a pipeline and by lm-eval's own model `hf`."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

from tests.judged import alone, apart, near, plain, request
from unspoken.agents import Role
from unspoken.backbone import Backbone

pytestmark = pytest.mark.real

MODELS = ("smollm2-135m-instruct", "gemma-3-270m")
SHOTS = "Question: What is 2 + 2?\nAnswer: 4\n\nQuestion: Where is Oslo?\nAnswer: Norway\n\n"
PLAIN = [
    ("The capital of France is", " Paris"),
    (f"{SHOTS}Question: Where is Rome?\nAnswer:", " Italy"),
    ("Sie wohnt in der Gr\u00fcn", "stra\u00dfe neben dem Caf\u00e9"),
    ("", "The cat sat on the mat."),
    ("", " The cat sat on the mat."),
]
SPACED = [
    ("The capital of France is ", "Paris"),
    ("The capital of France is ", " Paris"),
    ("Question: What is the capital of France?\nAnswer:\n", "Paris"),
    ("Question: What is the capital of France?\nAnswer: \n\n", "\nParis"),
    ("Answer:\t", "Paris"),
]
JOINED = [("The capital of France is Par", "is."), ("Good morn", "ing to you")]


@cache
def pair(name: str) -> tuple[Backbone, Any]:
    model = Backbone.from_pretrained(name, dtype=torch.float32, device="cpu")
    return model, plain(model, batch_size=4)


@pytest.mark.parametrize("name", MODELS)
def test_a_packaged_model_is_scored_as_by_hf(name: str) -> None:
    model, hf = pair(name)
    asked = [request(*texts) for texts in (*PLAIN, *SPACED, *JOINED)]
    known = hf.loglikelihood(asked)
    assert near(alone(model, batch_size=4).loglikelihood(asked), known)
    assert any(greedy for _, greedy in known)
    borders = [known[n][0] for n in range(len(PLAIN), len(asked))]
    for texts, score in zip((*SPACED, *JOINED), borders, strict=True):
        assert abs(apart(model, *texts) - score) > 0.3  # the twin


def test_a_chat_is_scored_as_by_hf_with_its_template() -> None:
    model, hf = pair(MODELS[0])
    texts = ("What is the capital of France?", "Paris")
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": texts[0]}]
    known = hf.loglikelihood([request(hf.apply_chat_template(turns), texts[1])])
    found = alone(model, Role("Be brief.", "{question}")).loglikelihood([request(*texts)])
    assert near(found, known)
    assert not near(found, hf.loglikelihood([request(*texts)]))
