"""Run examples: all of them, or some by name.

    python -m examples documents rounds
    python -m examples --tiny

--tiny: tiny random models take the places of the packaged ones. Their answers are noise, and all
else is as it is in use. It needs no weights and takes some seconds for each.
"""

from __future__ import annotations

import argparse
import runpy
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from unittest import mock

from unspoken import models
from unspoken.testing import tiny_backbone

HOME = Path(__file__).parent
NAMES = sorted(path.stem for path in HOME.glob("*.py") if not path.stem.startswith("_"))
TINY = {"smollm2-135m-instruct": "llama", "gemma-3-270m": "gemma"}


def small(folder: Path) -> dict[str, str]:
    """A folder with a tiny model for each packaged one, which reads texts of 4,096 letters."""
    found: dict[str, str] = {}
    for name, kind in TINY.items():
        made = tiny_backbone(kind)
        made.model.config.max_position_embeddings = 4096
        made.model.save_pretrained(folder / name)
        made.tokenizer.save_pretrained(folder / name)
        found[name] = str(folder / name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--tiny", action="store_true", help="with tiny random models")
    given = parser.parse_args()
    if odd := sorted(set(given.names) - set(NAMES)):
        parser.error(f"there is no example {odd[0]!r}; there are {', '.join(NAMES)}")
    with ExitStack() as stack:
        if given.tiny:
            folders = small(Path(stack.enter_context(TemporaryDirectory())))
            stack.enter_context(mock.patch.object(models, "PACKAGED", {}))
            stack.enter_context(mock.patch.object(models, "resolve", folders.__getitem__))
        for name in given.names or NAMES:
            print(f"== {name}", flush=True)
            start = process_time()
            runpy.run_path(str(HOME / f"{name}.py"), run_name="__main__")
            print(f"== {name}: {process_time() - start:.1f} s of a processor", flush=True)


if __name__ == "__main__":
    main()
