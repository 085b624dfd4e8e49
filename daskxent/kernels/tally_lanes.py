"""The tally of lanes: a lean scan, one class after the other, which makes no records."""

from __future__ import annotations

from typing import Any

import numpy as np

from daskxent.kernels.arithmetic import is_usual
from daskxent.kernels.blocks import CHUNK, LANES, LOGITS, NO_MASS, PITCH, PROBABILITIES
from daskxent.kernels.llvm.across import lane_logits, lane_peaks, lane_probabilities, transpose
from daskxent.kernels.llvm.compiling import borrowed, compiled, inlined, like, overload, widen
from daskxent.kernels.llvm.vectors import VECTOR
from daskxent.kernels.scan_lanes import load_maps
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


def _load(values: Any, start: Any, at: Any, classes: Any, n: Any, tile: Any) -> Any:
    """Widen the classes from `at` on of the rows from `start` on into ``tile[class * PITCH + row]``."""


@overload(_load)
def _load_typed(values, start, at, classes, n, tile):
    def one_by_one(values, start, at, classes, n, tile):
        for i in range(n):
            for c in range(classes):
                tile[c * PITCH + i] = widen(values[start + i, at + c])

    def transposed(values, start, at, classes, n, tile):
        # The last rows of few classes are left to the slow loop: a square of them would reach beyond the array.
        room = values.size - at - max(VECTOR, classes)
        squares = min(n, room // values.shape[1] - start + 1) // VECTOR * VECTOR if room >= 0 else 0
        squares = max(squares, 0)
        for i in range(0, squares, VECTOR):
            for c in range(0, classes, VECTOR):
                c = max(0, min(c, classes - VECTOR))
                transpose(values, start + i, at + c, tile, c * PITCH + i)
        for i in range(squares, n):
            for c in range(classes):
                tile[c * PITCH + i] = widen(values[start + i, at + c])

    if values.ndim == 3:
        return load_maps
    return transposed if values.layout == "C" else one_by_one


@inlined
def _peaks(classes, least, work):
    """Raise the two largest numbers of each lane; NaN, or anything below `least`, makes a lane odd."""
    for at in range(0, LANES, VECTOR):
        odd = lane_peaks(least, at, classes, work.tile, work.peak, work.second)
        for i in range(at, at + VECTOR if odd else at):
            work.fate[i] = work.fate[i] if work.fate[i] or not odd >> (i - at) & 1 else ODD


@inlined
def _above(tile, classes, work):
    """Count the classes above the target of each lane."""
    target, above = work.target, work.above
    for c in range(classes):
        row = tile[c * PITCH : c * PITCH + LANES]
        for i in range(LANES):
            above[i] += np.int32(row[i] > target[i])


@inlined
def _mass(classes, mode, work):
    """Add the terms of some classes of each lane."""
    for at in range(0, LANES, VECTOR):
        if mode == PROBABILITIES:
            lane_probabilities(at, classes, work.tile, work.high, work.low)
        else:
            lane_logits(at, classes, work.tile, work.floor, work.around, work.high, work.low)


@inlined
def _targets(labels, first, classes, work):
    for i in range(labels.size):
        label = labels[i] - first
        if 0 <= label < classes:
            work.target[i] = work.tile[label * PITCH + i]


@inlined
def _grids(mode, work):
    """Set the grid of each lane, clear its sums, and find the odd ones."""
    peak, fate = work.peak, work.fate
    for i in range(LANES):
        fits = peak[i] <= 1 if mode & PROBABILITIES else is_usual(peak[i])
        fate[i] = fate[i] if fits or fate[i] else ODD
        work.high[i] = work.low[i] = 0
    if mode == LOGITS:
        set_grids(0, LANES, work)


def _earlier(values: Any, i: Any, label: Any, value: Any) -> Any:
    """Tell whether row i holds a value before its label."""


@overload(_earlier)
def _earlier_typed(values, i, label, value):
    def of_rows(values, i, label, value):
        return holds(values[i], label, value)

    def of_maps(values, i, label, value):
        b, a = divmod(i, values.shape[2])
        return holds(values[b, :, a], label, value)

    return of_maps if values.ndim == 3 else of_rows


@inlined
def _hits(values, start, labels, work):
    """Tell of each row whether its label is the first of its largest numbers."""
    ties = 0
    for i in range(LANES):
        hit = work.target[i] == work.peak[i]
        work.best[i] = hit
        ties += hit & (work.second[i] == work.peak[i])
    for i in range(labels.size if ties else 0):
        if work.best[i] and work.second[i] == work.peak[i] and not work.fate[i]:
            work.best[i] = not _earlier(values, start + i, labels[i], work.peak[i])


@inlined
def _scan_lanes(values, start, labels, rules, work):
    """Scan a block of rows, class by class."""
    every, n, tile = values.shape[1], labels.size, work.tile
    least = like(0.0 if rules.mode & PROBABILITIES else -np.inf, tile[0])
    for i in range(LANES):
        work.peak[i], work.second[i], work.above[i] = -np.inf, -np.inf, 0
    for at in range(0, every, CHUNK):
        classes = min(every - at, CHUNK)
        _load(values, start, at, classes, n, tile)
        _peaks(classes, least, work)
        _targets(labels, at, classes, work)
    _hits(values, start, labels, work)
    _grids(rules.mode, work)
    for at in range(0, every, CHUNK):
        classes = min(every - at, CHUNK)
        if every > CHUNK:
            _load(values, start, at, classes, n, tile)
        if rules.tops.size:
            _above(tile, classes, work)
        if rules.mode < NO_MASS:
            _mass(classes, rules.mode, work)
    if rules.mode == LOGITS:
        take_own(work)


@compiled
def tally_lanes(values, labels, weights, rules, work, model, terms, limbs, counts, odd, told):
    """Tally rows of few classes, or whose class axis is not last."""
    values, labels, weights, work = borrowed((values, labels, weights, work))
    terms, limbs, counts = borrowed((terms, limbs, counts))
    for start in range(0, labels.size, LANES):
        here = labels[start : start + LANES]
        if fates(here, weights, start, rules, work, counts, told):
            _scan_lanes(values, start, here, rules, work)
            if rules.mode < NO_MASS:
                block_losses(rules.mode, rules.tolerance, model, work, terms[LOSS])
            settle(here.size, weights, start, rules, work, terms, limbs, counts, odd, told)
    carry_all(limbs)
