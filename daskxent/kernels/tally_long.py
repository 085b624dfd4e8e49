"""The tally of long rows: a lean scan, one row after the other, which makes no records."""

from __future__ import annotations

from typing import Any

import numpy as np

from daskxent.kernels.arithmetic import key_of, number_of, scaled, sliced
from daskxent.kernels.blocks import CHUNK, GROUP, GROUP_BITS, LANES, LOGITS, NO_MASS, PROBABILITIES, fetch
from daskxent.kernels.compiling import borrowed, compiled, inner, overload, widen
from daskxent.kernels.tally_block import (
    LOSS,
    ODD,
    block_losses,
    borrowed_work,
    carry_all,
    fates,
    is_tame,
    lean_grid,
    lean_term,
    settle,
)


def _row(values: Any, i: Any, tile: Any) -> Any:
    """Return row i as an array that lies in one piece."""


@overload(_row)
def _row_typed(values, i, tile):
    def copied(values, i, tile):
        row = tile[: values.shape[1]]
        for j in range(values.shape[1]):
            row[j] = widen(values[i, j])
        return row

    return (lambda values, i, tile: values[i]) if values.layout == "C" else copied


@inner
def _extremes(row, low, high):
    """Lower and raise two keys to those of a row whose length is a multiple of GROUP."""
    for j in range((row.size >> GROUP_BITS) << GROUP_BITS):
        key = key_of(widen(row[j]))
        high = key if key > high else high
        low = key if key < low else low
    return low, high


@inner
def _mass(row, mode, floor, around, sums, at):
    """Add the slices of a row whose length is a multiple of GROUP to ``sums[:, at]``."""
    for start in range(0, row.size, CHUNK):
        chunk = row[start : start + CHUNK]
        count = (chunk.size >> GROUP_BITS) << GROUP_BITS
        fetch(row, row.size + start)
        s0 = s1 = s2 = s3 = np.uint32(0)
        if mode == PROBABILITIES:
            for j in range(count):
                a, b, c, d = sliced(scaled(widen(chunk[j])))
                s0, s1, s2, s3 = np.uint32(s0 + a), np.uint32(s1 + b), np.uint32(s2 + c), np.uint32(s3 + d)
        else:
            for j in range(count):
                a, b, c, d = sliced(lean_term(widen(chunk[j]), floor, around))
                s0, s1, s2, s3 = np.uint32(s0 + a), np.uint32(s1 + b), np.uint32(s2 + c), np.uint32(s3 + d)
        sums[0, at] += np.int64(s0)
        sums[1, at] += np.int64(s1)
        sums[2, at] += np.int64(s2)
        sums[3, at] += np.int64(s3)


@inner
def _tail(row, full, tail):
    """Copy what a row has beyond its first `full` numbers, and pad it with the first of all."""
    for j in range(GROUP):
        tail[j] = row[0]
    for j in range(row.size - full):
        tail[j] = row[full + j]


@inner
def _scan_row(row, full, label, i, rules, work):
    """Find peak, rank and target of a row."""
    first = key_of(widen(row[0]))
    low, high = _extremes(row[:full], first, first)
    low, high = _extremes(work.tail, low, high)
    peak, lowest, target = number_of(high), number_of(low), widen(row[label])
    work.peak[i], work.target[i] = peak, target
    # Keys of NaN lie outside those of the infinities, so one of the two is NaN where the row has any.
    fits = -np.inf < peak < np.inf and lowest <= peak
    if not fits or (rules.mode == PROBABILITIES and (lowest < 0 or peak > 1)):
        work.fate[i] = ODD
    ahead = above = 0
    if target == peak:
        for j in range(label):
            ahead += widen(row[j]) == peak
    work.best[i] = target == peak and ahead == 0
    if rules.tops.size:
        for j in range(row.size):
            above += widen(row[j]) > target
    work.above[i] = above


@inner
def _sum_row(row, full, i, mode, work):
    """Sum the slices of a row; what its tail is padded with is taken away again."""
    sums, peak, main, tail = work.sums, work.peak[i], row[:full], work.tail
    sums[0, i] = sums[1, i] = sums[2, i] = sums[3, i] = 0
    floor, around = lean_grid(peak)
    if mode == PROBABILITIES:
        _mass(main, PROBABILITIES, floor, around, sums, i)
        _mass(tail, PROBABILITIES, floor, around, sums, i)
        a, b, c, d = sliced(scaled(widen(row[0])))
    elif is_tame(peak):
        _mass(main, LOGITS, floor, around, sums, i)
        _mass(tail, LOGITS, floor, around, sums, i)
        a, b, c, d = sliced(lean_term(widen(row[0]), floor, around))
    else:
        return
    padded = GROUP - (row.size - full)
    sums[0, i] -= np.int64(a) * padded
    sums[1, i] -= np.int64(b) * padded
    sums[2, i] -= np.int64(c) * padded
    sums[3, i] -= np.int64(d) * padded


@inner
def _scan_rows(values, start, labels, rules, work):
    full = (values.shape[1] >> GROUP_BITS) << GROUP_BITS
    for i in range(labels.size):
        if work.fate[i] == 0:
            row = _row(values, start + i, work.tile)
            _tail(row, full, work.tail)
            _scan_row(row, full, labels[i], i, rules, work)
            if rules.mode < NO_MASS:
                _sum_row(row, full, i, rules.mode, work)


@compiled
def tally_long(values, labels, weights, rules, work, model, terms, limbs, counts, odd, hidden):
    """Tally long rows."""
    values, labels, weights, work = borrowed(values), borrowed(labels), borrowed(weights), borrowed_work(work)
    terms, limbs, counts = borrowed(terms), borrowed(limbs), borrowed(counts)
    for start in range(0, labels.size, LANES):
        here = labels[start : start + LANES]
        if fates(here, weights, start, rules, work, counts, hidden):
            _scan_rows(values, start, here, rules, work)
            if rules.mode < NO_MASS:
                block_losses(rules.mode, rules.tolerance, model, work, terms[LOSS])
            settle(here.size, weights, start, rules, work, terms, limbs, counts, odd)
    carry_all(limbs)
