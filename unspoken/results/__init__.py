"""What a folder of results holds: read back, shown on one page, and run again."""

from unspoken.results.again import run_again
from unspoken.results.page import refresh, write_page
from unspoken.results.reading import Recorded, read_results

__all__ = ["Recorded", "read_results", "refresh", "run_again", "write_page"]
