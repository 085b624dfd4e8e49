"""What a tally does to a block of rows of either kind: judge them by label and weight, take losses, add to the sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import types

from daskxent import elementary
from daskxent.kernels.arithmetic import (
    E4,
    E8,
    L8,
    LOG2E_F4,
    LOG2E_F8,
    N4,
    REACH_F4,
    REACH_F8,
    ROUND_F4,
    ROUND_F8,
    USUAL_F8,
    clip,
    over_24,
    scaled,
    sliced,
)
from daskxent.kernels.blocks import CHUNK, GROUP, LANES, NO_MASS, PITCH, PROBABILITIES
from daskxent.kernels.compiling import bits_of, borrowed, from_bits, inner, like, overload
from daskxent.kernels.crossentropy import excess_of, log1p, near_power_of_two, value_of
from daskxent.kernels.sums import add_block, carry
from daskxent.rows import EPSILON, PROBABILITY_BASE, SLICE_BITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

USED, IGNORED, MASKED, ODD, SEEN = 0, 1, 2, 3, 4  # places in `counts`; hits without weights are counted from SEEN on
WEIGHT, LOSS, HIT = 0, 1, 2  # rows of `terms` and `limbs`; the top-k statistics follow


class Rules(NamedTuple):
    """What the compiled loop must know of a question."""

    mode: int
    classes: int
    has_ignore: bool
    ignore: int
    tops: NDArray[np.int64]
    tolerance: float


class Work(NamedTuple):
    """What a block of rows needs on the way, one place a row; `peak`, `target` and `tile` as wide as the numbers."""

    tile: Any  # widened predictions, PITCH apart, or a row that does not lie in one piece
    tail: Any  # the rest of a row beyond a multiple of GROUP, as it is stored
    peak: Any
    low: Any
    target: Any
    best: Any
    above: Any
    fate: Any
    slices: Any
    sums: Any


def work_for(wide: np.dtype[Any], stored: np.dtype[Any], classes: int) -> Work:
    """Return room for a block of `stored` numbers that are widened to `wide`."""
    number = np.float32 if wide == np.float32 else np.float64
    return Work(
        tile=np.zeros(max(min(classes + 16, CHUNK) * PITCH, classes), number),
        tail=np.zeros(GROUP, stored),
        peak=np.zeros(LANES, number),
        low=np.zeros(LANES, number),
        target=np.zeros(LANES, number),
        best=np.zeros(LANES, np.int32),
        above=np.zeros(LANES, np.int32),
        fate=np.zeros(LANES, np.int32),
        slices=np.zeros((4, LANES), np.uint32),
        sums=np.zeros((4, LANES), np.int64),
    )


@inner
def borrowed_work(w):
    """Return the work without the owners of its arrays."""
    return Work(
        borrowed(w.tile),
        borrowed(w.tail),
        borrowed(w.peak),
        borrowed(w.low),
        borrowed(w.target),
        borrowed(w.best),
        borrowed(w.above),
        borrowed(w.fate),
        borrowed(w.slices),
        borrowed(w.sums),
    )


# Peaks below these in magnitude are treated here: all their classes in reach are small arguments of exp.
_NEAR_USUAL_F4 = np.float32(elementary.NEAR_F4 - 71.0)
# exp(r) doubled: the powers of two below are halved, so that what is added to the rounding constant is even.
_TWICE_E4, _TWICE_E8 = tuple(np.float32(2) * c for c in E4), tuple(2.0 * c for c in E8)


def is_tame(peak: Any) -> Any:
    """Tell whether a row of logits with this peak is treated here."""


def lean_grid(peak: Any) -> Any:
    """Return floor and rounding constant of the terms of a row with this peak."""


def lean_term(x: Any, floor: Any, around: Any) -> Any:
    """Return exp(x) in units of the grid, to the bits of `arithmetic.term`."""


@overload(is_tame)
def _is_tame_typed(peak):
    limit = _NEAR_USUAL_F4 if peak == types.float32 else USUAL_F8
    return lambda peak: abs(peak) < limit


@overload(lean_grid)
def _lean_grid_typed(peak):
    def f4(peak):
        base = over_24((peak * LOG2E_F4 + ROUND_F4) - ROUND_F4)
        return peak - REACH_F4, ROUND_F4 + np.float32(126 - SLICE_BITS * base)

    def f8(peak):
        base = over_24((peak * LOG2E_F8 + ROUND_F8) - ROUND_F8)
        return peak - REACH_F8, ROUND_F8 + (1022 - SLICE_BITS * base)

    return f4 if peak == types.float32 else f8


@overload(lean_term)
def _lean_term_typed(x, floor, around):
    e, f = _TWICE_E4, _TWICE_E8

    def f4(x, floor, around):
        x = x if x > floor else floor
        shifted = x * LOG2E_F4 + around
        n = shifted - around
        r = (x - n * N4[0]) - n * N4[1]
        p = ((((e[5] * r + e[4]) * r + e[3]) * r + e[2]) * r + e[1]) * r + e[0]
        return p * from_bits(np.int32(bits_of(shifted) << 23))

    def f8(x, floor, around):
        x = x if x > floor else floor
        shifted = x * LOG2E_F8 + around
        n = shifted - around
        r = ((x - n * L8[0]) - n * L8[1]) - n * L8[2]
        high = (((((f[13] * r + f[12]) * r + f[11]) * r + f[10]) * r + f[9]) * r + f[8]) * r + f[7]
        p = ((((((high * r + f[6]) * r + f[5]) * r + f[4]) * r + f[3]) * r + f[2]) * r + f[1]) * r + f[0]
        return p * from_bits(bits_of(shifted) << 52)

    return f4 if x == types.float32 else f8


@inner
def fates(labels, weights, start, rules, work, counts, hidden):
    """Decide by label and weight what becomes of each row; tell whether any is to be looked at."""
    fate, seen = work.fate, 0
    for i in range(labels.size):
        fate[i] = 0 if 0 <= labels[i] < rules.classes else ODD
    if not (rules.has_ignore or weights.size):
        return True
    for i in range(labels.size):
        weight = weights[start + i] if weights.size else 1.0
        why = IGNORED if rules.has_ignore and labels[i] == rules.ignore else MASKED if weight == 0.0 else 0
        if not 0.0 <= weight < np.inf:
            fate[i] = ODD
        elif why:
            fate[i] = why
            if counts[why] < hidden.shape[1]:
                hidden[why - IGNORED, counts[why]] = start + i
            counts[why] += 1
        seen += fate[i] == 0 or fate[i] == ODD
    return seen > 0


@inner
def block_losses(mode, tolerance, model, work, out):
    """Put the losses of a block into `out`; rows that are not treated here become odd."""
    a, b, c, d = work.sums[0], work.sums[1], work.sums[2], work.sums[3]
    peaks, targets, fate = work.peak, work.target, work.fate
    if mode == PROBABILITIES:
        for i in range(LANES):
            total = value_of(a[i], b[i], c[i], d[i], model) * 2.0 ** (SLICE_BITS * PROBABILITY_BASE)
            fits = np.float64(targets[i]) >= EPSILON and abs(total - 1.0) <= tolerance
            fate[i] = fate[i] if fits or fate[i] else ODD
            own = sliced(scaled(targets[i]))
            rest = value_of(a[i] - own[0], b[i] - own[1], c[i] - own[2], d[i] - own[3], model)
            out[i] = log1p(rest * 2.0 ** (SLICE_BITS * PROBABILITY_BASE) / np.float64(clip(targets[i])))
        return
    for i in range(LANES):
        tame = is_tame(peaks[i])
        fate[i] = fate[i] if tame or fate[i] else ODD
        peak = peaks[i] if tame else like(0.0, model)
        power, p = near_power_of_two(peak)
        excess = excess_of(a[i], b[i], c[i], d[i], over_24(np.float64(power)), np.float64(peak), power, p)
        out[i] = log1p(excess) + (np.float64(peak) - np.float64(targets[i]))


@inner
def settle(n, weights, start, rules, work, terms, limbs, counts, odd):
    """Add a block to the sums; put odd rows aside."""
    fate, best, above = work.fate, work.best, work.above
    used = hits = 0
    for i in range(n):
        ok = fate[i] == 0
        used += ok
        hits += ok & (best[i] != 0)
    counts[USED] += used
    counts[SEEN] += hits
    for k in range(rules.tops.size):
        for i in range(n):
            counts[SEEN + 1 + k] += (fate[i] == 0) & (above[i] < rules.tops[k])
    if used < n:
        for i in range(n):
            terms[LOSS, i] = terms[LOSS, i] if fate[i] == 0 else 0.0
            if fate[i] == ODD:
                odd[counts[ODD]] = start + i
                counts[ODD] += 1
    if weights.size:
        _weigh(n, weights, start, rules, work, terms)
    _add_all(n, rules.mode < NO_MASS, weights.size, terms, limbs)
    if counts[USED] & 0xFFFFFFF < n:  # long before a digit overflows
        carry_all(limbs)


@inner
def _weigh(n, weights, start, rules, work, terms):
    """Multiply the terms of a block, hits included, with the weights."""
    for i in range(n):
        used = work.fate[i] == 0
        weight = weights[start + i] if used else 0.0
        terms[WEIGHT, i] = weight
        terms[LOSS, i] *= weight if used else 1.0
        terms[HIT, i] = weight if work.best[i] != 0 else 0.0
        for k in range(rules.tops.size):
            terms[HIT + 1 + k, i] = weight if work.above[i] < rules.tops[k] else 0.0


@inner
def _add_all(n, mass, weighted, terms, limbs):
    for k in range(terms.shape[0]):
        if mass if k == LOSS else weighted:
            add_block(limbs[k], terms[k, :n])


@inner
def carry_all(limbs):
    """Carry in all sums."""
    for k in range(limbs.shape[0]):
        carry(limbs[k])
