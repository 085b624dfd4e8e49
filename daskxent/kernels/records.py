"""What both scans do to records: join a piece to them, sum the slices of an odd row, keep the largest values."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from daskxent.kernels.arithmetic import REACH_F8, power_of_two, sliced
from daskxent.kernels.blocks import CHUNK, LANES, PIECE, PITCH
from daskxent.kernels.compiling import borrowed, inner, like
from daskxent.rows import HAS_NAN, HUGE, HUGE_BASE, NO_BASE, OUTSIDE_UNIT, SLICE_BITS, Rows


class Work(NamedTuple):
    """What a block of rows needs on the way; floats and `scale` are as wide as the numbers."""

    tile: Any  # widened predictions
    peak: Any
    low: Any
    floor: Any
    scale: Any
    best: Any
    nan: Any
    base: Any
    slices: Any
    sums: Any


def work_for(wide: np.dtype[Any]) -> Work:
    """Return room for a block of numbers that are widened to `wide`."""
    number = np.float32 if wide == np.float32 else np.float64
    integer = np.int32 if wide == np.float32 else np.int64
    return Work(
        tile=np.zeros(max(CHUNK * PITCH, PIECE), number),
        peak=np.zeros(LANES, number),
        low=np.zeros(LANES, number),
        floor=np.zeros(LANES, number),
        scale=np.zeros(LANES, integer),
        best=np.zeros(LANES, np.int32),
        nan=np.zeros(LANES, np.int32),
        base=np.zeros(LANES, np.int64),
        slices=np.zeros(4 * LANES, np.uint32),
        sums=np.zeros(4, np.int64),
    )


@inner
def borrowed_work(w):
    """Return the work without the owners of its arrays."""
    return Work(
        borrowed(w.tile),
        borrowed(w.peak),
        borrowed(w.low),
        borrowed(w.floor),
        borrowed(w.scale),
        borrowed(w.best),
        borrowed(w.nan),
        borrowed(w.base),
        borrowed(w.slices),
        borrowed(w.sums),
    )


@inner
def borrowed_rows(r):
    """Return records without the owners of their arrays."""
    return Rows(
        borrowed(r.peak),
        borrowed(r.best),
        borrowed(r.base),
        borrowed(r.mass),
        borrowed(r.target),
        borrowed(r.top),
        borrowed(r.flags),
    )


@inner
def zero(sums):
    """Set all of `sums` to 0."""
    for i in range(sums.size):
        sums[i] = 0


@inner
def add_slices(sums, a, b, c, d, times):
    """Add four slices to `sums`, several times over."""
    sums[0] += np.int64(a) * times
    sums[1] += np.int64(b) * times
    sums[2] += np.int64(c) * times
    sums[3] += np.int64(d) * times


@inner
def sum_odd(row, count, step, peak, sums):
    """Add the slices of a row with an unusual peak, one class at a time; return its base."""
    if np.isinf(peak) and peak < 0:
        return NO_BASE
    if abs(peak) >= HUGE:
        if not np.isinf(peak):
            for j in range(count):
                sums[0] += row[j * step] == peak
        return HUGE_BASE if peak > 0 else -HUGE_BASE
    base = power_of_two(peak)[0] // SLICE_BITS
    for j in range(count):
        x = row[j * step]
        if x > peak - like(REACH_F8, x) and x > -HUGE:
            n, p = power_of_two(x)
            a, b, c, d = sliced(p * like(2.0 ** (n - SLICE_BITS * base), p))
            add_slices(sums, a, b, c, d, 1)
    return base


@inner
def join(rows, i, fresh, peak, best, base, nan, sums):
    """Join a piece of row i to its record, as `rows.merge` does; pieces come in the order of the classes."""
    if fresh:
        rows.peak[i], rows.best[i], rows.base[i] = peak, best, base
        rows.flags[i] = HAS_NAN if nan else 0
        for s in range(rows.mass.shape[0]):
            rows.mass[s, i] = sums[s]
        return
    if nan:
        rows.flags[i] |= HAS_NAN
    old_peak, old_base = rows.peak[i], rows.base[i]
    if peak > old_peak:
        rows.peak[i], rows.best[i] = peak, best
    highest = max(base, old_base)
    rows.base[i] = highest
    slices = rows.mass.shape[0]
    down = slices if abs(old_base) == HUGE_BASE and old_peak < peak else highest - old_base
    for s in range(slices - 1, -1, -1):
        rows.mass[s, i] = rows.mass[s - down, i] if s >= down else 0
    down = slices if abs(base) == HUGE_BASE and peak < old_peak else highest - base
    for s in range(down, slices):
        rows.mass[s, i] += sums[s - down]


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
