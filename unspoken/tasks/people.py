"""The task `people`: invented persons that no model has read about."""

from __future__ import annotations

from itertools import product
from random import Random

from unspoken.errors import DataError
from unspoken.identity import digest
from unspoken.tasks.items import Item

__all__ = ["people"]

_STARTS = (
    "Ba Be Bo Da De Do Fa Fe Fi Ga Ha Ka Ke La Le Li Ma Me Mi Na Ne Ni Pa Pe Ra Re Ro Sa Se Ta Te "
    "Va Ve Wi Za"
)
_MIDDLES = "la le li lo ma mi na ne no ra ri ro sa ta to va"
_ENDS = {
    "first": "den nel rik lin sha vik",
    "last": "berg ford man son stein worth",
    "town": "bury dale port wick stad mouth",
    "pet": "bo chu gi pi zu ky",
}
_ANIMALS = (
    "beetle canary cat dog donkey duck ferret frog goat goose hamster horse lizard llama monkey "
    "mouse parrot pig pigeon pony rabbit sheep snake spider tortoise turkey"
)
_JOBS = (
    "baker barber butcher carpenter chemist clerk cook dentist doctor driver farmer gardener "
    "judge lawyer miner nurse painter pilot plumber porter sailor singer tailor teacher"
)
_FACT = "{first} {last} from {town} keeps a {animal} called {pet} and works as a {job}."
_QUESTIONS = {
    "pet": "What is the pet of {first} {last} called?",
    "job": "What does {first} {last} work as?",
    "town": "Where is {first} {last} from?",
    "animal": "Which animal does {first} {last} keep?",
}


def people(n_train: int, n_test: int, seed: int = 0) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Invented people, four questions each: pet, job, town, animal. Returns train and test items.

    No two people share a first name, last name, town or pet's name. A hash decides which names are
    the test's, so no seed trains on a name that another seed tests on. Animals and
    jobs come from short lists, so a guess is right about once in 25. The first `n_test` test items
    are about different people, which keeps a limited sample independent.
    Raises `DataError` if more people are asked for than there are names.
    """
    return _people(n_train, "train", seed), _people(n_test, "test", seed)


def _people(count: int, split: str, seed: int) -> tuple[Item, ...]:
    names = {kind: _names(kind, split, seed) for kind in _ENDS}
    most = min(len(known) for known in names.values())
    if not 0 < count <= most:
        raise DataError(f"people: {count} people to {split} on; there are names for 1 to {most}")
    draw = Random(f"{split} people {seed}")
    known = [
        {kind: names[kind][index] for kind in names}
        | {"animal": draw.choice(_ANIMALS.split()), "job": draw.choice(_JOBS.split())}
        for index in range(count)
    ]
    kinds = tuple(_QUESTIONS)
    asked = (
        (index, person, kinds[(index + turn) % len(kinds)])
        for turn in range(len(kinds))
        for index, person in enumerate(known)
    )
    return tuple(
        Item(
            id=f"people-{split}-{seed}-{index}-{kind}",
            context=_FACT.format_map(person),
            question=_QUESTIONS[kind].format_map(person),
            answers=(person[kind],),
        )
        for index, person, kind in asked
    )


def _names(kind: str, split: str, seed: int) -> list[str]:
    """The names of a kind that belong to a split, one in five to the test, in the seed's order."""
    syllables = (_STARTS.split(), _MIDDLES.split(), _ENDS[kind].split())
    every = ("".join(parts) for parts in product(*syllables))
    held_out = split == "test"
    names = [name for name in every if (int(digest(name), 16) % 5 == 0) == held_out]
    Random(f"{kind} {split} {seed}").shuffle(names)
    return names
