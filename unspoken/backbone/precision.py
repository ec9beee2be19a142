"""Where bfloat16 is fast, and where it is slow."""

from __future__ import annotations

import torch

__all__ = ["multiplies_bfloat16"]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware.

    A CPU without AVX-512 has no such products: torch adds them up one by one. That was measured
    8 times slower than float32.
    """
    if device.type == "cpu":
        ours = torch.backends.mkldnn.is_available()
        return ours and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # asked by matmul too
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return True
