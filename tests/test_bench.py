import argparse
import importlib
import json
import math
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent.parent / "benchmarks"

# How many targets each case has rows for.
TARGETS = {
    "scan-1000": 2,
    "scan-32000": 2,
    "scan-100": 2,
    "scan-10": 2,
    "scan-half": 4,
    "scan-probabilities": 1,
    "scan-maps": 1,
    "read-zstd": 2,
    "read-lz4": 2,
    "read-none": 2,
    "read-zstd-sharded": 2,
    "chunks": 4,
    "reach": 4,
    "plan": 2,
    "memory-0.8-GB": 1,
    "memory-2.4-GB": 1,
    "memory-1-GB-in-one-chunk": 1,
    "growth": 2,
    "threads": 2,
    "start-up": 4,
}


@pytest.fixture(scope="module")
def programs():
    """Return the modules of the benchmarks by name; they find each other as scripts in one directory do."""
    names = ["harness", "shootout", "scans", "reads", "costs", "bench"]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PROGRAMS)
        yield {name: importlib.import_module(name) for name in names}
        for name in names:
            sys.modules.pop(name)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("bench") / "data"  # made when it is needed


def run(program: str, *options: object) -> str:
    command = [sys.executable, PROGRAMS / program, *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def every_case(programs):
    options = argparse.Namespace(small=False, data=Path("data"), large=False)
    return list(programs["bench"].cases(options, None))


def test_every_target_has_a_row(programs):
    found = programs["harness"].Found({})
    rows = {case.name: list(case.rows(found)) for case in every_case(programs)}
    assert {name: len(each) for name, each in rows.items()} == TARGETS
    assert {row.cells()[-1] for each in rows.values() for row in each} == {"not measured"}


def test_steps_exist(programs):
    for case in every_case(programs):
        for step in [*case.before, *case.steps.values()]:
            module, _, function = step.function.partition(".")
            assert callable(getattr(programs[module], function))
            json.dumps(step.arguments)


@pytest.mark.parametrize(
    "case", ["scan-100", "scan-half", "read-none", "chunks", "reach", "plan", "memory-0*", "growth"]
)
def test_small(case, data):
    text = run("bench.py", "--small", "--rounds", 1, "--without-torch", "--data", data, "--only", case)
    rows = rows_of(text)
    assert len(rows) == next(count for name, count in TARGETS.items() if fnmatch(name, case))
    for what, figure, against, _, ratio, held in rows:
        if against == "torch":
            assert (ratio, held) == ("", "not measured")
        else:
            assert math.isfinite(float(ratio)), what
            assert float(figure.split()[0]) > 0 or case == "plan", what
            assert held in {"yes", "**no**"}


def test_table_goes_into_a_page(data, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    text = run("bench.py", "--small", "--rounds", 1, "--data", data, "--only", "plan", "--markdown", page)
    assert page.read_text() == f"before\n<!-- bench -->\n\n{text}<!-- /bench -->\nafter\n"


def test_the_page_has_its_marks(programs):
    page = (PROGRAMS / "README.md").read_text()
    assert [page.count(mark) for mark in programs["bench"].MARKS] == [1, 1]


def test_different_answers_are_not_compared(programs, monkeypatch):
    harness = programs["harness"]
    answers = iter([1.0, 1.1])
    monkeypatch.setattr(harness, "take", lambda step: {"seconds": [1.0], "answer": [next(answers)]})
    steps = {name: harness.Step(name, {}) for name in ("ours", "theirs")}
    with pytest.raises(SystemExit, match="answers differ"):
        harness.measure(harness.Case("case", [], steps, lambda found: []), 1)


@pytest.mark.parametrize("options", [["--rounds", "0"], ["--only", "nothing"]])
def test_bad_use(options):
    done = subprocess.run([sys.executable, PROGRAMS / "bench.py", *options], capture_output=True, text=True)
    assert done.returncode == 2
    assert options[0] in done.stderr


def test_profile(data):
    rows = rows_of(run("stages.py", "--small", "--data", data).partition("lz4")[0])
    assert [row[0] for row in rows] == ["read", "decode", "scan and tally", "labels and weights", "rest", "all"]
    assert all(int(row[3]) > 0 for row in rows[:4])
