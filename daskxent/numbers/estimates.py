"""A metric over some rows, from their sums: its value, its standard error, its interval."""

from __future__ import annotations

import math
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from daskxent.numbers import errors, statistics
from daskxent.numbers.exact import ExactSum, ratio
from daskxent.numbers.sums import Moments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from daskxent.numbers.statistics import Metric
    from daskxent.numbers.sums import Sums


class Estimates(NamedTuple):
    """What the metrics over some rows are estimated from.

    Attributes
    ----------
    sums : Sums
    clusters : Moments or None
        Of the clusters that rows are in; None where each is one of its own.
    given : mapping of str to int
        Totals that users gave: "bytes" and "words" of the whole text.

    Examples
    --------
    >>> from daskxent.numbers.exact import ExactSum
    >>> from daskxent.numbers.sums import Sums
    >>> Estimates(Sums({"accuracy": ExactSum.whole(1)}, ExactSum.whole(4))).value("accuracy")
    0.25
    """

    sums: Sums
    clusters: Moments | None = None
    given: Mapping[str, int] = MappingProxyType({})

    @property
    def moments(self) -> Moments:
        """The moments of what is taken as independent."""
        return self.clusters or self.sums.moments

    @property
    def effective_rows(self) -> float:
        """Kish's effective number of rows, which is that of the rows if all weights are equal."""
        return errors.effective_count(self.sums.weight, self.sums.moments.weights)

    def value(self, name: str) -> float:
        """Return a metric; NaN over no rows or no weight."""
        metric = statistics.metric(name)
        mean = self._mean(metric)
        return mean if math.isnan(mean) else metric.finish(mean)

    def standard_error(self, name: str) -> float:
        """Return the standard error of a metric, by the delta method where it is no mean; NaN where there is none."""
        metric = statistics.metric(name)
        mean = self._mean(metric)
        return self._error(metric, self.moments) * metric.slope(mean) if math.isfinite(mean) else math.nan

    def design_effect(self, name: str) -> float:
        """Return how many times the variance of a metric is what it would be if rows were independent."""
        metric = statistics.metric(name)
        alone = self._error(metric, self.sums.moments)
        return (self._error(metric, self.moments) / alone) ** 2 if alone > 0 else math.nan

    def interval(self, name: str, level: float) -> tuple[float, float]:
        """Return a confidence interval of a metric; NaN where there is none.

        Wilson's of shares, else that of the mean by Student's t, of which the metric is taken at both ends.
        """
        metric = statistics.metric(name)
        mean = self._mean(metric)
        if not math.isfinite(mean):
            return math.nan, math.nan
        if is_share(name) and 0 <= mean <= 1:
            return errors.wilson(mean, self._count(metric, mean), level)
        low, high = errors.symmetric(mean, self._error(metric, self.moments), self.moments.count - 1, level)
        return (math.nan, math.nan) if math.isnan(low) else (metric.finish(low), metric.finish(high))

    def _totals(self, metric: Metric) -> tuple[ExactSum, ExactSum] | None:
        """Return what a metric is the ratio of, or None if it was not added up."""
        total, per = self.sums.totals.get(metric.statistic), self.sums.weight
        if metric.per:
            per = ExactSum.whole(self.given[metric.per]) if metric.per in self.given else self._total_of(metric.per)
        return None if total is None else (total, per)

    def _total_of(self, name: str) -> ExactSum:
        return self.sums.totals.get(name, ExactSum())

    def _mean(self, metric: Metric) -> float:
        totals = self._totals(metric)
        return math.nan if totals is None or not self.sums.weight.units else ratio(*totals)

    def _error(self, metric: Metric, moments: Moments) -> float:
        """Return the standard error of the ratio that a metric is made of."""
        total = self.sums.totals.get(metric.statistic)
        if total is None:
            return math.nan
        if not metric.per:
            return errors.standard_error(total, self.sums.weight, moments, metric.statistic)
        if metric.per in self.given:  # a number that is known: the error is that of the total
            error = errors.standard_error(total, self.sums.weight, moments, metric.statistic)
            return error * ratio(self.sums.weight, ExactSum.whole(self.given[metric.per]))
        return errors.standard_error(total, self._total_of(metric.per), _ratio_moments(metric, moments), metric.name)

    def _count(self, metric: Metric, share: float) -> float:
        """Return of how many rows of equal weight a share would have the same error (Korn and Graubard 1998)."""
        effective = self.effective_rows if self.clusters is None else float(self.clusters.count)
        if self.clusters is None and effective == self.sums.counted:  # all weights are equal
            return effective
        error = self._error(metric, self.moments)
        if error > 0:
            variance = error * error
            return share * (1 - share) / variance if variance else math.inf
        return math.nan if math.isnan(error) else effective


def is_share(name: str) -> bool:
    """Return whether a metric is a share of the rows."""
    return statistics.statistic(statistics.metric(name).statistic).share


def is_better(name: str) -> bool:
    """Return whether a metric is better, or of surer predictions, where it is larger."""
    found = statistics.statistic(statistics.metric(name).statistic)
    return found.share or found.better


def _ratio_moments(metric: Metric, moments: Moments) -> Moments:
    """Return moments in which what a total is divided by takes the place of the weights.

    The sum of the products of both follows from the squares: (a + b)**2 = a**2 + 2 a b + b**2.
    """
    zero = ExactSum()
    a, b, both = (moments.squares.get(name, zero) for name in metric.statistics)
    doubled = both + ExactSum(-a.units - b.units, a.nan + b.nan, a.posinf + b.posinf, a.neginf + b.neginf)
    products = replace(doubled, units=doubled.units >> 1)
    return Moments(moments.count, {metric.name: a}, {metric.name: products}, b)
