import itertools
from decimal import Decimal
from fractions import Fraction
from functools import reduce

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from strategies import ANY, DTYPES, FINITE, MANY, SOME, logits, partitions, probabilities

from daskxent import kernels
from daskxent.numbers import elementary
from daskxent.numbers import records as scanning
from daskxent.numbers.crossentropy import dense_losses
from daskxent.numbers.crossentropy import row_losses as losses
from daskxent.numbers.records import Records, empty, grid_for, merge, scan

TOP = 4
WIDE = (np.dtype(np.float32), np.dtype(np.float64))
# Crossentropy of the same values widened: 2e-6 for float32 (the polynomial for exp takes 1.8e-7, and up to 3e-7 with
# logits of 60,000; the promise leaves room), 1e-14 for float64.
RELATIVE = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-14}
# Terms are rounded to units of 2**-36 (2**-64) of the position of the second largest, but that position lies at most
# 9 steps of 8 (24) bits below the peak's: a term rounds by at most half of 2**-108 (2**-280) of the peak's.
RESOLUTION = {np.dtype(np.float32): 2.0**-109, np.dtype(np.float64): 2.0**-281}


def wide(values):
    return np.dtype(np.float64) if values.dtype == np.float64 else np.dtype(np.float32)


def assert_same(a, b):
    """Bit for bit; only the sign of a zero is free (-0.0 and 0.0 are one number to every metric)."""
    assert a.grid == b.grid
    for name, x, y in zip(Records._fields[1:], a[1:], b[1:], strict=True):
        assert x.dtype == y.dtype, name
        assert np.array_equal(x, y, equal_nan=x.dtype.kind == "f"), name


def pieces(values, labels, sizes, **options):
    """Scan the classes piece by piece."""
    edges = [0, *itertools.accumulate(sizes)]
    return [scan(values[:, a:b], labels, a, top=TOP, **options) for a, b in itertools.pairwise(edges)]


@st.composite
def rows_of_anything(draw, kinds=ANY):
    """Draw values, labels (some of no class), a way to cut the classes, and whether they are probabilities."""
    n, classes = draw(st.integers(1, 12)), draw(st.integers(1, 40))
    unit = draw(st.booleans())
    values = draw(logits((n, classes), kinds)) if not unit or draw(st.booleans()) else draw(probabilities((n, classes)))
    labels = np.random.default_rng(draw(st.integers(0, 99))).integers(-1, classes + 1, n)
    return values, labels, draw(partitions(classes)), {"probabilities": unit}


@MANY
@given(rows_of_anything())
def test_any_split_of_the_classes_is_the_whole(drawn):
    values, labels, sizes, options = drawn
    assert_same(reduce(merge, pieces(values, labels, sizes, **options)), scan(values, labels, top=TOP, **options))


@MANY
@given(rows_of_anything(), st.randoms(use_true_random=False))
def test_merging_is_associative_and_commutative(drawn, random):
    values, labels, sizes, options = drawn
    parts = pieces(values, labels, sizes, **options)
    whole = reduce(merge, parts)
    assert_same(reduce(lambda a, b: merge(b, a), reversed(parts)), whole)
    while len(parts) > 1:  # any two, in any order
        random.shuffle(parts)
        parts.append(merge(parts.pop(), parts.pop()))
    assert_same(parts[0], whole)


@MANY
@given(rows_of_anything())
def test_no_classes_are_the_identity(drawn):
    values, labels, _, options = drawn
    some, none = scan(values, labels, top=TOP, **options), empty(len(values), grid_for(wide(values), **options), TOP)
    assert_same(merge(some, none), some)
    assert_same(merge(none, some), some)
    assert_same(merge(none, none), none)
    assert_same(scan(values[:, :0], labels, top=TOP, **options), none)


@SOME
@given(rows_of_anything())
def test_a_row_does_not_depend_on_the_rows_next_to_it(drawn):
    values, labels, _, options = drawn
    whole = losses(scan(values, labels, **options))
    for order in (np.arange(len(values))[::-1], np.random.default_rng(0).permutation(len(values))):
        assert np.array_equal(losses(scan(values[order], labels[order], **options)), whole[order], True)
    for i in range(len(values)):
        assert np.array_equal(losses(scan(values[i : i + 1], labels[i : i + 1], **options)), whole[i : i + 1], True)


def powers(x, dtype):
    """Write exp(x) of each class as p * 2**n; of what has no position, as nothing."""
    n, p = elementary.power_of_two(np.where(np.abs(x) < 2.0**30, x, 0).astype(dtype))
    return list(zip(n.tolist(), map(Fraction, p.astype(float).tolist()), strict=True))


def at_every_scale(rng, shape):
    """Logits from 1e-3 to 1e9, near one another or not, ties and -inf among them."""
    x = rng.choice([-1.0, 1.0], shape) * 10 ** rng.uniform(-3, rng.choice([0, 2, 3, 9.03], (shape[0], 1)), shape)
    x = np.where(rng.random((shape[0], 1)) < 0.5, x, x[:, :1] + rng.normal(0, 40, shape))
    x = np.where(rng.random(shape) < 0.2, x[:, rng.integers(0, shape[1], shape[1])], x)
    return np.where(rng.random(shape) < 0.1, -np.inf, x)


@MANY
@given(st.data(), st.integers(2, 24), st.randoms(use_true_random=False))
def test_sums_are_those_of_exact_fractions_rounded_to_whole_units(data, classes, random):
    values = data.draw(logits((6, classes), (*ANY[:-1], *[at_every_scale] * 6), WIDE))
    labels = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, classes, 6)
    sizes, dtype = data.draw(partitions(classes)), values.dtype.name
    parts = pieces(values, labels, sizes)
    random.shuffle(parts)
    whole, merged = scan(values, labels), reduce(merge, parts)
    for i, x in enumerate(values):
        base, units = reference.whole_units(x.tolist(), powers(x, values.dtype), dtype)
        for found in (whole, merged):
            assert (found.base[i], found.mass[:, i].tolist()) == (base, units)
        peak, target = float(x.max()), float(x[labels[i]])
        if abs(peak) < 2.0**30 and target > -np.inf:
            rest, gap = reference.loss_of_units(base, units, peak, target, dtype)
            # Three sums of the exponent are rounded, of at most 170 nats; where it is beyond 2**20, its products too.
            # Then exp and log1p, each to two units in the last place, products and the last sum.
            lost = 3 * 170 + 8 + (2 * abs(peak) if abs(peak) > 2.0**20 else 0)
            bound = 2.0**-53 * (lost * float(rest) + 2 * float(rest + gap))
            assert abs(Decimal(losses(whole)[i].item()) - (rest + gap)) <= bound


@MANY
@given(rows_of_anything())
def test_peak_best_and_top_are_those_of_numpy(drawn):
    values, labels, _, options = drawn
    found = scan(values, labels, top=TOP, **options)
    x = np.where(np.isnan(values.astype(float)), -np.inf, values.astype(float))
    assert np.array_equal(found.peak, x.max(axis=1))
    assert np.array_equal(found.best, x.argmax(axis=1))  # the lowest class on ties
    best_first = np.sort(np.pad(x, ((0, 0), (0, TOP)), constant_values=-np.inf), axis=1)[:, ::-1][:, :TOP]
    assert np.array_equal(found.top, best_first)
    assert np.array_equal((found.flags & scanning.HAS_NAN).astype(bool), np.isnan(values.astype(float)).any(axis=1))
    seen = (labels >= 0) & (labels < values.shape[1])
    own = values[np.arange(len(values))[seen], labels[seen]].astype(float)
    assert np.array_equal(found.target[seen], own, equal_nan=True)
    assert not found.target[~seen].any()


@MANY
@given(st.data(), st.sampled_from([2, 3, 10, 1000]))
def test_losses_of_logits_are_those_of_longdouble(data, classes):
    values = data.draw(logits((8, classes), (*FINITE, ANY[5])))
    labels = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, classes, 8)
    got, wanted = losses(scan(values, labels)), reference.from_logits(reference.rows(values), labels)
    bound = RELATIVE[wide(values)], classes * RESOLUTION[wide(values)]
    np.testing.assert_allclose(got, wanted.astype(float), *bound)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [50_257, 1 << 18])
@pytest.mark.parametrize("reach", [1.0, 30.0, 60_000.0])
def test_losses_over_whole_vocabularies_are_those_of_longdouble(dtype, classes, reach):
    rng = np.random.default_rng(classes)
    values = rng.uniform(-reach, reach, (3, classes)).astype(dtype)
    values[2, rng.random(classes) < 0.9] = -np.inf  # a masked vocabulary
    labels = values.astype(np.float32).argsort(axis=1)[[0, 1, 2], [-1, classes // 2, -5]]
    got, wanted = losses(scan(values, labels)), reference.from_logits(reference.rows(values), labels)
    bound = RELATIVE[wide(values)], classes * RESOLUTION[wide(values)]
    np.testing.assert_allclose(got, wanted.astype(float), *bound)
    split = reduce(merge, [scan(values[:, a : a + 9973], labels, a) for a in range(0, classes, 9973)])
    assert losses(split).tolist() == got.tolist()


@MANY
@given(st.data(), st.sampled_from([2, 3, 10, 1000]))
def test_losses_of_probabilities_are_those_of_longdouble(data, classes):
    values = data.draw(probabilities((8, classes)))
    labels = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, classes, 8)
    got = losses(scan(values, labels, probabilities=True))
    wanted = reference.from_probabilities(reference.rows(values), labels)
    np.testing.assert_allclose(got, wanted.astype(float), RELATIVE[wide(values)], 0)  # never below 1e-7


@MANY
@given(st.data(), st.sampled_from([2, 3, 10, 300]), st.booleans(), st.sampled_from([0.0, 0.1, 1.0]))
def test_losses_of_soft_labels_are_those_of_longdouble(data, classes, unit, smoothing):
    values = data.draw(probabilities((8, classes)) if unit else logits((8, classes), (*FINITE, ANY[5])))
    soft = data.draw(probabilities((8, classes), dtypes=WIDE))
    soft = np.where(np.isneginf(values.astype(float)) & (not unit), 0, soft)
    found = scan(values, np.zeros(8, int), probabilities=unit)
    if np.isneginf(values.astype(float)).any():
        smoothing = 0.0
    got = dense_losses(values, soft, found, smoothing=smoothing)
    x, y = reference.rows(values), reference.smoothed(reference.rows(soft), smoothing)
    wanted = (reference.dense_from_probabilities if unit else reference.dense_from_logits)(x, y).astype(float)
    # Besides the bound of one loss: a sum of C float64 products from left to right rounds C times. Near q = 1 a
    # rounding of q (2**-53) is all there is of log q.
    bound = RELATIVE[wide(values)] + classes * 2.0**-53, classes * (RESOLUTION[wide(values)] + 2.0**-52 * unit)
    np.testing.assert_allclose(got, wanted, *bound)


@SOME
@given(st.data(), st.sampled_from(["bool", "uint8", "int64", "float16", "float32", "float64"]))
def test_one_hot_labels_give_the_bits_of_integers(data, dtype):
    values = data.draw(logits((8, 11)))
    labels = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 11, 8)
    found = scan(values, labels)
    assert np.array_equal(dense_losses(values, np.eye(11)[labels].astype(dtype), found), losses(found), equal_nan=True)


@SOME
@given(st.data())
def test_one_hot_labels_agree_with_integers_on_probabilities(data):
    # Integers are clipped, then normalised; one-hot labels the other way round. What sums to one within its precision,
    # and stays off the bounds, differs by that precision, and by C clipped classes of 1e-7.
    values = data.draw(probabilities((8, 11)))
    labels = values.astype(float).argmax(axis=1)
    found = scan(values, labels, probabilities=True)
    dense = dense_losses(values, np.eye(11)[labels], found)
    np.testing.assert_allclose(dense, losses(found), 0, 2 * 11 * 1.2e-7)


def test_rows_that_have_no_loss_are_nan_and_a_masked_label_is_infinite():
    inf, nan = np.inf, np.nan
    values = np.array(
        [[nan, 1, 2], [inf, 1, 2], [-inf, -inf, -inf], [-inf, 1, 2], [1, -inf, 2], [inf, inf, -inf], [nan, inf, 0]]
    )
    labels = np.array([1, 1, 1, 0, 0, 2, 2])
    for kind in DTYPES:
        x = values.astype(kind)
        for found in (scan(x, labels), reduce(merge, [scan(x[:, c : c + 1], labels, c) for c in (2, 0, 1)])):
            got = losses(found)
            assert np.isnan(got[[0, 1, 2, 5, 6]]).all()
            assert got[3] == inf
            assert got[4] == pytest.approx(np.log1p(np.e), rel=2e-6)  # as RELATIVE
            dense = dense_losses(x, np.eye(3)[labels], found)
            assert np.array_equal(dense, got, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("peak", [2.0**30, 2.0**31, 1e30, -(2.0**30), -1e30])
def test_only_ties_count_next_to_a_huge_peak(dtype, peak):
    values = np.array([[peak, peak, -np.inf, peak, peak - abs(peak) / 2]]).astype(dtype)
    for label, gap in ((0, 0.0), (4, float(values[0, 0]) - float(values[0, 4]))):
        labels = np.array([label])
        parts, whole = [scan(values[:, c : c + 1], labels, c) for c in range(5)], losses(scan(values, labels))
        for order in itertools.permutations(range(5), 5):
            assert losses(reduce(merge, [parts[c] for c in order])) == whole
        assert whole[0] == pytest.approx(np.log(3) + gap, rel=1e-15)  # two roundings


def test_a_sure_and_right_prediction_keeps_its_digits():
    for dtype, gap in ((np.float32, 30.0), (np.float32, 42.0), (np.float64, 45.0), (np.float64, 130.0)):
        values = np.array([[gap, 0.0, 0.0, -20.0]], dtype)
        got = losses(scan(values, np.array([0])))[0]
        assert got == pytest.approx((2 + np.exp(-20)) * np.exp(-gap), rel=RELATIVE[np.dtype(dtype)])


def test_many_small_terms_far_below_a_sure_peak_count():
    values = np.full((1, 1 << 18), -27.0, np.float32)  # 39 bits below the peak
    values[0, 5] = 0.0
    got = losses(scan(values, np.array([5])))[0]
    assert got == pytest.approx(np.log1p(((1 << 18) - 1) * np.exp(-27.0)), rel=RELATIVE[values.dtype])


def test_half_precision_gives_the_bits_of_the_same_values_widened():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 200, 50)
    for dtype in DTYPES[:2]:
        values = rng.normal(0, 5, (50, 200)).astype(dtype)
        assert losses(scan(values, labels)).tolist() == losses(scan(values.astype(np.float32), labels)).tolist()


def test_probabilities_outside_the_unit_interval_are_flagged():
    values = np.array([[0.5, 0.5], [-0.1, 1.1], [-1e-3, 0.9], [0.2, 1.001], [0.0, 1.0]])
    flags = scan(values, np.zeros(5, int), probabilities=True).flags
    assert (flags & scanning.OUTSIDE_UNIT).astype(bool).tolist() == [False, True, True, True, False]
    assert not scan(values, np.zeros(5, int)).flags.any()


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("peak", [5.4, 15.9, -0.3, 0.0, 700.3])
def test_the_most_classes_there_may_be_do_not_overflow(dtype, peak):
    # A term is largest just below the next grid position: 5.4 = 7.8 ln 2 in float32, 15.9 = 22.9 ln 2 in float64.
    values = np.full((1, scanning.MOST_CLASSES), peak, dtype)
    values[0, 0] += np.spacing(values[0, 0])
    labels = np.array([7])
    for found in (scan(values, labels), kernels.scan(values[:, :, None], labels)):
        assert losses(found)[0] == pytest.approx(np.log(scanning.MOST_CLASSES), rel=RELATIVE[dtype])
    sure = scan(np.ones_like(values), labels, probabilities=True)
    assert scanning.total_probability(sure)[0] == pytest.approx(scanning.MOST_CLASSES, rel=1e-6)
