"""The tally of long rows: a lean scan, one row after the other, which makes no records."""

from __future__ import annotations

from typing import Any

import numpy as np

from daskxent.kernels.arithmetic import grid, is_usual, scaled, term, units, usual_base
from daskxent.kernels.blocks import LANES, NO_MASS, PROBABILITIES
from daskxent.kernels.compiling import bits_of, borrowed, compiled, from_bits, inner, like, overload, widen
from daskxent.kernels.largest import largest_of
from daskxent.kernels.tally_block import (
    LOSS,
    ODD,
    block_losses,
    borrowed_work,
    carry_all,
    fates,
    settle,
)
from daskxent.rows import MAGIC_BITS


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
def _largest_unit(row):
    """Return the largest of probabilities, or NaN where any is negative or NaN."""
    # As integers with a sign, the bits of floats that are not negative are in their order; all others are below 0.
    high = low = bits_of(widen(row[0]))
    for j in range(row.size):
        bits = bits_of(widen(row[j]))
        high = bits if bits > high else high
        low = bits if bits < low else low
    return from_bits(high) if low >= 0 else like(np.nan, widen(row[0]))


@inner
def _sum_logits(row, floor, around):
    """Return the sum of the terms of a row, in units and what those leave."""
    a = b = np.int64(0)
    for j in range(row.size):
        s, t = units(term(widen(row[j]), floor, around))
        a, b = a + s, b + t
    return a - row.size * MAGIC_BITS, b - row.size * MAGIC_BITS


@inner
def _sum_units(row):
    """Do the same for probabilities."""
    a = b = np.int64(0)
    for j in range(row.size):
        s, t = units(scaled(widen(row[j])))
        a, b = a + s, b + t
    return a - row.size * MAGIC_BITS, b - row.size * MAGIC_BITS


@inner
def _find(row, label, i, rules, work):
    """Find the two largest numbers, the number at the label and its rank."""
    if rules.mode & PROBABILITIES:
        second = peak = _largest_unit(row)
        fits = peak <= 1
    else:
        peak, second, nan = largest_of(row)
        fits = not nan and is_usual(peak)
    target = widen(row[label])
    work.peak[i], work.second[i], work.target[i] = peak, second, target
    work.fate[i] = 0 if fits else ODD
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
def _sum_row(row, i, mode, work):
    """Sum the terms of a row: of logits, all but the peak's own."""
    if mode == PROBABILITIES:
        work.high[i], work.low[i] = _sum_units(row)
        return
    peak = work.peak[i]
    work.base[i] = base = usual_base(peak, work.second[i])
    floor, around = grid(base, peak)
    a, b = _sum_logits(row, floor, around)
    s, t = units(term(peak, floor, around))
    work.high[i] = a - (s - MAGIC_BITS)
    work.low[i] = b - (t - MAGIC_BITS)


@inner
def _scan_rows(values, start, labels, rules, work):
    for i in range(labels.size):
        if work.fate[i] == 0:
            row = _row(values, start + i, work.tile)
            _find(row, labels[i], i, rules, work)
            if rules.mode < NO_MASS and work.fate[i] == 0:
                _sum_row(row, i, rules.mode, work)


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
