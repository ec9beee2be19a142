"""Usable bits of each channel's messages."""

from unspoken.recipe.study import Study
from unspoken.studies.information.measure import measure_information
from unspoken.studies.information.recipe import run_information
from unspoken.studies.information.report import InformationReport, SampledNotes
from unspoken.studies.information.settings import InformationSettings

__all__ = [
    "STUDY",
    "InformationReport",
    "InformationSettings",
    "SampledNotes",
    "measure_information",
    "run_information",
]

STUDY = Study(
    name="information",
    title="What was the message worth?",
    kind="relay",
    settings=InformationSettings,
    run=run_information,
    file="worth.json",
    report=InformationReport,
    section="unspoken.studies.information.section",
)
