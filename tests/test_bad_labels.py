"""Labels that cannot be: dense ones that are not finite, and unsigned ones beyond int64."""

import itertools
import json
import time

import dask.array as da
import ml_dtypes
import numpy as np
import pytest
import sized
from strategies import stored

import daskxent as dx
from daskxent.numbers.audit import AUDIT
from daskxent.report import Report
from daskxent.run import parts

ROWS, CLASSES = 40, 5
METRICS = ("crossentropy", "accuracy", "top_2_accuracy")


HOLDERS = {
    "NumPy": np.asarray,
    "zarr": lambda x: stored(x, (6, CLASSES)[: x.ndim]),
    "zarr, classes split": lambda x: stored(x, (6, 2)[: x.ndim]),
    "dask": lambda x: da.from_array(x, chunks=(7, CLASSES)[: x.ndim]),
    "dask, classes split": lambda x: da.from_array(x, chunks=(7, 2)[: x.ndim]),
}
HELD = pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
PAIRS = [*itertools.product(HOLDERS, HOLDERS, [np.nan]), *((n, n, x) for n in HOLDERS for x in (np.inf, -np.inf))]
ALONG = pytest.mark.parametrize("other", HOLDERS.values(), ids=HOLDERS)


@pytest.fixture
def data():
    rng = np.random.default_rng(15)
    labels = rng.integers(1, CLASSES, ROWS)
    x = rng.normal(0, 3, (ROWS, CLASSES)).astype("float32")  # whose compiled scans other tests take as well
    return labels, np.eye(CLASSES, dtype="float32")[labels] + np.float32(0.125), x


def ask(labels, held, **options):
    return dx.evaluate(labels, held, **{"metrics": METRICS, "from_logits": True, "threads": 2, **options})


@pytest.mark.parametrize(("labels", "predictions", "wrong"), PAIRS)
def test_a_dense_label_that_is_not_finite_is_an_error_with_its_row(data, labels, predictions, wrong):
    hold, other, (_, hot, x) = HOLDERS[labels], HOLDERS[predictions], data
    hot[[23, 31], [4, 0]] = wrong, np.nan
    hint = "; xarray makes NaN of a fill value: mask_and_scale=False keeps it" if str(wrong) == "nan" else ""
    message = rf"^y_true: label {wrong} at row 23 is not finite{hint}$"
    for options in ({}, {"metrics": ["accuracy"]}, {"from_logits": False, "label_smoothing": 0.1}):
        with pytest.raises(ValueError, match=message):
            ask(hold(hot), other(np.abs(x)), **options)
        with pytest.raises(ValueError, match=message):
            list(dx.stream(hold(hot), other(np.abs(x)), **options))


@HELD
@ALONG
def test_rows_of_dense_labels_that_are_not_finite_are_left_out_or_counted(data, hold, other):
    _, hot, x = data
    hot[3, 0], hot[30, 1:3] = np.nan, (-np.inf, np.inf)
    kept = np.isfinite(hot).all(axis=1)
    reported = {"label_not_finite": {"what": AUDIT["label_not_finite"], "count": 2, "rows": [3, 30]}}
    for options in ({}, {"from_logits": False}):
        held = np.abs(x) / np.abs(x).sum(axis=1, keepdims=True) if options else x
        skipped, wanted = (
            ask(hold(hot), other(held), on_invalid="skip", **options),
            ask(hot[kept], held[kept], **options),
        )
        assert (skipped.state.total.totals, skipped.weight) == (wanted.state.total.totals, wanted.weight)
        assert skipped.audit == reported
        counted = ask(hold(hot), other(held), on_invalid="count", **options)
        assert (counted.audit, counted.weight) == (reported, ROWS)
        assert np.isnan(counted["crossentropy"])
        assert counted["accuracy"] == wanted["accuracy"] * kept.sum() / ROWS
    json.loads(counted.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert Report.from_json(counted.to_json()) == counted == ask(hot, held, on_invalid="count", **options)


def test_a_weight_of_0_hides_a_label_that_is_not_finite(data):
    _, hot, x = data
    weights = np.ones(ROWS)
    hot[8], weights[8] = np.nan, 0
    got = ask(hot, x, sample_weight=weights)
    assert set(got.audit) == {"masked"}
    assert got.weight == ROWS - 1


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float64", ">f4"], ids=str)
def test_labels_of_any_floating_dtype_are_looked_at(data, dtype):
    _, hot, x = data
    hot = hot.astype(dtype)
    ask(hot, x)
    hot[5, 1] = -np.inf
    with pytest.raises(ValueError, match="y_true: label -inf at row 5 is not finite"):
        ask(hot, x)
    with pytest.raises(ValueError, match="y_true: label -inf at row 5 is not finite"):
        ask(hot.view(dtype), da.from_array(x, chunks=(9, 2)))


def test_the_position_is_reported_where_there_are_several_axes(data):
    _, hot, x = data
    hot[27, 2] = np.nan
    with pytest.raises(ValueError, match=r"y_true: label nan at row 27 \(position \(6, 3\)\) is not finite"):
        ask(np.moveaxis(hot.reshape(10, 4, 5), -1, 1), np.moveaxis(x.reshape(10, 4, 5), -1, 1), axis=1)


def test_losses_and_metrics_take_no_labels_that_are_not_finite(data):
    _, hot, x = data
    hot[27, 2] = np.nan
    for given in (hot, da.from_array(hot, chunks=(9, 5))):
        for call in (
            dx.losses.CategoricalCrossentropy(from_logits=True),
            dx.losses.CategoricalCrossentropy(from_logits=True, reduction=None),
            dx.metrics.CategoricalCrossentropy(from_logits=True),
            dx.metrics.CategoricalAccuracy(),
        ):
            with pytest.raises(ValueError, match="y_true: label nan at row 27 is not finite"):
                np.asarray(call(given, x))


@pytest.mark.slow
@HELD
@ALONG
@pytest.mark.parametrize("few", [0, 1 << 14], ids=["compiled", "NumPy"])
def test_an_unsigned_label_beyond_int64_is_reported_as_it_is(data, hold, other, few, monkeypatch):
    sized.give(monkeypatch, few=few)
    labels, _, x = data
    labels = labels.astype("uint64")
    labels[[17, 26, 33]] = 2**64 - 1, 2**63, 5
    for options in ({}, {"ignore_class": 4}, {"metrics": ["accuracy"]}, {"label_smoothing": 0.1}):
        message = r"y_true: label 18446744073709551615 at row 17 is outside \[0, 5\)"
        with pytest.raises(ValueError, match=message):
            ask(hold(labels), other(x), **options)
    reported = ask(hold(labels), other(x), on_invalid="skip").state
    assert reported.audit["label_out_of_range"].first == ((17, 2**64 - 1), (26, 2**63), (33, 5))
    assert type(reported).from_json(json.loads(json.dumps(reported.to_json()))) == reported


@ALONG
def test_unsigned_labels_of_the_other_byte_order_do_not_wrap(data, other):
    labels, _, x = data
    labels = labels.astype(">u8")
    labels[17] = 2**64 - 1
    for options in ({}, {"ignore_class": 4}):
        with pytest.raises(ValueError, match=r"y_true: label 18446744073709551615 at row 17 is outside \[0, 5\)"):
            ask(labels, other(x), **options)
    assert ask(labels, other(x), on_invalid="skip").audit["label_out_of_range"]["rows"] == [17]


def test_losses_tell_a_label_beyond_int64_as_it_is(data):
    labels, _, x = data
    labels = labels.astype("uint64")
    labels[17] = 2**63 + 1
    for held in (x, da.from_array(x, chunks=(9, 2))):
        with pytest.raises(ValueError, match=rf"y_true: label {2**63 + 1} at row 17 is outside"):
            np.asarray(dx.losses.sparse_categorical_crossentropy(labels, held, from_logits=True))


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("kind", ["numpy", "dask", "journal"])
def test_the_first_bad_row_is_named_whatever_is_done_first(monkeypatch, tmp_path, threads, kind):
    sized.give(monkeypatch, part_bytes=40, smallest_part_bytes=40)
    x, y = np.zeros((60, 2), "float32"), np.zeros(60, int)
    y[[17, 42, 58]] = 9, 8, 7
    weights = np.ones(60)
    weights[16] = -1.0
    evaluate_part = parts.evaluate_part

    def late(inputs, question, start, *more):
        time.sleep(0.05 if start == 15 else 0)  # the part of the first
        return evaluate_part(inputs, question, start, *more)

    monkeypatch.setattr(parts, "evaluate_part", late)
    options = {"threads": threads, "from_logits": True}
    if kind == "dask":
        x = da.from_array(x, chunks=(5, 2))
    if kind == "journal":
        options["journal"] = tmp_path / "j"
    for _ in range(3):
        with pytest.raises(ValueError, match=r"^y_true: label 9 at row 17 is outside \[0, 2\)"):
            dx.evaluate(y, x, **options)
    if kind != "journal":
        with pytest.raises(ValueError, match=r"^sample_weight: -1.0 at row 16 is negative"):
            dx.evaluate(y, x, sample_weight=weights, **options)


@pytest.mark.parametrize("label", [-100, -1, 255, 7])
def test_labels_that_are_usually_ignored_come_with_the_option(label):
    with pytest.raises(ValueError, match=rf"label {label} at row 1 is outside \[0, 2\)") as found:
        dx.evaluate([0, label], [[0.0, 1.0], [1.0, 0.0]], from_logits=True)
    assert (f"; ignore_class={label} leaves such rows out" in str(found.value)) == (label != 7)
