"""Tasks, controls and statistics: what a message was worth."""

from unspoken.evaluation.compare import compare
from unspoken.evaluation.graph import GraphReport, weigh_edges
from unspoken.evaluation.pruning import Budget
from unspoken.evaluation.rate import RateReport, rates
from unspoken.evaluation.report import Arm, Report, Worth
from unspoken.evaluation.reuse import ReuseReport, compare_reuse
from unspoken.evaluation.tasks import Item, Task, TaskSource, load_task
from unspoken.evaluation.worth import WorthReport, measure_worth

__all__ = [
    "Arm",
    "Budget",
    "GraphReport",
    "Item",
    "RateReport",
    "Report",
    "ReuseReport",
    "Task",
    "TaskSource",
    "Worth",
    "WorthReport",
    "compare",
    "compare_reuse",
    "load_task",
    "measure_worth",
    "rates",
    "weigh_edges",
]
