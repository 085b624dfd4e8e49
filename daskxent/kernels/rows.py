"""What both scans do with a single row: find a class, set its grid, and sum it where its peak is exceptional."""

from __future__ import annotations

import numpy as np

from daskxent.kernels.arithmetic import add_term, base_of, grid, is_usual, least_term, usual_base
from daskxent.kernels.blocks import LANES, TILE
from daskxent.kernels.llvm.across import take_own
from daskxent.kernels.llvm.compiling import inlined, inner, wide_vectors, widen
from daskxent.kernels.llvm.vectors import VECTOR
from daskxent.kernels.slabs import row_of
from daskxent.numbers.records import HUGE


@inner
def holds(row, stop, value):
    """Return whether any of the first numbers of a row is a value."""
    found = 0
    for j in range(stop):
        found += widen(row[j]) == value
    return found > 0


@inner
def first_of(row, peak):
    """Return the first place of a row's peak; of nothing but -inf and NaN the first of all.

    Vectors of places are compared: one by one, it would take as long as the rest of the scan.
    """
    for start in range(0, row.size if peak > -np.inf else 0, TILE):
        some = row[start : start + TILE]
        first = np.int32(some.size)
        for j in range(some.size):
            first = min(first, np.int32(j) if widen(some[j]) == peak else np.int32(some.size))
        if first < some.size:
            return np.int64(start + first)
    return np.int64(0)


@inlined
def set_grid(i, work):
    """Set where row i of logits is counted."""
    base = usual_base(work.peak[i], work.second[i])
    work.base[i] = base
    work.floor[i], work.around[i] = grid(base, work.peak[i])


@inlined
def take_all_own(work):
    """Take the peaks' own terms away from the sums of a block."""
    for at in range(0, LANES, VECTOR):
        take_own(at, work.peak, work.floor, work.around, work.mass, work.levels)


@inner
def sum_exceptional(row, peak, base, levels, sums):
    """Sum a row whose peak is not usual, all but the peak's own term; return how many classes tie with a huge one."""
    if abs(peak) >= HUGE:
        ties = 0
        for j in range(row.size):
            ties += widen(row[j]) == peak
        return ties - 1
    least = least_term(base, peak)
    for j in range(row.size):
        x = widen(row[j])
        if x > least:
            add_term(x, base, 1, levels, sums)
    add_term(peak, base, -1, levels, sums)
    return 0


@inlined
def is_plain(work):
    """Return whether all rows of a block were scanned and none has a flag or a peak that is not usual."""
    wide_vectors()
    found = np.int32(0)
    for i in range(LANES):
        found |= work.flags[i] | work.skip[i] | np.int32(not is_usual(work.peak[i]))
    return found == 0


@inner
def _number_of(levels):
    """Return how many levels sums are kept at; numba compiles one of both."""
    if levels is None:
        return 1
    return levels


@inlined
def sum_exceptional_rows(rows, start, n, work):
    """Sum again those rows of a block of logits whose peaks are not usual."""
    for i in range(n):
        if work.skip[i] or is_usual(work.peak[i]):
            continue
        peak, sums = work.peak[i], work.mass[:, i]
        base = base_of(peak, work.second[i])
        work.base[i] = base
        for s in range(sums.size):
            sums[s] = 0
        if np.isfinite(peak):
            work.ties[i] = sum_exceptional(row_of(rows, start + i), peak, base, _number_of(work.levels), sums)
