"""The tally of long rows: a lean scan, one row after the other, which makes no records."""

from __future__ import annotations

from typing import Any

import numpy as np

from daskxent.kernels.arithmetic import is_usual
from daskxent.kernels.blocks import LANES, LOGITS, NO_MASS, PROBABILITIES
from daskxent.kernels.llvm.along import sum_logits, sum_probabilities, two_largest
from daskxent.kernels.llvm.compiling import (
    bits_of,
    borrowed,
    compiled,
    from_bits,
    inlined,
    inner,
    like,
    overload,
    widen,
)
from daskxent.kernels.tally_block import (
    LOSS,
    ODD,
    block_losses,
    carry_all,
    fates,
    holds,
    set_grids,
    settle,
    take_own,
)

KEPT = 4096  # numbers of the rows that are looked at before they are summed


def _row(values: Any, i: Any, tile: Any, place: Any, fresh: Any) -> Any:
    """Return row i in one piece: copied to a place in `tile` if it does not lie in one, unless it is there already."""


@overload(_row)
def _row_typed(values, i, tile, place, fresh):
    def copied(values, i, tile, place, fresh):
        room = tile[place * values.shape[1] : (place + 1) * values.shape[1]]
        if fresh:
            for j in range(room.size):
                room[j] = widen(values[i, j])
        return room

    return (lambda values, i, tile, place, fresh: values[i]) if values.layout == "C" else copied


@inner
def _largest_unit(row):
    """Return the largest of probabilities, or NaN where any is negative or NaN."""
    # As integers with a sign, the bits of floats that are not negative are in their order; all others are below 0.
    high = low = bits_of(widen(row[0]))
    for j in range(row.size):
        bits = bits_of(widen(row[j]))
        high = bits if bits > high else high
        low = bits if bits < low else low
    return from_bits(high) if low >= 0 else like(np.nan, widen(row[0]))


@inner
def _find(row, unit):
    """Return the two largest numbers of a row, and whether it is one that is treated here."""
    if unit:
        peak = _largest_unit(row)
        return peak, peak, peak <= 1
    peak, second, nan = two_largest(row)
    return peak, second, not nan and is_usual(peak)


@inner
def _above(row, value):
    """Count the numbers of a row above a value."""
    found = 0
    for j in range(row.size):
        found += widen(row[j]) > value
    return found


@inlined
def _look(values, start, labels, first, stop, rules, work):
    """Find what some rows are known by, and which are odd; sum the terms of probabilities, which need not wait."""
    unit, mass, ranks = rules.mode & PROBABILITIES != 0, rules.mode < NO_MASS, rules.tops.size > 0
    for i in range(first, stop):
        if work.fate[i]:
            continue
        row = _row(values, start + i, work.tile, i - first, True)
        target = widen(row[labels[i]])
        peak, second, fits = _find(row, unit)
        work.peak[i], work.second[i], work.target[i] = peak, second, target
        work.best[i] = target == peak and (second < peak or not holds(row, labels[i], peak))
        if ranks:
            work.above[i] = _above(row, target)
        if not fits:
            work.fate[i] = ODD
        elif unit and mass:
            work.high[i], work.low[i] = sum_probabilities(row, row.size)


@inlined
def _sum(values, start, first, stop, ahead, work):
    """Sum the terms of some rows of logits."""
    for i in range(first, stop):
        if not work.fate[i]:
            row = _row(values, start + i, work.tile, i - first, False)
            work.high[i], work.low[i] = sum_logits(row, ahead, work.floor[i], work.around[i])


@inlined
def _scan_rows(values, start, labels, rules, work):
    """Scan the rows from `start` on that are looked at, one for each label.

    Logits are gone through twice. A few rows take each step before the next one is taken: so the folding of lanes, and
    numbers that wait for one another, overlap with other rows.
    """
    n, few = labels.size, max(1, KEPT // values.shape[1])
    for first in range(0, n, few):
        stop = min(first + few, n)
        _look(values, start, labels, first, stop, rules, work)
        if rules.mode == LOGITS:
            set_grids(first, stop, work)
            _sum(values, start, first, stop, few * values.shape[1], work)
    if rules.mode == LOGITS:
        take_own(work)


@compiled
def tally_long(values, labels, weights, rules, work, model, terms, limbs, counts, odd, told):
    """Tally long rows."""
    values, labels, weights, work = borrowed((values, labels, weights, work))
    terms, limbs, counts = borrowed((terms, limbs, counts))
    for start in range(0, labels.size, LANES):
        here = labels[start : start + LANES]
        if fates(here, weights, start, rules, work, counts, told):
            _scan_rows(values, start, here, rules, work)
            if rules.mode < NO_MASS:
                block_losses(rules.mode, rules.tolerance, model, work, terms[LOSS])
            settle(here.size, weights, start, rules, work, terms, limbs, counts, odd, told)
    carry_all(limbs)
