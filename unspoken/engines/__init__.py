"""Models in serving engines: vLLM reads, writes and scores, and loads caches that were sent."""

from unspoken.engines.load import ending_engines, load_in
from unspoken.engines.starting import check_engine
from unspoken.engines.vllm import VllmModel

__all__ = ["VllmModel", "check_engine", "ending_engines", "load_in"]
