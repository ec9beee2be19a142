"""A server in a process of its own, for tests that kill it: python -m tests.serving.alone PORT N

Its only agent writes N letters of its answer, and then waits.
"""

from __future__ import annotations

import sys

from tests.serving.models import Paced
from unspoken.agents import Agent
from unspoken.pipeline import Pipeline
from unspoken.serving import ServedPipeline, serve

if __name__ == "__main__":
    port, letters = map(int, sys.argv[1:])
    model = Paced("abcdef")
    model.allow(letters)
    serve({"solver": ServedPipeline(Pipeline([Agent("solver", model)]))}, port=port)
