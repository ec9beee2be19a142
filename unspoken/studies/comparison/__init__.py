"""The comparison of channels on the same items, with controls."""

from unspoken.recipe.config import RelayRecipe
from unspoken.recipe.study import Study
from unspoken.studies.comparison.measure import compare
from unspoken.studies.comparison.recipe import run_comparison
from unspoken.studies.comparison.report import ChannelWorth, Compared, Report

__all__ = ["STUDY", "ChannelWorth", "Compared", "Report", "compare", "run_comparison"]

STUDY = Study(
    name="comparison",
    command="compare",
    title="What was the message worth?",
    measures=RelayRecipe,
    run=run_comparison,
    file="results.json",
    report=Compared,
    owns=lambda content: "channels" in content,
    section="unspoken.studies.comparison.section",
)
