"""The scan of long rows: one row after the other, vectors along the classes."""

from __future__ import annotations

import numpy as np

from daskxent.kernels.arithmetic import grid, is_usual, key_of, number_of, scaled, sliced, term
from daskxent.kernels.blocks import CHUNK, GROUP, GROUP_BITS, NO_MASS, PIECE, PROBABILITIES, fetch
from daskxent.kernels.compiling import inner, like, widen
from daskxent.kernels.records import add_slices, join, keep, outside, sum_odd, zero
from daskxent.rows import NO_BASE, PROBABILITY_BASE


@inner
def _sum_logits(source, row, floor, scale, sums):
    """Add the slices of a piece of a row to `sums`; its length is a multiple of GROUP. Fetch what follows `source`."""
    for at in range(0, row.size, CHUNK):
        chunk = row[at : at + CHUNK]
        fetch(source, source.size + at)
        s0 = s1 = s2 = s3 = np.uint32(0)
        for j in range((chunk.size >> GROUP_BITS) << GROUP_BITS):
            a, b, c, d = sliced(term(chunk[j], floor, scale))
            s0, s1, s2, s3 = np.uint32(s0 + a), np.uint32(s1 + b), np.uint32(s2 + c), np.uint32(s3 + d)
        add_slices(sums, s0, s1, s2, s3, 1)


@inner
def _sum_units(source, row, sums):
    """Do the same for probabilities."""
    for at in range(0, row.size, CHUNK):
        chunk = row[at : at + CHUNK]
        fetch(source, source.size + at)
        s0 = s1 = s2 = s3 = np.uint32(0)
        for j in range((chunk.size >> GROUP_BITS) << GROUP_BITS):
            a, b, c, d = sliced(scaled(chunk[j]))
            s0, s1, s2, s3 = np.uint32(s0 + a), np.uint32(s1 + b), np.uint32(s2 + c), np.uint32(s3 + d)
        add_slices(sums, s0, s1, s2, s3, 1)


@inner
def _extremes(row):
    """Return the smallest and the largest key of a row whose length is a multiple of GROUP."""
    low = high = key_of(row[0])
    for j in range((row.size >> GROUP_BITS) << GROUP_BITS):
        key = key_of(row[j])
        high = key if key > high else high
        low = key if key < low else low
    return low, high


@inner
def _first(row, value):
    """Return the first index at which a row holds a value; its length is a multiple of GROUP."""
    first = np.int32(CHUNK)
    for j in range((row.size >> GROUP_BITS) << GROUP_BITS):
        at = np.int32(j) if row[j] == value else np.int32(CHUNK)
        first = at if at < first else first
    return first


@inner
def _load(source, piece, fill):
    """Widen a chunk of a row; return its smallest and largest key. `fill` goes behind it (NaN: its first number)."""
    if source.size == CHUNK:
        low = high = key_of(widen(source[0]))
        for j in range(CHUNK):
            x = widen(source[j])
            piece[j] = x
            key = key_of(x)
            high = key if key > high else high
            low = key if key < low else low
        return low, high
    for j in range(source.size):
        piece[j] = widen(source[j])
    fill = piece[0] if fill != fill else like(fill, piece[0])
    for j in range(source.size, piece.size):
        piece[j] = fill
    return _extremes(piece)


@inner
def _peak(source, piece, fill):
    """Widen a piece of a row; return its peak, the first index of it, the lowest number and whether there is NaN."""
    none = like(-np.inf, piece[0])
    floor, ceiling = key_of(none), key_of(-none)
    peak, lowest, where, nan = none, -none, 0, False
    for at in range(0, piece.size, CHUNK):
        chunk = piece[at : at + CHUNK]
        low, high = _load(source[at : at + CHUNK], chunk, fill)
        if low < floor or high > ceiling:  # keys of NaN lie outside those of the infinities
            nan = True
            for j in range(chunk.size):
                if chunk[j] != chunk[j]:
                    chunk[j] = none
                else:
                    lowest = min(lowest, chunk[j])
            high = _extremes(chunk)[1]
        else:
            lowest = min(lowest, number_of(low))
        if number_of(high) > peak:  # as floats, so that -0.0 and 0.0 tie
            peak, where = number_of(high), at
    return peak, where + _first(piece[where : where + CHUNK], peak), lowest, nan


@inner
def _piece_mass(source, piece, peak, mode, sums):
    """Add the slices of a piece to `sums`; return its base."""
    if mode == PROBABILITIES:
        _sum_units(source, piece, sums)
        a, b, c, d = sliced(scaled(piece[piece.size - 1]))
        add_slices(sums, a, b, c, d, source.size - piece.size)  # takes away what `_load` put behind the row
        return np.int64(PROBABILITY_BASE)
    if not is_usual(peak):
        return sum_odd(piece, source.size, 1, peak, sums)
    base, floor, scale = grid(peak)
    _sum_logits(source, piece, floor, scale, sums)
    return base


@inner
def scan_long(values, start, labels, first, mode, rows, offset, work):
    """Scan the rows from `start` on, one for each label, into the records from `offset` on."""
    classes = values.shape[1]
    unit = (mode & PROBABILITIES) != 0
    fill = np.nan if unit else -np.inf
    for i in range(labels.size):
        record = offset + i
        low = np.inf
        for place in range(rows.top.shape[1]):
            rows.top[record, place] = -np.inf
        for at in range(0, classes, PIECE):
            source = values[start + i, at : at + PIECE]
            piece = work.tile[: ((source.size + GROUP - 1) >> GROUP_BITS) << GROUP_BITS]
            peak, best, lowest, nan = _peak(source, piece, fill)
            low = min(low, lowest)
            zero(work.sums)
            base = np.int64(NO_BASE)
            if mode < NO_MASS:
                base = _piece_mass(source, piece, peak, mode, work.sums)
            if rows.top.shape[1] and peak > rows.top[record, -1]:
                keep(rows.top[record], piece, source.size, 1)
            join(rows, record, at == 0, peak, first + at + best, base, nan, work.sums)
        if unit:
            rows.flags[record] |= outside(low, rows.peak[record])
        label = labels[i] - first
        rows.target[record] = widen(values[start + i, label]) if 0 <= label < classes else 0.0
