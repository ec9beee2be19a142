"""Run the tests marked `numbers` under each instruction set below the one that torch chooses.

    python -m tests.kernels [arguments of pytest]

A sum of floating point numbers is rounded in the order that a kernel adds them up in, and a library
has other kernels for other processors.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

import torch

__all__ = ["SETS", "older"]

SETS: Mapping[str, Mapping[str, str]] = {
    "DEFAULT": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
    "AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_CBWR": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
    "AVX512": {"ATEN_CPU_CAPABILITY": "avx512"},
}
"""Sets by torch's names, the oldest first, and what keeps torch, MKL and oneDNN to one."""

CHOSEN = "numbers and not real and not dist and not browser"


def older(newest: str) -> tuple[str, ...]:
    """The sets before the newest that this processor has; torch would not refuse a newer one.

    >>> older("AVX512")
    ('DEFAULT', 'AVX2')
    """
    names = tuple(SETS)
    return names[: names.index(newest)] if newest in names else ()


def main(arguments: Sequence[str]) -> int:
    newest = torch.backends.cpu.get_cpu_capability()
    print(f"torch chooses {newest}; older sets that it knows: {', '.join(older(newest)) or 'none'}")
    command = [sys.executable, "-m", "pytest", "-m", CHOSEN, *arguments]
    codes = list[int]()
    for name in older(newest):
        print(f"\nunder {name}:", flush=True)
        codes.append(subprocess.run(command, env={**os.environ, **SETS[name]}).returncode)
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
