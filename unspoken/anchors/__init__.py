"""Anchors: a pool of caches, so that context that agents share is read once."""

from unspoken.anchors.plan import LADDERS, Ladder
from unspoken.anchors.pool import AnchorPool, PoolState
from unspoken.anchors.probe import Probe
from unspoken.anchors.reader import PooledModel

__all__ = ["LADDERS", "AnchorPool", "Ladder", "PoolState", "PooledModel", "Probe"]
