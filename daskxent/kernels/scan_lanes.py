"""The scan of lanes: one class after the other, vectors along the rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from daskxent.kernels.arithmetic import (
    SUMS,
    add_term,
    base_of,
    grid,
    grid_of,
    is_usual,
    level_bits,
    scaled,
    term,
    units,
    units_by_level,
    usual_base,
)
from daskxent.kernels.blocks import CHUNK, LANES, LOGITS, PITCH, PROBABILITIES
from daskxent.kernels.llvm.compiling import inner, overload, widen
from daskxent.kernels.records import join, keep, outside, sum_odd, zero
from daskxent.numbers.records import HAS_NAN, MAGIC_BITS, NO_BASE, PROBABILITY_BASE


def _load_lanes(values: Any, start: int, at: int, classes: int, n: int, tile: Any) -> None:
    """Widen the classes from `at` on of the rows from `start` on into ``tile[class * PITCH + row]``."""


@overload(_load_lanes)
def _load_lanes_typed(values, start, at, classes, n, tile):
    return _load_transposed if values.ndim == 2 else load_maps


def _load_transposed(values, start, at, classes, n, tile):
    block = values[start : start + n, at : at + classes]
    fours = n >> 2 << 2
    for i in range(0, fours, 4):  # one store instead of four
        for c in range(classes):
            for k in range(4):
                tile[c * PITCH + i + k] = widen(block[i + k, c])
    for i in range(fours, n):
        for c in range(classes):
            tile[c * PITCH + i] = widen(block[i, c])


def load_maps(values, start, at, classes, n, tile):
    """Load lanes from an array whose class axis is not last."""
    after = values.shape[2]
    done = 0
    while done < n:
        b, a = divmod(start + done, after)
        run = min(after - a, n - done)
        for c in range(classes):
            source = values[b, at + c, a : a + run]
            lanes = tile[c * PITCH + done : c * PITCH + done + run]
            for i in range(run):
                lanes[i] = widen(source[i])
        done += run


@inner
def _lane_peaks(tile, classes, work):
    """Find the two largest numbers, best and NaN of each lane."""
    peak, second, best, nan = work.peak, work.second, work.best, work.nan
    for i in range(LANES):
        peak[i], second[i], best[i], nan[i] = -np.inf, -np.inf, 0, 0
    for c in range(classes):
        row = tile[c * PITCH : c * PITCH + LANES]
        for i in range(LANES):
            x = row[i]
            risen = x > peak[i]
            lower = peak[i] if risen else x
            second[i] = lower if lower > second[i] else second[i]
            peak[i] = x if risen else peak[i]
            best[i] = np.int32(c) if risen else best[i]
            nan[i] = np.int32(nan[i] | (x != x))


@inner
def _lane_lows(tile, classes, fresh, low):
    """Find the lowest number of each lane, NaN left aside."""
    if fresh:
        for i in range(LANES):
            low[i] = np.inf
    for c in range(classes):
        row = tile[c * PITCH : c * PITCH + LANES]
        for i in range(LANES):
            low[i] = row[i] if row[i] < low[i] else low[i]


@inner
def _lane_terms(tile, classes, work):
    """Sum the terms of each lane at every level, on top of bits."""
    floor, around, mass = work.floor, work.around, work.mass
    for s in range(SUMS):
        for i in range(LANES):
            mass[s, i] = 0
    for at in range(classes):
        row = tile[at * PITCH : at * PITCH + LANES]
        for i in range(LANES):
            found = units_by_level(term(row[i], floor[i], around[i]))
            for s in range(SUMS):
                mass[s, i] += found[s]


@inner
def _lane_logits(tile, n, classes, work):
    """Sum the terms of each lane at every level, all but the peak's own."""
    peak, base = work.peak, work.base
    for i in range(LANES):
        base[i] = usual_base(peak[i], work.second[i])
        work.floor[i], work.around[i] = grid(base[i], peak[i])
    _lane_terms(tile, classes, work)
    bits = level_bits(peak[0])
    for i in range(n):
        for s in range(SUMS):
            work.sums[s] = work.mass[s, i] - classes * bits[s]
        if is_usual(peak[i]):
            add_term(peak[i], base[i], peak[i], -1, work.sums)
        else:
            zero(work.sums)
            base[i] = base_of(peak[i], work.second[i])
            sum_odd(tile[i:], classes, PITCH, peak[i], base[i], work.sums)
        for s in range(SUMS):
            work.mass[s, i] = work.sums[s]


@inner
def _lane_units(tile, classes, work):
    """Sum the probabilities of each lane."""
    levels, integers = grid_of(work.peak[0])[2:]
    for s in range(SUMS):
        for i in range(LANES):
            work.mass[s, i] = 0
    low, high = work.mass[levels if integers == 2 else SUMS - 1], work.mass[0]
    for at in range(classes):
        row = tile[at * PITCH : at * PITCH + LANES]
        for i in range(LANES):
            a, b = units(scaled(row[i]))
            high[i] += a - MAGIC_BITS
            low[i] += b - MAGIC_BITS


@inner
def _lane_sums(mode, n, classes, work):
    """Put base and mass of each lane into `work`."""
    if mode == LOGITS:
        _lane_logits(work.tile, n, classes, work)
        return
    for i in range(LANES):
        work.base[i] = PROBABILITY_BASE if mode == PROBABILITIES else NO_BASE
    if mode == PROBABILITIES:
        _lane_units(work.tile, classes, work)
    else:
        for i in range(LANES):
            for s in range(SUMS):
                work.mass[s, i] = 0


@inner
def _lane_records(rows, offset, n, first, work):
    """Write the records of rows of which these are the first classes."""
    peak, best, base, flags = rows.peak[offset:], rows.best[offset:], rows.base[offset:], rows.flags[offset:]
    for i in range(n):
        peak[i], best[i], base[i] = work.peak[i], first + work.best[i], work.base[i]
        rows.second[offset + i] = work.second[i]
        flags[i] = HAS_NAN if work.nan[i] else 0
        rows.target[offset + i] = 0
    for i in range(n * rows.top.shape[1]):
        rows.top[offset + i // rows.top.shape[1], i % rows.top.shape[1]] = -np.inf
    for s in range(rows.mass.shape[0]):
        mass = rows.mass[s, offset:]
        for i in range(n):
            mass[i] = work.mass[s, i]


@inner
def _lane_extras(labels, first, rows, offset, classes, work):
    """Note the values at the labels and the largest values of each lane."""
    for i in range(labels.size):
        label = labels[i] - first
        if 0 <= label < classes:
            rows.target[offset + i] = work.tile[label * PITCH + i]
    if rows.top.shape[1]:
        for i in range(labels.size):
            if work.peak[i] > rows.top[offset + i, -1]:
                keep(rows.top[offset + i], work.tile[i:], classes, PITCH)


@inner
def scan_lanes(values, start, labels, first, mode, rows, offset, work):
    """Scan the rows from `start` on, one for each label, into the records from `offset` on."""
    every, n = values.shape[1], labels.size
    unit = (mode & PROBABILITIES) != 0
    for at in range(0, every, CHUNK):
        classes = min(every - at, CHUNK)
        _load_lanes(values, start, at, classes, n, work.tile)
        _lane_peaks(work.tile, classes, work)
        _lane_sums(mode, n, classes, work)
        if at == 0:
            _lane_records(rows, offset, n, first, work)
        else:
            for i in range(n):
                for s in range(SUMS):
                    work.sums[s] = work.mass[s, i]
                best, piece = first + at + work.best[i], (work.peak[i], work.second[i], work.base[i])
                join(rows, offset + i, False, best, work.nan[i], piece, work.sums)
        if unit:
            _lane_lows(work.tile, classes, at == 0, work.low)
        _lane_extras(labels, first + at, rows, offset, classes, work)
    if unit:
        for i in range(n):
            rows.flags[offset + i] |= outside(work.low[i], rows.peak[offset + i])
