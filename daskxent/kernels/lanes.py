"""The scan of lanes: one class after the other, vectors across the rows.

For few classes, which are transposed into a tile first, and for a class axis that is not last, where they lie that way.
"""

from __future__ import annotations

import numpy as np

from daskxent.kernels.blocks import LANES, PITCH, TILE
from daskxent.kernels.llvm.across import WIDTHS, lane_logits, lane_peaks, lane_probabilities, transpose
from daskxent.kernels.llvm.compiling import inlined, inner, like, wide_vectors, widen
from daskxent.kernels.llvm.vectors import VECTOR
from daskxent.kernels.rows import holds, set_grid, take_all_own
from daskxent.kernels.slabs import row_of
from daskxent.numbers.records import HAS_NAN, OUTSIDE_UNIT


@inlined
def _load(rows, start, at, classes, n, tile):
    """Widen the classes from `at` on of the rows from `start` on into ``tile[class * PITCH + row]``."""
    numbers, done = rows.numbers, 0
    if rows.after == 1:
        # The last rows of few classes are left to the slow loop: a square of them would reach beyond the array.
        width = WIDTHS[0] if classes <= WIDTHS[0] else WIDTHS[1] if classes <= WIDTHS[1] else WIDTHS[2]
        room = numbers.size - start * rows.pitch - at - max(width, classes)
        squares = min(n, room // rows.pitch + 1) // VECTOR * VECTOR if room >= 0 else 0
        for i in range(0, squares, VECTOR):
            for c in range(0, classes, width):
                c = max(0, min(c, classes - width))
                transpose(numbers, (start + i) * rows.pitch + at + c, rows.pitch, tile, c * PITCH + i, width)
        done = squares
    while done < n:
        before, after = divmod(start + done, rows.after)
        run, source = min(rows.after - after, n - done), before * rows.pitch + at * rows.after + after
        for c in range(classes):
            some = numbers[source + c * rows.after : source + c * rows.after + run]
            lanes = tile[c * PITCH + done : c * PITCH + done + run]
            for i in range(run):
                lanes[i] = widen(some[i])
        done += run


@inlined
def _peaks(classes, unit, work):
    """Raise the two largest numbers of each lane, and flag lanes with NaN or a negative probability."""
    least = like(0.0 if unit else -np.inf, work.tile[0])
    for at in range(0, LANES, VECTOR):
        found = lane_peaks(least, at, classes, work.tile, work.peak, work.second)
        for i in range(at, at + VECTOR if found else at):
            if found >> (i - at) & 1:
                work.flags[i] |= _flags(work.tile[i:], classes) & (HAS_NAN | OUTSIDE_UNIT if unit else HAS_NAN)


@inner
def _flags(lane, classes):
    nan = negative = False
    for c in range(classes):
        nan |= lane[c * PITCH] != lane[c * PITCH]
        negative |= lane[c * PITCH] < 0
    return (HAS_NAN if nan else 0) | (OUTSIDE_UNIT if negative else 0)


@inlined
def _targets(labels, first, classes, work):
    for i in range(labels.size):
        label = labels[i] - first
        if 0 <= label < classes:
            work.target[i] = work.tile[label * PITCH + i]


@inlined
def _above(tile, classes, work):
    """Count the classes above the target of each lane."""
    target, above = work.target, work.above
    for c in range(classes):
        row = tile[c * PITCH : c * PITCH + LANES]
        for i in range(LANES):
            above[i] += np.int32(row[i] > target[i])


@inlined
def _best(tile, first, classes, work):
    """Find the first of these classes that holds the peak of each lane, unless an earlier one does."""
    peak, best = work.peak, work.best
    for c in range(classes):
        row = tile[c * PITCH : c * PITCH + LANES]
        for i in range(LANES):
            best[i] = first + c if best[i] < 0 and (row[i] == peak[i] or peak[i] == -np.inf) else best[i]


@inlined
def _hits(rows, start, labels, first, work):
    """Find for each lane whether its label is the first of its largest numbers."""
    wide_vectors()
    target, peak, second, hit, ties = work.target, work.peak, work.second, work.hit, np.int32(0)
    for i in range(LANES):
        ties |= np.int32(target[i] == peak[i]) & np.int32(second[i] == peak[i])
    for i in range(LANES):
        hit[i] = target[i] == peak[i]
    for i in range(labels.size if ties else 0):
        label = labels[i] - first
        if work.hit[i] and work.second[i] == work.peak[i] and 0 <= label < rows.classes:
            work.hit[i] = not holds(row_of(rows, start + i), label, work.peak[i])


@inlined
def _grids(ask, work):
    """Flag probabilities above 1; set where logits are counted."""
    wide_vectors()
    for i in range(LANES if ask.unit else 0):
        work.flags[i] |= OUTSIDE_UNIT if work.peak[i] > 1 else 0
    for i in range(LANES if ask.mass and not ask.unit else 0):
        set_grid(i, work)


@inlined
def _mass(classes, unit, work):
    """Add the terms of some classes of each lane."""
    for at in range(0, LANES, VECTOR):
        if unit:
            lane_probabilities(at, classes, work.tile, work.mass)
        else:
            lane_logits(at, classes, work.tile, work.floor, work.around, work.mass, work.levels)


@inlined
def _begin(ask, work):
    wide_vectors()
    for i in range(LANES):
        work.peak[i] = work.second[i] = -np.inf
        work.target[i] = work.flags[i] = 0
    for i in range(LANES if ask.depth else 0):
        work.above[i] = 0
    for i in range(LANES if ask.best else 0):
        work.best[i] = -1
    for s in range(work.mass.shape[0] if ask.mass else 0):
        for i in range(LANES):
            work.mass[s, i] = 0


def scan_lanes(rows, start, labels, first, ask, work):
    """Scan the rows from `start` on, one for each label, skipped ones too.

    More classes than a tile holds are loaded twice: for what is found of them, and for what needs that.
    """
    every, tile = rows.classes, work.tile
    _begin(ask, work)
    for at in range(0, every, TILE):
        classes = min(every - at, TILE)
        _load(rows, start, at, classes, labels.size, tile)
        _peaks(classes, ask.unit, work)
        _targets(labels, first + at, classes, work)
    if ask.hit:
        _hits(rows, start, labels, first, work)
    _grids(ask, work)
    for at in range(0, every, TILE):
        classes = min(every - at, TILE)
        if every > TILE:
            _load(rows, start, at, classes, labels.size, tile)
        if ask.depth:
            _above(tile, classes, work)
        if ask.best:
            _best(tile, first + at, classes, work)
        if ask.mass:
            _mass(classes, ask.unit, work)
    if ask.mass and not ask.unit:
        take_all_own(work)
