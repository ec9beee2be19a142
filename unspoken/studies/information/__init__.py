"""Usable bits of each channel's messages."""

from unspoken.recipe.config import RelayRecipe
from unspoken.recipe.study import Study
from unspoken.studies.information.measure import measure_worth
from unspoken.studies.information.recipe import run_worth
from unspoken.studies.information.report import Spoken, WorthReport

__all__ = ["STUDY", "Spoken", "WorthReport", "measure_worth", "run_worth"]

STUDY = Study(
    name="information",
    command="worth",
    file="worth.json",
    report=WorthReport,
    measures=RelayRecipe,
    run=run_worth,
)
