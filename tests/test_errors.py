"""Standard errors and intervals are those of statsmodels, for any chunks, weights and scale of weights."""

import math
from fractions import Fraction

import dask.array as da
import numpy as np
import pytest
import sized
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.regression.linear_model import WLS
from statsmodels.stats.proportion import proportion_confint
from strategies import SOME

import daskxent as dx
from daskxent.numbers.errors import t_quantile

CLASSES = 7
METRICS = ["crossentropy", "accuracy", "perplexity", "bits", "top_2_accuracy"]
OPTIONS = {"from_logits": True, "metrics": METRICS, "threads": 1}


def drawn(rows, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, CLASSES, rows), rng.normal(0, 2, (rows, CLASSES)), rng.random(rows) * 5


def values_of(y, x):
    """Return the value of each row of the statistics, in float64."""
    x = x.astype(np.float64)
    loss = np.log(np.exp(x).sum(axis=1)) - x[np.arange(len(y)), y]
    above = (x > x[np.arange(len(y)), y][:, None]).sum(axis=1)
    return {"crossentropy": loss, "accuracy": above < 1.0, "top_2_accuracy": above < 2.0}


def regression(values, weights):
    """Return the weighted mean and its standard error by the regression on a constant, HC1."""
    fitted = WLS(values.astype(float), np.ones(len(values)), weights=weights).fit(cov_type="HC1")
    return fitted.params[0], fitted.bse[0]


@pytest.mark.parametrize("rows", [3, 40, 9000])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_error_of_a_mean_is_that_of_statsmodels(rows, weighted):
    y, x, w = drawn(rows)
    report = dx.evaluate(y, x, sample_weight=w if weighted else None, **OPTIONS)
    for name, values in values_of(y, x).items():
        mean, error = regression(values, w if weighted else np.ones(rows))
        assert report[name] == pytest.approx(mean, rel=1e-12)
        assert report.se[name] == pytest.approx(error, rel=1e-11, abs=1e-15)
    loss = report.se["crossentropy"]
    assert report.se["perplexity"] == pytest.approx(loss * report["perplexity"], rel=1e-15)
    assert report.se["bits"] == pytest.approx(loss / math.log(2), rel=1e-15)


def test_without_weights_it_is_the_sample_deviation_over_the_root():
    y, x, _ = drawn(500)
    loss = values_of(y, x)["crossentropy"]
    report = dx.evaluate(y, x, **OPTIONS)
    assert report.se["crossentropy"] == pytest.approx(loss.std(ddof=1) / math.sqrt(500), rel=1e-13)
    assert report.effective_rows == 500


@pytest.mark.parametrize("scale", [100, 1e-9, 2.0**40])
@pytest.mark.parametrize("rows", [40, 9000])
def test_the_scale_of_weights_changes_nothing(scale, rows):
    y, x, w = drawn(rows)
    for weights in (w, np.ones(rows)):
        one, other = (dx.evaluate(y, x, sample_weight=each, **OPTIONS) for each in (weights, weights * scale))
        assert other.se == pytest.approx(one.se, rel=1e-12)
        assert other.effective_rows == pytest.approx(one.effective_rows, rel=1e-12)
        for name in METRICS:
            assert other.interval(name) == pytest.approx(one.interval(name), rel=1e-9)


@pytest.mark.parametrize("rows", [12, 9000])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_intervals_are_those_of_t_and_wilson(rows, level):
    y, x, _ = drawn(rows)
    report, found = dx.evaluate(y, x, **OPTIONS), values_of(y, x)
    loss = found["crossentropy"]
    low, high = stats.t.interval(level, rows - 1, loss.mean(), stats.sem(loss))
    assert report.interval("crossentropy", level) == pytest.approx((low, high), rel=1e-9)
    assert report.interval("perplexity", level) == pytest.approx((math.exp(low), math.exp(high)), rel=1e-9)
    assert report.interval("bits", level) == pytest.approx((low / math.log(2), high / math.log(2)), rel=1e-9)
    for name in ("accuracy", "top_2_accuracy"):
        wilson = proportion_confint(found[name].sum(), rows, 1 - level, method="wilson")
        assert report.interval(name, level) == pytest.approx(wilson, rel=1e-9)


def test_the_interval_of_a_weighted_share_has_the_rows_that_have_its_error():
    y, x, w = drawn(300)
    report = dx.evaluate(y, x, sample_weight=w, **OPTIONS)
    share, error = report["accuracy"], report.se["accuracy"]
    count = share * (1 - share) / error**2
    assert report.interval("accuracy") == pytest.approx(proportion_confint(share * count, count, method="wilson"))


def test_a_share_of_all_or_none_has_an_interval_too():
    x, w = np.eye(3)[[0, 1, 2, 0]] * 9, np.array([1.0, 2, 3, 4])
    right = dx.evaluate([0, 1, 2, 0], x, from_logits=True)
    assert right.se["accuracy"] == 0
    assert right.interval("accuracy") == pytest.approx(proportion_confint(4, 4, method="wilson"))
    wrong = dx.evaluate([1, 2, 0, 1], x, from_logits=True, sample_weight=w)
    count = w.sum() ** 2 / (w**2).sum()
    assert wrong.interval("accuracy") == pytest.approx(proportion_confint(0, count, method="wilson"))
    assert wrong.effective_rows == pytest.approx(count)


@pytest.mark.parametrize("value", [0.1, 1e-8, 123.456])
@pytest.mark.parametrize("rows", [10, 9000])
def test_equal_losses_have_no_error(value, rows):
    x = np.tile([value, 0.0, -value], (rows, 1))
    assert dx.evaluate(np.zeros(rows, int), x, from_logits=True).se["crossentropy"] == 0
    weights = np.random.default_rng(0).random(rows)
    assert dx.evaluate(np.zeros(rows, int), x, from_logits=True, sample_weight=weights).se["crossentropy"] == 0


@pytest.mark.parametrize("gap", [30, 300])
def test_small_losses_have_errors_of_their_own_size(gap):
    x = np.zeros((9000, 2))
    x[:, 0] = gap + np.random.default_rng(0).random(9000)
    report = dx.evaluate(np.zeros(9000, int), x, from_logits=True, metrics=["crossentropy"])
    loss = np.log1p(np.exp(-x[:, 0].astype(np.longdouble)))
    assert report.se["crossentropy"] == pytest.approx(float(loss.std(ddof=1)) / 9000**0.5, rel=1e-9)


def test_where_there_is_no_error_it_is_nan():
    one = dx.evaluate([0], [[1.0, 2.0]], from_logits=True)
    assert math.isnan(one.se["crossentropy"])
    assert all(map(math.isnan, one.interval("crossentropy")))
    assert "±" not in repr(one)
    lost = dx.evaluate([0, 1], [[-np.inf, 2.0], [0.0, 1.0]], from_logits=True)
    assert math.isnan(lost.se["crossentropy"])
    assert lost.to_dict()["se"]["accuracy"] > 0
    with pytest.warns(UserWarning, match="no row was counted"):
        assert math.isnan(dx.evaluate([0], [[1.0, 2.0]], sample_weight=[0.0]).se["accuracy"])


def test_hidden_and_skipped_rows_do_not_count():
    y, x, w = drawn(60)
    w[::3], y[1::3] = 0, 99
    kept = np.arange(2, 60, 3)
    report = dx.evaluate(y, x, sample_weight=w, on_invalid="skip", **OPTIONS)
    assert report.se == dx.evaluate(y[kept], x[kept], sample_weight=w[kept], **OPTIONS).se


@SOME
@given(st.data())
def test_any_way_of_evaluation_gives_the_same_sums(data):
    rows = data.draw(st.integers(1, 90))
    y, x, w = drawn(rows, data.draw(st.integers(0, 9)))
    x = x.astype(data.draw(st.sampled_from(["float16", "float32", "float64"])))
    x[0] *= data.draw(st.sampled_from([1, 40, 1e3]))
    options = OPTIONS | {"sample_weight": data.draw(st.sampled_from([None, w, w * 1e150]))}
    wanted = dx.evaluate(y, x, **options)
    chunks = (data.draw(st.integers(1, rows)), data.draw(st.integers(1, CLASSES)))
    assert dx.evaluate(y, da.from_array(x, chunks=chunks), **options).state == wanted.state
    with pytest.MonkeyPatch.context() as patch:
        sized.give(patch, few=0)
        assert dx.evaluate(y, x, **options).state == wanted.state
    cut = data.draw(st.integers(0, rows))
    parts = [dx.evaluate(y, x, steps=steps, **options) for steps in ((0, cut), (cut, rows)) if steps[0] < steps[1]]
    merged = dx.Report.from_json(parts[0].merge(*parts[1:]).to_json())
    assert merged.state == wanted.state
    assert merged.to_dict()["high"] == pytest.approx(wanted.to_dict()["high"], nan_ok=True)


@pytest.mark.parametrize("degrees", [1, 2, 3, 9, 99, 999, 1000, 1001, 12_345, 10**6, 10**12])
@pytest.mark.parametrize("share", [0.6, 0.9, 0.975, 0.9999])
def test_the_quantiles_of_student(degrees, share):
    assert t_quantile(1 - share, degrees) == pytest.approx(stats.t.ppf(share, degrees), rel=1e-9)


@pytest.mark.parametrize("level", [5e-324, 1 - 1e-12, 1 - 2**-53])
def test_any_level_between_0_and_1_has_an_interval(level):
    y, x, _ = drawn(30)
    report = dx.evaluate(y, x, **OPTIONS)
    loss, hits = (values_of(y, x)[name] for name in ("crossentropy", "accuracy"))
    half = stats.t.isf((1 - level) / 2, 29) * stats.sem(loss)
    wanted = pytest.approx((loss.mean() - half, loss.mean() + half), rel=1e-9)
    assert report.interval("crossentropy", level) == wanted
    z, n, k = stats.norm.isf((1 - level) / 2), 30, hits.sum()
    half = z * math.sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    middle = (k + z * z / 2) / (n + z * z)
    assert report.interval("accuracy", level) == pytest.approx((middle - half, middle + half), rel=1e-9, abs=1e-15)


def test_an_interval_needs_a_level_and_a_metric():
    report = dx.evaluate([0, 1], [[0.9, 0.1], [0.2, 0.8]])
    with pytest.raises(ValueError, match=r"^level: expected a number between 0 and 1, got 95$"):
        report.interval("accuracy", 95)
    for level in (0, 1.0, math.nan, True, "0.9", None, Fraction(10**20 - 1, 10**20)):
        with pytest.raises(ValueError, match=r"^level: expected a number between 0 and 1, got "):
            report.interval("accuracy", level)
    with pytest.raises(KeyError, match="'bits' was not asked for"):
        report.interval("bits")


@pytest.mark.slow
def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Of 400 samples of 200 rows each, 95 % are 380; 4 standard deviations of that are 17."""
    y, x, _ = drawn(200 * 400)
    loss, covered = values_of(y, x)["crossentropy"], 0
    for k in range(400):
        some = slice(200 * k, 200 * (k + 1))
        low, high = dx.evaluate(y[some], x[some], **OPTIONS).interval("crossentropy")
        covered += low <= loss.mean() <= high
    assert abs(covered - 380) <= 17
