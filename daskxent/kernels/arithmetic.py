"""The exponential of one class, counted in units: `elementary` and the grid of `records`, inside loops."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from daskxent.kernels.llvm import instructions
from daskxent.kernels.llvm.compiling import bits_of, from_bits, inner, instruction, like, overload
from daskxent.kernels.llvm.instructions import INT64
from daskxent.numbers import elementary
from daskxent.numbers.records import HUGE, LOGITS, MAGIC_BITS, PROBABILITIES, REACH, REST_BITS

G4, G8 = LOGITS["float32"], LOGITS["float64"]
assert G8.step % 2 == G8.unit % 2 == 0  # see `grid`
PROBABILITY_UNIT = 2.0 ** -PROBABILITIES["float32"].unit
_ROUND_F4, _ROUND_F8 = np.float32(elementary.ROUND_F4), elementary.ROUND_F8
_FAR_F4 = np.float32(elementary.FAR_F4)
# Peaks below these in magnitude: the usual case, which the vectorised loops treat. All classes that count for something
# next to such a peak are small enough for `term`.
_USUAL_F4, _USUAL_F8 = _FAR_F4 - np.float32(128), HUGE - 256.0
_LN2 = elementary.LN2_F8[0]


def _same(x, *others):
    return x(x, *others)


# Given to numba's loops as they are.
_reduced = instruction(lambda x, around: types.UniTuple(x, 2)(x, around))(instructions.reduced)
_exponential = instruction(_same)(instructions.exponential)
term = instruction(_same)(instructions.term)
scaled = instruction(_same)(instructions.scaled)


@instruction(types.UniTuple(types.int64, 2))
def units(builder, t):
    """Round a term to whole units: them, and what is left in finer ones (of float64); both on top of `MAGIC_BITS`."""
    return [*instructions.units(builder, t), INT64(MAGIC_BITS)][:2]


# Stubs: numba takes one of the compiled forms below, by the type of the number.
def power_of_two(x: Any) -> Any:
    """Write exp(x) as p * 2**n like `elementary.power_of_two`: n, p."""


def grid_of(model: Any) -> Any:
    """Return step, unit and integers of the grid of a dtype, and what rounds to whole numbers in it."""


def is_usual(peak: Any) -> Any:
    """Return whether the vectorised loops treat rows with this peak."""


@overload(power_of_two)
def _power_of_two_typed(x):
    def f4(x):
        if abs(x) >= _FAR_F4:
            shifted, wide = _reduced(np.float64(x), _ROUND_F8)
            return np.int64(shifted - _ROUND_F8), _exponential(np.float32(wide))
        shifted, r = _reduced(x, _ROUND_F4)
        return np.int64(shifted - _ROUND_F4), _exponential(r)

    def f8(x):
        shifted, r = _reduced(x, _ROUND_F8)
        return np.int64(shifted - _ROUND_F8), _exponential(r)

    return f4 if x == types.float32 else f8


@overload(grid_of)
def _grid_of_typed(model):
    chosen, rounding = (G4, elementary.ROUND_F4) if model == types.float32 else (G8, elementary.ROUND_F8)
    found = chosen.step, chosen.unit, chosen.integers, float(rounding)
    return lambda model: found


@overload(is_usual)
def _is_usual_typed(peak):
    limit = _USUAL_F4 if peak == types.float32 else _USUAL_F8
    return lambda peak: abs(peak) < limit


@inner
def clip(x):
    """Clip a probability; NaN counts as the lowest."""
    return scaled(x) * like(PROBABILITY_UNIT, x)  # exactly


@inner
def exp(x):
    """Return e**x for float64 arguments between -700 and 700, like `elementary.exp`."""
    shifted, r = _reduced(x, _ROUND_F8)
    return _exponential(r) * from_bits((bits_of(shifted) + np.int64(1023 - bits_of(_ROUND_F8))) << 52)


@inner
def position(x):
    """Return the grid position of exp(x), for what is not far: a whole number as wide as x."""
    step, _, _, rounding = grid_of(x)
    n = _reduced(x, like(rounding, x))[0] - like(rounding, x)
    return np.floor((n + like(0.5, x)) * like(1.0 / step, x))  # never whole; Python's // would not vectorise


@inner
def usual_base(peak, second):
    """Return the position at which a row with a usual peak is counted, like `records._base`, as wide as they are."""
    high = position(peak) - like(REACH, peak)
    low = position(second) if second > like(-HUGE, second) else high
    return low if low > high else high


@inner
def grid(base, model):
    """Return what `term` needs to count at a position: a floor, below which nothing counts, and what rounds.

    That is a whole number away from the rounding constant: an even one in float64, as it would round ties the other way
    otherwise. In float32 the product is not rounded, and a tie cannot be.
    """
    step, unit, integers, rounding = grid_of(model)
    bits = like(step, model) * like(base, model) - like(unit, model)
    below = like((integers - 1) * REST_BITS + 40, model)
    return (bits - below) * like(_LN2, model), like(rounding, model) - bits


@inner
def base_of(peak, second):
    """Return the position at which a row is counted, whatever its peak; the arguments are as wide as the numbers."""
    if not abs(peak) < HUGE:
        return np.int64(0)
    step = grid_of(peak)[0]
    high = power_of_two(peak)[0] // step - REACH
    return max(high, power_of_two(second)[0] // step) if second > -HUGE else high


@inner
def least_term(base, model):
    """Return what exp(x) is too small to count for, at a position and above."""
    step, unit, _, _ = grid_of(model)
    return max((step * base - unit - 62) * _LN2, -HUGE)


@inner
def add_term(x, base, times, levels, sums):
    """Add exp(x), counted from a position up, to `sums` so many times; `x` is as wide as the numbers."""
    step, unit, integers, _ = grid_of(x)
    n, p = power_of_two(x)
    shift = n - step * base + unit
    if shift < -60:
        return
    t = np.float64(p) * from_bits((shift + 1023) << 52)
    for level in range(levels):
        high, low = units(t)
        sums[level] += times * (high - MAGIC_BITS)
        if integers == 2:
            sums[levels + level] += times * (low - MAGIC_BITS)
        t *= from_bits((1023 - step) << 52)
