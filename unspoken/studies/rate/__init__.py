"""Rate and distortion: what is lost when messages are made shorter."""

from unspoken.recipe.study import Study
from unspoken.studies.rate.fit import Fit, fit
from unspoken.studies.rate.measure import rates
from unspoken.studies.rate.recipe import run_rate
from unspoken.studies.rate.report import Point, RateReport
from unspoken.studies.rate.settings import RateSettings, check_sweep

__all__ = ["STUDY", "Fit", "Point", "RateReport", "RateSettings", "fit", "rates", "run_rate"]

STUDY = Study(
    name="rate",
    title="What was the message worth?",
    kind="relay",
    settings=RateSettings,
    run=run_rate,
    file="rate.json",
    report=RateReport,
    check=check_sweep,
    section="unspoken.studies.rate.section",
)
