"""What was sent, and what it says: a log of messages, their numbers, and a model's reading."""

from unspoken.audit.facts import describe
from unspoken.audit.log import Audit, read_log
from unspoken.audit.reading import listen, nearest, reading

__all__ = ["Audit", "describe", "listen", "nearest", "read_log", "reading"]
