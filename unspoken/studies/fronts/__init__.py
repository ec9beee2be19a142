"""Which channel pays: accuracy against time, bytes and tokens, and the front of all arms."""

from unspoken.recipe.study import Study
from unspoken.studies.fronts.clock import Clock, Clocks, Seconds, clocked
from unspoken.studies.fronts.measure import fronts
from unspoken.studies.fronts.recipe import run_fronts
from unspoken.studies.fronts.report import Channelled, FrontsReport, front
from unspoken.studies.fronts.settings import FrontsSettings, check_fronts

__all__ = [
    "STUDY",
    "Channelled",
    "Clock",
    "Clocks",
    "FrontsReport",
    "FrontsSettings",
    "Seconds",
    "check_fronts",
    "clocked",
    "front",
    "fronts",
    "run_fronts",
]

STUDY = Study(
    name="fronts",
    title="Which channel pays?",
    kind="relay",
    settings=FrontsSettings,
    run=run_fronts,
    file="fronts.json",
    report=FrontsReport,
    check=check_fronts,
    section="unspoken.studies.fronts.section",
)
