"""Messages in the words of a shell."""

import pytest

from daskxent.cli import FLAGS
from daskxent.show.shell import in_words

PATHS = [
    "runs/seed=0/labels.npy",
    "seed=0/labels.npy",
    "seed=0",
    "seed=0.npy",
    "/data/temperature=0.7/y_true.npy",
    "lr=1e-4,seed=3/y_pred",
    "seed=0&axis=1/x",
    "d.zarr/y_true",
    "d.zarr/y_true[3:]",
    "s3://bucket/by=site/y_pred.npy",
    "y_true",
    "y_pred.npz/y_true",
    "y_true-2.npy",
    "old-y_true.npy",
    "sample_weight.npy",
    "label_smoothing=0.1/sample_weight",
    "~/from_logits=True/x.npy",
    "./seed=0",
    "..",
]


@pytest.mark.parametrize("path", PATHS)
def test_paths_stay_as_they_are(path):
    messages = {
        f"Error: y_true: there is nothing at {path}": f"Error: LABELS: there is nothing at {path}",
        f"{path} holds y_true, y_pred, seed=0; are y_true and y_pred swapped?": (
            f"{path} holds y_true, y_pred, seed=0; are LABELS and PREDICTIONS swapped?"
        ),
        f"Error: '{path}' is no array": f"Error: '{path}' is no array",
    }
    assert {message: in_words(message, FLAGS) for message in messages} == messages
    if "." in path or "/" in path:  # a file is known by its name, wherever it is
        assert in_words(f"journal {path}: line 3 is damaged", FLAGS) == f"journal {path}: line 3 is damaged"


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("Error: metrics: 'bits' needs bytes=: a table", "Error: --metric: 'bits' needs --bytes: a table"),
        ("logits need from_logits=True", "logits need --from-logits"),
        ("as rows (from_logits=True) of y_pred; sure?", "as rows (--from-logits) of PREDICTIONS; sure?"),
        ("evaluate(..., on_missing='fill') reads it", "--on-missing fill reads it"),
        ("(evaluate(..., on_missing='fill') reads it)", "(--on-missing fill reads it)"),
        ("ignore_class=-100 leaves it out", "--ignore-class -100 leaves it out"),
        ("those of an image are not: clusters=dx.axis(0)", "those of an image are not: --clusters 'axis(0)'"),
        ("by['site']: 3 of them", "--by site: 3 of them"),
        ("by['my site']: 3 of them", "--by 'my site': 3 of them"),
        ("Warning: sample_weight: 3 rows", "Warning: --weights: 3 rows"),
        ("integer labels, without label_smoothing", "integer labels, without --label-smoothing"),
        ("ids along the rows like `sample_weight`", "ids along the rows like --weights"),
        ("an axis of that length, by the way", "an axis of that length, by the way"),
    ],
)
def test_options_are_written_as_in_a_shell(message, wanted):
    assert in_words(message, FLAGS) == wanted
