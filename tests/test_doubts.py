"""What makes a number doubtful is found in the rows, reported the same from every source, and warned of."""

import asyncio
import itertools
import warnings

import dask.array as da
import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import daskxent as dx
from daskxent import cli
from daskxent.numbers.state import State, merge_all

CLASSES = 5
RNG = np.random.default_rng(8)
FEW, MANY = 30, 9_000  # rows that NumPy scores, and compiled code


def softmax(x):
    p = np.exp(x - x.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True)).astype(x.dtype)


def every_way(labels, x, tmp_path, **options):
    """Evaluate from memory, in two blocks of classes, from a store with split classes, and from dask arrays."""
    store = zarr.create_array(
        str(tmp_path / "x.zarr"), data=x, chunks=(len(x) // 3, 2), fill_value=np.nan, overwrite=True
    )
    reports = [
        dx.evaluate(labels, x, threads=1, **options),
        dx.evaluate(labels, np.asfortranarray(x), threads=2, **options),
        dx.evaluate(labels, dx.concat([x[:, :2], x[:, 2:]], axis=-1), threads=1, **options),
        dx.evaluate(labels, store, threads=1, **options),
        dx.evaluate(labels, da.from_array(x, chunks=(len(x) // 2, CLASSES)), threads=1, **options),
        dx.evaluate(labels, da.from_array(x, chunks=(len(x) // 2, 3)), threads=1, **options),
        dx.delayed(labels, x, **options).compute(scheduler="sync"),
    ]
    assert all(report.state == reports[0].state for report in reports)
    assert all(report.doubts == reports[0].doubts for report in reports)
    assert list(reports[0].audit) == list(reports[-1].audit)
    return reports[0]


@pytest.mark.parametrize("rows", [FEW, MANY])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_probabilities_that_are_taken_for_logits(rows, dtype, tmp_path):
    p, y = softmax(RNG.normal(0, 3, (rows, CLASSES)).astype(dtype)), RNG.integers(0, CLASSES, rows)
    report = every_way(y, p, tmp_path, from_logits=True)
    assert report.doubts == ("y_pred: all rows look like probabilities that sum to 1, but were taken as logits",)
    p[-1] = np.arange(CLASSES)  # a single row shows that these are logits
    assert every_way(y, p, tmp_path, from_logits=True).doubts == ()
    assert every_way(y, p, tmp_path, from_logits=True, sample_weight=np.arange(rows) < rows - 1).doubts != ()
    assert every_way(y, p, tmp_path, from_logits=True, metrics=["accuracy"]).doubts == ()  # it is the same for both


@pytest.mark.parametrize("scale", [0.1, 0.3, 1, 3])
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_logits_do_not_look_like_probabilities(scale, classes):
    x = RNG.normal(0, scale, (200, classes)).astype("float32")
    assert dx.evaluate(np.zeros(200, int), x, from_logits=True).doubts == ()


@pytest.mark.parametrize("rows", [FEW, MANY])
def test_logits_that_are_taken_for_probabilities(rows, tmp_path):
    x, y = RNG.normal(0, 3, (rows, CLASSES)).astype("float32"), RNG.integers(0, CLASSES, rows)
    expected = f"y_pred: {rows:,} rows of probabilities do not sum to 1; logits need from_logits=True"
    assert every_way(y, x, tmp_path).doubts == (expected,)
    assert every_way(y, softmax(x), tmp_path).doubts == ()


@pytest.mark.parametrize("rows", [FEW, MANY])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value", [0, 2.5, -40, 1e-3])
def test_rows_that_nobody_wrote(rows, dtype, value, tmp_path):
    x, y = RNG.normal(0, 3, (rows, CLASSES)).astype(dtype), RNG.integers(0, CLASSES, rows)
    x[rows // 2 :] = value
    report = every_way(y, x, tmp_path, from_logits=True)
    found = report.audit["equal"]
    assert found["count"] == rows - rows // 2
    assert found["rows"] == list(range(rows // 2, rows // 2 + 10))
    assert found["runs"] == [[rows // 2, rows]]
    assert f"equal numbers, rows {rows // 2:,} to {rows - 1:,}; was all of it written?" in report.doubts[0]
    unit = every_way(y, softmax(x) * (np.arange(rows) < rows // 2)[:, None].astype(dtype), tmp_path)
    assert unit.audit["equal"] == found


def equal_runs(rows, count, seed=0):
    """Return a column that is True in this many runs, and the runs."""
    cuts = np.sort(np.random.default_rng(seed).choice(np.arange(1, rows), 2 * count, replace=False))
    equal = np.zeros(rows, bool)
    for start, stop in cuts.reshape(-1, 2):
        equal[start:stop] = True
    return equal, cuts.reshape(-1, 2).tolist()


@pytest.mark.parametrize("rows", [300, MANY])
@pytest.mark.parametrize("count", [1, 5, 65, 66, 140])
def test_runs_of_equal_rows_are_known_unless_there_are_many(rows, count, tmp_path):
    x = RNG.normal(0, 3, (rows, CLASSES)).astype("float32")
    equal, runs = equal_runs(rows, count)
    x[equal] = 1
    found = every_way(np.zeros(rows, int), x, tmp_path, from_logits=True)
    assert found.audit["equal"].get("runs") == (runs if count <= 65 else None)
    assert ("the first at row" in found.doubts[0]) == (count > 65)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("count", [20, 65, 66])
@pytest.mark.parametrize("seed", range(4))
def test_runs_do_not_depend_on_the_order_of_merging(axis, count, seed):
    rng = np.random.default_rng(seed)
    equal, runs = equal_runs(600, count, seed)
    x = rng.normal(0, 3, (600, CLASSES)).astype("float32")
    x[equal] = 1
    x = np.moveaxis(x.reshape(6, 100, CLASSES), -1, axis)
    wanted = [tuple(run) for run in runs] if count <= 65 else None
    chunks = tuple(CLASSES if at == axis else int(rng.integers(2, 40)) for at in range(3))
    options = {"axis": axis, "from_logits": True, "threads": 2}
    y = np.zeros((6, 100), int)
    assert dx.evaluate(y, x, **options).state.equal == _as_tuple(wanted)
    assert dx.evaluate(y, da.from_array(x, chunks=chunks), **options).state.equal == _as_tuple(wanted)
    parts = [dx.evaluate(y, x, steps=(k, k + 1), **options).state for k in rng.permutation(6)]
    while len(parts) > 1:
        parts.append(parts.pop(int(rng.integers(len(parts)))).merge(parts.pop(int(rng.integers(len(parts))))))
    assert parts[0].equal == _as_tuple(wanted)


def test_a_run_is_one_however_it_was_cut():
    single = [State(covered=((row, row + 1),), equal=((row, row + 1),)) for row in range(1000)]
    even, odd = merge_all(single[::2]), merge_all(single[1::2])
    assert len(even.equal) == 500
    assert even.merge(odd).equal == ((0, 1000),)


@pytest.mark.parametrize("count", [65, 66, 80])
@pytest.mark.parametrize("seed", range(5))
def test_runs_do_not_depend_on_the_order_of_merging_where_rows_are_missing(count, seed):
    rng = np.random.default_rng(seed)
    equal, runs = equal_runs(1000, count, seed)
    cuts = [0, *np.sort(rng.choice(np.arange(1, 1000), 9, replace=False)).tolist(), 1000]
    states = [State(covered=((row, row + 1),)) for row in range(2000, 2040, 2)]  # alone, each between missing rows
    for start, stop in itertools.pairwise(cuts):
        own = np.flatnonzero(np.diff(equal[start:stop], prepend=False, append=False)).reshape(-1, 2) + start
        states.append(State(covered=((start, stop),), equal=tuple(map(tuple, own.tolist()))))
    for _ in range(20):
        parts = [states[k] for k in rng.permutation(len(states))]
        while len(parts) > 1:
            parts.append(parts.pop(int(rng.integers(len(parts)))).merge(parts.pop(int(rng.integers(len(parts))))))
        assert parts[0].equal == _as_tuple(map(tuple, runs) if count <= 65 else None)


def _as_tuple(runs):
    return None if runs is None else tuple(runs)


def test_a_few_equal_rows_among_many_are_reported_without_a_warning():
    x = RNG.normal(0, 3, (MANY, CLASSES)).astype("float16")
    x[7] = 1
    report = dx.evaluate(np.zeros(MANY, int), x, from_logits=True)
    assert (report.audit["equal"]["rows"], report.doubts) == ([7], ())


@pytest.mark.parametrize("rows", [FEW, MANY])
@pytest.mark.parametrize("on_invalid", ["raise", "count", "skip"])
def test_infinite_losses_are_found_and_skipped(rows, on_invalid, tmp_path):
    x, y = RNG.normal(0, 3, (rows, CLASSES)).astype("float32"), RNG.integers(0, CLASSES, rows)
    lost, other = [3, rows - 2], 5
    x[lost, y[lost]] = -np.inf
    x[other, (y[other] + 1) % CLASSES] = -np.inf  # of another class: nothing is wrong with it
    report = every_way(y, x, tmp_path, from_logits=True, on_invalid=on_invalid)
    assert report.audit["loss_infinite"]["rows"] == lost
    kept = np.delete(np.arange(rows), lost)
    if on_invalid == "skip":
        assert report.metrics == dx.evaluate(y[kept], x[kept], from_logits=True).metrics
        assert report.state.total.counted == rows - 2
    else:
        assert report["crossentropy"] == np.inf
        assert report.state.total.counted == rows


@pytest.mark.parametrize("rows", [FEW, MANY])
@pytest.mark.parametrize("metric", ["accuracy", "top_2_accuracy", "margin", "rank", "macro_f1"])
def test_rows_of_infinite_loss_are_skipped_whatever_is_asked(rows, metric, tmp_path):
    x, y = RNG.normal(size=(rows, CLASSES)), RNG.integers(0, CLASSES, rows)
    x[::7, 1], y[7] = -np.inf, 1
    left_out = (np.arange(rows) % 7 == 0) & (y == 1)
    found = every_way(y, x, tmp_path, from_logits=True, on_invalid="skip", metrics=[metric])
    assert found.audit["loss_infinite"]["count"] == left_out.sum() > 0
    assert found.counted == rows - left_out.sum()
    if metric == "accuracy":
        assert found[metric] == np.mean(x.argmax(axis=1)[~left_out] == y[~left_out])
    both = dx.evaluate(y, x, from_logits=True, on_invalid="skip", metrics=["crossentropy", metric])
    assert found[metric] == both[metric]
    kept = dx.evaluate(y, x, from_logits=True, metrics=[metric])
    assert (kept.counted, list(kept.audit)) == (rows, [])


def test_dense_labels_without_a_loss_are_skipped_whatever_is_asked():
    p, dense = np.array([[0.0, 0.0], [0.2, 0.8], [0.7, 0.3]]), np.eye(2)[[0, 1, 1]]
    for metrics in (["accuracy"], ["crossentropy", "accuracy"]):
        report = dx.evaluate(dense, p, metrics=metrics, on_invalid="skip")
        assert (report["accuracy"], report.counted) == (0.5, 2)


def test_dense_labels_of_rows_without_a_loss_are_found_and_skipped():
    y, p = np.eye(2)[[1, 0, 1]], np.array([[0.0, 0.0], [0.5, 0.5], [0.2, 0.8]])
    report = dx.evaluate(y, p, on_invalid="skip")
    assert report.audit["loss_infinite"]["rows"] == [0]
    assert report.metrics == dx.evaluate(y[1:], p[1:]).metrics
    x = np.array([[0.0, -np.inf], [0.0, 1.0]])
    assert dx.evaluate(np.eye(2)[[1, 1]], x, from_logits=True, on_invalid="skip").audit["loss_infinite"]["rows"] == [0]


@pytest.mark.parametrize("rows", [FEW, MANY])
def test_weights_whose_products_lose_digits_are_found(rows, tmp_path):
    x, y, w = RNG.normal(0, 3, (rows, CLASSES)), RNG.integers(0, CLASSES, rows), np.ones(rows)
    w[[2, 5, 6, 8, 9]] = 5e-324, 1e-141, 1e-140, 1e140, -1.1e140
    y[5] = 77  # does not count
    options = {"sample_weight": w, "on_invalid": "skip", "allow_negative_weights": True, "from_logits": True}
    report = every_way(y, x, tmp_path, **options)
    assert "2 rows with weights beyond 1e140 or below 1e-140; scale them, or errors are wrong" in " ".join(
        report.doubts
    )
    found = report.state.audit["weight_extreme"]
    assert (found.count, found.first) == (2, ((2, 5e-324), (9, -1.1e140)))


@pytest.mark.parametrize("scale", [1e-139, 1e138])
def test_errors_do_not_change_when_weights_are_scaled(scale):
    x, y, w = RNG.normal(0, 3, (500, CLASSES)), RNG.integers(0, CLASSES, 500), 1 + RNG.random(500)
    one, other = (dx.evaluate(y, x, sample_weight=each, from_logits=True) for each in (w, w * scale))
    assert not other.doubts
    assert other.se == pytest.approx(one.se, rel=1e-12)


@pytest.mark.parametrize("rows", [FEW, MANY])
def test_logits_too_large_for_all_digits_are_found(rows, tmp_path):
    x, y = RNG.normal(0, 3, (rows, CLASSES)), RNG.integers(0, CLASSES, rows)
    x[4] += 2.0**21
    x[9] -= 2.0**40
    assert every_way(y, x, tmp_path, from_logits=True).audit["coarse"]["rows"] == [4, 9]
    single = every_way(y, x.astype("float32"), tmp_path, from_logits=True)
    assert "coarse" not in single.audit  # float32 itself has no digits there that could be lost


@pytest.mark.parametrize("rows", [FEW, MANY])
@pytest.mark.parametrize("labels", ["integers", "dense", "smoothed"])
def test_the_largest_logits_give_infinite_losses_without_other_warnings(rows, labels, tmp_path):
    """Warnings of NumPy would be errors; the values of rows of a few large numbers are plain to see."""
    x, y = np.tile([[1e308, -1e308, 1.0], [0.0, -1e308, 1e308], [1.0, 0.0, 1.0]], (rows // 3, 1)), np.arange(rows) % 3
    options = {"from_logits": True, "histograms": ["crossentropy", "entropy", "margin"]}
    metrics = ["crossentropy", "entropy", "margin", "confidence", "accuracy", "rank"]
    if labels == "integers":
        metrics += ["brier", "logsumexp", "z_loss", "label_probability", "temperature"]
    given = np.eye(3)[y] if labels == "dense" else y
    options |= {"label_smoothing": 0.1} if labels == "smoothed" else {}
    for held in (x, da.from_array(x, chunks=(rows // 2, 2))):
        report = dx.evaluate(given, held, metrics=metrics, **options)
        assert (report["crossentropy"], report["margin"]) == (np.inf, pytest.approx(2 * (1e308 / 3)))
        assert report["accuracy"] == pytest.approx(1 / 3)
        assert report["confidence"] == pytest.approx((1 + 1 + np.e / (2 * np.e + 1)) / 3)
        assert "infinite" in repr(report)
    if labels == "integers":
        assert report["z_loss"] == np.inf
        assert report["label_probability"] == pytest.approx((1 + 0 + np.e / (2 * np.e + 1)) / 3)


@pytest.mark.parametrize("digits", [(2**20 + 1, 2**20, 2**20 - 3), (2**23 + 1, 2**23, 2**23 - 3)])
def test_large_float32_logits_keep_their_digits(digits):
    x = np.array([digits], "float32")
    expected = np.log(np.exp(x.astype("f8") - x.max()).sum()) + float(x.max()) - float(x[0, 1])
    assert dx.evaluate([1], x, from_logits=True)["crossentropy"] == pytest.approx(expected, rel=2e-6)


PROBABILITIES = softmax(RNG.normal(0, 3, (FEW, CLASSES)))
LABELS = RNG.integers(0, CLASSES, FEW)


@pytest.mark.parametrize(
    "call",
    [
        lambda: dx.evaluate(LABELS, PROBABILITIES, from_logits=True),
        lambda: list(dx.stream(LABELS, PROBABILITIES, from_logits=True)),
        lambda: dx.rows(LABELS, PROBABILITIES, from_logits=True),
        lambda: dx.delayed(LABELS, PROBABILITIES, from_logits=True).compute(scheduler="sync"),
        lambda: dx.losses.sparse_categorical_crossentropy(LABELS, PROBABILITIES, from_logits=True),
        lambda: dx.losses.SparseCategoricalCrossentropy(from_logits=True)(LABELS, PROBABILITIES),
        lambda: dx.metrics.SparseCategoricalCrossentropy(from_logits=True).update_state(LABELS, PROBABILITIES),
    ],
)
def test_whoever_asks_is_warned(call):
    with pytest.warns(dx.DoubtfulResult, match="^y_pred: all rows look like probabilities") as caught:
        call()
    assert "delayed" in call.__code__.co_names or caught[0].filename == __file__


@pytest.mark.parametrize("stream", [True, False])
def test_whoever_awaits_is_warned(stream):
    async def ask():
        if not stream:
            return await dx.aevaluate(LABELS, PROBABILITIES, from_logits=True, threads=1)
        return [report async for report in dx.astream(LABELS, PROBABILITIES, from_logits=True, threads=1)]

    with pytest.warns(dx.DoubtfulResult, match="^y_pred: all rows look like probabilities") as caught:
        asyncio.run(ask())
    assert [each.filename for each in caught] == [__file__]


def test_the_command_line_warns_in_one_line(tmp_path):
    np.save(tmp_path / "y.npy", LABELS)
    np.save(tmp_path / "x.npy", PROBABILITIES)
    done = CliRunner().invoke(cli.main, ["evaluate", f"{tmp_path}/y.npy", f"{tmp_path}/x.npy", "--from-logits"])
    assert done.exit_code == 0
    assert done.stderr.splitlines()[-1].startswith(
        "Warning: PREDICTIONS: all rows look like probabilities that sum to 1"
    )


def test_nothing_is_warned_of_without_need():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dx.evaluate(LABELS, PROBABILITIES)
        dx.evaluate(LABELS, np.log(PROBABILITIES), from_logits=True)


@pytest.mark.parametrize("rows", [FEW, MANY])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_labels_may_be_whole_floats(rows, dtype, tmp_path):
    x, y = RNG.normal(0, 3, (rows, CLASSES)).astype("float32"), RNG.integers(-1, CLASSES, rows)
    options = {"from_logits": True, "ignore_class": -1}
    wanted = every_way(y, x, tmp_path, **options)
    assert every_way(y.astype(dtype), x, tmp_path, **options).state == wanted.state
    few, y = max(7, rows // 40), y.astype(dtype)
    store = zarr.create_array(str(tmp_path / "y.zarr"), data=y, chunks=(few,), overwrite=True, fill_value=9)
    assert dx.evaluate(store, x, **options).state == wanted.state
    assert dx.evaluate(da.from_array(y, chunks=few + 4), x, **options).state == wanted.state


@pytest.mark.parametrize("rows", [FEW, MANY])
def test_labels_that_are_no_whole_numbers_are_ruled_by_on_invalid(rows, tmp_path):
    x, y = RNG.normal(0, 3, (rows, CLASSES)).astype("float32"), RNG.integers(0, CLASSES, rows).astype("float64")
    y[[3, 8, 9, 12]] = np.nan, np.inf, -np.inf, 1.5
    for broken, message in ((3, "label nan at row 3 is not finite"), (12, "label 1.5 at row 12 is not a whole number")):
        one = np.where(np.arange(rows) == broken, y, np.where(np.isfinite(y), np.trunc(y), 0))
        with pytest.raises(ValueError, match=f"^y_true: {message}"):
            dx.evaluate(one, x, from_logits=True)
    report = every_way(y, x, tmp_path, from_logits=True, on_invalid="skip")
    assert report.audit["label_not_finite"]["rows"] == [3, 8, 9]
    assert report.audit["label_out_of_range"]["rows"] == [12]
    assert dx.Report.from_json(report.to_json()) == report
    kept = np.delete(np.arange(rows), [3, 8, 9, 12])
    assert report.metrics == dx.evaluate(y[kept], x[kept], from_logits=True).metrics
    assert np.isnan(dx.evaluate(y, x, from_logits=True, on_invalid="count")["crossentropy"])


@pytest.mark.parametrize("rows", [FEW, MANY])
def test_several_classes_are_ignored(rows, tmp_path):
    x, y = RNG.normal(0, 3, (rows, CLASSES)).astype("float32"), RNG.integers(-1, CLASSES, rows)
    y[5] = 255
    report = every_way(y, x, tmp_path, from_logits=True, ignore_class=[255, 2, -1])
    hidden = np.isin(y, [255, 2, -1])
    assert report.audit["ignored"]["count"] == hidden.sum()
    assert report.metrics == dx.evaluate(y[~hidden], x[~hidden], from_logits=True).metrics
    assert dx.Report.from_json(report.to_json()) == report
    np.save(tmp_path / "y.npy", y)
    np.save(tmp_path / "x.npy", x)
    line = ["evaluate", f"{tmp_path}/y.npy", f"{tmp_path}/x.npy", "--from-logits", "--json"]
    done = CliRunner().invoke(cli.main, [*line, "--ignore-class", "255", "--ignore-class", "2", "--ignore-class", "-1"])
    assert dx.Report.from_json(done.stdout) == report


@pytest.mark.parametrize("first", [0, 500, 900])
def test_whether_rows_look_like_probabilities_does_not_depend_on_the_cut(first, tmp_path):
    x = np.tile(np.array([0.5, 0.25, 0.25], "f2"), (1000, 1))
    x[first] = 1 + 2**-10, 0, -0.02  # within the tolerance, but not what float16 gives
    y = np.zeros(1000, int)
    with warnings.catch_warnings(action="ignore"):
        states = [
            dx.evaluate(y, zarr.create_array(tmp_path / str(n), data=x, chunks=(n, 3)), from_logits=True).state
            for n in (100, 1000, 7)
        ]
        assert states == [dx.evaluate(y, x, from_logits=True).state] * 3
