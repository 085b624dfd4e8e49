"""Calibration and temperature are those of scikit-learn, of the reference, and of a direct search."""

import itertools
import json
import math

import dask.array as da
import numpy as np
import pytest
import sized
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator

import daskxent as dx

METRICS = ["crossentropy", "accuracy", "ece", "mce", "rmsce", "ece_debiased", "overconfidence", "ece_equal_mass"]
METRICS += ["brier", "temperature"]


def drawn(rows=2000, classes=30, temperature=1.4, seed=0, dtype="float32"):
    """Return labels drawn from the softmax of logits, and the logits times a temperature."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 2, (rows, classes))
    p = softmax(x, axis=1)
    y = (p.cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)
    return y, (x * temperature).astype(dtype), rng.integers(0, 5, rows) / 2


def confidences(x):
    p = softmax(x.astype(np.longdouble), axis=1)
    return p.max(axis=1).astype(float), p.argmax(axis=1)


def by_hand(y, x, w, bins=15):
    """Guo's estimator and its like, over bins (lo, hi]."""
    confidence, prediction = confidences(x)
    hit, w = (prediction == y).astype(float), np.ones(len(y)) if w is None else w
    edges, found = np.linspace(0, 1, bins + 1), []
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high) & (w > 0)
        if inside.any():
            weight = w[inside].sum()
            means = ((confidence * w)[inside].sum() / weight, (hit * w)[inside].sum() / weight)
            found.append((inside.sum(), weight, *means))
    n, weight, mean, share = np.array(found).T
    part, gap = weight / weight.sum(), mean - share
    debiased = (part * np.where(n > 1, gap**2 - share * (1 - share) / np.maximum(n - 1, 1), 0)).sum()
    return {
        "ece": (part * abs(gap)).sum(),
        "mce": abs(gap).max(),
        "rmsce": math.sqrt((part * gap**2).sum()),
        "ece_debiased": math.sqrt(max(debiased, 0)),
        "overconfidence": (part * gap).sum(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_calibration_errors_are_those_of_the_reference(weighted, dtype):
    y, x, w = drawn(dtype=dtype)
    w = w if weighted else None
    report = dx.evaluate(y, x, sample_weight=w, from_logits=True, metrics=METRICS, threads=1)
    for name, value in by_hand(y, x, w).items():
        assert report[name] == pytest.approx(value, rel=1e-9 if dtype == "float64" else 1e-6), name
    p = softmax(x.astype(float), axis=1)
    brier = np.average(((p - np.eye(30)[y]) ** 2).sum(axis=1), weights=w)
    assert report["brier"] == pytest.approx(brier, rel=1e-6)
    terms = report.brier_decomposition()
    made = terms["reliability"] - terms["resolution"] + terms["uncertainty"]
    made += terms["within_bin_variance"] - terms["within_bin_covariance"]
    confidence, prediction = confidences(x)
    assert made == pytest.approx(terms["brier"], rel=1e-12)
    assert terms["brier"] == pytest.approx(np.average((confidence - (prediction == y)) ** 2, weights=w), rel=1e-6)


def test_the_table_is_the_curve_of_sklearn():
    y, x, _ = drawn()
    confidence, prediction = confidences(x)
    share, mean = calibration_curve(prediction == y, confidence, n_bins=10)
    table = dx.evaluate(y, x, from_logits=True, metrics=["ece"], calibration_bins=10).reliability()
    assert [line["accuracy"] for line in table] == pytest.approx(share, rel=1e-6)
    assert [line["confidence"] for line in table] == pytest.approx(mean, rel=1e-6)
    assert sum(line["rows"] for line in table) == len(y)
    assert list(table.to_pandas()["rows"]) == [line["rows"] for line in table]
    assert table.to_csv().startswith("low,high,rows,weight,confidence,accuracy,gap\n")
    assert "Reliability" in repr(table)


def test_confidences_on_the_edges():
    """A confidence of 0.5 is in the bin below the edge, and that of 1 in the last one: nothing is left out."""
    x = np.array([[0.0, 0.0], [80.0, 0.0], [0.0, 80.0]], "float16")
    table = dx.evaluate([0, 0, 0], x, from_logits=True, metrics=["ece"], calibration_bins=2).reliability()
    assert [(line["low"], line["rows"], line["confidence"]) for line in table] == [
        (0, 1, pytest.approx(0.5)),
        (0.5, 2, 1),
    ]
    none = dx.evaluate([0], [[0.0, 0.0, 0.0]], metrics=["ece", "confidence"])  # clipped probabilities, and not 1 in all
    assert 0 < none["confidence"] < 1


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [40, 3000])
@pytest.mark.parametrize("logits", [False, True])
def test_the_calibration_of_all_classes(weighted, rows, logits):
    y, x, w = drawn(rows, 12, dtype="float64")
    w, p = w if weighted else None, softmax(x, axis=1)
    every, edges, wanted = np.ones(rows) if w is None else w, np.linspace(0, 1, 16), 0.0
    for k in range(12):
        bins = np.searchsorted(edges[1:-1], p[:, k], side="left")
        gaps = np.bincount(bins, every * (p[:, k] - (y == k)), 15)
        wanted += abs(gaps).sum() / every.sum() / 12
    given = x if logits else p
    options = {"sample_weight": w, "from_logits": logits, "metrics": ["classwise_ece", "accuracy"]}
    report = dx.evaluate(y, given, **options, threads=1)
    assert report["classwise_ece"] == pytest.approx(wanted, rel=1e-9 if logits else 1e-5)
    assert dx.evaluate(y, da.from_array(given, chunks=(17 if rows < 99 else 700, 5)), **options) == report
    assert dx.Report.from_json(report.to_json()) == report


def test_the_temperature_is_that_of_sklearn():
    """scikit-learn calibrates a classifier whose decisions are our logits."""
    y, x, _ = drawn(3000, 10, 1.5, dtype="float64")

    class Given(ClassifierMixin, BaseEstimator):
        def fit(self, x, y):
            self.classes_ = np.arange(10)
            return self

        def decision_function(self, x):
            return x

        def predict(self, x):
            return x.argmax(axis=1)

    frozen = FrozenEstimator(Given().fit(x, y))
    calibrated = CalibratedClassifierCV(frozen, method="temperature").fit(x, y).calibrated_classifiers_[0]
    beta = calibrated.calibrators[0].beta_
    assert dx.evaluate(y, x, from_logits=True, metrics=["temperature"])["temperature"] == pytest.approx(
        1 / beta, rel=1e-4
    )


def test_bins_of_equal_mass():
    y, x, _ = drawn(6000)
    confidence, prediction = confidences(x)
    order = np.argsort(confidence)
    parts = np.array_split(order, 15)
    hit = prediction == y
    exact = sum(abs(confidence[part].sum() - hit[part].sum()) for part in parts) / len(y)
    assert dx.evaluate(y, x, from_logits=True, metrics=["ece_equal_mass"])["ece_equal_mass"] == pytest.approx(
        exact, abs=2e-3
    )


@pytest.mark.parametrize("true", [0.6, 0.8, 1.0, 1.37, 1.9])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_temperature_is_that_of_a_direct_search(true, weighted):
    y, x, w = drawn(4000, 64, true)
    w = w if weighted else None

    def loss(temperature):
        return -np.average(log_softmax(x.astype(float) / temperature, axis=1)[np.arange(len(y)), y], weights=w)

    best = minimize_scalar(loss, bounds=(0.4, 2.5), method="bounded", options={"xatol": 1e-10}).x
    report = dx.evaluate(y, x, sample_weight=w, from_logits=True, metrics=["temperature", "crossentropy", "ece"])
    found = report.temperature()
    assert report["temperature"] == found.value == pytest.approx(best, abs=1e-4)
    assert found.crossentropy == pytest.approx((loss(1), loss(best)), rel=1e-6)
    assert abs(found.value - true) < 4 * found.error
    after = dx.evaluate(
        y, x, sample_weight=w, from_logits=True, temperature=found.value, metrics=["crossentropy", "ece"]
    )
    assert after["crossentropy"] == pytest.approx(loss(found.value), rel=1e-6)
    assert found.ece[0] == pytest.approx(report["ece"], rel=1e-6)
    assert found.ece[1] == pytest.approx(after["ece"], abs=4e-3)
    low, high = report.interval("temperature")
    assert low < found.value < high
    assert f"{found.value:.3g}"[:3] in repr(report)


def test_the_error_of_the_temperature_is_that_of_the_sandwich():
    y, x, w = drawn(3000, 20, 1.3)
    report = dx.evaluate(y, x, sample_weight=w, from_logits=True, metrics=["temperature"])
    beta = 1 / report["temperature"]
    p = softmax(beta * x.astype(float), axis=1)
    mean = (p * x).sum(axis=1)
    slope, bend = mean - x[np.arange(len(y)), y], (p * x.astype(float) ** 2).sum(axis=1) - mean**2
    error = math.sqrt((w**2 * slope**2).sum()) / (w * bend).sum() / beta**2
    assert report.se["temperature"] == pytest.approx(error, rel=5e-3)
    clusters = np.arange(3000) // 3
    sums = np.bincount(clusters, w * slope)
    clustered = dx.evaluate(y, x, sample_weight=w, from_logits=True, metrics=["temperature"], clusters=clusters)
    expected = math.sqrt((sums**2).sum() * 1000 / 999) / (w * bend).sum() / beta**2
    assert clustered.se["temperature"] == pytest.approx(expected, rel=5e-3)


def test_the_temperature_is_of_the_rows_where_means_are_of_clusters():
    """Clusters of 1 to 60 rows, those of many rows much less sure than the others."""
    y, x, w = drawn(3000, 10, 1.0, dtype="float64")
    clusters = np.repeat(np.arange(100), np.linspace(1, 59, 100).astype(int))[:3000]
    clusters = np.r_[clusters, np.full(3000 - clusters.size, 99)]
    x[clusters < 60] /= 3
    options = {
        "sample_weight": w,
        "from_logits": True,
        "metrics": ["temperature", "crossentropy"],
        "clusters": clusters,
    }
    report, of_rows = (dx.evaluate(y, x, average=average, **options) for average in ("cluster", "row"))

    def loss(temperature):
        return -np.average(log_softmax(x / temperature, axis=1)[np.arange(len(y)), y], weights=w)

    best = minimize_scalar(loss, bounds=(0.4, 2.5), method="bounded", options={"xatol": 1e-10}).x
    assert report["temperature"] == pytest.approx(best, abs=1e-4)
    assert report.temperature() == of_rows.temperature()
    assert report.se["temperature"] == of_rows.se["temperature"]
    assert report.interval("temperature") == of_rows.interval("temperature")
    assert report["crossentropy"] != of_rows["crossentropy"]


def test_a_temperature_beyond_the_grid_is_said_to_be():
    y, x, _ = drawn(1000, 20, 4.0)
    report = dx.evaluate(y, x, from_logits=True, metrics=["temperature"])
    assert math.isnan(report["temperature"])
    assert report.temperature().beyond == "above 2"
    assert "above 2" in repr(report)
    assert dx.evaluate(y, x / 16, from_logits=True, metrics=["temperature"]).temperature().beyond == "below 0.5"
    assert json.loads(report.to_json(), parse_constant=pytest.fail)["at_temperature"]["crossentropy"][1] is None


WAYS = {
    "zarr": lambda x: stored(x, (170, x.shape[1])),
    "zarr split by classes": lambda x: stored(x, (170, 7)),
    "dask": lambda x: da.from_array(x, chunks=(130, -1)),
    "dask split by classes": lambda x: da.from_array(x, chunks=(130, 13)),
    "strided": lambda x: np.asfortranarray(x),
}


def stored(values, chunks):
    array = zarr.create_array({}, shape=values.shape, dtype=values.dtype, chunks=chunks)
    array[...] = values
    return array


EVERY = [*METRICS, "entropy", "confidence", "margin", "rank", "mrr", "logsumexp", "z_loss", "label_probability"]


@pytest.mark.parametrize("few", [0, 1 << 30], ids=["compiled", "NumPy"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("weighted", [False, True])
def test_all_of_it_has_the_same_bits_on_every_way(monkeypatch, way, few, weighted):
    y, x, w = drawn(900, 41)
    x[5, 3], x[7, y[7]], y[9] = -np.inf, -np.inf, 99
    options = {"from_logits": True, "metrics": EVERY, "histograms": ["entropy", "crossentropy"], "ranks": True}
    options |= {
        "on_invalid": "skip",
        "sample_weight": w if weighted else None,
        "by": {"sure": dx.bins("entropy", [0, 1, 9])},
    }
    whole = dx.evaluate(y, x, **options, threads=1)
    sized.give(monkeypatch, few=few)
    assert dx.evaluate(y, WAYS[way](x), **options) == whole
    assert dx.Report.from_json(whole.to_json()) == whole
    assert whole.by("sure").rows[0]["entropy"] < 1


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(0, 2**32), st.sampled_from(["float16", "float32", "float64"]), st.booleans())
def test_shapes_and_curves_have_the_bits_of_their_definition(classes, seed, dtype, probabilities):
    from daskxent.kernels import softmax_sums as compiled
    from daskxent.numbers import softmax_sums

    rng = np.random.default_rng(seed)
    x = (rng.normal(0, 10.0 ** rng.integers(-2, 4), (9, classes))).astype(dtype)
    x[rng.random(x.shape) < 0.1] = -np.inf
    if probabilities:
        x = softmax(np.where(np.isinf(x), -50, x).astype(float), axis=1).astype(dtype)
    peak, target = x.max(axis=1).astype(float), x[:, 0].astype(float)
    peak[3] = np.nan
    pairs = [
        (
            compiled.shape_of(x[:, :, None], peak, probabilities=probabilities),
            softmax_sums.shape_of(x, peak, probabilities=probabilities),
        )
    ]
    if not probabilities:
        pairs.append((compiled.curve_of(x[:, :, None], peak, target), softmax_sums.curve_of(x, peak, target)))
    for one, other in pairs:
        for a, b in zip(one, other, strict=True):
            assert np.array_equal(a, b, equal_nan=True)


@pytest.mark.parametrize("logits", [False, True])
def test_columns_over_the_classes(logits):
    y, x, _ = drawn(300, 21, dtype="float64")
    p = softmax(x, axis=1)
    given = x if logits else p
    names = ["entropy", "sum_p2", "brier", "label_probability", "margin", "rank"]
    found = dx.rows(y, given, from_logits=logits, columns=names)
    top, own = np.sort(given, axis=1), given[np.arange(300), y]
    wanted = {
        "entropy": -(p * np.log(p)).sum(axis=1),
        "sum_p2": (p**2).sum(axis=1),
        "brier": ((p - np.eye(21)[y]) ** 2).sum(axis=1),
        "label_probability": p[np.arange(300), y],
        "margin": top[:, -1] - top[:, -2],
        "rank": 1 + (given > own[:, None]).sum(axis=1),
    }
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values, rel=1e-5, abs=1e-7), name  # clipped at 1e-7
    if logits:
        more = dx.rows(y, x, from_logits=True, columns=["logsumexp", "z_loss"])
        assert more["logsumexp"] == pytest.approx(np.log(np.exp(x).sum(axis=1)))
        assert more["z_loss"] == pytest.approx(more["logsumexp"] ** 2)
    report = dx.evaluate(y, given, from_logits=logits, metrics=["mrr", "rank", "entropy"])
    assert report["mrr"] == pytest.approx((1 / wanted["rank"]).mean())
    assert report.se["entropy"] == pytest.approx(wanted["entropy"].std(ddof=1) / math.sqrt(300), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lead", [0, 3, 8, 13, 18, 22, 30])
def test_the_brier_score_of_sure_rows_is_as_exact_as_is_promised(dtype, lead):
    y, x, _ = drawn(300, 6)
    x = x.astype("float64")
    x[np.arange(300), y] += lead
    x = x.astype(dtype)
    found = dx.rows(y, x, from_logits=True, columns=["brier"])["brier"]
    p = softmax(x.astype(np.longdouble), axis=1)
    p[np.arange(300), y] = 0
    rest = p.sum(axis=1)
    assert (found >= 0).all()
    assert (abs(found - (rest**2 + (p**2).sum(axis=1))) <= 5e-15 + (3e-7 * rest if dtype == "float32" else 0)).all()


def test_a_row_of_one_probability_has_no_entropy():
    x = np.array([[0.0, -np.inf, -np.inf], [0.0, 0.0, -np.inf], [np.nan, 0, 0], [np.inf, 0, 0], [-np.inf] * 3])
    found = dx.rows([0, 0, 0, 0, 0], x, from_logits=True, columns=["entropy", "sum_p2"])
    assert found["entropy"][:2] == pytest.approx([0, math.log(2)])
    assert found["sum_p2"][:2].tolist() == [1, 0.5]
    assert np.isnan(found["entropy"][2:]).all()


def test_quantiles_are_those_of_numpy_within_their_error():
    y, x, w = drawn(3000)
    shares = [0, 0.1, 0.5, 0.9, 0.999, 1]
    report = dx.evaluate(y, x, from_logits=True, histograms=iter(["crossentropy", "margin"]))
    losses = -log_softmax(x.astype(float), axis=1)[np.arange(3000), y]
    assert report.quantile("crossentropy", shares) == pytest.approx(np.quantile(losses, shares), rel=2**-11 + 1e-6)
    weighted = dx.evaluate(y, x, sample_weight=w, from_logits=True, histograms=["crossentropy"])
    by = np.quantile(losses, [0.1, 0.5, 0.9], weights=w, method="inverted_cdf")
    assert weighted.quantile("crossentropy", [0.1, 0.5, 0.9]) == pytest.approx(by, rel=2**-11 + 1e-6)
    for number in (np.float32(0.5), np.array(0.5)):
        assert report.quantile("crossentropy", number) == report.quantile("crossentropy", 0.5)
    assert report.quantile("crossentropy", np.int64(1)) == report.quantile("crossentropy", 1)
    assert report.quantile("crossentropy", np.array([0, 1])) == report.quantile("crossentropy", [0, 1])
    for none in (None, "x", 2):
        with pytest.raises(ValueError, match="quantile: expected shares from 0 to 1, got "):
            report.quantile("crossentropy", none)
    assert list(report.histogram("crossentropy", np.int64(7))) == list(report.histogram("crossentropy", 7))
    lines = report.histogram("crossentropy", 7)
    assert sum(line["rows"] for line in lines) == 3000
    assert report.quantile("margin", 0.5) == pytest.approx(np.median(np.diff(np.sort(x, axis=1)[:, -2:])), rel=1e-3)


@pytest.mark.parametrize("weight", [0.7, 0.1, 1e-9, 1e12 / 3])
@pytest.mark.parametrize("rows", [7, 10, 49])
def test_weighted_quantiles_at_the_edge_of_a_row_are_that_row(rows, weight):
    """Of rows of equal weight k of n have a share of k / n: the sum of these weights is not rounded on the way."""
    x = np.zeros((rows, 2))
    x[:, 1] = np.arange(rows)
    options = {"sample_weight": np.full(rows, weight), "from_logits": True, "histograms": ["crossentropy"]}
    report = dx.evaluate(np.zeros(rows, int), x, **options)
    wanted = np.log1p(np.exp(x[:, 1]))
    found = report.quantile("crossentropy", [k / rows for k in range(1, rows + 1)])
    assert found == pytest.approx(wanted.tolist(), rel=2**-11 + 1e-6)
    above = report.quantile("crossentropy", [math.nextafter(k / rows, 1) for k in range(1, rows)])
    assert above == pytest.approx(wanted[1:].tolist(), rel=2**-11 + 1e-6)


@pytest.mark.filterwarnings("ignore::daskxent.DoubtfulResult", "ignore:.*weight")
def test_there_is_no_quantile_of_weights_that_cancel():
    options = {"sample_weight": [1.0, -1.0], "allow_negative_weights": True, "histograms": ["crossentropy"]}
    assert math.isnan(dx.evaluate([0, 0], [[0.5, 0.5]] * 2, **options).quantile("crossentropy", 0.5))


def test_the_weight_of_a_bin_of_a_histogram_is_that_of_its_rows_alone():
    p = np.array([0.95, 0.75, 0.75, 0.75, 0.55])
    weights = np.array([1.0, 0.1, 0.2, 1e-3, 1e17])
    report = dx.evaluate(
        np.zeros(5, int), np.stack([p, 1 - p], axis=1), sample_weight=weights, histograms=["confidence"], threads=1
    )
    lines = report.histogram("confidence", 3)
    assert [line["rows"] for line in lines] == [1, 3, 1]
    assert [line["weight"] for line in lines] == [1e17, math.fsum([0.1, 0.2, 1e-3]), 1.0]


def test_a_histogram_may_be_wider_than_the_largest_number():
    x = np.array([[1.0, 0.0], [-1.0, -1.5]]) * 1e308
    report = dx.evaluate([0, 0], x, from_logits=True, metrics=["accuracy"], histograms=["logsumexp"], threads=1)
    lines = report.histogram("logsumexp", 2)
    assert [(line["rows"], line["low"] < line["high"]) for line in lines] == [(1, True), (1, True)]
    assert "<svg" in report.to_html()


def test_quantiles_of_what_is_exact_are_exact():
    x = np.full((5, 3000), -1e4)
    x[:, 0] = 0  # surely class 0
    x[1:, 1:4] = 5  # three classes above it
    x[2, 1:1500] = 6
    names = ["crossentropy", "confidence", "label_probability", "brier", "rank", "mrr", "class_distance"]
    report = dx.evaluate([0, 0, 0, 3, 1], x, from_logits=True, histograms=names)
    assert {name: report.quantile(name, 0) for name in ("crossentropy", "brier", "class_distance")} == {
        "crossentropy": 0, "brier": 0, "class_distance": 0,
    }  # fmt: skip
    assert [report.quantile(name, 1) for name in ("confidence", "label_probability", "mrr")] == [1, 1, 1]
    assert report.quantile("rank", [0, 0.75, 1]) == [1, 4, 1500]
    assert report.quantile("class_distance", 1) == 2
    sure = dx.evaluate([1], [[0.0, -1e4]], from_logits=True, histograms=["brier"])
    assert sure.quantile("brier", 1) == 2
    assert report.histogram("confidence", 4)[-1]["high"] == 1


@pytest.mark.parametrize("k", ["9", "10", "100000000", "2147483648", "9" * 25, "9" * 5000], ids=len)
@pytest.mark.parametrize("chunks", [None, (200, 9), (200, 4)], ids=["NumPy", "whole", "split"])
def test_any_k_beyond_the_classes_makes_every_known_label_a_hit(k, chunks):
    y, x, _ = drawn(500, 9)
    y[7] = 9  # no class
    held = x if chunks is None else da.from_array(x, chunks=chunks)
    metrics = [f"top_{k}_accuracy", "top_2_accuracy"]
    report = dx.evaluate(y, held, from_logits=True, metrics=metrics, on_invalid="count")
    known = np.delete(np.arange(500), 7)
    second = (x > np.take_along_axis(x, np.minimum(y, 8)[:, None], axis=1)).sum(axis=1) < 2
    assert list(report.metrics.values()) == [499 / 500, second[known].sum() / 500]


def test_every_top_k_at_once():
    y, x, w = drawn(500, 9)
    report = dx.evaluate(
        y, x, sample_weight=w, from_logits=True, ranks=True, metrics=[f"top_{k}_accuracy" for k in range(1, 10)]
    )
    curve = {line["k"]: line["accuracy"] for line in report.top_k_curve()}
    assert curve == {k: report[f"top_{k}_accuracy"] for k in curve}
    assert curve[max(curve)] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["brier"], "label_smoothing": 0.1, "from_logits": True}, "'brier' needs integer labels"),
        ({"metrics": ["logsumexp"]}, "'logsumexp' is of logits"),
        ({"metrics": ["temperature"]}, "'temperature' is of logits"),
        ({"metrics": ["_text_loss"]}, "is unknown"),
        ({"histograms": ["accuracy"]}, "histograms: 'accuracy' is not a value of rows"),
        ({"calibration_bins": 0}, "calibration_bins: expected at least 1"),
        ({"calibration_bins": 5000}, "calibration_bins: expected 1 to 1000"),
        ({"temperature": 0, "from_logits": True}, "temperature: expected a finite number above 0"),
        ({"temperature": 2}, "temperature: only logits"),
        ({"metrics": ["classwise_ece"], "label_smoothing": 0.1}, "'classwise_ece' needs integer labels"),
        ({"metrics": ["entropy"], "predictions": "log_probabilities"}, "'entropy' would need logits"),
        ({"metrics": ["ece"], "predictions": "log_probabilities"}, "'ece' would need logits"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dx.evaluate([0, 1], [[0.6, 0.4], [0.5, 0.5]], **options)


def test_a_mask_leaves_quantiles_those_of_the_rows_it_shows():
    y, x, _ = drawn(60)
    mask, options = np.arange(60) % 9 < 4, {"from_logits": True, "histograms": ["crossentropy"]}
    shares = [0.1, 0.5, 0.77]
    alone = dx.evaluate(y[mask], x[mask], **options).quantile("crossentropy", shares)
    assert dx.evaluate(y, x, mask=mask, **options).quantile("crossentropy", shares) == alone
    assert dx.evaluate(y, x, sample_weight=mask * 1.0, **options).quantile("crossentropy", shares) == alone
    assert dx.evaluate(y, x, sample_weight=mask * 2.0, **options).quantile("crossentropy", shares) != alone


def test_what_was_not_asked_for_is_said():
    report = dx.evaluate([0, 1], [[0.6, 0.4], [0.5, 0.5]])
    for ask in (report.reliability, report.temperature, report.top_k_curve, report.brier_decomposition):
        with pytest.raises(KeyError, match="evaluate was not asked for"):
            ask()
    with pytest.raises(KeyError, match="histograms="):
        report.quantile("crossentropy", 0.5)
    other = dx.evaluate([0, 1], [[0.6, 0.4], [0.5, 0.5]], metrics=["ece_equal_mass", "classwise_ece"])
    for ask in (other.reliability, other.brier_decomposition):  # of calibration, but without those bins
        with pytest.raises(KeyError, match="not asked for a metric over bins of equal width, such as 'ece'"):
            ask()


@pytest.mark.slow
@pytest.mark.parametrize("classes", [1000, 50257])
def test_one_call_gives_all_of_it_anywhere(classes, client, tmp_path):
    """On threads, on two processes, resumed: the same bits, for a classifier and for a language model."""
    rng, shape = np.random.default_rng(0), (600,) if classes == 1000 else (4, 24)
    y = rng.integers(0, classes, shape)
    x = rng.normal(0, 2, (*shape, classes)).astype("float16")
    np.put_along_axis(x, y[..., None], rng.normal(9, 3, (*shape, 1)).astype("float16"), axis=-1)
    group = zarr.open_group(tmp_path / "d.zarr", mode="w")
    group.create_array("y", data=y, chunks=(100,) if classes == 1000 else (1, 24))
    group.create_array("x", data=x, chunks=(50, 300) if classes == 1000 else (1, 8, 20_000))
    options = {
        "from_logits": True, "metrics": [*METRICS, "entropy", "mrr", "perplexity"], "clusters": dx.axis(0), "worst": 3,
        "histograms": ["crossentropy", "entropy"], "ranks": True, "by": {"sure": dx.bins("confidence", [0, 0.5, 1])},
    }  # fmt: skip
    held = tmp_path / "d.zarr" / "y", tmp_path / "d.zarr" / "x"
    whole = dx.evaluate(*held, **options)
    assert whole == dx.evaluate(y, x, **options)
    for report in dx.stream(*held, **options, journal=tmp_path / "j", threads=1):
        if report.rows:
            break
    assert dx.evaluate(*held, **options, journal=tmp_path / "j") == whole
    assert dx.evaluate(*held, **options, client=client) == whole


def test_numbers_that_are_not_defined_are_nan():
    y, x, _ = drawn(200, 5)
    names = ["ece", "mce", "rmsce", "ece_debiased", "ece_equal_mass", "classwise_ece", "overconfidence", "temperature"]
    negative = dx.evaluate(
        y, x, sample_weight=-np.ones(200), allow_negative_weights=True, from_logits=True, metrics=names,
        histograms=["entropy"],
    )  # fmt: skip
    assert all(math.isnan(negative[name]) for name in names if name != "temperature")
    assert math.isnan(negative.quantile("entropy", 0.5))
    alone = dx.evaluate([0, 0], [[1.0], [2.0]], from_logits=True, metrics=["temperature", "entropy"])
    assert math.isnan(alone["temperature"])  # it makes no difference
    assert alone["entropy"] == 0
    with pytest.warns(UserWarning, match="no row was counted"):
        none = dx.evaluate(y, x, sample_weight=0, from_logits=True, metrics=[*names, "bits_per_byte"], bytes=10)
    assert all(map(math.isnan, none.values()))


def test_a_bin_whose_weights_cancel_leaves_calibration_undefined():
    """The gap of such a bin is 0.9 hits too few, in a weight of 0: no error of its mean is defined."""
    y, p = [1, 0, 0], np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])
    names = ["ece", "mce", "rmsce", "ece_debiased", "ece_equal_mass", "classwise_ece", "overconfidence"]
    options = {"allow_negative_weights": True, "metrics": names}
    report = dx.evaluate(y, p, sample_weight=[1.0, -1.0, 1.0], **options)
    assert all(map(math.isnan, report.values()))
    assert len(report.reliability()) == 0
    assert dx.Report.from_json(report.to_json()) == report
    more = dx.evaluate(y, p, sample_weight=[2.0, -1.0, 1.0], **options)
    assert more["overconfidence"] == pytest.approx((0.9 + 0.6) / 2 - 0)  # hits: -1 and 1
    assert more["ece"] == pytest.approx((abs(0 - 1 - 0.9) + abs(1 - 0.6)) / 2)


def test_values_that_soft_labels_or_probabilities_do_not_have():
    y, x, _ = drawn(20, 5)
    soft = np.eye(5)[y]
    for ask in (
        lambda: dx.rows(soft, x, from_logits=True, columns=["brier"]),
        lambda: dx.evaluate(soft, x, from_logits=True, by={"brier": dx.bins("brier", [0, 1, 2])}),
    ):
        with pytest.raises(ValueError, match="'brier' needs integer labels"):
            ask()
    with pytest.raises(ValueError, match="'logsumexp' is of logits"):
        dx.rows(y, softmax(x, axis=1), columns=["logsumexp"])


def test_what_was_asked_for_is_in_tables_and_json():
    y, x, _ = drawn(500, 9)
    report = dx.evaluate(y, x, from_logits=True, metrics=["ece", "temperature"], histograms=["entropy"], ranks=True)
    text, data = repr(report), json.loads(report.to_json())
    assert "entropy at" in text
    assert "top k" in text
    assert data["reliability"] == list(report.reliability())
    assert data["at_temperature"]["value"] == report["temperature"]
