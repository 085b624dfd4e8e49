from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest

from daskxent.numbers import elementary

F4, F8 = np.dtype(np.float32), np.dtype(np.float64)
PIECES = [(F4, elementary.LN2_F4), (F8, elementary.LN2_F8)]
# By Decimal, which shares nothing with NumPy and libm; 60 digits are far more than are compared.
with localcontext() as context:
    context.prec = 60
    LN2 = Decimal(2).ln()


def decimally(function, numbers):
    with localcontext() as context:
        context.prec = 60
        return [function(Decimal(float(x))) for x in numbers]


def ulps(got, wanted):
    """Errors in units in the last place of the wanted number."""
    with localcontext() as context:
        context.prec = 60
        pairs = zip(map(float, got), wanted, strict=True)
        return [abs(float((Decimal(g) - w) / Decimal(float(np.spacing(float(w)))))) for g, w in pairs]


def drawn(low, high, n=400, seed=0):
    return np.random.default_rng(seed).uniform(low, high, n)


def test_exp_is_within_two_units_in_the_last_place():
    x = np.concatenate([drawn(-700, 700), drawn(-1, 1), drawn(-1e-9, 1e-9), [0.0, -0.0, 1.0, 700.0, -700.0]])
    assert max(ulps(elementary.exp(x), decimally(Decimal.exp, x))) <= 2


def test_log_is_within_two_units_in_the_last_place():
    x = np.concatenate([drawn(0.5, 2), 1 + drawn(-1e-9, 1e-9), 10 ** drawn(-320, 308), [5e-324, 1e300, 2.0]])
    assert max(ulps(elementary.log(x), decimally(Decimal.ln, x))) <= 2
    assert elementary.log(np.array([1.0])).tolist() == [0.0]


def test_log1p_is_within_two_units_in_the_last_place():
    x = np.concatenate([drawn(0, 2), 10 ** drawn(-300, 300), drawn(0, 1e-12)])
    assert max(ulps(elementary.log1p(x), decimally(lambda d: (1 + d).ln() if d > Decimal("1e-30") else d, x))) <= 2
    assert elementary.log1p(np.array([0.0])).tolist() == [0.0]


def rounded(exact):
    """Return the float32 nearest to a fraction, ties to even, by looking at its neighbours."""
    near = np.float32(float(exact))
    candidates = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    return min(candidates, key=lambda c: (abs(Fraction(float(c)) - exact), int(c.view(np.int32)) & 1))


def test_fma_rounds_once():
    rng = np.random.default_rng(3)
    a, b, c = (rng.normal(size=4000).astype(np.float32) * np.float32(2.0) ** rng.integers(-20, 20, 4000) for _ in "abc")
    c[::2] = -(a * b)[::2]  # where nearly everything cancels
    # Just off the middle between two float32 numbers, by less than float64 can resolve.
    a[:3], b[:3], c[:3] = 1 + 2.0**-23, 2.0**-24, [1, 1 + 2.0**-23, -1]
    a[3:6], b[3:6], c[3:6] = 2.0**-40, [1, -1, 1 + 2.0**-23], 2.0**24 + 2
    a[6:8], b[6:8], c[6:8] = 1 + 2.0**-12, 1 + 2.0**-12, [2.0**20, 2.0**28]
    wanted = [
        rounded(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))) for x, y, z in zip(a, b, c, strict=True)
    ]
    assert elementary.fma(a, b, c).tolist() == [float(w) for w in wanted]


# float64 keeps two units in the last place up to 2**20 (n below 2**21). In float32 the polynomial and its rounding
# take 1.6e-7, the two roundings of what it is given 2e-8. From FAR_F4 on only the result of the float64 reduction is
# rounded, but it falls on a float64 grid that coarsens: n * 2**-53.
@pytest.mark.parametrize("dtype", [F4, F8])
@pytest.mark.parametrize("reach", [1.0, 80.0, 320.0, 60_000.0, 2.0**18 - 1, 2.0**20, 2.0**29])
def test_power_of_two_is_the_exponential(dtype, reach):
    x = drawn(-reach, reach).astype(dtype)
    n, p = elementary.power_of_two(x)
    assert p.dtype == dtype
    # n is the nearest whole number to x / ln 2 but for the rounding of that product: at most 2**19 * 2**-26 in float32.
    assert 0.7071 * (1 - 2.0**-7) < p.min() <= p.max() < 1.4143 * (1 + 2.0**-7)
    with localcontext() as context:
        context.prec = 60
        for argument, power, factor in zip(x, n, p, strict=True):
            true = (Decimal(float(argument)) - int(power) * LN2).exp()
            near = 2.0**-51 if dtype == F8 else 1.8e-7
            far = 0.0 if reach <= 2.0**20 else abs(int(power)) * 2.0**-53
            assert abs(float(Decimal(float(factor)) / true - 1)) < near + far, (argument, power, factor)


@pytest.mark.parametrize(("dtype", "pieces"), PIECES)
def test_the_pieces_of_ln_2_add_up_to_it(dtype, pieces):
    with localcontext() as context:
        context.prec = 60
        lost = abs(sum((Decimal(float(dtype.type(piece))) for piece in pieces), Decimal(0)) - LN2)
    # The last piece is rounded to the dtype: half a unit in its last place is lost.
    assert lost <= Decimal(float(np.spacing(abs(dtype.type(pieces[-1])))) / 2)


def test_whole_numbers_times_the_leading_pieces_of_ln_2_are_exact():
    for piece in elementary.LN2_F8[:-1]:
        for n in (2**21 - 1, 2**21 - 3, -(2**21) + 1, 123):
            assert Fraction(n * piece) == n * Fraction(piece)


@pytest.mark.parametrize("dtype", [F4, F8])
def test_the_power_of_a_number_depends_on_the_number_alone(dtype):
    x = np.concatenate([drawn(-1e6, 1e6, 301), drawn(-5, 5, 202)]).astype(dtype)
    n, p = elementary.power_of_two(x)
    order = np.random.default_rng(1).permutation(x.size)
    for shuffled, index in ((x[order], order), (x[::-1], slice(None, None, -1)), (x[::3], slice(None, None, 3))):
        m, q = elementary.power_of_two(shuffled)
        assert np.array_equal(m, n[index])
        assert q.tobytes() == p[index].tobytes()
    for i in range(0, x.size, 50):
        m, q = elementary.power_of_two(x[i : i + 1])
        assert (m[0], q[0]) == (n[i], p[i])


@pytest.mark.parametrize("function", [elementary.exp, elementary.log, elementary.log1p])
def test_functions_of_a_number_depend_on_the_number_alone(function):
    x = drawn(0.001, 600, 257)
    assert function(x[::-1]).tobytes() == function(x)[::-1].tobytes()
    assert [function(x[i : i + 1])[0] for i in range(9)] == function(x)[:9].tolist()
