"""One question by words and by cache, as the page shows it: pictures, and a run that replays.

    python -m benchmarks.watched
    python -m benchmarks.watched --out FOLDER

It writes watch.png, watch-phone.png and watch-replay.html.
"""

from __future__ import annotations

import argparse
import shutil
import threading
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from unspoken import Agent, Backbone, Edge, Pipeline, Role, make_channel
from unspoken.serving import Guard, ServedPipeline, Server, Service
from unspoken.serving.server import listener

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTE = (
    "Burkina Faso is a country in West Africa. Its largest city and capital is Ouagadougou. "
    "About 23 million people live there. Its neighbours are Mali, Niger, Benin, Togo, Ghana and "
    "the Ivory Coast."
)
QUESTION = "What is the capital of Burkina Faso?"


def pipelines() -> dict[str, ServedPipeline]:
    """A reader that writes notes for a solver, and one that hands over its cache."""
    model = Backbone.from_pretrained("smollm2-135m-instruct")
    reader = Agent("reader", model, role=Role("Repeat what you read.", "{context}"))
    task = "{messages}Question: {question}"
    solver = Agent("solver", model, role=Role("Answer in one short sentence.", task))
    channels = {"by-words": make_channel("text"), "by-cache": make_channel("handoff")}
    return {
        name: ServedPipeline(Pipeline([reader, solver], [Edge("reader", "solver", channel)]))
        for name, channel in channels.items()
    }


def show(page: Page, url: str, out: Path) -> None:
    """Ask both, and write the pictures and the run."""
    page.goto(url)
    page.wait_for_selector("#model option", state="attached")
    page.select_option("#model", "by-words")
    page.select_option("#other", "by-cache")
    page.fill("[data-name=context] textarea", NOTE)
    page.fill("#question", QUESTION)
    page.keyboard.press("Enter")
    page.locator(".differs").wait_for(timeout=300_000)
    page.evaluate("document.activeElement.blur()")
    page.locator(".dot").wait_for(state="detached")
    page.screenshot(path=out / "watch.png", full_page=True)
    size = page.viewport_size
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=out / "watch-phone.png", full_page=True)
    page.set_viewport_size(size)
    with page.expect_download() as download:
        page.get_by_role("button", name="Keep this run").click()
    download.value.save_as(out / "watch-replay.html")
    print(page.locator(".differs").inner_text())


def main() -> None:
    """Serve both pipelines, and open the page in Chromium, the system's or playwright's own."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--out", type=Path, default=DOCS)
    out: Path = options.parse_args().out
    service = Service(pipelines(), Guard((), "127.0.0.1"))
    with listener("127.0.0.1", 0, 30) as place, sync_playwright() as playwright:
        thread = threading.Thread(target=Server(service).run, args=([place],))
        thread.start()
        try:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page(viewport={"width": 1100, "height": 800})
            show(page, f"http://127.0.0.1:{place.getsockname()[1]}/", out)
        finally:
            service.draining = True
            thread.join()


if __name__ == "__main__":
    main()
