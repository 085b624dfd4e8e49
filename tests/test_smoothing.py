"""Smoothed integer labels are the one-hot labels that they stand for, smoothed, to the last bit."""

import warnings

import dask.array as da
import ml_dtypes
import numpy as np
import pytest
import sized
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import SOME, partitions, questions, stored

import daskxent as dx
from daskxent.run import scoring

ROWS, CLASSES, SMOOTHING = 45, 9, 0.15
METRICS = ("crossentropy", "accuracy", "top_2_accuracy")


HOLDERS = {
    "NumPy": np.asarray,
    "zarr": lambda x: stored(x, (7, CLASSES)),
    "zarr, classes split": lambda x: stored(x, (7, 4)),
    "blocks": lambda x: dx.concat([x[:, :2], stored(x[:, 2:], (4, 3))], axis=-1),
    "dask": lambda x: da.from_array(x, chunks=(11, CLASSES)),
    "dask, classes split": lambda x: da.from_array(x, chunks=(11, 2)),
    "dask blocks": lambda x: dx.concat(
        [da.from_array(x[:, :4], chunks=(8, 3)), da.from_array(x[:, 4:], chunks=(8, 2))], axis=-1
    ),
}
FORMS = pytest.mark.parametrize("from_logits", [True, False], ids=["logits", "probabilities"])
HELD = pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(12)
    logits = rng.normal(0, 4, (ROWS, CLASSES)).astype("float32")
    weights = np.where(rng.random(ROWS) < 0.2, 0, rng.random(ROWS))
    return rng.integers(1, CLASSES, ROWS), logits, weights


def of_form(logits, from_logits):
    p = np.exp(logits)
    return logits if from_logits else p / p.sum(axis=1, keepdims=True)


def ask(labels, held, **options):
    return dx.evaluate(labels, held, **{"metrics": METRICS, "label_smoothing": SMOOTHING, "threads": 2, **options})


@pytest.mark.slow
@HELD
@FORMS
@pytest.mark.parametrize("few", [0, 1 << 14], ids=["compiled", "NumPy"])
def test_integer_and_one_hot_labels_give_the_same_bits(data, hold, from_logits, few, monkeypatch):
    sized.give(monkeypatch, few=few)
    labels, logits, weights = data
    x = of_form(logits, from_logits)
    options = {"sample_weight": weights, "from_logits": from_logits}
    wanted = ask(np.eye(CLASSES)[labels], x, **options).state
    for dense_bytes in (1, 500, 4 << 20):
        sized.give(monkeypatch, dense_bytes=dense_bytes)
        for given_labels in (labels, stored(labels, (10,)), da.from_array(labels, chunks=9)):
            assert ask(given_labels, hold(x), **options).state == wanted
        assert (
            list(dx.stream(labels, hold(x), metrics=METRICS, label_smoothing=SMOOTHING, **options))[-1].state == wanted
        )


@SOME
@given(questions(), st.data())
def test_any_shape_dtype_axis_and_cut_gives_the_bits_of_one_hot_labels(question, data):
    y_true, y_pred, options = question
    axis = options["axis"] % y_pred.ndim
    assume(y_true.shape != y_pred.shape and "ignore_class" not in options)
    options |= {"label_smoothing": data.draw(st.sampled_from([1e-3, 0.1, 1.0]), "smoothing"), "threads": 1}
    hot = np.moveaxis(np.eye(y_pred.shape[axis])[y_true.astype(int).reshape(np.delete(y_pred.shape, axis))], -1, axis)
    cuts = np.cumsum(data.draw(partitions(y_pred.shape[axis])))[:-1]
    held = data.draw(st.sampled_from([y_pred, dx.concat(np.split(y_pred, cuts, axis=axis), axis=axis)]))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what is drawn may leave no weight
        sized.give(patch, dense_bytes=data.draw(st.sampled_from([1, 100, 1 << 20]), "dense"))
        assert ask(y_true, held, **options).state == ask(hot, y_pred, **options).state


def test_float16_and_bfloat16_kept_as_uint16(data):
    labels, logits, _ = data
    hot = np.eye(CLASSES, dtype="uint8")[labels]
    for half in (logits.astype("float16"), logits.astype(ml_dtypes.bfloat16)):
        wanted = ask(hot, half, from_logits=True).state
        assert ask(labels, half, from_logits=True).state == wanted
    held = stored(half.view("uint16"), (7, 4))
    assert ask(labels, held, view="bfloat16", from_logits=True).state == wanted


@HELD
@FORMS
def test_rows_of_the_ignored_class_are_left_out(data, hold, from_logits):
    labels, logits, _ = data
    labels = np.where(np.arange(ROWS) % 4 == 1, -1, labels)
    x, kept = of_form(logits, from_logits), labels >= 0
    got = ask(labels, hold(x), ignore_class=-1, from_logits=from_logits)
    wanted = ask(np.eye(CLASSES)[labels[kept]], x[kept], from_logits=from_logits)
    assert (got.state.total.totals, got.weight) == (wanted.state.total.totals, wanted.weight)
    assert got.audit["ignored"]["count"] == (~kept).sum()


@HELD
@FORMS
def test_labels_out_of_range_are_reported_by_row(data, hold, from_logits):
    labels, logits, weights = data
    labels, kept = labels.copy(), np.ones(ROWS, bool)
    labels[[13, 31]], kept[[13, 31]] = (CLASSES, -1), False
    weights = weights + 1
    x, options = of_form(logits, from_logits), {"from_logits": from_logits}
    with pytest.raises(ValueError, match=r"y_true: label 9 at row 13 is outside \[0, 9\)"):
        ask(labels, hold(x), sample_weight=weights, **options)
    skipped = ask(labels, hold(x), sample_weight=weights, on_invalid="skip", **options)
    wanted = ask(np.eye(CLASSES)[labels[kept]], x[kept], sample_weight=weights[kept], **options)
    assert (skipped.state.total.totals, skipped.weight) == (wanted.state.total.totals, wanted.weight)
    assert skipped.audit["label_out_of_range"]["rows"] == [13, 31]
    counted = ask(labels, hold(x), on_invalid="count", **options)
    assert np.isnan(counted["crossentropy"])
    assert counted.audit["label_out_of_range"]["rows"] == [13, 31]


def test_missing_predictions_are_filled_and_reported(data):
    labels, logits, _ = data
    held = stored(logits, (9, 4))
    assert held.store._store_dict.pop("c/2/1")
    with pytest.raises(ValueError, match=r"y_pred: chunk c/2/1 of .* is missing"):
        ask(labels, held, from_logits=True)
    got, filled = ask(labels, held, from_logits=True, on_missing="fill"), logits.copy()
    filled[18:27, 4:8] = 0
    assert got.state.total.totals == ask(labels, filled, from_logits=True).state.total.totals
    assert got.audit["prediction_missing"]["count"] == 9


def test_without_smoothing_or_without_a_loss_no_rows_are_gathered(data, monkeypatch):
    labels, logits, _ = data
    monkeypatch.setattr(scoring, "_dense_losses", None)
    for options in ({"label_smoothing": 0.0}, {"metrics": ["accuracy"]}):
        plan = dx.plan(labels, stored(logits, (9, 3)), **{"label_smoothing": 0.1, **options})
        assert not any("whole rows" in note for note in plan.notes)
        ask(labels, da.from_array(logits, chunks=(11, 2)), from_logits=True, **options)
        ask(labels, logits, from_logits=True, **options)


def test_a_plan_tells_that_rows_are_gathered(data):
    labels, logits, _ = data
    split, whole = (dx.plan(labels, stored(logits, (9, c)), label_smoothing=0.1, threads=1) for c in (3, CLASSES))
    assert "smoothed labels need whole rows: the blocks of classes of a part are read together" in split.notes
    assert split.memory == whole.memory
    assert not any("whole rows" in note for note in whole.notes)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_rows_may_be_scored_a_few_at_a_time(monkeypatch, rows, axis):
    rng = np.random.default_rng(4)
    x, y, w = rng.normal(0, 3, (5, 6, 6)).astype("float32"), rng.integers(0, 6, (5, 6)), rng.random((5, 6))
    x[2, 3], y[1, 1] = np.nan, 9
    dense = np.moveaxis(rng.dirichlet(np.ones(6), (5, 6)), -1, axis)
    split = dx.concat([x[..., :2], x[..., 2:]], axis=-1) if axis == -1 else x
    asked = [
        (y, x, {"label_smoothing": 0.1}), (dense, x, {}), (dense, x, {"label_smoothing": 0.2}), (y, split, {}),
    ]  # fmt: skip
    options = {"axis": axis, "from_logits": True, "sample_weight": w, "on_invalid": "skip", "threads": 1}
    wanted = [dx.evaluate(*arrays, **options, **more) for *arrays, more in asked]
    sized.give(monkeypatch, scored_rows=rows)
    for report, (*arrays, more) in zip(wanted, asked, strict=True):
        assert dx.evaluate(*arrays, **options, **more) == report
