"""Training in bfloat16, where that is fast."""

from __future__ import annotations

import torch

from unspoken.backbone.precision import multiplies_bfloat16

__all__ = ["in_bfloat16"]


def in_bfloat16(device: torch.device, *, asked: bool = True) -> torch.autocast:
    """Autocast to bfloat16 if it is asked for and the device multiplies it in hardware.

    What is computed elsewhere stays in float32.
    """
    fast = asked and multiplies_bfloat16(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)
