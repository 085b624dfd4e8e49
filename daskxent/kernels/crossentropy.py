"""The loss of a row from its sums, as `numbers.crossentropy` has it, to the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from daskxent.kernels.arithmetic import PROBABILITY_UNIT, clip, exp, grid_of, scaled, units
from daskxent.kernels.llvm.compiling import bits_of, from_bits, inner, overload
from daskxent.numbers import elementary
from daskxent.numbers.records import MAGIC_BITS, REST_BITS

_A8, _L8 = elementary.ATANH_F8, elementary.LN2_F8
_SQRT_HALF = float(np.sqrt(0.5))


@inner
def log1p(x):
    """Return log(1 + x) like `elementary.log1p`."""
    u = 1.0 + x
    lost = x - (u - 1.0)
    return log(u) + lost / u


@inner
def log(u):
    """Return log(u) of a normal number like `elementary.log`."""
    bits = bits_of(u)
    mantissa = from_bits((bits & np.int64(0xFFFFFFFFFFFFF)) | np.int64(0x3FE0000000000000))
    low = mantissa < _SQRT_HALF
    f = (2.0 * mantissa if low else mantissa) - 1.0
    n = np.float64((bits >> 52) - 1022 - low)
    s = f / (2.0 + f)
    t = s * s
    a = _A8
    series = (((((a[10] * t + a[9]) * t + a[8]) * t + a[7]) * t + a[6]) * t + a[5]) * t + a[4]
    tail = t * ((((series * t + a[3]) * t + a[2]) * t + a[1]) * t + a[0])
    return n * _L8[0] + (f - (s * f - (2.0 * s * tail + n * _L8[1])))


def counted(high: Any, low: Any, model: Any) -> Any:
    """Return the number that integers stand for, in units, like `records.counted`; `low` is for float64."""


@overload(counted)
def _counted_typed(high, low, model):
    def f4(high, low, model):
        return np.float64(high)

    def f8(high, low, model):
        return np.float64(high) + low * 2.0**-REST_BITS

    return f4 if model == types.float32 else f8


@inner
def excess_of(high, low, base, peak, model):
    """Return sum_j exp(x_j - peak) - 1 of a row that is counted at a grid position, like `records.excesses`."""
    step, unit, _, _ = grid_of(model)
    bits = step * base - unit
    return counted(high, low, model) * exp(((bits * _L8[0] - peak) + bits * _L8[1]) + bits * _L8[2])


@inner
def unit_loss(high, low, target):
    """Return the loss of a row of probabilities from their sum and the label's, which is as wide as they are."""
    own = units(scaled(target))
    rest = counted(high - (own[0] - MAGIC_BITS), low - (own[1] - MAGIC_BITS), target)
    return log1p(rest * PROBABILITY_UNIT / np.float64(clip(target)))
