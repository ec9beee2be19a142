"""The page of a server in Chromium, and all that it does."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["BOTH", "SCREENS", "Watched"]

SCREENS = [(390, "light"), (390, "dark"), (1400, "light"), (1400, "dark")]
BOTH = [(390, "dark"), (1400, "light")]
"""Each width and each scheme once."""


class Watched:
    """The page of a server, with all that it asked for, complained about and announced."""

    def __init__(self, browser: Any, url: str, width: int = 1400, **more: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **more)
        self.page: Any = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.url, self.width = url, width
        self.requests, self.complaints = list[str](), list[str]()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.add_init_script(_NOTING)
        self.page.goto(url)

    def choose(self, model: str, other: str = "") -> None:
        self.page.wait_for_selector("#model option", state="attached")
        self.page.select_option("#model", model)
        self.page.select_option("#other", other)

    def ask(self, question: str) -> None:
        self.page.fill("#question", question)
        self.page.keyboard.press("Enter")

    def ended(self) -> None:
        """Wait until the newest run is over."""
        self.page.locator(".exchange").first.get_by_text("Keep this run").wait_for()

    def texts(self, selector: str) -> list[str]:
        return [text.strip() for text in self.page.locator(selector).all_text_contents()]

    def announced(self) -> list[str]:
        return self.page.evaluate("window.announced")

    def check(self) -> None:
        """Nothing goes wrong, nothing leaves the origin, it fits, and axe has no complaint."""
        assert self.complaints == []
        assert [url for url in self.requests if not url.startswith((self.url, "data:"))] == []
        assert self.page.evaluate("document.documentElement.scrollWidth") == self.width
        axe = pytest.importorskip("axe_playwright_python.sync_playwright")
        found = axe.Axe().run(self.page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []


_NOTING = """
window.announced = [];
window.lost = 0;
window.dots = 0;
window.canvases = [];
addEventListener('DOMContentLoaded', () => {
  const line = document.getElementById('status');
  new MutationObserver(() => window.announced.push(line.textContent))
    .observe(line, { childList: true });
  new MutationObserver((changes) => {
    for (const change of changes) {
      for (const one of change.addedNodes) window.dots += Boolean(one.matches?.('.dot'));
      const own = change.target.parentElement ?? change.target;
      if (change.target.matches?.('.canvas') && change.addedNodes.length)
        window.canvases.push(change.addedNodes[0].data);
      if (!own.closest('.words')) continue;
      window.lost += change.type === 'characterData' ? 1 : change.removedNodes.length;
    }
  }).observe(document.body, { childList: true, subtree: true, characterData: true });
});
"""
