"""What is made of a scanned block of whole rows: its columns, as `scores.finish` has them, and its status."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from daskxent.kernels.arithmetic import PROBABILITY_UNIT, clip
from daskxent.kernels.blocks import LANES
from daskxent.kernels.crossentropy import counted, excess_of, log1p, unit_loss
from daskxent.kernels.llvm.compiling import expanded, inlined, inner, overload, wide_vectors
from daskxent.numbers.records import EPSILON, HAS_NAN, HUGE, OUTSIDE_UNIT
from daskxent.numbers.scores import (
    CLIPPED,
    COARSE,
    COARSE_FROM,
    EQUAL,
    INFINITE,
    LEAST_EQUAL,
    LOST,
    NAN,
    SUM_TOLERANCE,
    UNNORMALISED,
    UNRANKED,
)
from daskxent.numbers.status import COUNTED, HIDDEN, LEAST_WEIGHT, MOST_WEIGHT
from daskxent.numbers.status import classify as defined

classify = inner(defined)


class Columns(NamedTuple):
    """Room for the columns of `Scores`, and for those of `Scored`; those not asked for are empty."""

    flags: Any
    loss: Any
    hit: Any
    above: Any
    prediction: Any
    peak: Any
    second: Any
    target: Any
    total: Any
    confidence: Any
    status: Any
    exceptional: Any


@inlined
def of_block(columns, at):
    """Return the columns of the block that begins at a row; numba would look whether each ``at + i`` is negative."""
    some = slice(at, at + LANES)
    return Columns(
        columns.flags[some], columns.loss[some], columns.hit[some], columns.above[some], columns.prediction[some],
        columns.peak[some], columns.second[some], columns.target[some], columns.total[some], columns.confidence[some],
        columns.status[some], columns.exceptional,
    )  # fmt: skip


@inlined
def _alike(labels, weights, rules):
    """Return whether all rows have a class for a label and a usual weight: they are classified as one of them is."""
    wide_vectors()
    known = usual = np.int64(0)
    for i in range(labels.size):
        known += int(np.uint64(labels[i]) < np.uint64(rules.classes))  # as large numbers, negative ones are beyond
    for i in range(labels.size if weights.size else 0):
        usual += (weights[i] >= LEAST_WEIGHT) & (weights[i] <= MOST_WEIGHT)
    return not rules.has_ignore and known == labels.size and (usual == labels.size or not weights.size)


@inlined
def begin(labels, weights, rules, columns, work):
    """Classify a block by label and weight alone; return how many rows are to be scanned, and whether all count."""
    wide_vectors()
    n, status, skip = labels.size, columns.status, work.skip
    if _alike(labels, weights, rules):
        alike = classify(rules, np.uint8(0), labels[0], weights[0] if weights.size else 1.0)
        for i in range(LANES):
            status[i] = alike
        for i in range(LANES):
            skip[i] = alike & HIDDEN
        return n, alike == COUNTED
    for i in range(n):
        status[i] = classify(rules, np.uint8(0), labels[i], weights[i] if weights.size else 1.0)
    for i in range(LANES):
        skip[i] = status[i] & HIDDEN
    hidden = usual = 0
    for i in range(n):
        hidden += skip[i] != 0
        usual += status[i] == COUNTED
    return n - hidden, usual == n


@inlined
def _losses(plain, ask, loss, work):
    """Find the losses of a block, and totals for `work`.

    Loops that write one array: with two, LLVM would have to check too many pairs for overlap, and does not vectorise.
    """
    wide_vectors()
    high, low, peaks, target, total = work.mass[0], work.mass[1], work.peak, work.target, work.total
    if ask.unit:
        for i in range(LANES):
            total[i] = counted(high[i], low[i], peaks[0]) * PROBABILITY_UNIT
        for i in range(loss.size):
            loss[i] = unit_loss(high[i], low[i], target[i])
        return
    for i in range(LANES):
        total[i] = excess_of(high[i], low[i], work.base[i], np.float64(peaks[i]), peaks[0])
    for i in range(0 if plain else LANES):
        if not abs(peaks[i]) < HUGE:
            total[i] = np.float64(work.ties[i]) if np.isfinite(peaks[i]) else np.nan
    for i in range(0 if ask.given else loss.size):
        loss[i] = log1p(total[i]) + (np.float64(peaks[i]) - np.float64(target[i]))
    for i in range(loss.size if ask.given else 0):
        loss[i] = 0.0 - np.float64(target[i]) if abs(peaks[i]) < np.inf else np.nan
    for i in range(LANES if ask.total else 0):
        total[i] += 1.0


@inlined
def _flags(labels, plain, usual, ask, rules, tolerance, columns, work):
    """Set the flags of a block; return whether there are any."""
    wide_vectors()
    found, flags, n = np.uint8(0), columns.flags, labels.size
    if not ask.mass:
        for i in range(LANES):
            flags[i] = 0
    elif ask.unit:
        _flag_probabilities(rules, tolerance, flags, work)
    else:
        _flag_logits(ask, rules, columns.loss, flags, work)
    if not plain:
        _flag_exceptional(n, ask, flags, work)
    for i in range(0 if usual else n):
        flags[i] &= ~LOST if not 0 <= labels[i] < rules.classes else ~0
    for i in range(n if ask.mass or not plain else 0):
        found |= flags[i]
    return found != 0


@inlined
def _flag_exceptional(n, ask, flags, work):
    """Flag hidden rows, and those of numbers that are no usual ones."""
    for i in range(n):
        if work.skip[i]:
            flags[i] = 0
        elif work.flags[i] & HAS_NAN:
            flags[i] = NAN
        elif ask.unit and ask.mass:
            if work.flags[i] & OUTSIDE_UNIT:
                flags[i] = flags[i] & ~EQUAL | UNNORMALISED
            flags[i] |= INFINITE if abs(work.peak[i]) == np.inf else 0
        elif abs(work.peak[i]) == np.inf:
            flags[i] = INFINITE


def _is_double(peaks: Any) -> Any:
    """Return whether predictions are float64; known when code is compiled."""


@overload(_is_double)
def _is_double_typed(peaks):
    known = peaks.dtype == types.float64
    return lambda peaks: known


@inlined
def _flag_probabilities(rules, tolerance, flags, work):
    """Flag rows of probabilities by their sums and the label's."""
    peak, target, total = work.peak, work.target, work.total
    for i in range(LANES):
        clipped = np.uint8(CLIPPED) if np.float64(target[i]) < EPSILON else np.uint8(0)
        flags[i] = clipped | (np.uint8(UNNORMALISED) if abs(total[i] - 1.0) > tolerance else np.uint8(0))
    for i in range(LANES if rules.classes > 1 else 0):
        equal = total[i] >= np.float64(rules.classes) * np.float64(clip(peak[i])) * LEAST_EQUAL
        flags[i] |= np.uint8(EQUAL) if equal else np.uint8(0)


@inlined
def _flag_logits(ask, rules, loss, flags, work):
    """Flag rows of logits by their sums, peaks and losses."""
    wide_vectors()
    peak, total, own = work.peak, work.total, 0.0 if ask.total else 1.0
    least = np.float64(rules.classes) * LEAST_EQUAL if rules.classes > 1 else np.inf
    for i in range(LANES):
        flags[i] = np.uint8(EQUAL) if own + total[i] >= least else np.uint8(0)
    for i in range(LANES if ask.given else 0):
        flags[i] |= np.uint8(UNNORMALISED) if np.float64(peak[i]) > SUM_TOLERANCE else np.uint8(0)
    for i in range(LANES if _is_double(peak) else 0):
        flags[i] |= np.uint8(COARSE) if abs(peak[i]) >= COARSE_FROM else np.uint8(0)
    for i in range(loss.size):
        flags[i] |= np.uint8(0) if abs(loss[i]) < np.inf else np.uint8(LOST)


@inlined
def _copy(found, column):
    """Copy what was found of a block into a column, if it is asked for."""
    wide_vectors()
    for i in range(LANES if column.size else 0):
        column[i] = found[i]


@inlined
def _copy_all(ask, columns, work):
    _copy(work.hit, columns.hit)
    _copy(work.best, columns.prediction)
    _copy(work.peak, columns.peak)
    _copy(work.second, columns.second)
    _copy(work.target, columns.target)
    _copy(work.total, columns.total)
    for i in range(LANES if columns.above.size else 0):
        columns.above[i] = min(work.above[i], ask.depth)
    for i in range(LANES if columns.confidence.size else 0):
        columns.confidence[i] = (np.float64(clip(work.peak[i])) if ask.unit else 1.0) / work.total[i]


@inlined
def _blank_out(column, where, value):
    """Set a column to a value at some rows, if it is asked for."""
    wide_vectors()
    for i in range(LANES if column.size else 0):
        column[i] = value if where[i] else column[i]


@inlined
def _blank(labels, rules, columns, work):
    """Blank out the columns of rows without a value: of those with NaN, and some where the label is no class."""
    empty, unlabelled = work.skip, work.flags
    for i in range(LANES):
        empty[i] |= work.flags[i] & HAS_NAN
    for i in range(labels.size):
        unlabelled[i] = empty[i] | (not 0 <= labels[i] < rules.classes)
    _blank_out(columns.loss, unlabelled, np.nan)
    _blank_out(columns.target, unlabelled, np.nan)
    _blank_out(columns.hit, unlabelled, False)
    _blank_out(columns.above, unlabelled, UNRANKED)
    _blank_out(columns.peak, empty, np.nan)
    _blank_out(columns.second, empty, np.nan)
    _blank_out(columns.total, empty, np.nan)
    _blank_out(columns.confidence, empty, np.nan)
    _blank_out(columns.prediction, empty, -1)


@expanded
def finish(labels, weights, at, ask, rules, tolerance, plain, usual, exceptional, columns, work):
    """Fill in the columns of a scanned block; return how many rows are exceptional by now."""
    if ask.mass:
        _losses(plain, ask, columns.loss, work)
    flagged = _flags(labels, plain, usual, ask, rules, tolerance, columns, work)
    _copy_all(ask, columns, work)
    if not plain or not usual:
        _blank(labels, rules, columns, work)
    for i in range(labels.size if flagged else 0):
        if columns.flags[i]:
            weight = weights[i] if weights.size else 1.0
            columns.status[i] = classify(rules, columns.flags[i], labels[i], weight)
    for i in range(0 if usual and not flagged else labels.size):  # a row that is not exceptional is overwritten
        columns.exceptional[exceptional] = at + i
        exceptional += columns.status[i] != COUNTED
    return exceptional
