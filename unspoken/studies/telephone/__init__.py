"""The telephone game: facts go from agent to agent over a channel; what is left of them."""

from unspoken.studies.telephone.measure import Line, play
from unspoken.studies.telephone.report import Hop, TelephoneReport

__all__ = ["Hop", "Line", "TelephoneReport", "play"]
