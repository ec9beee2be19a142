"""Conversations: agents go on from what they have read and written."""

from unspoken.sessions.conversing import Window
from unspoken.sessions.keeping import KEEPS, Keep, Recent, keep_of
from unspoken.sessions.past import Exchange, Past
from unspoken.sessions.session import Caches, Session
from unspoken.sessions.storing import load

__all__ = [
    "KEEPS",
    "Caches",
    "Exchange",
    "Keep",
    "Past",
    "Recent",
    "Session",
    "Window",
    "keep_of",
    "load",
]
