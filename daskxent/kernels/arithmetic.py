"""The exponential of one class, cut into slices of 24 bits: `elementary` and the grid of `rows`, inside loops."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from daskxent import elementary
from daskxent.kernels.compiling import bits_of, from_bits, inner, overload
from daskxent.rows import EPSILON, HUGE, SLICE_BITS

N4 = tuple(np.float32(c) for c in elementary.LN2_NEAR_F4)
_NEAR_F4 = np.float32(elementary.NEAR_F4)
E4 = tuple(np.float32(c) for c in elementary.EXP_F4)
_L4 = tuple(np.float32(c) for c in elementary.LN2_F4)
E8, L8, A8 = elementary.EXP_F8, elementary.LN2_F8, elementary.ATANH_F8
LOG2E_F4, ROUND_F4 = np.float32(elementary.LOG2E), np.float32(elementary.ROUND_F4)
LOG2E_F8, ROUND_F8 = elementary.LOG2E, elementary.ROUND_F8
_CUT_F4, _CUT_F8 = np.float32(2.0**SLICE_BITS), 2.0**SLICE_BITS
# Adding this to the bits of a number plus ROUND, shifted to the exponent, leaves a power of two.
_UNITY_F4 = 127 - int(np.float32(elementary.ROUND_F4).view(np.int32))
UNITY_F8 = 1023 - int(np.float64(elementary.ROUND_F8).view(np.int64))
# Logits this far below the peak count for nothing in the lowest slice; the powers of two above stay normal numbers.
REACH_F4, REACH_F8 = np.float32(70.0), 100.0
_FAR_F4 = np.float32(elementary.FAR_F4)
# Peaks below this in magnitude: the usual case, which the vectorised loops treat. All their classes in reach are near.
_USUAL_F4, USUAL_F8 = elementary.FAR_F4 - 128.0, HUGE - 128.0
_UNIT_F4 = np.float32(EPSILON), np.float32(1 - EPSILON)
_UNIT_F8 = EPSILON, 1 - EPSILON


@inner
def exp_f4(r):
    """Return exp of a float32 that is reduced."""
    e = E4
    return ((((e[5] * r + e[4]) * r + e[3]) * r + e[2]) * r + e[1]) * r + e[0]


@inner
def exp_f8(r):
    """Return exp of a float64 that is reduced."""
    e = E8
    high = (((((e[13] * r + e[12]) * r + e[11]) * r + e[10]) * r + e[9]) * r + e[8]) * r + e[7]
    return ((((((high * r + e[6]) * r + e[5]) * r + e[4]) * r + e[3]) * r + e[2]) * r + e[1]) * r + e[0]


@inner
def reduce_f4(x):
    """Split a float32 as x = n * log(2) + r: n, still on the constant that rounds it, and r."""
    shifted = x * LOG2E_F4 + ROUND_F4
    n = shifted - ROUND_F4
    near = (x - n * N4[0]) - n * N4[1]
    wide = ((x - n * _L4[0]) - n * _L4[1]) - n * _L4[2]
    return shifted, near if abs(x) < _NEAR_F4 else wide


@inner
def reduce_f8(x):
    """Do the same for a float64."""
    shifted = x * LOG2E_F8 + ROUND_F8
    n = shifted - ROUND_F8
    return shifted, ((x - n * L8[0]) - n * L8[1]) - n * L8[2]


# Stubs: numba takes one of the compiled forms below, by the type of the number.
def power_of_two(x: Any) -> Any:
    """Write exp(x) as p * 2**n like `elementary.power_of_two`: n, p."""


def term(x: Any, floor: Any, scale: Any) -> Any:
    """Return exp(x) in units of a grid position; `floor` and `scale` as `grid` gives them."""


def sliced(u: Any) -> Any:
    """Take 24 bits at a time from a number below 2**24: four whole numbers (the last is 0 in float32)."""


def grid(peak: Any) -> Any:
    """Return base, floor and scale for rows with this peak, if it is a usual one."""


def is_usual(peak: Any) -> Any:
    """Tell whether the vectorised loops treat rows with this peak."""


def clip(x: Any) -> Any:
    """Clip a probability; NaN counts as the lowest."""


def scaled(x: Any) -> Any:
    """Clip a probability and count it in units of its grid: the same as `clip` times 2**24, which is exact."""


@overload(power_of_two)
def _power_of_two_typed(x):
    def f4(x):
        if abs(x) >= _FAR_F4:
            shifted, wide = reduce_f8(np.float64(x))
            return np.int64(shifted - ROUND_F8), exp_f4(np.float32(wide))
        shifted, r = reduce_f4(x)
        return np.int64(shifted - ROUND_F4), exp_f4(r)

    def f8(x):
        shifted, r = reduce_f8(x)
        return np.int64(shifted - ROUND_F8), exp_f8(r)

    return f4 if x == types.float32 else f8


@overload(term)
def _term_typed(x, floor, scale):
    def f4(x, floor, scale):
        shifted, r = reduce_f4(x if x > floor else floor)
        return exp_f4(r) * from_bits(np.int32(np.int32(bits_of(shifted) << 23) + scale))

    def f8(x, floor, scale):
        shifted, r = reduce_f8(x if x > floor else floor)
        return exp_f8(r) * from_bits((bits_of(shifted) << 52) + scale)

    return f4 if x == types.float32 else f8


@overload(sliced)
def _sliced_typed(u):
    def f4(u):
        a = np.int32(u)
        u = (u - np.float32(a)) * _CUT_F4
        b = np.int32(u)
        u = (u - np.float32(b)) * _CUT_F4
        return a, b, np.int32(u), np.int32(0)

    def f8(u):
        a = np.int32(u)
        u = (u - a) * _CUT_F8
        b = np.int32(u)
        u = (u - b) * _CUT_F8
        c = np.int32(u)
        return a, b, c, np.int32((u - c) * _CUT_F8)

    return f4 if u == types.float32 else f8


@overload(grid)
def _grid_typed(peak):
    def f4(peak):
        base = over_24(reduce_f4(peak)[0] - ROUND_F4)
        return base, peak - REACH_F4, np.int32((_UNITY_F4 - SLICE_BITS * base) << 23)

    def f8(peak):
        base = over_24(reduce_f8(peak)[0] - ROUND_F8)
        return base, peak - REACH_F8, (UNITY_F8 - SLICE_BITS * base) << 52

    return f4 if peak == types.float32 else f8


@overload(is_usual)
def _is_usual_typed(peak):
    limit = _USUAL_F4 if peak == types.float32 else USUAL_F8
    return lambda peak: abs(peak) < limit


@overload(clip)
def _clip_typed(x):
    low, high = _UNIT_F4 if x == types.float32 else _UNIT_F8

    def clip(x):
        x = x if x > low else low
        return x if x < high else high

    return clip


@overload(scaled)
def _scaled_typed(x):
    unit, cut = (_UNIT_F4, _CUT_F4) if x == types.float32 else (_UNIT_F8, _CUT_F8)
    low, high = unit[0] * cut, unit[1] * cut

    def scaled(x):
        u = x * cut
        u = u if u > low else low
        return u if u < high else high

    return scaled


@inner
def over_24(n):
    """Divide a whole number by 24, rounding down (Python's // would not vectorise)."""
    quotient = (n + 0.5) * (1.0 / SLICE_BITS)
    whole = np.int64(quotient)
    return whole - (quotient < whole)


def key_of(x: Any) -> Any:
    """Map floats to integers in the same order: LLVM vectorises the maximum of integers, not that of floats."""


@overload(key_of)
def _key_of_typed(x):
    def f4(x):
        bits = bits_of(x)
        return np.int32(bits ^ (np.int32(bits >> 31) & np.int32(0x7FFFFFFF)))

    def f8(x):
        bits = bits_of(x)
        return bits ^ ((bits >> 63) & np.int64(0x7FFFFFFFFFFFFFFF))

    return f4 if x == types.float32 else f8


def number_of(key: Any) -> Any:
    """Undo `key_of`, which is its own inverse."""


@overload(number_of)
def _number_of_typed(key):
    def f4(key):
        return from_bits(np.int32(key ^ (np.int32(key >> 31) & np.int32(0x7FFFFFFF))))

    def f8(key):
        return from_bits(key ^ ((key >> 63) & np.int64(0x7FFFFFFFFFFFFFFF)))

    return f4 if key == types.int32 else f8
