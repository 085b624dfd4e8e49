"""The losses of finished records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types

from daskxent.kernels.arithmetic import (
    A8,
    L8,
    ROUND_F4,
    ROUND_F8,
    UNITY_F8,
    clip,
    exp_f4,
    exp_f8,
    is_usual,
    power_of_two,
    reduce_f4,
    reduce_f8,
    scaled,
    sliced,
)
from daskxent.kernels.blocks import LANES, PROBABILITIES, mode_of, plain
from daskxent.kernels.compiling import bits_of, borrowed, compiled, from_bits, inner, like, overload
from daskxent.kernels.records import borrowed_rows
from daskxent.rows import HAS_NAN, HUGE, PROBABILITY_BASE, SLICE_BITS, SLICES, Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SQRT_HALF = float(np.sqrt(0.5))


@inner
def log1p(x):
    """Return log(1 + x) like `elementary.log1p`."""
    u = 1.0 + x
    lost = x - (u - 1.0)
    bits = bits_of(u)
    mantissa = from_bits((bits & np.int64(0xFFFFFFFFFFFFF)) | np.int64(0x3FE0000000000000))
    low = mantissa < _SQRT_HALF
    f = (2.0 * mantissa if low else mantissa) - 1.0
    n = np.float64((bits >> 52) - 1022 - low)
    s = f / (2.0 + f)
    t = s * s
    a = A8
    series = (((((a[10] * t + a[9]) * t + a[8]) * t + a[7]) * t + a[6]) * t + a[5]) * t + a[4]
    tail = t * ((((series * t + a[3]) * t + a[2]) * t + a[1]) * t + a[0])
    return (n * L8[0] + (f - (s * f - (2.0 * s * tail + n * L8[1])))) + lost / u


@inner
def excess_of(a, b, c, d, base, peak, n, p):
    """Return sum_j exp(x_j - peak) - 1 from the slices of a row whose peak is p * 2**n, like `rows.excesses`."""
    scale = from_bits((n - SLICE_BITS * base + 1023) << 52)
    own = sliced(p * like(scale, p))
    bits = np.float64(SLICE_BITS * base)
    shifted, r = reduce_f8(((bits * L8[0] - peak) + bits * L8[1]) + bits * L8[2])
    unit = exp_f8(r) * from_bits((bits_of(shifted) << 52) + np.int64(UNITY_F8 << 52))
    return value_of(a - own[0], b - own[1], c - own[2], d - own[3], p) * unit


def value_of(a: Any, b: Any, c: Any, d: Any, model: Any) -> Any:
    """Return the number that slices stand for, like `rows._value`; three of them where `model` is float32."""


@overload(value_of)
def _value_of_typed(a, b, c, d, model):
    def f4(a, b, c, d, model):
        return (np.float64(c) * 2.0**-24 + b) * 2.0**-24 + a

    def f8(a, b, c, d, model):
        return ((np.float64(d) * 2.0**-24 + c) * 2.0**-24 + b) * 2.0**-24 + a

    return f4 if model == types.float32 else f8


def near_power_of_two(x: Any) -> Any:
    """Write exp(x) as p * 2**n for usual peaks: n, p."""


@overload(near_power_of_two)
def _near_power_of_two_typed(x):
    def f4(x):
        shifted, r = reduce_f4(x)
        return np.int64(bits_of(shifted) - bits_of(ROUND_F4)), exp_f4(r)

    def f8(x):
        shifted, r = reduce_f8(x)
        return bits_of(shifted) - bits_of(ROUND_F8), exp_f8(r)

    return f4 if x == types.float32 else f8


@inner
def _logit_losses(rows, d, at, n, model, out):
    """Losses of finished rows of logits; `d` is the fourth slice, or anything where there are three."""
    peaks, bases = rows.peak[at : at + n], rows.base[at : at + n]
    targets, flags = rows.target[at : at + n], rows.flags[at : at + n]
    a, b, c = rows.mass[0, at : at + n], rows.mass[1, at : at + n], rows.mass[2, at : at + n]
    unusual = 0
    for i in range(n):
        peak = peaks[i]
        usual = is_usual(like(peak, model))
        unusual += not usual
        peak = peak if usual else 0.0
        base = bases[i] if usual else 0
        power, p = near_power_of_two(like(peak, model))
        loss = log1p(excess_of(a[i], b[i], c[i], d[i], base, peak, power, p)) + (peak - targets[i])
        out[i] = np.nan if (flags[i] & HAS_NAN) or targets[i] != targets[i] else loss
    if unusual:
        for i in range(n):
            peak = peaks[i]
            if not is_usual(like(peak, model)):
                excess = 0.0
                if abs(peak) < HUGE:
                    power, p = power_of_two(like(peak, model))
                    excess = excess_of(a[i], b[i], c[i], d[i], bases[i], peak, power, p)
                elif not np.isinf(peak):
                    excess = np.float64(max(a[i] - 1, 0))
                broken = (flags[i] & HAS_NAN) or targets[i] != targets[i] or np.isinf(peak)
                out[i] = np.nan if broken else log1p(excess) + (peak - targets[i])


@inner
def _unit_losses(rows, d, at, n, model, out):
    """Losses of finished rows of probabilities; `d` as in `_logit_losses`."""
    targets, flags = rows.target[at : at + n], rows.flags[at : at + n]
    a, b, c = rows.mass[0, at : at + n], rows.mass[1, at : at + n], rows.mass[2, at : at + n]
    for i in range(n):
        target = clip(like(targets[i], model))
        own = sliced(scaled(like(targets[i], model)))
        rest = value_of(a[i] - own[0], b[i] - own[1], c[i] - own[2], d[i] - own[3], model)
        loss = log1p(rest * 2.0 ** (SLICE_BITS * PROBABILITY_BASE) / np.float64(target))
        out[i] = np.nan if flags[i] & HAS_NAN else loss


@inner
def _losses_block(rows, at, n, mode, model, out):
    """Put the losses of the records at .. at + n - 1 into `out`."""
    d = rows.mass[rows.mass.shape[0] - 1, at : at + n]
    if mode == PROBABILITIES:
        _unit_losses(rows, d, at, n, model, out)
    else:
        _logit_losses(rows, d, at, n, model, out)


@compiled
def _losses(rows, mode, model, out):
    rows, out = borrowed_rows(rows), borrowed(out)
    for at in range(0, out.size, LANES):
        n = min(LANES, out.size - at)
        _losses_block(rows, at, n, mode, model, out[at : at + n])


def losses(rows: Rows, *, probabilities: bool = False) -> NDArray[np.float64]:
    """Return the crossentropy of finished rows, as `rows.losses` does, to the same bits.

    Examples
    --------
    >>> from daskxent.kernels import scan
    >>> losses(scan(np.log([[[0.25], [0.75]]]), np.array([0]))).round(12).tolist()
    [1.38629436112]
    """
    out = np.empty(len(rows.peak))
    model = np.float32(0) if len(rows.mass) == SLICES[np.dtype(np.float32)] else np.float64(0)
    _losses(Rows(*(plain(field) for field in rows)), mode_of(probabilities, True), model, out)
    return out
