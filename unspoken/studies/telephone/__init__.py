"""The telephone game: facts go from agent to agent over a channel. What is left of them?"""

from unspoken.recipe.study import Study
from unspoken.studies.telephone.measure import Players, play
from unspoken.studies.telephone.recipe import run_telephone
from unspoken.studies.telephone.report import Hop, TelephoneReport
from unspoken.studies.telephone.settings import TelephoneSettings, check_playable

__all__ = [
    "STUDY",
    "Hop",
    "Players",
    "TelephoneReport",
    "TelephoneSettings",
    "play",
    "run_telephone",
]

STUDY = Study(
    name="telephone",
    title="What is left after some hops?",
    kind="relay",
    settings=TelephoneSettings,
    run=run_telephone,
    file="telephone.json",
    report=TelephoneReport,
    check=check_playable,
    section="unspoken.studies.telephone.section",
)
