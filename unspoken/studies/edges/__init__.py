"""Which edges of a pipeline matter, which are kept under a budget, and which a graph learns."""

from unspoken.recipe.study import Study
from unspoken.studies.edges.attribution import EdgeWorth, attribute
from unspoken.studies.edges.measure import weigh_edges
from unspoken.studies.edges.pruning import Budget, prune
from unspoken.studies.edges.recipe import run_edges
from unspoken.studies.edges.report import GraphReport
from unspoken.studies.edges.settings import EdgesSettings
from unspoken.studies.edges.trials import Trials

__all__ = [
    "STUDY",
    "Budget",
    "EdgeWorth",
    "EdgesSettings",
    "GraphReport",
    "Trials",
    "attribute",
    "prune",
    "run_edges",
    "weigh_edges",
]

STUDY = Study(
    name="edges",
    title="Which edges matter?",
    kind="pipeline",
    settings=EdgesSettings,
    run=run_edges,
    file="edges.json",
    report=GraphReport,
    section="unspoken.studies.edges.section",
)
