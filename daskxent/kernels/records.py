"""What both scans do to records: join a piece to them, sum the terms of an odd row, keep the largest values."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from daskxent.kernels.arithmetic import SUMS, add_term, base_of, grid_of
from daskxent.kernels.blocks import CHUNK, LANES, PIECE, PITCH
from daskxent.kernels.llvm.compiling import inner, like
from daskxent.numbers.records import HAS_NAN, HUGE_BASE, NO_BASE, OUTSIDE_UNIT, PROBABILITY_BASE


class Work(NamedTuple):
    """What a block of rows needs on the way; floats are as wide as the numbers."""

    tile: Any  # widened predictions
    peak: Any
    second: Any
    low: Any
    floor: Any
    around: Any
    best: Any
    nan: Any
    base: Any
    mass: Any
    sums: Any


def work_for(wide: np.dtype[Any]) -> Work:
    """Return room for a block of numbers that are widened to `wide`."""
    number = np.float32 if wide == np.float32 else np.float64
    return Work(
        tile=np.zeros(max(CHUNK * PITCH, PIECE), number),
        peak=np.zeros(LANES, number),
        second=np.zeros(LANES, number),
        low=np.zeros(LANES, number),
        floor=np.zeros(LANES, number),
        around=np.zeros(LANES, number),
        best=np.zeros(LANES, np.int32),
        nan=np.zeros(LANES, np.int32),
        base=np.zeros(LANES, np.int64),
        mass=np.zeros((SUMS, LANES), np.int64),
        sums=np.zeros(SUMS, np.int64),
    )


@inner
def zero(sums):
    """Set all of `sums` to 0."""
    for i in range(sums.size):
        sums[i] = 0


@inner
def sum_odd(row, count, step, peak, base, sums):
    """Add up the terms of a row with an unusual peak, one class at a time, all but the peak's own."""
    for j in range(count):
        add_term(row[j * step], base, peak, 1, sums)
    add_term(peak, base, peak, -1, sums)


@inner
def join(rows, i, fresh, best, nan, piece, sums):
    """Join a piece of row i to its record, as `rows.merge` does; pieces come in the order of the classes.

    `piece` holds peak, second and base of the piece.
    """
    peak, second, base = piece
    if fresh:
        rows.peak[i], rows.best[i], rows.second[i], rows.base[i] = peak, best, second, base
        rows.flags[i] = HAS_NAN if nan else 0
        for s in range(rows.mass.shape[0]):
            rows.mass[s, i] = sums[s]
        return
    if nan:
        rows.flags[i] |= HAS_NAN
    old_peak, old_base = like(rows.peak[i], peak), rows.base[i]
    lower = old_peak
    if peak > old_peak:
        rows.peak[i], rows.best[i] = peak, best
    else:
        lower = peak
    rows.second[i] = max(rows.second[i], second, lower)
    highest = max(base, old_base)
    summed = highest not in (NO_BASE, PROBABILITY_BASE)
    if summed:
        highest = base_of(like(rows.peak[i], peak), like(rows.second[i], peak))
    rows.base[i] = highest
    move(rows.mass[:, i], old_base, highest, old_peak < peak, peak)
    move(sums, base, highest, peak < old_peak, peak)
    if summed:
        add_term(lower, highest, like(rows.peak[i], peak), 1, sums)
    for s in range(rows.mass.shape[0]):
        rows.mass[s, i] += sums[s]


@inner
def move(sums, base, highest, outshone, model):
    """Count `sums` from a higher position up."""
    levels, integers = grid_of(model)[2:]
    up = levels if abs(base) == HUGE_BASE and outshone else min(highest - base, levels)
    if up == 0:
        return
    for first in range(0, levels * integers, levels):
        for level in range(levels):
            sums[first + level] = sums[first + level + up] if level + up < levels else 0


@inner
def keep(kept, row, count, step):
    """Let the `count` numbers of a row compete for the places in `kept`, which descends."""
    last = kept.size - 1
    for j in range(count):
        x = np.float64(row[j * step])
        if x > kept[last]:
            at = last
            while at > 0 and x > kept[at - 1]:
                kept[at] = kept[at - 1]
                at -= 1
            kept[at] = x


@inner
def outside(low, peak):
    """Return the flag of probabilities outside [0, 1]."""
    return OUTSIDE_UNIT if low < 0 or peak > 1 else 0
