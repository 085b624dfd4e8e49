"""One column of predictions is what Keras's binary losses and metrics take; weights of classes are torch's."""

import dask.array as da
import keras
import numpy as np
import pytest
import sklearn.metrics as sk
import zarr
from click.testing import CliRunner

import daskxent as dx
from daskxent import cli

RNG = np.random.default_rng(5)


def drawn(rows, logits, dtype="float64"):
    x = RNG.normal(0, 3, rows).astype(dtype)
    x[:2] = 0
    return RNG.integers(0, 2, rows), x if logits else (1 / (1 + np.exp(-x))).astype(dtype), RNG.random(rows)


@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("rows", [30, 9000])
@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_binary_crossentropy_and_accuracy_of_keras(logits, rows, column, weighted):
    y, x, w = drawn(rows, logits)
    given = {"y_true": y, "y_pred": x[:, None] if column else x, "sample_weight": w if weighted else None}
    report = dx.evaluate(**given, binary=True, from_logits=logits, threads=1)
    loss = keras.ops.binary_crossentropy(y[:, None].astype(float), x[:, None], from_logits=logits)
    expected = np.average(loss.mean(axis=-1), weights=given["sample_weight"])
    assert report["crossentropy"] == pytest.approx(expected, rel=1e-6)
    accuracy = keras.metrics.BinaryAccuracy(threshold=0.0 if logits else 0.5)
    accuracy.update_state(y[:, None], x[:, None], sample_weight=given["sample_weight"])
    assert report["accuracy"] == pytest.approx(float(accuracy.result()), rel=1e-6)


@pytest.mark.parametrize("kind", ["NumPy", "dask"])
@pytest.mark.parametrize("logits", [False, True])
def test_the_order_of_bytes_makes_no_difference(logits, kind):
    y, x, _ = drawn(50, logits)
    several = [x, x.astype(">f8")]
    if kind == "dask":
        several = [da.from_array(each, chunks=7) for each in several]
    states = [dx.evaluate(y, each, binary=True, from_logits=logits).state for each in several]
    assert states[0] == states[1]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("logits", [False, True])
def test_every_source_gives_the_same_bits(dtype, logits, tmp_path):
    y, x, w = drawn(200, logits, dtype)
    options = {"binary": True, "from_logits": logits, "sample_weight": w, "metrics": ["crossentropy", "matthews"]}
    wanted = dx.evaluate(y, x, threads=1, **options)
    zarr.create_array(str(tmp_path / "x"), data=x, chunks=(30,))
    zarr.create_array(str(tmp_path / "column"), data=x[:, None], chunks=(30, 1))
    lazy = da.from_array(x, chunks=70)
    for held in (tmp_path / "x", tmp_path / "column", lazy, lazy[:, None]):
        assert dx.evaluate(y, held, **options).state == wanted.state
    for _ in range(2):
        report = dx.evaluate(y, tmp_path / "x", journal=tmp_path / "j", **options)
        assert report.state == wanted.state
    parts = [dx.evaluate(y, tmp_path / "x", steps=steps, **options) for steps in ((0, 77), (77, 200))]
    assert parts[1].merge(parts[0]).state == wanted.state
    zarr.create_array(str(tmp_path / "y"), data=y)
    line = ["evaluate", str(tmp_path / "y"), str(tmp_path / "x"), "--binary", "--json"]
    line += ["--from-logits"] if logits else []
    plain = dx.evaluate(y, x, binary=True, from_logits=logits)
    assert dx.Report.from_json(CliRunner().invoke(cli.main, line).stdout).state == plain.state


def test_missing_chunks_of_a_column_are_found_and_filled(tmp_path):
    z = zarr.create_array(str(tmp_path / "x"), shape=(60,), chunks=(20,), dtype="f4", fill_value=0.5)
    z[:40] = 0.9
    with pytest.raises(ValueError, match=r"y_pred: chunk c/2 of .* is missing"):
        dx.evaluate(np.ones(60, int), z, binary=True)
    report = dx.evaluate(np.ones(60, int), z, binary=True, on_missing="fill")
    assert report.audit["prediction_missing"]["count"] == 20
    assert report["accuracy"] == pytest.approx(40 / 60)


def test_maps_of_one_class():
    y, x = RNG.integers(0, 2, (3, 8, 9)), RNG.normal(size=(3, 8, 9))
    flat = dx.evaluate(y.ravel(), x.ravel(), binary=True, from_logits=True)
    assert dx.evaluate(y, x, binary=True, from_logits=True).metrics == flat.metrics
    assert dx.evaluate(y, x[..., None], binary=True, from_logits=True).metrics == flat.metrics


@pytest.mark.parametrize(
    ("y", "options", "error", "message"),
    [
        ([0, 2], {}, ValueError, r"y_true: label 2 at row 1 is outside \[0, 2\)"),
        ([0, 1], {"axis": 0}, ValueError, "axis: binary predictions are one column, without a class axis; got 0"),
        ([0, 1], {"predictions": "log_probabilities"}, ValueError, "predictions: binary ones are logits or prob"),
    ],
)
def test_what_cannot_be_is_refused(y, options, error, message):
    with pytest.raises(error, match=message):
        dx.evaluate(y, np.array([0.2, 0.9]), binary=True, **options)


def test_it_is_never_guessed():
    with pytest.raises(ValueError, match="y_pred: expected rows of predictions"):
        dx.evaluate([0, 1], np.array([0.2, 0.9]))
    with pytest.raises(ValueError, match=r"label 1 at row 1 is outside \[0, 1\)"):
        dx.evaluate([0, 1], np.array([[0.2], [0.9]]))


@pytest.mark.parametrize("rows", [40, 9000])
@pytest.mark.parametrize("weighted", [False, True])
def test_weights_of_classes_weigh_rows_by_their_labels(rows, weighted):
    y, x, own = RNG.integers(0, 4, rows), RNG.normal(size=(rows, 4)), RNG.random(rows)
    y[::9] = 255
    by_class = np.array([0.5, 2, 0, 3])
    options = {"from_logits": True, "ignore_class": 255, "sample_weight": own if weighted else None, "threads": 1}
    report = dx.evaluate(y, x, class_weight=by_class, **options)
    kept = y != 255
    w = by_class[y[kept]] * (own[kept] if weighted else 1)
    p = np.exp(x[kept]) / np.exp(x[kept]).sum(axis=1, keepdims=True)
    expected = sk.log_loss(y[kept], p, sample_weight=w, labels=range(4))  # sum(w L) / sum(w), as in torch
    assert report["crossentropy"] == pytest.approx(expected, rel=1e-9)
    assert report.weight == pytest.approx(w.sum())
    pairs = {0: 0.5, 1: 2, 2: 0, 3: 3}
    assert dx.evaluate(y, x, class_weight=pairs, **options) == report
    assert dx.evaluate(y, da.from_array(x, chunks=(100, 3)), class_weight=by_class, **options) == report
    assert dx.Report.from_json(report.to_json()) == report
    assert dx.evaluate(y, x, class_weight={3: 1}, **options).weight == dx.evaluate(y, x, **options).weight


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ([1, 2], {}, "class_weight: expected 3 weights, one for each class, got 2"),
        ({3: 1}, {}, r"class_weight: class 3 is outside \[0, 3\)"),
        ([1, -1, 1], {}, "class_weight: expected finite weights that are not negative, got -1"),
        ([1, np.nan, 1], {}, "class_weight: expected finite weights that are not negative, got nan"),
    ],
)
def test_weights_of_classes_that_cannot_be_are_refused(given, options, message):
    with pytest.raises(ValueError, match=message):
        dx.evaluate([0], np.ones((1, 3)), from_logits=True, class_weight=given, **options)


def by_torch(x, y, w, smoothing=0.0, ignored=None):
    """torch.nn.functional.cross_entropy(x, y, weight=w, label_smoothing=smoothing), reduction "mean", in NumPy."""
    logs = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    if y.ndim == 2:
        y = y * (1 - smoothing) + smoothing / x.shape[1]
        return -(w * y * logs).sum() / len(y)
    kept = y != ignored
    logs, y = logs[kept], y[kept]
    each = (1 - smoothing) * -logs[np.arange(len(y)), y] * w[y] - smoothing / x.shape[1] * (w * logs).sum(axis=1)
    return each.sum() / w[y].sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [30, 3000])
@pytest.mark.parametrize("dense", [False, True])
def test_weights_of_classes_are_torchs(smoothing, rows, dense):
    rng = np.random.default_rng(0)
    x, w = rng.normal(0, 2, (rows, 7)), rng.random(7) + 0.1
    y = rng.dirichlet(np.ones(7), rows) if dense else rng.integers(0, 7, rows)
    options = {"class_weight": w, "label_smoothing": smoothing, "from_logits": True, "metrics": ["crossentropy"]}
    if not dense:
        y[::5] = 6
        options["ignore_class"] = 6
    found = dx.evaluate(y, x, **options)["crossentropy"]
    assert found == pytest.approx(by_torch(x, y, w, smoothing, None if dense else 6), rel=1e-12)
