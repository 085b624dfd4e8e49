"""The scan of long rows: one row after the other, vectors along the classes."""

from __future__ import annotations

import numpy as np

from daskxent.kernels.arithmetic import (
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
)
from daskxent.kernels.blocks import CHUNK, GROUP, GROUP_BITS, NO_MASS, PIECE, PROBABILITIES
from daskxent.kernels.llvm.along import two_largest
from daskxent.kernels.llvm.compiling import inner, like, widen
from daskxent.kernels.records import join, keep, outside, sum_odd, zero
from daskxent.numbers.records import MAGIC_BITS, NO_BASE, PROBABILITY_BASE


@inner
def _sum_logits(piece, peak, base, sums):
    """Add up the terms of a piece whose length is a multiple of GROUP, all but the peak's own."""
    floor, around = grid(base, peak)
    a = b = c = d = e = f = g = h = np.int64(0)
    for j in range((piece.size >> GROUP_BITS) << GROUP_BITS):
        s, t, u, v, w, x, y, z = units_by_level(term(piece[j], floor, around))
        a, b, c, d, e, f, g, h = a + s, b + t, c + u, d + v, e + w, f + x, g + y, h + z
    bits = level_bits(peak)
    for level, found in enumerate((a, b, c, d, e, f, g, h)):
        sums[level] = found - piece.size * bits[level]
    add_term(peak, base, peak, -1, sums)


@inner
def _sum_units(piece, count, sums):
    """Add up the first `count` probabilities of a piece."""
    a = b = np.int64(0)
    for j in range(count):
        s, t = units(scaled(piece[j]))
        a, b = a + s, b + t
    zero(sums)
    sums[0] = a - count * MAGIC_BITS
    if grid_of(piece[0])[3] == 2:
        sums[grid_of(piece[0])[2]] = b - count * MAGIC_BITS


@inner
def _first(row, value):
    """Return the first index at which a row holds a value; its length is a multiple of GROUP."""
    for start in range(0, row.size, CHUNK):
        chunk = row[start : start + CHUNK]
        first = np.int32(CHUNK)
        for j in range((chunk.size >> GROUP_BITS) << GROUP_BITS):
            at = np.int32(j) if chunk[j] == value else np.int32(CHUNK)
            first = at if at < first else first
        if first < CHUNK:
            return start + first
    return 0


@inner
def _load(source, piece):
    """Widen a piece of a row, NaN as -inf; return its two largest and whether it has NaN."""
    none = like(-np.inf, piece[0])
    for j in range(source.size):
        piece[j] = widen(source[j])
    for j in range(source.size, piece.size):
        piece[j] = none
    peak, second, nan = two_largest(piece)
    if nan:
        for j in range(source.size):
            piece[j] = piece[j] if piece[j] == piece[j] else none
    return peak, second, nan


@inner
def _lowest(source, low):
    """Return the smallest of `low` and the numbers of a row, NaN left aside."""
    for j in range(source.size):
        x = widen(source[j])
        low = x if x < low else low
    return low


@inner
def _piece_mass(count, piece, peak, second, mode, sums):
    """Put the mass of the `count` classes of a piece into `sums`; return its base."""
    if mode >= NO_MASS:
        zero(sums)
        return np.int64(NO_BASE)
    if mode == PROBABILITIES:
        _sum_units(piece, count, sums)
        return np.int64(PROBABILITY_BASE)
    base = base_of(peak, second)
    if is_usual(peak):
        _sum_logits(piece, peak, base, sums)
    else:
        zero(sums)
        sum_odd(piece, count, 1, peak, base, sums)
    return base


@inner
def scan_long(values, start, labels, first, mode, rows, offset, work):
    """Scan the rows from `start` on, one for each label, into the records from `offset` on."""
    classes = values.shape[1]
    for i in range(labels.size):
        record = offset + i
        low = like(np.inf, work.tile[0])
        for place in range(rows.top.shape[1]):
            rows.top[record, place] = -np.inf
        for at in range(0, classes, PIECE):
            source = values[start + i, at : at + PIECE]
            piece = work.tile[: ((source.size + GROUP - 1) >> GROUP_BITS) << GROUP_BITS]
            peak, second, nan = _load(source, piece)
            if mode & PROBABILITIES:
                low = _lowest(source, low)
            base = _piece_mass(source.size, piece, peak, second, mode, work.sums)
            if rows.top.shape[1] and peak > rows.top[record, -1]:
                keep(rows.top[record], piece, source.size, 1)
            best = first + at + _first(piece, peak)
            join(rows, record, at == 0, best, nan, (peak, second, base), work.sums)
        if mode & PROBABILITIES:
            rows.flags[record] |= outside(low, rows.peak[record])
        label = labels[i] - first
        rows.target[record] = widen(values[start + i, label]) if 0 <= label < classes else 0.0
