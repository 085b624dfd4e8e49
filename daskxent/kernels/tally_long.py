"""The tally of long rows: a lean scan, one row after the other, which makes no records."""

from __future__ import annotations

from typing import Any

import numpy as np

from daskxent.kernels.along import sum_logits, sum_probabilities, two_largest
from daskxent.kernels.arithmetic import grid, is_usual, term, units, usual_base
from daskxent.kernels.blocks import LANES, NO_MASS, PROBABILITIES
from daskxent.kernels.compiling import bits_of, borrowed, compiled, from_bits, inner, like, overload, widen
from daskxent.kernels.tally_block import (
    LOSS,
    ODD,
    block_losses,
    borrowed_work,
    carry_all,
    fates,
    settle,
)
from daskxent.rows import MAGIC_BITS


def _row(values: Any, i: Any, tile: Any) -> Any:
    """Return row i as an array that lies in one piece."""


@overload(_row)
def _row_typed(values, i, tile):
    def copied(values, i, tile):
        row = tile[: values.shape[1]]
        for j in range(values.shape[1]):
            row[j] = widen(values[i, j])
        return row

    return (lambda values, i, tile: values[i]) if values.layout == "C" else copied


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
def _holds(row, stop, value):
    """Tell whether any of the first numbers of a row is a value."""
    found = 0
    for j in range(stop):
        found += widen(row[j]) == value
    return found > 0


@inner
def _above(row, value):
    """Count the numbers of a row above a value."""
    found = 0
    for j in range(row.size):
        found += widen(row[j]) > value
    return found


@inner
def _sum(row, peak, second, unit):
    """Return the sum of the terms of a row (of logits, all but the peak's own) and the position it is counted at."""
    if unit:
        a, b = sum_probabilities(row)
        return a, b, np.int64(0)
    base = usual_base(peak, second)
    floor, around = grid(base, peak)
    a, b = sum_logits(row, floor, around)
    s, t = units(term(peak, floor, around))
    return a - (s - MAGIC_BITS), b - (t - MAGIC_BITS), base


@inner
def _scan_rows(values, start, labels, rules, work):
    """Scan the rows from `start` on that are looked at, one for each label."""
    unit, mass, ranks = rules.mode & PROBABILITIES != 0, rules.mode < NO_MASS, rules.tops.size > 0
    for i in range(labels.size):
        if work.fate[i]:
            continue
        row = _row(values, start + i, work.tile)
        target = widen(row[labels[i]])
        peak, second, fits = _find(row, unit)
        work.peak[i], work.target[i] = peak, target
        work.best[i] = target == peak and not _holds(row, labels[i], peak)
        if ranks:
            work.above[i] = _above(row, target)
        if not fits:
            work.fate[i] = ODD
        elif mass:
            work.high[i], work.low[i], work.base[i] = _sum(row, peak, second, unit)


@compiled
def tally_long(values, labels, weights, rules, work, model, terms, limbs, counts, odd, told):
    """Tally long rows."""
    values, labels, weights, work = borrowed(values), borrowed(labels), borrowed(weights), borrowed_work(work)
    terms, limbs, counts = borrowed(terms), borrowed(limbs), borrowed(counts)
    for start in range(0, labels.size, LANES):
        here = labels[start : start + LANES]
        if fates(here, weights, start, rules, work, counts, told):
            _scan_rows(values, start, here, rules, work)
            if rules.mode < NO_MASS:
                block_losses(rules.mode, rules.tolerance, model, work, terms[LOSS])
            settle(here.size, weights, start, rules, work, terms, limbs, counts, odd, told)
    carry_all(limbs)
