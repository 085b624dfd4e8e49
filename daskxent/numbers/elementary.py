"""exp and log as fixed sequences of correctly rounded operations.

The libraries that NumPy and compilers call for `exp` and `log` differ in the last bits from one processor to
the next. These differ nowhere: each is a fixed sequence of IEEE operations, so the same argument gives the same
bits on every machine and in every loop (the compiled kernels spell out the same sequences). float64 uses
multiplications and additions, none of them fused; float32, where speed counts, uses fused ones (`fma`) wherever
that is written down, and nowhere else. The results are within two units in the last place of the true value in
float64, two parts in 10**7 in float32; the tests compare them with Decimal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOG2E_F4, LOG2E_F8 = 1.4426950216293335, 1.4426950408889634
# ln 2 in pieces. float64: the leading pieces have 32 bits, so that a whole number below 2**21 times a piece is exact;
# the last is the remainder. float32: as it rounds and the remainder; the product inside an fma is exact anyway.
LN2_F4 = (0.6931471824645996, -1.9046542121259336e-09)
LN2_F8 = (0.6931471803691238, 1.9082149288430703e-10, 4.275175589747649e-20)
# Adding and taking away 1.5 * 2**23 (2**52) rounds to the nearest whole number, ties to even.
ROUND_F4 = 12582912.0
ROUND_F8 = 6755399441055744.0
# exp(r) for |r| <= ln(2)/2. float32: a minimax fit of degree 5 (least squares, reweighted until the error levels
# out at 9e-8; evaluated in float32, 1.6e-7); float64: the Taylor series up to r**13 / 13!, whose remainder is 4e-18.
EXP_F4 = (
    1.0,
    0.9999997019767761,
    0.4999914765357971,
    0.1666763722896576,
    0.04189802333712578,
    0.008290297351777554,
)
EXP_F8 = tuple(
    1.0 / n for n in (1, 1, 2, 6, 24, 120, 720, 5040, 40320, 362880, 3628800, 39916800, 479001600, 6227020800)
)
# log((1 + s) / (1 - s)) / 2s - 1 = s**2/3 + s**4/5 + ...; |s| <= 0.172, so eleven terms leave 1e-18.
ATANH_F8 = tuple(1.0 / n for n in range(3, 25, 2))
# float32 logits as large as this are reduced in float64: n = x / ln 2 would round to a neighbour too often.
FAR_F4 = 2.0**18


def fma(a: NDArray[np.float32], b: NDArray[np.float32] | float, c: NDArray[np.float32] | float) -> NDArray[np.float32]:
    """Return a * b + c in float32, rounded once.

    The product is exact in float64. Rounding the sum to float64 and then to float32 would round twice, so the first
    time it is rounded to odd: S. Boldo and G. Melquiond, "Emulation of a FMA and correctly rounded sums: proved
    algorithms using rounding to odd", IEEE Trans. Computers 57 (2008).

    Examples
    --------
    >>> one = np.float32([1 + 2.0**-12])
    >>> float(fma(one, one, -1.0)[0] - 2.0**-11)  # a separate product would lose this
    5.960464477539063e-08
    """
    product = np.multiply(a, b, dtype=np.float64)
    addend = np.asarray(c, np.float64)
    total = product + addend
    seen = total - product
    lost = (product - (total - seen)) + (addend - seen)
    bits = total.view(np.int64)
    towards = np.where((lost > 0) == (total > 0), 1, -1)
    odd = np.where((lost != 0) & (bits & 1 == 0), bits + towards, bits)
    return odd.view(np.float64).astype(np.float32)


def polynomial(x: NDArray[np.float64], coefficients: tuple[float, ...]) -> NDArray[np.float64]:
    """Evaluate a polynomial by Horner's rule in float64; coefficients from the constant term upwards."""
    result = np.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        result = result * x + c
    return result


def _exp_f4(r: NDArray[np.float32]) -> NDArray[np.float32]:
    result = np.full_like(r, EXP_F4[-1])
    for c in reversed(EXP_F4[:-1]):
        result = fma(result, r, c)
    return result


def power_of_two(x: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Write exp(x) as ``p * 2**n``, where both depend on the element alone.

    Parameters
    ----------
    x : array of float32 or float64
        Finite, below 2**30 in magnitude.

    Returns
    -------
    n : array of int64
    p : array of the dtype of `x`
        Between 0.707 and 1.415, or up to 1 % beyond where float32 no longer holds the digits of a large `n`.

    Examples
    --------
    >>> n, p = power_of_two(np.array([0.0, 1.0]))
    >>> n.tolist(), (p * 2.0**n).tolist()
    ([0, 1], [1.0, 2.7182818284590455])
    """
    if x.dtype == np.float64:
        n, r = _reduce_f8(x)
        return n.astype(np.int64), polynomial(r, EXP_F8)
    far = np.abs(x) >= FAR_F4
    near = np.where(far, np.float32(0), x)
    n, r = _reduce_f4(near)
    whole = n.astype(np.int64)
    if far.any():
        wide_n, wide_r = _reduce_f8(x[far].astype(np.float64))
        whole[far] = wide_n.astype(np.int64)
        r[far] = wide_r.astype(np.float32)
    return whole, _exp_f4(r)


def _reduce_f8(x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    n = (x * LOG2E_F8 + ROUND_F8) - ROUND_F8
    return n, ((x - n * LN2_F8[0]) - n * LN2_F8[1]) - n * LN2_F8[2]


def _reduce_f4(x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    n = fma(x, LOG2E_F4, ROUND_F4) - np.float32(ROUND_F4)
    return n, fma(n, -LN2_F4[1], fma(n, -LN2_F4[0], x))


def exp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return e**x for float64 arguments between -700 and 700."""
    n, p = power_of_two(x)
    result: NDArray[np.float64] = np.ldexp(p, n)
    return result


def log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the natural logarithm of positive, finite float64 numbers.

    Examples
    --------
    >>> log(np.array([1.0, 2.0])).tolist()
    [0.0, 0.6931471805599453]
    """
    mantissa, exponent = np.frexp(x)
    low = mantissa < np.sqrt(0.5)
    f = np.where(low, 2.0 * mantissa, mantissa) - 1.0
    n = (exponent - low).astype(np.float64)
    s = f / (2.0 + f)
    s2 = s * s
    tail = s2 * polynomial(s2, ATANH_F8)
    # 2s = f - s * f splits off the part of the sum that is exact.
    result: NDArray[np.float64] = n * LN2_F8[0] + (f - (s * f - (2.0 * s * tail + n * LN2_F8[1])))
    return result


def log1p(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(1 + x) for float64 numbers from 0 up, precise for small ones."""
    u = 1.0 + x
    lost = x - (u - 1.0)
    return log(u) + lost / u
