"""The comparison of channels on the same items, with controls."""

from unspoken.recipe.study import Study
from unspoken.studies.comparison.measure import compare
from unspoken.studies.comparison.recipe import run_comparison
from unspoken.studies.comparison.report import ChannelWorth, Compared, Report
from unspoken.studies.comparison.settings import ComparisonSettings

__all__ = [
    "STUDY",
    "ChannelWorth",
    "Compared",
    "ComparisonSettings",
    "Report",
    "compare",
    "run_comparison",
]

STUDY = Study(
    name="comparison",
    title="What was the message worth?",
    kind="relay",
    settings=ComparisonSettings,
    run=run_comparison,
    file="results.json",
    report=Compared,
    owns=lambda content: "channels" in content,
    section="unspoken.studies.comparison.section",
)
