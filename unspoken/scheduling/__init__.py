"""Many at once: rows that wait for the same model share its steps, whoever asks for them.

A `Scheduler` stands before one model. Requests come from many threads, wait in a fair queue, and
their rows join a batch and leave it between two tokens. The batch itself is a `Runner`, which the
model makes: nothing here knows what a token is.
"""

from unspoken.scheduling.beginnings import Group, grouped
from unspoken.scheduling.queue import FairQueue
from unspoken.scheduling.request import Request, Runner, Task
from unspoken.scheduling.scheduler import Limits, Scheduler, SchedulerState
from unspoken.scheduling.terms import Terms, on_behalf_of, terms
from unspoken.scheduling.turns import CHUNK, Turns

__all__ = [
    "CHUNK",
    "FairQueue",
    "Group",
    "Limits",
    "Request",
    "Runner",
    "Scheduler",
    "SchedulerState",
    "Task",
    "Terms",
    "Turns",
    "grouped",
    "on_behalf_of",
    "terms",
]
