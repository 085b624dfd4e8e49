"""Whatever is typed ends with a status and one line that is not a traceback."""

import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from daskxent import cli

ROWS, CLASSES = 12, 3
NUMBERS = ["-1", "0", "1", "2", "3", "12", "1e3", "0.5", "nan", "inf", "-inf", str(2**63), str(10**40), "0x1", "\u0661"]
WORDS = [
    "",
    " ",
    "x",
    "-",
    "--",
    "é",
    "\x1b[31mred",
    "a b",
    "[",
    "[:, 0]",
    "[::2]",
    "accuracy",
    "top_0_accuracy",
    "top_2_accuracy",
]
METRICS = ["accuracy", "crossentropy", "bits", "perplexity", "top_1_accuracy", "top_99999999_accuracy"]
VALUES = {
    "--metric": METRICS,
    "--axis": ["0", "1", "-1", "2"],
    "--ignore-class": ["0", "-1", "255", "-100"],
    "--label-smoothing": ["0.1", "1", "0"],
    "--on-invalid": ["raise", "skip", "count"],
    "--view": ["bfloat16"],
    "--on-missing": ["raise", "fill"],
    "--steps": ["0:5", ":", "3:", ":-2", "5:0", "12:99", "1:2:3"],
    "--worker-timeout": ["5"],
    "--column": ["loss", "hit", "flags", "label"],
    "--parts": ["1", "9"],
    "--seed": ["7"],
}
FLAGS = [
    "--from-logits",
    "--allow-negative-weights",
    "--json",
    "--progress",
    "--no-progress",
    "--help",
    "-h",
    "--version",
]
COMMANDS = ["evaluate", "plan", "rows", "merge", "verify", "evalute"]


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    """Write arrays of all kinds, good and bad, a report and a journal, and return what may be typed for them."""
    path, rng = tmp_path_factory.mktemp("lines"), np.random.default_rng(0)
    x, y = rng.normal(size=(ROWS, CLASSES)).astype("float32"), rng.integers(0, CLASSES, ROWS)
    for name, array in {
        "x": x,
        "y": y,
        "w": rng.random(ROWS),
        "dense": np.eye(CLASSES)[y],
        "bits": x.view("uint16"),
    }.items():
        zarr.save_array(path / "d.zarr" / name, array)
        np.save(path / f"{name}.npy", array)
    (path / "cut.npy").write_bytes((path / "x.npy").read_bytes()[:-7])
    (path / "text.npy").write_text("no array")
    good = [str(path / "d.zarr/y"), str(path / "d.zarr/x"), "--from-logits", "--journal", str(path / "j"), "--json"]
    (path / "report.json").write_text(CliRunner().invoke(cli.main, ["evaluate", *good]).stdout)
    return path, [*(str(each) for each in path.glob("*")), *(str(each) for each in (path / "d.zarr").glob("*"))]


def line(rng, paths, scratch):
    """Make up a command line, of which most words are where they belong."""

    def word(likely):
        return rng.choice(likely) if rng.random() < 0.9 else rng.choice([*NUMBERS, *WORDS, *paths])

    def path(likely):
        return word([likely] * 4 + paths) + rng.choice([""] * 8 + ["[3:]", "[:, 1:]", "[...]", "[9]"])

    found = {Path(each).name: each for each in paths}
    command = rng.choice(COMMANDS)
    words = [found["report.json"]] if command in ("merge", "verify") else [path(found["y"]), path(found["x"])]
    words += rng.choice([[]] * 8 + [[path(found["x"])]])
    for _ in range(rng.randrange(4)):
        option = rng.choice([*VALUES, *FLAGS, "--weights", "--journal", "--out", "--threads"])
        words.append(option)
        if option in VALUES:
            words.append(word(VALUES[option]))
        elif option == "--weights":
            words.append(path(found["w"]))
        elif option in ("--journal", "--out"):
            words.append(word([f"{scratch}/{rng.randrange(10**6)}", f"{scratch}/one"]))
        elif option == "--threads":
            words.append(rng.choice(["1", "2", "0", "-1", "x"]))
    return [command, *words]


@pytest.mark.fuzz
def test_fuzzed_command_lines_end_with_a_status_and_a_line(dump, tmp_path, monkeypatch, tries):
    monkeypatch.chdir(tmp_path)
    rng, seen = random.Random(3), dict.fromkeys((0, 1, 2), 0)
    for _ in tries(400):
        words = line(rng, dump[1], tmp_path)
        with warnings.catch_warnings(action="ignore"):
            done = CliRunner().invoke(cli.main, words)
        assert isinstance(done.exception, SystemExit | None), (words, done.exc_info)
        seen[done.exit_code] += 1
        text = done.stderr.replace("\n", "").replace("\r", "").replace("█", "")
        assert "Traceback" not in text, words
        if done.exit_code == 2:
            last = done.stderr.splitlines()[-1]
            assert last.startswith("Error: "), (words, done.stderr)
            assert last.isprintable(), (words, last)
    assert min(seen[0], seen[2]) > 20
