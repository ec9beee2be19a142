"""Tasks: facts that a sender reads, questions that a receiver answers, apart by construction.

No fact (a context, normalised), no question and, where items have one, no group of the training
items stands in validation; no fact and no question in the test. What had to be left out for that
is counted in `Overlap`.
"""

from unspoken.tasks.items import Item, load_jsonl
from unspoken.tasks.load import (
    Origin,
    Protocol,
    Task,
    TaskSource,
    load_task,
    packaged,
    transferred,
)
from unspoken.tasks.matching import matches, normalise
from unspoken.tasks.partners import partners
from unspoken.tasks.people import people
from unspoken.tasks.splits import Overlap

__all__ = [
    "Item",
    "Origin",
    "Overlap",
    "Protocol",
    "Task",
    "TaskSource",
    "load_jsonl",
    "load_task",
    "matches",
    "normalise",
    "packaged",
    "partners",
    "people",
    "transferred",
]
