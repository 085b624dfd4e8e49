"""Log-probabilities are taken as they are: the loss is minus that of the label, whatever is left of the others."""

import json

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from test_doubts import every_way

import daskxent as dx
from daskxent import cli

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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 0.1}, "label_smoothing would need logits"),
        ({"predictions": "log"}, "predictions: expected one of None, logits, probabilities, log_probabilities"),
        ({"predictions": "probabilities", "from_logits": True}, "predictions: probabilities are no logits"),
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
