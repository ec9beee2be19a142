"""Whether an answer is accepted, and when two texts count as the same."""

from __future__ import annotations

import re
from collections.abc import Iterable
from unicodedata import category
from unicodedata import normalize as unicode_form

__all__ = ["begins", "matches", "normalise"]

_MARKS = re.compile(r"(?!(?<=\d)\.(?=\d))[^\w\s]|_")


def normalise(text: str) -> str:
    """Lower case, no punctuation, no English articles, single spaces, after Unicode NFKC.

    As in the SQuAD evaluation script (Rajpurkar et al. 2016), except that an em dash separates
    words and a point between digits is kept: 3.5 is not 35.

    >>> normalise("The  Ångström—a unit!")
    'ångström unit'
    """
    lower = unicode_form("NFKC", text).lower().replace("\N{EM DASH}", " ")
    # `re` does not count combining marks as letters, but words have them: only P and S are removed.
    kept = _MARKS.sub(lambda mark: "" if category(mark[0])[0] in "PS" else mark[0], lower)
    return " ".join(word for word in kept.split() if word not in ("a", "an", "the"))


def matches(prediction: str, answers: Iterable[str]) -> bool:
    """Whether a prediction starts with an accepted answer, whole words, both normalised.

    >>> matches("Paris, of course", ["the Paris"]), matches("Parisian", ["Paris"])
    (True, False)
    """
    given = normalise(prediction)
    return any(begins(given, normalise(answer)) for answer in answers)


def begins(text: str, answer: str) -> bool:
    return bool(answer) and f"{text} ".startswith(f"{answer} ")
