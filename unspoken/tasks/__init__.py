"""Tasks: facts that a sender reads, and questions that a receiver answers, in disjoint splits.

Training and validation share no fact (a context, normalised), no question and no group, if items
have one. Training and test share no fact and no question. Training items that would break this are
dropped, and `Overlap` counts them.
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
