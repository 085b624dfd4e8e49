"""The scan of long rows: one row after the other, vectors along the classes."""

from __future__ import annotations

import numpy as np

from daskxent.kernels.arithmetic import is_usual
from daskxent.kernels.llvm.along import sum_logits, sum_probabilities, two_largest
from daskxent.kernels.llvm.compiling import bits_of, from_bits, inlined, inner, like, widen
from daskxent.kernels.rows import first_of, holds, set_grid, take_all_own
from daskxent.kernels.slabs import row_of
from daskxent.numbers.records import HAS_NAN, OUTSIDE_UNIT

KEPT = 4096  # numbers of the rows that are looked at before they are summed: they are still in the nearest cache


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
def _lowest(row):
    """Return the smallest number of a row, NaN left aside; 0 if none is smaller."""
    low = like(0.0, widen(row[0]))
    for j in range(row.size):
        x = widen(row[j])
        low = x if x < low else low
    return low


@inner
def _look(row, unit, wants_second):
    """Return the two largest numbers of a row (of probabilities only if wanted) and its flags."""
    if unit and not wants_second:
        peak = _largest_unit(row)
        if peak == peak:
            return peak, peak, OUTSIDE_UNIT if peak > 1 else 0
    peak, second, nan = two_largest(row)
    flags = HAS_NAN if nan else 0
    if unit and (peak > 1 or _lowest(row) < 0):
        flags |= OUTSIDE_UNIT
    return peak, second, flags


@inner
def _above(row, value):
    """Count the numbers of a row above a value."""
    found = 0
    for j in range(row.size):
        found += widen(row[j]) > value
    return found


@inlined
def _look_at_rows(rows, start, labels, first, some, ask, work):
    """Find what rows are known by; sum the terms of probabilities, which need no peak."""
    for i in range(*some):
        if work.skip[i]:
            continue
        row = row_of(rows, start + i)
        label = labels[i] - first
        inside = 0 <= label < row.size
        target = widen(row[label]) if inside else like(0.0, work.peak[0])
        peak, second, flags = _look(row, ask.unit, ask.second)
        work.peak[i], work.second[i], work.target[i], work.flags[i] = peak, second, target, flags
        if ask.hit:
            work.hit[i] = inside and target == peak and (second < peak or not holds(row, label, peak))
        if ask.best:
            work.best[i] = first + first_of(row, peak)
        if ask.depth:
            work.above[i] = _above(row, target)
        if ask.unit and ask.mass:
            sum_probabilities(row, row.size, work.mass, i)


@inlined
def _sum_rows(rows, start, some, ahead, work):
    """Sum the terms of logits, the peak's own among them."""
    for i in range(*some):
        set_grid(i, work)
    for i in range(*some):
        if not work.skip[i] and is_usual(work.peak[i]):
            row = row_of(rows, start + i)
            sum_logits(row, ahead, work.floor[i], work.around[i], work.mass, i, work.levels)


def scan_long(rows, start, labels, first, ask, work):
    """Scan the rows from `start` on, one for each label.

    Logits are read twice. A few rows take each step before the next one is taken: so the folding of lanes, and
    numbers that wait for one another, overlap with other rows.
    """
    few = max(1, KEPT // rows.classes)
    for at in range(0, labels.size, few):
        some = at, min(at + few, labels.size)
        _look_at_rows(rows, start, labels, first, some, ask, work)
        if ask.mass and not ask.unit:
            _sum_rows(rows, start, some, few * rows.pitch, work)
    if ask.mass and not ask.unit:
        take_all_own(work)
