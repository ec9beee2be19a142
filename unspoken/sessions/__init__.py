"""Conversations: agents go on from what they have read and written."""

from unspoken.sessions.conversing import Window
from unspoken.sessions.keeping import KEEPS, Distilled, Keep, Recent, keep_of
from unspoken.sessions.notes import Note
from unspoken.sessions.past import Exchange, Past, Stays
from unspoken.sessions.session import Caches, Session
from unspoken.sessions.storing import load

__all__ = [
    "KEEPS",
    "Caches",
    "Distilled",
    "Exchange",
    "Keep",
    "Note",
    "Past",
    "Recent",
    "Session",
    "Stays",
    "Window",
    "keep_of",
    "load",
]
