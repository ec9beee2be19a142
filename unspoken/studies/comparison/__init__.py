"""The comparison of channels on the same items, with controls."""

from unspoken.evaluation.arm import Arm
from unspoken.studies.comparison.measure import compare
from unspoken.studies.comparison.report import ChannelWorth, Report

__all__ = ["Arm", "Report", "ChannelWorth", "compare"]
