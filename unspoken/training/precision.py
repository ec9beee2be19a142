"""Where bfloat16 is fast, and where it is slow."""

from __future__ import annotations

import torch

__all__ = ["in_bfloat16"]


def in_bfloat16(device: torch.device, *, asked: bool = True) -> torch.autocast:
    """Autocast to bfloat16 if it is asked for and the device multiplies it in hardware.

    A CPU without AVX-512 has no such products: torch adds them up one by one. That was measured
    8 times slower than float32. What is computed on such a machine stays in float32.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=asked and _quick(device))


def _quick(device: torch.device) -> bool:
    if device.type == "cpu":
        ours = torch.backends.mkldnn.is_available()
        return ours and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # asked by matmul too
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return True
