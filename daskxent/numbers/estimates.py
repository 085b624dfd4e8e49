"""A metric over some rows, from their sums: its value, its standard error, its interval."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from daskxent.numbers import errors, statistics
from daskxent.numbers.exact import ratio

if TYPE_CHECKING:
    from daskxent.numbers.statistics import Metric
    from daskxent.numbers.sums import Sums


def mean(metric: Metric, sums: Sums) -> float:
    """Return the mean that a metric is a function of; NaN over no rows or no weight."""
    total = sums.totals.get(metric.statistic)
    return math.nan if total is None else ratio(total, sums.weight)


def value(name: str, sums: Sums) -> float:
    """Return a metric; NaN over no rows or no weight.

    Examples
    --------
    >>> from daskxent.numbers.exact import ExactSum
    >>> from daskxent.numbers.sums import Sums
    >>> value("accuracy", Sums({"accuracy": ExactSum.whole(1)}, ExactSum.whole(4)))
    0.25
    """
    metric = statistics.metric(name)
    average = mean(metric, sums)
    return average if math.isnan(average) else metric.finish(average)


def standard_error(name: str, sums: Sums) -> float:
    """Return the standard error of a metric, by the delta method where it is no mean; NaN where there is none."""
    metric = statistics.metric(name)
    error, average = _error(metric, sums), mean(metric, sums)
    return error * metric.slope(average) if math.isfinite(average) else math.nan


def interval(name: str, sums: Sums, level: float) -> tuple[float, float]:
    """Return a confidence interval of a metric; NaN where there is none.

    Wilson's of shares, else that of the mean by Student's t, of which the metric is taken at both ends.
    """
    metric = statistics.metric(name)
    average = mean(metric, sums)
    if not math.isfinite(average):
        return math.nan, math.nan
    if is_share(name) and 0 <= average <= 1:
        return errors.wilson(average, _count(metric, sums, average), level)
    low, high = errors.symmetric(average, _error(metric, sums), sums.moments.count - 1, level)
    return (math.nan, math.nan) if math.isnan(low) else (metric.finish(low), metric.finish(high))


def effective_rows(sums: Sums) -> float:
    """Return Kish's effective number of rows, which is that of the rows if all weights are equal."""
    return errors.effective_count(sums.weight, sums.moments.weights)


def is_share(name: str) -> bool:
    """Tell whether a metric is a share of the rows: the larger, the better."""
    return statistics.statistic(statistics.metric(name).statistic).share


def _error(metric: Metric, sums: Sums) -> float:
    total = sums.totals.get(metric.statistic)
    return math.nan if total is None else errors.standard_error(total, sums.weight, sums.moments, metric.statistic)


def _count(metric: Metric, sums: Sums, share: float) -> float:
    """Return the number of rows of equal weight of which a share would have the same error (Korn and Graubard 1998)."""
    effective = effective_rows(sums)
    if effective == sums.counted:  # all weights are equal
        return effective
    error = _error(metric, sums)
    return share * (1 - share) / (error * error) if error > 0 else effective
