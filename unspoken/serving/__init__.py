"""Pipelines as models of OpenAI's API: many users at once, each with what is their own."""

from __future__ import annotations

from unspoken.errors import MissingExtra

try:
    from unspoken.serving.answering import ServedPipeline
    from unspoken.serving.app import make_app
    from unspoken.serving.bounds import Bounds
    from unspoken.serving.guard import Guard, read_keys
    from unspoken.serving.server import Server, serve
    from unspoken.serving.service import Service
except ImportError as error:
    if isinstance(error, MissingExtra):
        raise
    raise MissingExtra(
        f"the server needs the packages of the extra 'serve': {error}; install them with: "
        "pip install 'unspoken[serve]'"
    ) from error

__all__ = [
    "Bounds",
    "Guard",
    "ServedPipeline",
    "Server",
    "Service",
    "make_app",
    "read_keys",
    "serve",
]
