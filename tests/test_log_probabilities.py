"""Log-probabilities are taken as they are: the loss is minus that of the label, whatever is left of the others."""

import json
import math

import dask.array as da
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from test_doubts import every_way

import daskxent as dx
from daskxent import cli
from daskxent.run.slicing import BINNED
from daskxent.sources.chunks import MissingChunk

CLASSES = 5
RNG = np.random.default_rng(8)
METRICS = ["crossentropy", "perplexity", "accuracy", "top_2_accuracy"]
TAKEN = {"predictions": "log_probabilities", "metrics": METRICS}


def log_probabilities(rows, dtype="float32", keep=CLASSES):
    """Return labels and log-probabilities, of which all but the largest are -inf."""
    x = RNG.normal(0, 3, (rows, CLASSES))
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    labels = np.where(RNG.random(rows) < 0.8, x.argmax(axis=1), x.argsort(axis=1)[:, -2])
    return labels, np.where(x >= np.sort(x, axis=1)[:, [-keep]], x, -np.inf).astype(dtype)


@pytest.mark.parametrize("rows", [30, 9000])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("keep", [2, CLASSES])
def test_the_loss_is_that_of_the_label_as_it_is(rows, dtype, keep, tmp_path):
    y, x = log_probabilities(rows, dtype, keep)
    report = every_way(y, x, tmp_path, **TAKEN)
    taken = -x[np.arange(rows), y].astype(np.longdouble)
    assert report["crossentropy"] == float(taken.mean())
    assert report["accuracy"] == (x.argmax(axis=1) == y).mean()
    assert (report["top_2_accuracy"], report.doubts) == (1, ())


@pytest.mark.parametrize("rows", [30, 9000])
def test_labels_that_were_not_kept_and_broken_rows_are_found(rows, tmp_path):
    y, x = log_probabilities(rows)
    x[2, y[2]] = x[4] = -np.inf
    x[6, 1] = np.nan
    report = every_way(y, x, tmp_path, **TAKEN, on_invalid="skip")
    assert {kind: found["rows"] for kind, found in report.audit.items()} == {
        "loss_infinite": [2], "infinite": [4], "nan": [6],
    }  # fmt: skip
    kept = np.delete(np.arange(rows), [2, 4, 6])
    assert report.metrics == dx.evaluate(y[kept], x[kept], **TAKEN).metrics


@pytest.mark.parametrize("rows", [30, 9000])
def test_logits_that_are_taken_for_log_probabilities_are_found(rows, tmp_path):
    y, x = log_probabilities(rows)
    x[5] += 9
    expected = "y_pred: 1 row of log-probabilities are above 0; logits need predictions='logits'"
    assert every_way(y, x, tmp_path, **TAKEN).doubts == (expected,)


@pytest.mark.parametrize("rows", [2, 10_000])
def test_infinity_is_found_as_such_alone(rows):
    x = np.tile([[-0.1, -3, -4], [np.inf, -1, -2]], (rows // 2, 1))
    report = dx.evaluate(np.zeros(rows, int), x, predictions="log_probabilities", on_invalid="count")
    assert {kind: found["count"] for kind, found in report.audit.items()} == {"infinite": rows // 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 0.1}, "label_smoothing would need logits"),
        ({"predictions": "log"}, "predictions: expected one of None, logits, probabilities, log_probabilities"),
        ({"predictions": "probabilities", "from_logits": True}, "predictions: 'probabilities' contradicts from"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    y, x = log_probabilities(3)
    with pytest.raises(ValueError, match=message):
        dx.evaluate(y, x, **{**TAKEN, **options})


def test_dense_labels_and_columns_that_need_all_classes_are_refused():
    y, x = log_probabilities(3)
    with pytest.raises(ValueError, match="one-hot or soft labels would need logits"):
        dx.evaluate(np.eye(CLASSES)[y], x, **TAKEN)
    with pytest.raises(ValueError, match="'confidence' would need logits"):
        dx.rows(y, x, **TAKEN, columns=["confidence"])


@pytest.mark.parametrize(("kind", "from_logits"), [("logits", True), ("probabilities", False)])
def test_logits_and_probabilities_may_be_named(kind, from_logits):
    y, x = log_probabilities(30)
    x = x if from_logits else np.exp(x)
    assert dx.evaluate(y, x, predictions=kind) == dx.evaluate(y, x, from_logits=from_logits)


def test_a_shell_and_a_journal_know_them(tmp_path):
    y, x = log_probabilities(30)
    zarr.save(str(tmp_path / "d.zarr"), y=y, x=x)
    line = ["evaluate", f"{tmp_path}/d.zarr/y", f"{tmp_path}/d.zarr/x", "--journal", f"{tmp_path}/j", "--json"]
    done = CliRunner().invoke(cli.main, [*line, "--predictions", "log_probabilities"])
    assert json.loads(done.stdout)["crossentropy"] == dx.evaluate(y, x, **TAKEN)["crossentropy"]
    other = CliRunner().invoke(cli.main, [*line, "--from-logits"])
    assert other.exit_code == 2
    assert "log_probabilities was True, is False" in other.stderr
    assert "log-probabilities, 5 classes" in repr(dx.plan(y, x, **TAKEN))


def test_single_rows_have_the_probabilities_as_they_stand():
    x = np.array([[-0.5, -2.0, -np.inf], [-3.0, -0.25, -4.0], [-1.0, -1.5, -1.5], [np.nan, 0, 0]])
    report = dx.evaluate([1, 0, 0, 0], x, **TAKEN, worst=2, sample=4)
    shown = [(each["row"], each["loss"], each["p_label"], each["p_prediction"]) for each in report.worst]
    assert shown == [(1, 3, pytest.approx(math.exp(-3)), pytest.approx(math.exp(-0.25))),
                     (0, 2, pytest.approx(math.exp(-2)), pytest.approx(math.exp(-0.5)))]  # fmt: skip
    sample = {each["row"]: each["p_prediction"] for each in report.sample}
    assert sample[2] == pytest.approx(math.exp(-1))
    assert math.isnan(sample[3])
    assert dx.Report.from_json(report.to_json()) == report


@pytest.mark.filterwarnings("ignore::daskxent.DoubtfulResult")
def test_single_rows_far_above_any_log_probability_are_shown():
    report = dx.evaluate([0, 1], [[1e4, 0.0], [0.0, 1e4]], **TAKEN, sample=2)
    assert report.sample[0]["p_label"] == report.sample[0]["p_prediction"] == pytest.approx(math.exp(700))


def largest(rows=50, classes=30, k=5, seed=0):
    """Return labels, log-probabilities, and of these only the k largest with their classes and that of the label."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 2, (rows, classes))
    logs = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    y = rng.integers(0, classes, rows)
    ids = np.argsort(-logs, axis=1)[:, :k]
    ids = np.concatenate([ids, y[:, None]], axis=1)  # as in vLLM: the label is always there
    values = np.take_along_axis(logs, ids, axis=1)
    values[(ids[:, :k] == y[:, None]).any(axis=1), -1] = -np.inf
    return y, logs, values, ids


NAMES = ["crossentropy", "accuracy", "perplexity", "top_3_accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("rows", [50, 5000])
@pytest.mark.parametrize("lazily", [False, True])
def test_dumps_of_the_largest_classes(rows, lazily):
    y, logs, values, ids = largest(rows)
    y[3] = -100
    options = {"predictions": "log_probabilities", "metrics": NAMES, "ignore_class": -100}
    whole = dx.evaluate(y, logs, **options)
    held = [da.from_array(each, chunks=17) for each in (y, values, ids)] if lazily else [y, values, ids]
    found = dx.evaluate(held[0], held[1], ids=held[2], **options)
    assert found.metrics == whole.metrics
    assert found.se == whole.se


def test_dumps_of_the_largest_classes_of_sequences(tmp_path):
    y, logs, values, ids = (each.reshape(10, 5, *each.shape[1:]) for each in largest())
    group = zarr.open_group(tmp_path / "d.zarr", mode="w")
    for name, each in (("y", y), ("values", values), ("ids", ids), ("mask", y > 3)):
        group.create_array(name, data=each, chunks=(3, *each.shape[1:]))
    at, options = tmp_path / "d.zarr", {"predictions": "log_probabilities", "metrics": NAMES, "shift": 0}
    found = dx.evaluate(at / "y", at / "values", ids=at / "ids", mask=at / "mask", journal=tmp_path / "j", **options)
    assert found.metrics == dx.evaluate(y, logs, mask=y > 3, **options).metrics
    assert dx.verify(found) >= 1


def test_classes_that_are_not_stored_are_missing_labels(tmp_path):
    y, _, values, ids = largest()
    group = zarr.open_group(tmp_path / "d.zarr", mode="w")
    for name, each in (("y", y), ("values", values), ("ids", ids)):
        group.create_array(name, data=each, chunks=(10, *each.shape[1:]))
    (tmp_path / "d.zarr/ids/c/1/0").unlink()
    at, options = tmp_path / "d.zarr", {"predictions": "log_probabilities"}
    with pytest.raises(MissingChunk, match=r"ids: chunk c/1/0 .* is missing"):
        dx.evaluate(at / "y", at / "values", ids=at / "ids", on_missing="raise", **options)
    found = dx.evaluate(at / "y", at / "values", ids=at / "ids", on_missing="fill", **options)
    assert found.audit["label_missing"]["rows"] == list(range(10, 20))


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize("options", [{}, {"shift": 1}])
@pytest.mark.parametrize("shape", [(50,), (10, 5)], ids=["rows", "sequences"])
def test_labels_of_some_classes_may_have_an_axis_of_length_1(shape, options, lazily):
    y, _, values, ids = (each.reshape(*shape, *each.shape[1:]) for each in largest())
    held = [da.from_array(each, chunks=3) for each in (y, values, ids)] if lazily else [y, values, ids]
    options |= TAKEN
    found = dx.evaluate(held[0][..., None], held[1], ids=held[2], **options)
    assert found.state == dx.evaluate(y, values, ids=ids, **options).state


@pytest.mark.parametrize("which", ["labels", "values", "ids"])
def test_dumps_of_the_largest_classes_that_are_not_finished_are_refused(which, tmp_path):
    y, _, values, ids = largest()
    arrays = {"labels": y, "values": values, "ids": ids}
    written = zarr.create_array(tmp_path / "x.zarr", data=arrays[which])
    written.attrs["daskxent dump"] = {"complete": False, "steps": 30}
    arrays[which] = tmp_path / "x.zarr"
    with pytest.raises(ValueError, match=r"its writer has not finished it; \[:30\] after the path takes"):
        dx.evaluate(arrays["labels"], arrays["values"], ids=arrays["ids"], **TAKEN)


@pytest.mark.parametrize("shape", [(50,), (10, 5)], ids=["rows", "sequences"])
@pytest.mark.parametrize("lazily", [False, True])
def test_bytes_of_a_table_are_those_of_the_class_and_not_of_its_slot(shape, lazily):
    y, logs, values, ids = (each.reshape(*shape, *each.shape[1:]) for each in largest())
    options = {"predictions": "log_probabilities", "metrics": ["bits_per_byte", "word_perplexity"]}
    table, words = np.arange(30) % 7, np.arange(1, 31)
    whole = dx.evaluate(y, logs, bytes=table, words=words, **options)
    held = [da.from_array(each, chunks=7) for each in (y, values, ids)] if lazily else [y, values, ids]
    for more in (0, 21):  # a table may be longer than the classes that occur
        sizes = {"bytes": np.append(table, [1] * more), "words": np.append(words, [1] * more)}
        found = dx.evaluate(held[0], held[1], ids=held[2], **sizes, **options)
        assert (found.metrics, found.se) == (whole.metrics, whole.se)
    along = dx.evaluate(held[0], held[1], ids=held[2], bytes=table[y], words=words[y], **options)
    assert along.metrics == whole.metrics


@pytest.mark.parametrize("lazily", [False, True])
def test_a_label_beyond_a_table_of_bytes_is_an_error_where_it_counts(lazily):
    y, _, values, ids = largest()
    y[[3, 5]], y[4] = 1000, -100
    held = [da.from_array(each, chunks=7) for each in (y, values, ids)] if lazily else [y, values, ids]
    options = {"predictions": "log_probabilities", "metrics": ["bits_per_byte"], "ignore_class": -100}
    given = {"ids": held[2], "bytes": np.arange(30), **options}
    with pytest.raises(ValueError, match=r"bytes: .* got nan, as for a label beyond a table, at row 3"):
        dx.evaluate(held[0], held[1], **given)
    shown = y < 30
    found = dx.evaluate(held[0], held[1], mask=shown, **given)
    expected = dx.evaluate(y[shown], values[shown], bytes=np.arange(30), ids=ids[shown], **options)
    assert found.metrics == expected.metrics


def test_a_label_that_was_not_kept_has_an_infinite_loss():
    found = dx.evaluate([7], [[-0.1, -3.0]], ids=[[2, 1]], predictions="log_probabilities", metrics=["crossentropy"])
    assert found["crossentropy"] == np.inf
    assert found.audit["loss_infinite"]["count"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predictions": None, "from_logits": True}, "ids: needs predictions='log_probabilities'"),
        ({"metrics": ["top_3_accuracy"]}, "'top_3_accuracy' takes all classes; these are 2 of each row"),
        ({"metrics": ["macro_f1"]}, "'macro_f1' takes all classes"),
        ({"per_class": True}, "per_class: takes all classes"),
        ({"by": {"class": "label"}}, "by: 'label' takes all classes; these are 2 of each row"),
        ({"by": {"class": "prediction"}}, "by: 'prediction' takes all classes"),
        ({"ids": [[1, 2, 3]]}, r"ids: expected shape \(1, 2\), that of y_pred; got \(1, 3\)"),
    ],
)
def test_what_only_some_classes_cannot_answer(options, message):
    given = {"predictions": "log_probabilities", "ids": [[1, 2]], "metrics": ["crossentropy"]} | options
    with pytest.raises(ValueError, match=message):
        dx.evaluate([1], [[-0.5, -1.0]], **given)


@pytest.mark.parametrize("of", sorted(BINNED))
def test_bins_of_only_some_classes_are_those_of_all_or_refused(of):
    y, logs, values, ids = largest()
    options = {"predictions": "log_probabilities", "by": {"bin": dx.bins(of, [-9, -2, -1, 0, 0.2, 0.5, 1, 2, 9])}}
    if of in ("loss", "crossentropy", "label_probability", "target", "peak", "second", "margin"):
        found, whole = (dx.evaluate(y, x, **options, **given) for x, given in ((values, {"ids": ids}), (logs, {})))
        np.testing.assert_equal(found.by("bin").rows, whole.by("bin").rows)
        return
    with pytest.raises(ValueError, match=f"by: '{of}' takes all classes; these are 6 of each row"):
        dx.evaluate(y, values, ids=ids, **options)


def test_columns_of_rows_of_only_some_classes():
    y, logs, values, ids = largest()
    options = {"predictions": "log_probabilities", "ids": ids}
    columns = ["loss", "hit", "label_probability", "peak", "target", "margin"]
    found, whole = (
        dx.rows(y, values, columns=columns, **options),
        dx.rows(y, logs, columns=columns, **options | {"ids": None}),
    )
    for name in columns:
        np.testing.assert_array_equal(found[name], whole[name], err_msg=name)
    for name in ("prediction", "label", "above", "confidence"):
        with pytest.raises(ValueError, match=f"columns: '{name}' takes all classes; these are 6 of each row"):
            dx.rows(y, values, columns=["loss", name], **options)
