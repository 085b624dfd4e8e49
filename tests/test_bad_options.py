"""Options that are not understood are one clear error, before anything is read."""

import numpy as np
import pytest
from test_bad_input import CLASSES, HOLDERS, LABELS, PREDICTIONS, RUNS, in_zarr, refused

import daskxent as dx

KNOWN = "known are 'crossentropy', 'accuracy', 'entropy', 'brier', 'confidence', "


@HOLDERS
@RUNS
@pytest.mark.parametrize("name", ["acc", "top_0_accuracy", "top_k_accuracy", "", 5])
def test_unknown_metrics(hold, run, name):
    message = f"metrics: {name!r} is unknown; {KNOWN}"
    refused(ValueError, message, hold(LABELS), hold(PREDICTIONS), metrics=["accuracy", name], run=run)


@HOLDERS
@RUNS
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metrics": []}, ValueError, "metrics: expected at least one name"),
        ({"metrics": 5}, TypeError, "metrics: expected names, got 5"),
        ({"on_invalid": "hope"}, ValueError, "on_invalid: expected one of raise, skip, count; got 'hope'"),
        ({"label_smoothing": 1.5}, ValueError, "label_smoothing: expected a number from 0 to 1, got 1.5"),
        ({"label_smoothing": np.nan}, ValueError, "label_smoothing: expected a number from 0 to 1, got nan"),
        ({"ignore_class": 1.5}, TypeError, "ignore_class: expected an integer, got 1.5"),
        (
            {"ignore_class": 2**64 - 1},
            ValueError,
            f"ignore_class: expected labels between -2**63 and 2**63 - 1, got {2**64 - 1}",
        ),
        ({"on_invalid": ["raise"]}, ValueError, "on_invalid: expected one of raise, skip, count; got ['raise']"),
        ({"on_missing": "zero"}, ValueError, "on_missing: expected one of None, raise, fill; got 'zero'"),
        ({"label_smoothing": True}, ValueError, "label_smoothing: expected a number from 0 to 1, got True"),
        ({"class_weight": 3}, TypeError, "class_weight: expected a weight for each class, or a mapping from classes"),
        ({"class_weight": np.array(3)}, TypeError, "class_weight: expected a weight for each class"),
        ({"class_weight": "abc"}, TypeError, "class_weight: expected a weight for each class"),
        ({"ignore_class": np.array(1.5)}, TypeError, "ignore_class: expected an integer, got array(1.5)"),
        ({"histograms": 5}, TypeError, "histograms: expected names, got 5"),
        ({"label_smoothing": "0.1"}, ValueError, "label_smoothing: expected a number from 0 to 1, got '0.1'"),
        ({"from_logits": "no"}, TypeError, "from_logits: expected True or False, got 'no'"),
        ({"from_logits": None}, TypeError, "from_logits: expected True or False, got None"),
        ({"allow_negative_weights": "no"}, TypeError, "allow_negative_weights: expected True or False, got 'no'"),
        ({"worker_timeout": -1}, ValueError, "worker_timeout: expected seconds above 0, got -1"),
        ({"worker_timeout": "5s"}, ValueError, "worker_timeout: expected seconds above 0, got '5s'"),
        ({"worker_timeout": np.nan}, ValueError, "worker_timeout: expected seconds above 0, got nan"),
        ({"threads": 0}, ValueError, "threads: expected at least 1, got 0"),
        ({"threads": 1.5}, TypeError, "threads: expected an integer, got 1.5"),
        ({"treads": 2}, TypeError, "'treads'"),
    ],
    ids=str,
)
def test_options(hold, run, options, error, message):
    refused(error, message, hold(LABELS), hold(PREDICTIONS), **options, run=run)


@HOLDERS
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"progress": "x"}, TypeError, "progress: expected True, False or a callable, got 'x'"),
        ({"progress": 1}, TypeError, "progress: expected True, False or a callable, got 1"),
    ],
    ids=str,
)
def test_options_of_evaluate_alone(hold, options, error, message):
    refused(error, message, hold(LABELS), hold(PREDICTIONS), **options)


@pytest.mark.parametrize("steps", [(1, 4), [1, 4], np.array([1, 4]), slice(1, 4), (np.int8(1), 4)], ids=str)
def test_edges_of_steps(steps):
    assert dx.evaluate(LABELS, PREDICTIONS, steps=steps).rows == 3


@pytest.mark.parametrize(("name", "run"), [("journal", dx.evaluate), ("journal", dx.rows), ("out", dx.rows)])
def test_paths(name, run):
    refused(TypeError, f"{name}: expected a path, got 3", LABELS, PREDICTIONS, **{name: 3}, run=run)
    refused(TypeError, f"{name}: expected a path, got b'x'", LABELS, PREDICTIONS, **{name: b"x"}, run=run)
    refused(ValueError, f"{name}: expected a path, got an empty one", LABELS, PREDICTIONS, **{name: ""}, run=run)


@HOLDERS
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split_every": 1}, ValueError, "split_every: expected at least 2, got 1"),
        ({"split_every": "2"}, TypeError, "split_every: expected an integer, got '2'"),
        ({"steps": (0, 2)}, TypeError, "delayed: unknown option 'steps'"),
    ],
    ids=str,
)
def test_options_of_graphs(hold, options, error, message):
    refused(error, message, hold(LABELS), hold(PREDICTIONS), **options, run=dx.delayed)


def test_an_option_of_another_function_is_not_misspelt():
    with pytest.raises(TypeError, match=r"^delayed: unknown option 'steps'$"):
        dx.delayed(LABELS, PREDICTIONS, steps=(0, 2))
    with pytest.raises(TypeError, match=r"did you mean 'split_every'\?$"):
        dx.delayed(LABELS, PREDICTIONS, split_ever=2)


@pytest.mark.parametrize("kind", [dx.losses.SparseCategoricalCrossentropy, dx.metrics.SparseCategoricalCrossentropy])
def test_options_of_losses_and_metrics(kind):
    refused(TypeError, "from_logits: expected True or False, got 'no'", LABELS, PREDICTIONS, run=kind(from_logits="no"))


@RUNS
def test_ignore_class_needs_integer_labels(run):
    dense = np.eye(CLASSES)[LABELS]
    refused(
        ValueError, "ignore_class: needs integer labels; these are one-hot or soft", dense, PREDICTIONS, ignore_class=1
    )


@pytest.mark.parametrize("hold", [np.asarray, in_zarr], ids=["numpy", "zarr"])
@RUNS
@pytest.mark.parametrize(
    ("steps", "error", "message"),
    [
        (5, TypeError, "steps: expected (start, stop) or a slice, got 5"),
        ((0.5, 2), TypeError, "steps: expected (start, stop) or a slice, got (0.5, 2)"),
        ((1, 2, 3), TypeError, "steps: expected (start, stop) or a slice, got (1, 2, 3)"),
        (range(1, 3), TypeError, "steps: expected (start, stop) or a slice, got range(1, 3)"),
        ({1, 4}, TypeError, "steps: expected (start, stop) or a slice, got {1, 4}"),
        ({1: 0, 4: 0}, TypeError, "steps: expected (start, stop) or a slice, got {1: 0, 4: 0}"),
        (slice(0, 6, 2), ValueError, "steps: expected a slice without a step, got slice(0, 6, 2)"),
    ],
    ids=str,
)
def test_steps(hold, run, steps, error, message):
    refused(error, message, hold(LABELS), hold(PREDICTIONS), steps=steps, run=run)
