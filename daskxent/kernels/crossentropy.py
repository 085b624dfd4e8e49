"""The losses of finished records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types

from daskxent.kernels.arithmetic import clip, exp, grid_of, scaled, units
from daskxent.kernels.blocks import LANES, PROBABILITIES, mode_of, plain
from daskxent.kernels.llvm.compiling import bits_of, borrowed, compiled, from_bits, inner, like, overload
from daskxent.numbers import elementary
from daskxent.numbers.records import GRIDS, HAS_NAN, HUGE_BASE, MAGIC_BITS, PROBABILITY_BITS, REST_BITS, Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

_A8, _L8 = elementary.ATANH_F8, elementary.LN2_F8
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
    a = _A8
    series = (((((a[10] * t + a[9]) * t + a[8]) * t + a[7]) * t + a[6]) * t + a[5]) * t + a[4]
    tail = t * ((((series * t + a[3]) * t + a[2]) * t + a[1]) * t + a[0])
    return (n * _L8[0] + (f - (s * f - (2.0 * s * tail + n * _L8[1])))) + lost / u


def counted(high: Any, low: Any, model: Any) -> Any:
    """Return the number that integers stand for, in units, like `rows._counted`; `low` is for float64."""


@overload(counted)
def _counted_typed(high, low, model):
    def f4(high, low, model):
        return np.float64(high)

    def f8(high, low, model):
        return np.float64(high) + low * 2.0**-REST_BITS

    return f4 if model == types.float32 else f8


@inner
def excess_of(high, low, base, peak, model):
    """Return sum_j exp(x_j - peak) - 1 of a row that is counted at a grid position, like `rows.excesses`."""
    step, unit, _, _ = grid_of(model)
    bits = np.float64(step * base - unit)
    return counted(high, low, model) * exp(((bits * _L8[0] - peak) + bits * _L8[1]) + bits * _L8[2])


@inner
def unit_loss(high, low, target):
    """Return the loss of a row of probabilities from their sum and the label's, which is as wide as they are."""
    own = units(scaled(target))
    rest = counted(high - (own[0] - MAGIC_BITS), low - (own[1] - MAGIC_BITS), target)
    return log1p(rest * 2.0**-PROBABILITY_BITS / np.float64(clip(target)))


@inner
def _logit_losses(rows, low, at, n, model, out):
    """Losses of finished rows of logits; `low` holds the second integers, or anything where there are none."""
    peaks, bases = rows.peak[at : at + n], rows.base[at : at + n]
    targets, flags, high = rows.target[at : at + n], rows.flags[at : at + n], rows.mass[0, at : at + n]
    for i in range(n):
        usual = abs(bases[i]) < HUGE_BASE
        peak, base = (peaks[i], bases[i]) if usual else (0.0, np.int64(0))
        excess = excess_of(high[i], low[i], base, peak, model)
        excess = excess if usual else np.float64(high[i])
        broken = (flags[i] & HAS_NAN) or targets[i] != targets[i] or np.isinf(peaks[i])
        out[i] = np.nan if broken else log1p(excess) + (peaks[i] - targets[i])


@inner
def _unit_losses(rows, low, at, n, model, out):
    """Losses of finished rows of probabilities; `low` as in `_logit_losses`."""
    targets, flags, high = rows.target[at : at + n], rows.flags[at : at + n], rows.mass[0, at : at + n]
    for i in range(n):
        loss = unit_loss(high[i], low[i], like(targets[i], model))
        out[i] = np.nan if flags[i] & HAS_NAN else loss


@inner
def _losses_block(rows, at, n, mode, model, out):
    """Put the losses of the records at .. at + n - 1 into `out`."""
    _, _, levels, integers = grid_of(model)
    low = rows.mass[levels if integers == 2 else 0, at : at + n]
    if mode == PROBABILITIES:
        _unit_losses(rows, low, at, n, model, out)
    else:
        _logit_losses(rows, low, at, n, model, out)


@compiled
def _losses(rows, mode, model, out):
    rows, out = borrowed((rows, out))
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
    grid = GRIDS[np.dtype(np.float32)]
    model = np.float32(0) if len(rows.mass) == grid.levels * grid.integers else np.float64(0)
    _losses(Rows(*(plain(field) for field in rows)), mode_of(probabilities, True), model, out)
    return out
