"""Training of small modules between or in front of frozen models."""

from unspoken.training.gates import EdgeGates
from unspoken.training.graph import GraphAnswers
from unspoken.training.loop import History, Objective, TrainingPlan, fit
from unspoken.training.objectives import Answers, Matching, Reconstruction
from unspoken.training.stored_states import StoredStates

__all__ = [
    "Answers",
    "EdgeGates",
    "GraphAnswers",
    "History",
    "Matching",
    "Objective",
    "TrainingPlan",
    "Reconstruction",
    "StoredStates",
    "fit",
]
