"""The telephone game: facts go from agent to agent over a channel; what is left of them."""

from unspoken.evaluation.telephone.game import Line, play
from unspoken.evaluation.telephone.report import Hop, TelephoneReport

__all__ = ["Hop", "Line", "TelephoneReport", "play"]
