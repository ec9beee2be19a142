"""The comparison of channels on the same items, with controls."""

from unspoken.studies.comparison.measure import compare
from unspoken.studies.comparison.report import Arm, Report, Worth

__all__ = ["Arm", "Report", "Worth", "compare"]
