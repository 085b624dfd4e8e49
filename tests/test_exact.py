import itertools
import json
import math
from fractions import Fraction
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import MANY

import daskxent as dx
from daskxent.numbers.exact import ExactSum, ratio

FINITE = st.floats(allow_nan=False, allow_infinity=False)
HARD = st.sampled_from([5e-324, -5e-324, 2.2e-308, 1e-300, 1e300, -1e300, 1.7e308, 0.1, -0.0, 1.0, 2.0**53, 1e16])
TERMS = st.lists(st.one_of(FINITE, HARD), max_size=40)
SPECIAL = st.sampled_from([float("nan"), float("inf"), float("-inf")])
ANY_TERMS = st.lists(st.one_of(FINITE, HARD, SPECIAL), max_size=20)


def fraction(terms):
    return sum(map(Fraction, terms), Fraction(0))


def nearest(value):
    """The float64 nearest to a Fraction: Fraction's own division is correctly rounded."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def same(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


@MANY
@given(TERMS)
def test_a_sum_is_the_sum_of_fractions(terms):
    total = ExactSum.of(terms)
    assert Fraction(total.units, 2**1074) == fraction(terms)
    assert same(float(total), nearest(fraction(terms)))


@MANY
@given(TERMS, TERMS.filter(lambda terms: fraction(terms) != 0))
def test_a_ratio_is_the_float_nearest_to_the_exact_quotient(above, below):
    assert same(ratio(ExactSum.of(above), ExactSum.of(below)), nearest(fraction(above) / fraction(below)))


@MANY
@given(ANY_TERMS, st.randoms(use_true_random=False), st.lists(st.integers(0, 20), max_size=4))
def test_any_order_and_any_grouping_give_the_same_sum(terms, random, cuts):
    shuffled = random.sample(terms, len(terms))
    edges = [0, *sorted(cuts), len(terms)]
    groups = [ExactSum.of(shuffled[a:b]) for a, b in itertools.pairwise(edges)]
    assert reduce(ExactSum.__add__, groups, ExactSum()) == ExactSum.of(terms)
    random.shuffle(groups)
    assert reduce(lambda a, b: b + a, groups) == ExactSum.of(terms)


@MANY
@given(ANY_TERMS)
def test_json_round_trips_exactly(terms):
    total = ExactSum.of(terms)
    assert ExactSum.from_json(json.loads(json.dumps(total.to_json()))) == total


@MANY
@given(TERMS, st.integers(0, 2**70))
def test_equal_sums_have_equal_json(terms, count):
    detour = ExactSum.of(terms) + ExactSum.whole(count) + ExactSum.of([1e300, 5e-324])
    back = detour + ExactSum.of([-5e-324]) + ExactSum.whole(-count) + ExactSum.of([-1e300])
    assert back == ExactSum.of(terms)
    assert json.dumps(back.to_json()) == json.dumps(ExactSum.of(terms).to_json())


@MANY
@given(ANY_TERMS)
def test_what_is_not_finite_makes_of_a_sum_what_ieee_makes_of_it(terms):
    total = ExactSum.of(terms)
    special = [term for term in terms if not math.isfinite(term)]
    assert total.nan + total.posinf + total.neginf == len(special)
    assert Fraction(total.units, 2**1074) == fraction(filter(math.isfinite, terms))
    if special:
        assert same(float(total), sum(special))
        assert same(ratio(total, ExactSum.whole(3)), sum(special))


def test_no_count_makes_the_ratio_nan():
    assert math.isnan(ratio(ExactSum.of([1.0]), ExactSum()))
    assert math.isnan(ratio(ExactSum(), ExactSum()))
    assert math.isnan(ratio(ExactSum.of([1.0]), ExactSum.of([math.inf])))


def test_a_ratio_beyond_float64_is_infinite_with_its_sign():
    assert ratio(ExactSum.of([1e300]), ExactSum.of([1e-300])) == math.inf
    assert ratio(ExactSum.of([-1e300]), ExactSum.of([1e-300])) == -math.inf
    assert float(ExactSum.of([1.7e308] * 3)) == math.inf


@pytest.mark.parametrize("count", [2**24 + 1, 2**31 + 1, 2**53 + 1, 2**60 + 1])
def test_counts_stay_whole_beyond_what_floats_hold(count):
    total = reduce(ExactSum.__add__, [ExactSum.whole(count)] * 3)
    assert total == ExactSum.whole(3 * count)
    assert total + ExactSum.of([1.0]) == ExactSum.whole(3 * count + 1)
    assert ratio(ExactSum.whole(count), ExactSum.whole(count)) == 1.0
    assert ratio(ExactSum.whole(count), ExactSum.whole(2 * count - 1)) == count / (2 * count - 1)


def test_small_terms_survive_next_to_large_ones():
    assert float(ExactSum.of([1e300, 1e-300, -1e300])) == 1e-300
    assert float(ExactSum.of([5e-324] * 4 + [1.0, -1.0])) == 2e-323


@pytest.mark.parametrize("n", [1 << 16, (1 << 16) + 1, 200_000])
def test_long_arrays_are_summed_like_short_ones(n):
    terms = np.random.default_rng(n).normal(0, 1, n) * 10.0 ** np.random.default_rng(0).integers(-30, 30, n)
    pieces = [ExactSum.of(terms[at : at + 977]) for at in range(0, n, 977)]
    assert ExactSum.of(terms) == reduce(ExactSum.__add__, pieces)
    assert float(ExactSum.of(terms)) == math.fsum(terms)


def test_arrays_of_any_shape_layout_and_dtype_are_summed():
    terms = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 8
    wanted = ExactSum.of([sum(range(24)) / 8])
    assert ExactSum.of(terms) == ExactSum.of(terms.transpose(2, 0, 1)) == ExactSum.of(terms[::-1, :, ::-1]) == wanted
    assert ExactSum.of([]) == ExactSum.of(np.zeros((0, 3))) == ExactSum()


@pytest.mark.parametrize(
    ("terms", "weight", "expected"),
    [
        ([np.inf], -2, -np.inf),
        ([-np.inf], -2, np.inf),
        ([np.inf], 2, np.inf),
        ([np.inf], 0, np.nan),
        ([1.0], 0, np.nan),
    ],
)
def test_the_sign_of_an_infinite_mean_is_that_of_total_and_weight(terms, weight, expected):
    assert np.array_equal(ratio(ExactSum.of(terms), ExactSum.whole(weight)), expected, equal_nan=True)


def test_an_infinite_loss_of_negative_weight_makes_the_mean_infinite():
    x, options = np.array([[0, -np.inf], [0, 0.0]]), {"from_logits": True, "allow_negative_weights": True}
    assert dx.evaluate([1, 0], x, sample_weight=[-1.0, -1.0], **options)["crossentropy"] == np.inf
    with pytest.warns(UserWarning, match="the weights sum to zero"):
        assert np.isnan(dx.evaluate([1, 0], x, sample_weight=[1.0, -1.0], **options)["crossentropy"])
