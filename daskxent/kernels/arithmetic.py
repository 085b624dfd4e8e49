"""The exponential of one class, counted in units: `elementary` and the grid of `rows`, inside loops."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from daskxent import elementary
from daskxent.kernels.compiling import bits_of, fma, from_bits, inner, overload
from daskxent.rows import (
    EPSILON,
    GRIDS,
    HUGE,
    HUGE_BASE,
    MAGIC,
    MAGIC_BITS,
    NO_BASE,
    PROBABILITY_BITS,
    REACH,
    REST_BITS,
)

E4 = tuple(np.float32(c) for c in elementary.EXP_F4)
L4 = tuple(np.float32(-c) for c in elementary.LN2_F4)  # negated: they are taken away by fma
E8, L8, A8 = elementary.EXP_F8, elementary.LN2_F8, elementary.ATANH_F8
LOG2E_F4, ROUND_F4 = np.float32(elementary.LOG2E_F4), np.float32(elementary.ROUND_F4)
LOG2E_F8, ROUND_F8 = elementary.LOG2E_F8, elementary.ROUND_F8
G4, G8 = GRIDS[np.dtype(np.float32)], GRIDS[np.dtype(np.float64)]
SUMS = max(grid.levels * grid.integers for grid in GRIDS.values())
_FAR_F4 = np.float32(elementary.FAR_F4)
# Peaks below these in magnitude: the usual case, which the vectorised loops treat. All classes that count for something
# beside such a peak are small enough for `term`.
_USUAL_F4, _USUAL_F8 = _FAR_F4 - np.float32(128), HUGE - 256.0
_LN2 = elementary.LN2_F8[0]
_UNIT_F4 = np.float32(EPSILON), np.float32(1 - EPSILON)
_UNIT_F8 = EPSILON, 1 - EPSILON
_REST = 2.0**REST_BITS
# What rounds to units at a level, by level.
M4 = tuple(MAGIC * 2.0 ** (G4.step * level) for level in range(G4.levels))
M8 = tuple(MAGIC * 2.0 ** (G8.step * level) for level in range(G8.levels))


@inner
def _exp_f4(r):
    """Return exp of a float32 that is reduced."""
    e = E4
    return fma(fma(fma(fma(fma(e[5], r, e[4]), r, e[3]), r, e[2]), r, e[1]), r, e[0])


@inner
def _exp_f8(r):
    e = E8
    high = (((((e[13] * r + e[12]) * r + e[11]) * r + e[10]) * r + e[9]) * r + e[8]) * r + e[7]
    return ((((((high * r + e[6]) * r + e[5]) * r + e[4]) * r + e[3]) * r + e[2]) * r + e[1]) * r + e[0]


@inner
def _reduce_f4(x, around):
    """Split a float32 as x = n * log(2) + r: n, still on the constant that rounds it, and r."""
    shifted = fma(x, LOG2E_F4, around)
    n = shifted - around
    return shifted, fma(n, L4[1], fma(n, L4[0], x))


@inner
def _reduce_f8(x, around):
    """Do the same for a float64."""
    shifted = x * LOG2E_F8 + around
    n = shifted - around
    return shifted, ((x - n * L8[0]) - n * L8[1]) - n * L8[2]


@inner
def exp(x):
    """Return e**x for float64 arguments between -700 and 700, like `elementary.exp`."""
    shifted, r = _reduce_f8(x, ROUND_F8)
    return _exp_f8(r) * from_bits((bits_of(shifted) + np.int64(1023 - bits_of(ROUND_F8))) << 52)


# Stubs: numba takes one of the compiled forms below, by the type of the number.
def power_of_two(x: Any) -> Any:
    """Write exp(x) as p * 2**n like `elementary.power_of_two`: n, p."""


def grid_of(model: Any) -> Any:
    """Return step, unit, levels and integers of the grid of a dtype."""


def position(x: Any) -> Any:
    """Return the grid position of exp(x), for what is not far."""


def grid(base: Any, model: Any) -> Any:
    """Return what `term` needs to count at a position: a floor, below which nothing counts, and the rounding constant."""


def term(x: Any, floor: Any, around: Any) -> Any:
    """Return exp(x) in units."""


def units(t: Any) -> Any:
    """Round a term to whole units: them, and what is left in finer ones (of float64); both on top of `MAGIC_BITS`."""


def units_by_level(t: Any) -> Any:
    """Do the same at every level, as in `rows.Rows.mass`, padded with 0; on top of the bits of M4 or M8."""


def level_bits(model: Any) -> Any:
    """Return what `units_by_level` puts units on top of."""


def is_usual(peak: Any) -> Any:
    """Tell whether the vectorised loops treat rows with this peak."""


def clip(x: Any) -> Any:
    """Clip a probability; NaN counts as the lowest."""


def scaled(x: Any) -> Any:
    """Clip a probability and count it in units: the same as `clip` times a power of two, which is exact."""


@overload(power_of_two)
def _power_of_two_typed(x):
    def f4(x):
        if abs(x) >= _FAR_F4:
            shifted, wide = _reduce_f8(np.float64(x), ROUND_F8)
            return np.int64(shifted - ROUND_F8), _exp_f4(np.float32(wide))
        shifted, r = _reduce_f4(x, ROUND_F4)
        return np.int64(shifted - ROUND_F4), _exp_f4(r)

    def f8(x):
        shifted, r = _reduce_f8(x, ROUND_F8)
        return np.int64(shifted - ROUND_F8), _exp_f8(r)

    return f4 if x == types.float32 else f8


@overload(grid_of)
def _grid_of_typed(model):
    found = tuple(G4 if model == types.float32 else G8)
    return lambda model: found


@overload(position)
def _position_typed(x):
    def f4(x):
        return np.int64(fma(x, LOG2E_F4, ROUND_F4) - ROUND_F4) >> 3

    def f8(x):
        n = (x * LOG2E_F8 + ROUND_F8) - ROUND_F8
        quotient = (n + 0.5) * (1.0 / G8.step)  # never whole; Python's // would not vectorise
        whole = np.int64(quotient)
        return whole - (quotient < whole)

    assert G4.step == 1 << 3
    return f4 if x == types.float32 else f8


# `around` is a whole number away from the rounding constant: an even one in float64, as it would round ties the other
# way otherwise. In float32 the product is not rounded, and a tie cannot be.
@overload(grid)
def _grid_typed(base, model):
    def f4(base, model):
        bits = G4.step * base - G4.unit
        return np.float32((bits - 40) * _LN2), ROUND_F4 - np.float32(bits)

    def f8(base, model):
        bits = G8.step * base - G8.unit
        return (bits - REST_BITS - 40) * _LN2, ROUND_F8 - np.float64(bits)

    return f4 if model == types.float32 else f8


# The power of two is added to the exponent: an integer addition, because multiplications are what the loop waits for.
@overload(term)
def _term_typed(x, floor, around):
    def f4(x, floor, around):
        shifted, r = _reduce_f4(x if x > floor else floor, around)
        return from_bits(np.int32(bits_of(_exp_f4(r)) + (bits_of(shifted) << 23)))

    def f8(x, floor, around):
        shifted, r = _reduce_f8(x if x > floor else floor, around)
        return from_bits(bits_of(_exp_f8(r)) + (bits_of(shifted) << 52))

    return f4 if x == types.float32 else f8


@overload(units)
def _units_typed(t):
    def f4(t):
        return bits_of(np.float64(t) + MAGIC), np.int64(MAGIC_BITS)

    def f8(t):
        rounded = t + MAGIC
        return bits_of(rounded), bits_of((t - (rounded - MAGIC)) * _REST + MAGIC)

    return f4 if t == types.float32 else f8


@overload(units_by_level)
def _units_by_level_typed(t):
    def f4(t):
        t = np.float64(t)
        low = bits_of(t + M4[0]), bits_of(t + M4[1]), bits_of(t + M4[2])
        return (*low, bits_of(t + M4[3]), bits_of(t + M4[4]), bits_of(t + M4[5]), np.int64(0), np.int64(0))

    def f8(t):
        a, b, c, d = t + M8[0], t + M8[1], t + M8[2], t + M8[3]
        e, f = (t - (a - M8[0])) * _REST + M8[0], (t - (b - M8[1])) * _REST + M8[1]
        g, h = (t - (c - M8[2])) * _REST + M8[2], (t - (d - M8[3])) * _REST + M8[3]
        return bits_of(a), bits_of(b), bits_of(c), bits_of(d), bits_of(e), bits_of(f), bits_of(g), bits_of(h)

    return f4 if t == types.float32 else f8


@overload(level_bits)
def _level_bits_typed(model):
    magic = (*M4, 0.0, 0.0) if model == types.float32 else (*M8, *M8)
    found = tuple(np.int64(np.float64(m).view(np.int64)) for m in magic)
    return lambda model: found


@overload(is_usual)
def _is_usual_typed(peak):
    limit = _USUAL_F4 if peak == types.float32 else _USUAL_F8
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
    factor = 2.0**PROBABILITY_BITS
    low, high = _UNIT_F4 if x == types.float32 else _UNIT_F8
    factor = type(low)(factor)
    low, high = low * factor, high * factor

    def scaled(x):
        u = x * factor
        u = u if u > low else low
        return u if u < high else high

    return scaled


@inner
def usual_base(peak, second):
    """Return the position at which a row with a usual peak is counted, like `rows.merge`."""
    high = position(peak) - REACH
    low = position(second) if second > -HUGE else high
    return low if low > high else high


@inner
def base_of(peak, second):
    """Return the position at which a row is counted, whatever its peak; the arguments are as wide as the numbers."""
    if abs(peak) < HUGE:
        step = grid_of(peak)[0]
        high = power_of_two(peak)[0] // step - REACH
        return max(high, power_of_two(second)[0] // step) if second > -HUGE else high
    if np.isinf(peak) and peak < 0:
        return np.int64(NO_BASE)
    return np.int64(HUGE_BASE) if peak > 0 else np.int64(-HUGE_BASE)


@inner
def add_term(x, base, peak, times, sums):
    """Add exp(x), counted from a position up, to `sums` so many times, like `rows.merge`; `x` as wide as the numbers."""
    if abs(base) >= HUGE_BASE:
        sums[0] += times * np.int64(x == peak and not np.isinf(peak))
        return
    step, unit, levels, integers = grid_of(x)
    if not x > -HUGE:
        return
    n, p = power_of_two(x)
    shift = n - step * base + unit
    if shift < -60:
        return
    t = np.float64(p) * from_bits((shift + 1023) << 52)
    for level in range(levels):
        rounded = t + MAGIC
        sums[level] += times * (bits_of(rounded) - MAGIC_BITS)
        if integers == 2:
            rest = (t - (rounded - MAGIC)) * _REST
            sums[levels + level] += times * (bits_of(rest + MAGIC) - MAGIC_BITS)
        t *= from_bits((1023 - step) << 52)
