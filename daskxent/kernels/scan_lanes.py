"""The scan of lanes: one class after the other, vectors along the rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from daskxent.kernels.arithmetic import grid, is_usual, scaled, sliced, term
from daskxent.kernels.blocks import CHUNK, LANES, LOGITS, PITCH, PROBABILITIES
from daskxent.kernels.compiling import inner, overload, widen
from daskxent.kernels.records import join, keep, outside, sum_odd, zero
from daskxent.rows import HAS_NAN, NO_BASE, PROBABILITY_BASE


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
    """Find peak, best and NaN of each lane."""
    peak, best, nan = work.peak, work.best, work.nan
    for i in range(LANES):
        peak[i], best[i], nan[i] = -np.inf, 0, 0
    for c in range(classes):
        row = tile[c * PITCH : c * PITCH + LANES]
        for i in range(LANES):
            x = row[i]
            risen = x > peak[i]
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
def _lane_logits(tile, classes, work):
    """Sum the slices of each lane, given its base."""
    floor, scale, slices = work.floor, work.scale, work.slices
    a, b, c, d = slices[:LANES], slices[LANES:], slices[2 * LANES :], slices[3 * LANES :]
    for i in range(LANES):
        work.base[i], floor[i], scale[i] = grid(work.peak[i])
    zero(work.slices)
    for at in range(classes):
        row = tile[at * PITCH : at * PITCH + LANES]
        for i in range(LANES):
            p, q, r, s = sliced(term(row[i], floor[i], scale[i]))
            a[i], b[i] = np.uint32(a[i] + p), np.uint32(b[i] + q)
            c[i], d[i] = np.uint32(c[i] + r), np.uint32(d[i] + s)


@inner
def _lane_units(tile, classes, work):
    """Sum the slices of the probabilities of each lane."""
    slices = work.slices
    a, b, c, d = slices[:LANES], slices[LANES:], slices[2 * LANES :], slices[3 * LANES :]
    zero(work.slices)
    for at in range(classes):
        row = tile[at * PITCH : at * PITCH + LANES]
        for i in range(LANES):
            p, q, r, s = sliced(scaled(row[i]))
            a[i], b[i] = np.uint32(a[i] + p), np.uint32(b[i] + q)
            c[i], d[i] = np.uint32(c[i] + r), np.uint32(d[i] + s)


@inner
def _lane_odd(n, classes, work):
    """Sum the lanes with an unusual peak again, the slow way."""
    for i in range(n):
        if not is_usual(work.peak[i]):
            zero(work.sums)
            work.base[i] = sum_odd(work.tile[i:], classes, PITCH, work.peak[i], work.sums)
            for s in range(4):
                work.slices[s * LANES + i] = work.sums[s]


@inner
def _lane_sums(mode, n, classes, work):
    """Put base and slices of each lane into `work`."""
    if mode == LOGITS:
        _lane_logits(work.tile, classes, work)
        unusual = 0
        for i in range(LANES):
            unusual += not is_usual(work.peak[i])
        if unusual:
            _lane_odd(n, classes, work)
        return
    for i in range(LANES):
        work.base[i] = PROBABILITY_BASE if mode == PROBABILITIES else NO_BASE
    if mode == PROBABILITIES:
        _lane_units(work.tile, classes, work)
    else:
        zero(work.slices)


@inner
def _lane_records(rows, offset, n, first, work):
    """Write the records of rows of which these are the first classes."""
    peak, best, base, flags = rows.peak[offset:], rows.best[offset:], rows.base[offset:], rows.flags[offset:]
    for i in range(n):
        peak[i], best[i], base[i] = work.peak[i], first + work.best[i], work.base[i]
        flags[i] = HAS_NAN if work.nan[i] else 0
        rows.target[offset + i] = 0
    for i in range(n * rows.top.shape[1]):
        rows.top[offset + i // rows.top.shape[1], i % rows.top.shape[1]] = -np.inf
    for s in range(rows.mass.shape[0]):
        mass, slices = rows.mass[s, offset:], work.slices[s * LANES :]
        for i in range(n):
            mass[i] = slices[i]


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
                for s in range(4):
                    work.sums[s] = work.slices[s * LANES + i]
                best = first + at + work.best[i]
                join(rows, offset + i, False, work.peak[i], best, work.base[i], work.nan[i], work.sums)
        if unit:
            _lane_lows(work.tile, classes, at == 0, work.low)
        _lane_extras(labels, first + at, rows, offset, classes, work)
    if unit:
        for i in range(n):
            rows.flags[offset + i] |= outside(work.low[i], rows.peak[offset + i])
