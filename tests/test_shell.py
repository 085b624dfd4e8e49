"""Messages in the words of a shell."""

import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from daskxent import cli
from daskxent.show.flags import FLAGS
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


@pytest.fixture
def arrays(tmp_path, monkeypatch):
    """Write labels and predictions, 5 sequences of 4 rows, and work next to them."""
    import zarr

    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).random((5, 4, 7))
    np.save("y_true.npy", values.argmax(-1))
    zarr.save_array("y_pred", values)
    return ["y_true.npy", "y_pred"]


def run(*words):
    done = CliRunner().invoke(cli.main, words)
    return done.stdout, done.stderr


def test_whatever_is_said_is_in_the_words_of_a_shell(arrays):
    shown, warned = run("evaluate", *arrays)
    doubt = "Warning: PREDICTIONS: 20 rows of probabilities do not sum to 1; logits need --from-logits\n"
    assert warned == doubt
    assert "  y_true.npy, (5, 4) int64\n" in shown
    assert "  y_pred, (5, 4, 7) float64 in chunks of" in shown
    planned, _ = run("plan", *arrays, "--from-logits")
    assert "those of a sequence or an image are not: --clusters 'axis(0)'\n" in planned
    _, refused = run("evaluate", *arrays, "--metric", "bits_per_byte")
    assert refused.startswith("Error: --metric: 'bits_per_byte' needs --bytes: a table, ")
    _, missing = run("evaluate", *arrays, "--by", "site=nothing")
    assert missing == "Error: --by site: there is nothing at nothing\n"


def test_a_padded_vocabulary_is_told_with_its_flag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", np.array([0, 1019]))
    np.save("logits.npy", np.eye(2, 1024))
    shown, _ = run("evaluate", "labels.npy", "logits.npy", "--from-logits")
    assert "labels end at 1,019: if the rest is padding, --classes 1020\n" in shown


@pytest.mark.parametrize("command", ["evaluate", "plan", "rows"])
def test_help_calls_options_by_their_flags(command):
    shown, _ = run(command, "--help")
    written = " ".join(shown.split())
    assert "ids along the rows like --weights, integers or strings" in written
    assert "Which classes PREDICTIONS holds, where it holds only some" in written
    assert not [name for name, (flag, _) in FLAGS.items() if f"`{name}`" in written or f"{name}=" in written]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stderr", "options"), [("2>&-", ["--progress"]), ("2>/dev/full", ["--progress"]), ("2>/dev/full", []), ("", [])]
)
def test_a_run_does_not_need_a_stderr(arrays, stderr, options):
    words = [sys.executable, "-m", "daskxent", "evaluate", *arrays, *options, "--json"]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as nobody:
        command = f"exec {shlex.join(words)} {stderr}"
        done = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, stderr=nobody, check=False, timeout=120)
    assert done.returncode == 0
    assert json.loads(done.stdout)["rows"] == 20
