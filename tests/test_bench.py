import argparse
import importlib
import json
import math
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PROGRAMS = ROOT / "benchmarks"

# How many targets each case has rows for.
TARGETS = {
    "scan-1000": 2,
    "scan-32000": 2,
    "scan-100": 2,
    "scan-10": 2,
    "scan-half": 4,
    "scan-probabilities": 1,
    "scan-maps": 1,
    "dense": 1,
    "smoothed": 1,
    "losses": 1,
    "unnormalised": 1,
    "nan": 1,
    "top-5": 1,
    "blocks": 1,
    "dask": 1,
    "read-zstd": 2,
    "read-lz4": 2,
    "read-none": 2,
    "read-zstd-sharded": 2,
    "read-split": 1,
    "read-dask": 2,
    "chunks": 4,
    "reach": 4,
    "plan": 2,
    "memory-0.8-GB": 1,
    "memory-2.4-GB": 1,
    "memory-1-GB-in-one-chunk": 1,
    "growth": 2,
    "threads": 2,
    "reports": 1,
    "start-up": 4,
    "dense-labels-in-chunks-of-5000-rows": 1,
    "blocks-of-classes-in-chunks-of-20-and-of-5000-rows": 1,
    "labels-in-one-chunk-dask-arrays-on-a-cluster": 1,
    "labels-in-one-chunk": 1,
    "label-smoothing": 1,
    "dense-float64-labels": 1,
    "weights-in-one-chunk": 1,
    "maps-with-label-smoothing": 1,
}


@pytest.fixture(scope="module")
def programs():
    """Return the modules of the benchmarks by name; they find each other as scripts in one directory do."""
    names = [
        "harness",
        "shootout",
        "intervals",
        "scans",
        "reads",
        "costs",
        "awkward",
        "bench",
        "drawn",
        "questions",
        "revisions",
        "bits",
        "times",
    ]
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


SMALL = {
    "scans": ["scan-100", "losses", "dask"],
    "reads": ["read-none", "chunks"],
    "costs": ["memory-0*", "reports", "labels-in-one-chunk-*"],
}


@pytest.mark.parametrize("cases", SMALL.values(), ids=SMALL)
def test_small(cases, data):
    text = run("bench.py", "--small", "--rounds", 1, "--without-torch", "--data", data, "--only", *cases)
    rows = rows_of(text)
    found = [count for name, count in TARGETS.items() if any(fnmatch(name, case) for case in cases)]
    assert len(found) == len(cases)
    assert len(rows) == sum(found)
    for what, figure, against, _, ratio, held in rows:
        if against == "torch":
            assert (ratio, held) == ("", "not measured")
        else:
            assert math.isfinite(float(ratio)), what
            assert float(figure.split()[0]) > 0, what
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


def against(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, PROGRAMS / "against.py", "--small", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True)


COMPILED = ("numbers", "kernels")  # the folders of which compiled code is made


def altered(folder: Path, name: str, old: str, new: str) -> Path:
    """Copy the package with one thing changed in what is not compiled; what is compiled is shared with this tree."""
    shutil.copytree(ROOT / "daskxent", folder / "daskxent", ignore=lambda *_: [*COMPILED, "__pycache__"])
    for shared in COMPILED:
        (folder / "daskxent" / shared).symlink_to(ROOT / "daskxent" / shared)
    module = folder / "daskxent" / name
    text = module.read_text()
    assert text.count(old) == 1
    module.write_text(text.replace(old, new))
    return folder


def test_a_tree_against_itself_shows_no_difference(data):
    done = against("--tree", ROOT, "--rounds", 1, "--questions", 15, "--data", data, "--only", "scan-100", "read-none")
    assert done.returncode == 0, done.stderr
    assert "bits: 15 of 15 questions have the same answer" in done.stdout
    rows = rows_of(done.stdout)
    assert [row[0] for row in rows] == ["scan-100", "read-none"]
    assert all(float(row[3]) > 0 and float(row[5]) > 0 for row in rows)


VALUE = "        return self._estimates.value(name)"  # of a report


def test_a_metric_that_differs_in_one_bit_is_found(tmp_path):
    tree = altered(tmp_path, "report.py", VALUE, VALUE.replace("return", "return (1 + 2.0**-52 * (name == 'bits')) *"))
    done = against("--bits", "--tree", tree, "--questions", 10, "--shown", 1)
    assert done.returncode == 1, done.stderr
    assert "differs in result.metrics.bits:" in done.stdout
    assert "answers.py --seed 0 --only" in done.stdout


def test_a_crash_is_the_answer_to_its_question_and_the_next_ones_are_answered(tmp_path):
    tree = altered(tmp_path, "report.py", VALUE, f"        if name == 'bits': import os; os._exit(3)\n{VALUE}")
    done = against("--bits", "--tree", tree, "--questions", 3)
    assert done.returncode == 1
    # The second of the three asks for bits.
    assert [f"question {number} ended its process" in done.stderr for number in range(3)] == [False, True, False]
    assert "bits: 2 of 3 questions have the same answer" in done.stdout
    assert "differs in crash:" in done.stdout


def test_questions_do_not_depend_on_one_another(programs):
    question = programs["questions"].question
    assert question(0, 7).digest() == question(0, 7).digest()
    assert len({question(seed, number).digest() for seed in (0, 1) for number in range(20)}) == 40


def test_what_two_answers_differ_in_is_named(programs):
    one, other = {"a": [1, {"b": "x"}], "c": 0}, {"a": [1, {"b": "y"}], "d": 0}
    found = [(".".join(name), *values) for name, *values in programs["bits"].differences(one, other)]
    assert found == [("a.1.b", "x", "y"), ("c", 0, "nothing"), ("d", "nothing", 0)]


@pytest.mark.parametrize("place", ["warnings", "words"])
def test_words_are_compared_unless_they_are_left_out(programs, monkeypatch, place):
    bits = programs["bits"]
    answers = [[{"answer": {"result": [{"rows": 2, place: {"nan": words}}]}}] for words in ("NaN", "not a number")]
    sides = programs["revisions"].Side("one", "", {}), programs["revisions"].Side("other", "", {})
    monkeypatch.setattr(bits, "ask", lambda side, *_: answers[sides.index(side)])
    assert not bits.compare(sides, 0, 1, 0)
    assert bits.compare(sides, 0, 1, 0, texts=False)
    answers[1][0]["answer"]["result"][0]["rows"] = 3
    assert not bits.compare(sides, 0, 1, 0, texts=False)


def test_every_step_that_is_timed_on_two_sides_exists(programs):
    steps = list(programs["times"].timed(Path("data"), 1))
    assert len({each.name for each in steps}) == len(steps) > 20
    for name in ("scan-10", "scan-1000", "dense", "blocks", "read-zstd", "chunks: labels_in_one", "start-up"):
        assert name in {each.name for each in steps}


def test_another_revision_is_exported_and_its_own_package_imported(programs, tmp_path, monkeypatch):
    revisions = programs["revisions"]
    if not revisions.git("rev-parse", "--verify", "--quiet", "HEAD^{commit}"):
        pytest.skip("not a clone")
    why = subprocess.CalledProcessError(1, "pip", stderr="there is no network")
    monkeypatch.setattr(revisions, "install", lambda *given: (_ for _ in ()).throw(why))
    side = revisions.of_revision("HEAD", tmp_path)
    assert side.imported().is_relative_to(tmp_path)
    assert "there is no network" in side.note


@pytest.mark.parametrize("options", [["--questions", "0"], ["--only", "nothing"], ["no-such-revision"]])
def test_bad_use_of_against(options):
    done = against(*options)
    assert done.returncode == (1 if options == ["no-such-revision"] else 2)
    assert options[0] in done.stderr


def test_profile(data):
    rows = rows_of(run("stages.py", "--small", "--data", data).partition("lz4")[0])
    assert [row[0] for row in rows] == ["read", "decode", "score and add up", "labels and weights", "rest", "all"]
    assert all(int(row[3]) > 0 for row in rows[:4])


def test_the_network_of_the_demo_can_be_trained():
    table = [[int(weight) for weight in line.split()] for line in run("train_demo.py", 1).splitlines()]
    assert [len(line) for line in table] == [32] * (64 + 10)
    assert 10 < max(map(max, table)) < 100


def test_intervals_hold_the_truth(programs):
    """Few samples here; docs/metrics.md has those of 2,000."""
    intervals = programs["intervals"]
    for case in intervals.CASES:
        inside, alone = intervals.covered(case, 120, intervals.truth_of(case))
        assert inside > 0.86, case  # four standard deviations below 95 %
        assert not alone > 0.75, case
