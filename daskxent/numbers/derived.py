"""Metrics that are made of sums by key, or of several statistics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from daskxent.numbers import calibration, classes, statistics
from daskxent.numbers.calibration import Bin, bins_of
from daskxent.numbers.classes import Counts
from daskxent.numbers.exact import ExactSum, ratio
from daskxent.numbers.keys import name_of
from daskxent.numbers.question import CLASSWISE, PREDICTED_CLASS, TRUE_CLASS
from daskxent.numbers.softmax_sums import BETAS
from daskxent.numbers.statistics import HIT
from daskxent.numbers.temperature import Temperature, least

if TYPE_CHECKING:
    from collections.abc import Mapping

    from daskxent.numbers.estimates import Estimates
    from daskxent.numbers.question import Question
    from daskxent.numbers.state import State
    from daskxent.numbers.tables import Table


def value(name: str, question: Question, state: State) -> float:
    """Return a metric of `statistics.DERIVED` but the temperature; NaN over no rows."""
    if statistics.DERIVED[name].tables == "classes":
        return _of_classes(name, question, state)
    if name == "ece_equal_mass":
        bins = reliability(question, state, "fine")
        return calibration.expected_error(calibration.equal_mass(bins)) if bins else math.nan
    if name == "classwise_ece":
        return _classwise(question, state)
    bins = reliability(question, state)
    return calibration.CALIBRATIONS[name](bins) if bins else math.nan


def _of_classes(name: str, question: Question, state: State) -> float:
    counts = counts_of(question, state.tables)
    if not counts.whole:
        return math.nan
    if name in classes.KAPPAS:
        distance = state.total.totals[classes.KAPPAS[name]]
        if distance.special is not None:
            return math.nan  # rows without a prediction, or a class
        return classes.weighted_kappa(counts, distance.units, squared=name == "cohen_kappa_quadratic")
    return classes.CLASS_METRICS[name](counts)


def _classwise(question: Question, state: State) -> float:
    """Return the mean over the classes of the calibration error of their probabilities (Kull et al. 2019)."""
    table, gap = state.tables.get(CLASSWISE), 0
    for key in table or ():
        assert table is not None
        sums = table.sums(key)
        probability, hits = (sums.totals[each.name] for each in (statistics.CLASS_PROBABILITY, statistics.IS_LABEL))
        if probability.special is not None or sums.weight.units <= 0:
            return math.nan
        gap += abs(probability.units - hits.units)
    return ratio(ExactSum(gap), ExactSum(state.total.weight.units * question.classes))


def reliability(question: Question, state: State, which: str = "reliability") -> list[Bin] | None:
    """Return the bins of a grouping of `Question.reliabilities`; None where they are not defined."""
    by = question.reliabilities[which]
    of = "confidence" if by.place < 0 else statistics.at("confidence", BETAS[by.place])
    return bins_of(state.tables.get(by.name), by, of)


def temperature(question: Question, state: State, found: Estimates) -> Temperature:
    """Return the temperature of the least crossentropy."""
    return least(found, lambda which: reliability(question, state, which))


def counts_of(question: Question, tables: Mapping[str, Table]) -> Counts:
    """Return how much of each class is true, predicted, and both, and how much there is in all."""
    found, whole = dict[int, list[int]](), 0
    for at, table in enumerate(tables.get(name_of((by,))) for by in (TRUE_CLASS, PREDICTED_CLASS)):
        for key in table or ():
            assert table is not None
            sums = table.sums(key)
            whole += sums.weight.units if at == 0 else 0  # labels that are no class have keys as well
            if 0 <= key[0] < question.classes:
                entry = found.setdefault(key[0], [0, 0, 0])
                entry[at] = sums.weight.units
                entry[2] = sums.totals[HIT].units if at == 0 else entry[2]
    order = sorted(found)
    undefined = math.nan if question.zero_division is None else question.zero_division
    true, predicted, both = ([found[each][k] for each in order] for k in range(3))
    return Counts(order, true, predicted, both, whole, undefined)
