"""The canvas in the terminal: what is drawn, when, and where it is not."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from unspoken.backbone import Backbone
from unspoken.backbone.diffusion import Frame
from unspoken.cli import main
from unspoken.testing import tiny_diffusion
from unspoken.types import Denoising, Prompt, Text
from unspoken.view import canvas_view, drawn


def shown(draw: Callable[[Console], None], *, terminal: bool = True) -> str:
    file = io.StringIO()
    draw(Console(file=file, force_terminal=terminal, width=60, color_system=None))
    return file.getvalue()


def test_masks_words_and_progress_are_drawn():
    frame = Frame("planner", ("key", None, " in\n\x1b", None), (True, False, False, False), 2, 8)
    told = shown(lambda console: console.print(drawn(frame)))
    assert r"key░  in↵\u001b░" in told
    assert "planner" in told
    assert "step 2 of 8, 2 of 4 positions" in told


def test_new_words_stand_out():
    frame = Frame("planner", ("a", "b"), (False, True), 1, 1)
    file = io.StringIO()
    Console(file=file, force_terminal=True, color_system="standard", width=40).print(drawn(frame))
    assert "a\x1b[1;92mb\x1b[0m" in file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_canvases_are_drawn_in_a_terminal_only(terminal: bool):
    model = tiny_diffusion()

    def draw(console: Console) -> None:
        with canvas_view(console) as view:
            for text in ("two", "three"):
                context = model.read(Prompt((Text((text,)),))).context
                model.write(context, Denoising(max_tokens=8, steps=4))
            view.close()
            console.print("said")

    told = shown(draw, terminal=terminal)
    assert told.endswith("said\n")
    drawn_twice = 2 * 2  # in the last step, and when the canvas is left standing
    assert told.count("step 4 of 4, 8 of 8 positions") == (drawn_twice if terminal else 0)
    assert ("step 1 of 4" in told) == terminal


def test_a_command_streams_the_answer_behind_the_canvas(
    tmp_path: Path, tiny: Callable[..., Backbone], capsys: pytest.CaptureFixture[str]
):
    causal = tiny("llama")
    cast(Any, causal.model).save_pretrained(tmp_path / "solver")
    causal.tokenizer.save_pretrained(tmp_path / "solver")
    tiny_diffusion().save_pretrained(tmp_path / "planner")
    recipe = tmp_path / "pair.yaml"
    recipe.write_text(
        f"""# A pair.
kind: pipeline
agents:
  - {{name: planner, model: "{tmp_path / "planner"}", canvas: {{tokens: 8, steps: 4}}}}
  - {{name: solver, model: "{tmp_path / "solver"}", max_tokens: 3}}
edges:
  - {{from: planner, to: solver, channel: {{kind: text}}}}
"""
    )
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["ask", str(recipe), "where?"])
    assert end.value.code == 0
    told = capsys.readouterr()
    assert told.out.strip()
    assert re.search(r"planner: \d+ tokens read, \d written, [1-4] passes", told.err)
    assert "step" not in told.err  # no terminal
