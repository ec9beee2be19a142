"""Agents: a model with a name, a role and settings."""

from unspoken.agents.agent import Agent, Incoming
from unspoken.agents.edges import Edge
from unspoken.agents.roles import Role
from unspoken.agents.speaking import Speaker, Spoken

__all__ = ["Agent", "Edge", "Incoming", "Role", "Speaker", "Spoken"]
