"""One page of HTML that people look at: what a folder of results holds, on its own."""

from unspoken.page.found import Found
from unspoken.page.write import refresh, render, write_page

__all__ = ["Found", "refresh", "render", "write_page"]
