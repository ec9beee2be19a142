"""Where agents run: in this process, in separate processes, or as Ray actors."""

from unspoken.executors.base import Executor, Here, Make
from unspoken.executors.processes import Processes
from unspoken.executors.rays import RayActors

__all__ = ["Executor", "Here", "Make", "Processes", "RayActors"]
