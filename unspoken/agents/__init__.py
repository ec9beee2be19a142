"""Agents: a model with a name, a role and settings."""

from unspoken.agents.agent import Agent, Incoming
from unspoken.agents.edges import Edge
from unspoken.agents.roles import Role
from unspoken.agents.turns import Participant, Size, TurnResult

__all__ = ["Agent", "Edge", "Incoming", "Role", "Participant", "Size", "TurnResult"]
