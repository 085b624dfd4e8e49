"""Errors over clusters are those of statsmodels, and means over clusters those of NumPy, however they are evaluated."""

import json
import math

import dask.array as da
import numpy as np
import pytest
import sized
import zarr
from click.testing import CliRunner
from scipy import stats
from statsmodels.regression.linear_model import WLS
from statsmodels.stats.proportion import proportion_confint
from test_errors import CLASSES, METRICS, OPTIONS, values_of

import daskxent as dx
from daskxent import cli
from daskxent.numbers.tables import Table


def drawn(rows=600, clusters=40, seed=0):
    """Return labels, logits, weights, and clusters of very different sizes whose rows are alike."""
    rng = np.random.default_rng(seed)
    ids = np.minimum(rng.geometric(3 / clusters, rows), clusters) - 1
    x = rng.normal(0, 1, (rows, CLASSES)) + 3 * np.eye(CLASSES)[ids % CLASSES]
    return rng.integers(0, 3, rows), x, rng.random(rows) * 5, ids


def regression(values, weights, ids):
    """Return the error of the weighted mean by the regression on a constant, robust to clusters."""
    model = WLS(values.astype(float), np.ones(len(values)), weights=weights)
    return model.fit(cov_type="cluster", cov_kwds={"groups": ids}).bse[0]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [60, 9000])
@pytest.mark.parametrize("kind", ["integers", "strings", "sorted"])
def test_the_error_is_that_of_statsmodels(rows, weighted, kind):
    y, x, w, ids = drawn(rows)
    ids = np.sort(ids) if kind == "sorted" else ids
    given = np.array([f"doc {number}" for number in ids]) if kind == "strings" else ids
    report = dx.evaluate(y, x, sample_weight=w if weighted else None, clusters=given, **OPTIONS)
    count = len(set(ids.tolist()))
    for name, values in values_of(y, x).items():
        error = regression(values, w if weighted else np.ones(rows), ids)
        assert report.se[name] == pytest.approx(error, rel=1e-9)
        alone = dx.evaluate(y, x, sample_weight=w if weighted else None, **OPTIONS)
        assert report.design_effect[name] == pytest.approx((error / alone.se[name]) ** 2, rel=1e-9)
        assert (report[name], report.effective_rows) == (alone[name], alone.effective_rows)
    low, high = stats.t.interval(0.95, count - 1, report["crossentropy"], report.se["crossentropy"])
    assert report.interval("crossentropy") == pytest.approx((low, high), rel=1e-9)
    share, error = report["accuracy"], report.se["accuracy"]
    rows_alike = share * (1 - share) / error**2
    assert report.interval("accuracy") == pytest.approx(
        proportion_confint(share * rows_alike, rows_alike, method="wilson")
    )
    assert f"standard error, {count} clusters" in repr(report)


def test_each_row_a_cluster_is_none():
    y, x, w, _ = drawn()
    report = dx.evaluate(y, x, sample_weight=w, clusters=np.arange(len(y)), **OPTIONS)
    assert report.se == pytest.approx(dx.evaluate(y, x, sample_weight=w, **OPTIONS).se, rel=1e-10)


def test_an_axis_is_clusters():
    y, x, w, _ = drawn(600)
    y, x, w = y.reshape(20, 30), x.reshape(20, 30, CLASSES), w.reshape(20, 30)
    report = dx.evaluate(y, x, sample_weight=w, clusters=dx.axis(0), **OPTIONS)
    ids = np.repeat(np.arange(20), 30)
    flat = dx.evaluate(y.ravel(), x.reshape(-1, CLASSES), sample_weight=w.ravel(), clusters=ids, **OPTIONS)
    assert report.se == flat.se
    other = dx.evaluate(y, x, clusters=dx.axis(1), **OPTIONS)
    assert other.state.tables["clusters"].counted.tolist() == [20] * 30


@pytest.mark.parametrize("weighted", [False, True])
def test_means_over_clusters(weighted):
    y, x, w, ids = drawn()
    options = OPTIONS | {"sample_weight": w if weighted else None, "clusters": ids}
    report = dx.evaluate(y, x, average="cluster", **options)
    for name, values in values_of(y, x).items():
        own = w if weighted else np.ones(len(y))
        means = np.array([np.average(values[ids == k], weights=own[ids == k]) for k in set(ids.tolist())])
        assert report[name] == pytest.approx(means.mean(), rel=1e-12)
        assert report.se[name] == pytest.approx(stats.sem(means), rel=1e-9)
    assert report["perplexity"] == pytest.approx(math.exp(report["crossentropy"]))
    assert "means of" in repr(report)


@pytest.mark.parametrize("average", ["row", "cluster"])
def test_slices_have_errors_over_clusters(average):
    y, x, w, ids = drawn()
    lang = np.random.default_rng(1).choice(["de", "en"], len(y))
    options = OPTIONS | {"average": average}
    report = dx.evaluate(y, x, sample_weight=w, by={"lang": lang}, clusters=ids, **options)
    for word in ("de", "en"):
        some = lang == word
        one = dx.evaluate(y[some], x[some], sample_weight=w[some], clusters=ids[some], **options)
        row = report.by("lang")[(word,)]
        for name in METRICS:
            assert row[name] == one[name]
            assert [row[f"{name}_{end}"] for end in ("se", "low", "high")] == [one.se[name], *one.interval(name)]


def test_one_cluster_has_no_error():
    y, x, *_ = drawn()
    report = dx.evaluate(y, x, clusters=np.zeros(len(y), int), **OPTIONS)
    assert math.isnan(report.se["crossentropy"])
    assert all(map(math.isnan, report.interval("accuracy")))
    few = dx.evaluate(y, x, clusters=np.arange(len(y)) % 9, **OPTIONS)
    assert "9 clusters, which are few: it may be too small" in repr(few)


def test_any_way_of_evaluation_gives_the_same(tmp_path, monkeypatch):
    y, x, w, ids = drawn()
    options = OPTIONS | {"sample_weight": w, "by": {"label": "label"}}
    wanted = dx.evaluate(y, x, clusters=ids, **options)
    assert dx.evaluate(y, da.from_array(x, chunks=(70, 3)), clusters=ids, **options).state == wanted.state
    for name, array in {"y": y, "x": x, "w": w, "ids": ids}.items():
        zarr.create_array(str(tmp_path / "d.zarr"), name=name, data=array, chunks=(50, *array.shape[1:]))
    path = tmp_path / "d.zarr"
    stored = options | {
        "sample_weight": path / "w",
        "clusters": path / "ids",
        "y_true": path / "y",
        "y_pred": path / "x",
    }
    dx.evaluate(**stored, journal=tmp_path / "j")
    report = dx.evaluate(**stored, journal=tmp_path / "j")
    assert (report.state, report.se) == (wanted.state, wanted.se)
    assert dx.verify(report) >= 1
    first, second = (dx.evaluate(**stored, steps=steps) for steps in ((0, 333), (333, 600)))
    assert dx.Report.from_json(second.merge(first).to_json()).se == wanted.se
    sized.give(monkeypatch, few=0)
    assert dx.evaluate(y, x, clusters=ids, **options).state == wanted.state
    line = ["evaluate", f"{path}/y", f"{path}/x", "--from-logits", "--weights", f"{path}/w", "--json"]
    for name in METRICS:
        line += ["--metric", name]
    line += ["--clusters", f"{path}/ids", "--by", "label=label", "--average", "cluster"]
    done = CliRunner().invoke(cli.main, line)
    found = json.loads(done.stdout)
    average = dx.evaluate(y, x, clusters=ids, average="cluster", **options)
    assert (found["accuracy"], found["se"], found["independent"]) == (average["accuracy"], average.se, "clusters")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"clusters": [1.0] * 4}, TypeError, "clusters: expected integers, bool or strings, got dtype float64"),
        ({"clusters": [1] * 5}, ValueError, r"clusters: shape \(5,\) does not lie along y_true"),
        ({"clusters": dx.axis(1)}, ValueError, r"clusters: axis 1 is out of range for labels of shape \(4,\)"),
        ({"average": "cluster"}, ValueError, "average: that of clusters needs clusters"),
        ({"average": "token"}, ValueError, "average: expected one of row, cluster; got 'token'"),
    ],
    ids=str,
)
def test_bad_clusters_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        dx.plan([0] * 4, np.eye(4), **options)


@pytest.mark.slow
def test_the_interval_covers_the_truth_with_clusters_and_not_without():
    """Of 300 samples of 60 clusters, 95 % are 285; 4 standard deviations of that are 15."""
    rng, covered, naive, logits = np.random.default_rng(3), 0, 0, np.array([[0.0, 1.0]])
    for _ in range(300):
        share = rng.beta(2, 2, 60)
        y = (rng.random((60, 20)) < share[:, None]).astype(int)
        x = np.broadcast_to(logits, (60, 20, 2))
        low, high = dx.evaluate(y, x, from_logits=True, clusters=dx.axis(0)).interval("accuracy")
        covered += low <= 0.5 <= high
        low, high = dx.evaluate(y, x, from_logits=True).interval("accuracy")
        naive += low <= 0.5 <= high
    assert abs(covered - 285) <= 15
    assert naive < 220


@pytest.mark.parametrize("weighted", [False, True])
def test_of_rows_in_clusters_only_totals_are_kept(weighted):
    y, x, w, ids = drawn()
    options = OPTIONS | {"sample_weight": w if weighted else None, "per_class": True, "by": {"kind": ids % 3}}
    tables = dx.evaluate(y, x, clusters=ids, **options).state.tables
    assert set(tables) >= {"clusters", "kind", "kind, clusters", "true class", "true class, clusters"}
    for table in tables.values():
        assert not [name for name in table.columns if name.endswith((" squares", " products"))]
    kept = dx.evaluate(y, x, **options).state.tables
    assert "crossentropy squares" in kept["kind"].columns
    assert "crossentropy squares" in kept["true class"].columns


@pytest.mark.parametrize("average", ["row", "cluster"])
def test_clusters_are_added_up_once_for_all_that_a_report_shows(average, monkeypatch):
    calls, as_rows = [], Table._as_rows
    monkeypatch.setattr(Table, "_as_rows", lambda *given: calls.append(given) or as_rows(*given))
    y, x = np.zeros(40, int), np.random.default_rng(0).normal(size=(40, 3))
    report = dx.evaluate(y, x, from_logits=True, clusters=np.arange(40) // 4, average=average)
    assert report.se.keys() == report.metrics.keys()
    assert "crossentropy" in repr(report) + report.to_html() + report.to_json()
    assert len(calls) <= 2  # their means, and the moments of their totals


@pytest.mark.parametrize("some", [slice(0, 4), slice(3, 9), slice(9, 10), slice(5, 5)])
def test_the_sums_of_some_clusters_are_those_among_all(some):
    rng = np.random.default_rng(0)
    w = np.where(rng.random(40) < 0.3, 1e200, rng.random(40))  # sums of which some do not fit the digits
    y, x = np.zeros(40, int), rng.normal(size=(40, 3))
    report = dx.evaluate(y, x, from_logits=True, clusters=np.arange(40) // 4, sample_weight=w)
    table = report.state.tables["clusters"]
    assert table.rare
    for name in table.columns:
        np.testing.assert_array_equal(table.values(name, some), table.values(name)[some])
    np.testing.assert_array_equal(table.weights(some), table.weights()[some])
