"""Tasks, controls and statistics: what a message was worth."""

from unspoken.evaluation.compare import compare
from unspoken.evaluation.report import Arm, Report, Worth
from unspoken.evaluation.reuse import ReuseReport, compare_reuse
from unspoken.evaluation.tasks import Item, Task, TaskSource, load_task

__all__ = [
    "Arm",
    "Item",
    "Report",
    "ReuseReport",
    "Task",
    "TaskSource",
    "Worth",
    "compare",
    "compare_reuse",
    "load_task",
]
