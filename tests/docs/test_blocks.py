"""Every block of README and of the pages is run by a test, or says why none runs it."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.docs import test_agents, test_channels, test_commands, test_walk
from tests.docs.blocks import PAGES, Block, blocks
from tests.real import test_readme
from tests.relay import test_contributing
from tests.serving import test_page
from unspoken.errors import UnspokenError
from unspoken.recipe import load_recipe
from unspoken.tasks.items import load_jsonl

RUN = [
    block
    for module in (
        test_agents,
        test_channels,
        test_commands,
        test_contributing,
        test_page,
        test_readme,
        test_walk,
    )
    for block in module.BLOCKS
]
"""What the tests of these modules run. `BLOCKS` is what they take their blocks from."""

DATA = [one for page in PAGES for kind in ("json", "yaml", "toml") for one in blocks(page, kind)]


def not_run(found: Iterable[Block], run: Iterable[Block]) -> list[str]:
    """The places of blocks that nothing runs and that have no reason."""
    known = set(run)
    return [str(block) for block in found if block not in known and not block.reason.strip()]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_says_why_not(page: str):
    found = not_run(blocks(page), [*RUN, *DATA])
    assert not found, (
        f"no test runs {', '.join(found)}. Have one run it (see RUN), or write "
        "<!-- not run: the reason --> before it"
    )


def test_a_new_block_is_noticed(tmp_path: Path):
    (tmp_path / "new.md").write_text(
        "```python\nprint(1)\n```\n\nIt prints:\n\n```\n1\n```\n\n"
        "<!-- not run: needs a GPU -->\n```sh\nmake gpu\n```\n\n"
        "<!-- not run:  -->\n```yaml\nkind: pipeline\n```\n\n* a list\n  ```\n  plain\n  ```\n"
    )
    found = blocks("new.md", home=tmp_path)
    assert not_run(found, []) == [
        "new.md:1 (python)",
        "new.md:17 (yaml)",
        "new.md:22 (no language)",
    ]
    assert not_run(found, found) == []
    assert found[0].said == "1\n"


def test_no_module_runs_a_block_that_is_marked():
    assert [str(block) for block in RUN if block.reason] == []


@pytest.mark.parametrize("block", DATA, ids=str)
def test_data_is_what_the_program_reads(block: Block, tmp_path: Path):
    path = tmp_path / "shown.yaml"
    path.write_text(block.code, encoding="utf-8")
    match block.kind:
        case "json":
            (item,) = load_jsonl(path)
            assert item.to_dict().keys() >= json.loads(block.code).keys()
        case "yaml":
            assert load_recipe(str(path))
        case _:
            ((group, entries),) = tomllib.loads(block.code)["project"]["entry-points"].items()
            assert group in GROUPS
            assert all(re.fullmatch(r"[\w.]+:\w+", target) for target in entries.values())


GROUPS = ("unspoken.channels", "unspoken.trained_channels", "unspoken.studies")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("json", '{"id": "q1", "context": "Ada keeps a parrot."}'),
        ("yaml", "kind: pipeline\nagent: []"),
        ("toml", '[project.entry-points."unspoken.channel"]\nmean = "one:Mean"'),
    ],
)
def test_data_that_the_program_does_not_read_is_noticed(kind: str, code: str, tmp_path: Path):
    with pytest.raises((AssertionError, UnspokenError)):
        test_data_is_what_the_program_reads(Block("a page", 1, kind, code), tmp_path)
