"""Cache-to-cache fusion: the trained module, and the folders in which its authors publish it."""

from unspoken.projectors.fuser.module import Fuser, Gate, add_changes, layer_map

__all__ = ["Fuser", "Gate", "add_changes", "layer_map"]
