"""Usable bits of each channel's messages."""

from unspoken.recipe.config import RelayRecipe
from unspoken.recipe.study import Study
from unspoken.studies.information.measure import measure_information
from unspoken.studies.information.recipe import run_information
from unspoken.studies.information.report import InformationReport, SampledNotes

__all__ = ["STUDY", "SampledNotes", "InformationReport", "measure_information", "run_information"]

STUDY = Study(
    name="information",
    command="worth",
    title="What was the message worth?",
    measures=RelayRecipe,
    run=run_information,
    file="worth.json",
    report=InformationReport,
    section="unspoken.studies.information.section",
)
