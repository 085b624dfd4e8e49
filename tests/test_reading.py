"""Reports and journals are files that anybody may have written: what is wrong with them is named."""

import copy
import json
import random
import zlib
from contextlib import suppress

import numpy as np
import pytest
from click.testing import CliRunner

import daskxent as dx
from daskxent import cli
from daskxent.run import journal as journals

RNG = np.random.default_rng(3)
X, Y = RNG.normal(0, 3, (20, 4)).astype("float32"), RNG.integers(0, 4, 20)
X[3, 1] = np.nan
REPORT = dx.evaluate(Y, X, from_logits=True, metrics=["crossentropy", "top_2_accuracy"], ignore_class=2)
GOOD = json.loads(REPORT.to_json())


def changed(*path, value=None, remove=False):
    data = copy.deepcopy(GOOD)
    at = data
    for step in path[:-1]:
        at = at[step]
    if remove:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return data


_KEPT = json.loads(dx.evaluate(Y, X, from_logits=True, worst=1, by={"label": "label"}).to_json())["state"]
PICKED, TABLE = _KEPT["picked"]["worst"], _KEPT["tables"]["label"]
TOTALS = ("state", "total", "totals")
BAD = {
    "no total": (changed(*TOTALS, "crossentropy", remove=True), "totals of all rows: 'crossentropy' is missing"),
    "a total too many": (changed(*TOTALS, "x", value=["0x1", 0, 0, 0, 0]), "totals of all rows: 'x' is unknown"),
    "no sums": (changed("state", "total", value=[]), "sums: expected a mapping"),
    "no weight": (changed("state", "total", "weight", remove=True), "sums: 'weight' is missing"),
    "huge": (
        changed(*TOTALS, "crossentropy", value=["0x1", 10**10, 0, 0, 0]),
        "totals crossentropy: expected an integer",
    ),
    "digits": (
        changed(*TOTALS, "crossentropy", value=["0x" + "f" * 999, 0, 0, 0, 0]),
        "expected a hexadecimal integer",
    ),
    "no digits": (changed(*TOTALS, "crossentropy", value=[1, 0, 0, 0, 0]), "expected a hexadecimal integer, got 1"),
    "NaN of -1": (changed(*TOTALS, "crossentropy", value=["0x1", 0, -1, 0, 0]), "expected an integer from 0"),
    "counted": (changed("state", "total", "counted", value=-5), "counted: expected an integer from 0"),
    "too many counted": (
        changed("state", "total", "counted", value=21),
        "counted: expected an integer from 0 to 20",
    ),
    "twice": (changed("state", "covered", value=[[0, 10], [5, 20]]), "covered: expected an integer from 11"),
    "negative": (changed("state", "covered", value=[[-10, 10]]), "covered: expected an integer from 0"),
    "backwards": (changed("state", "covered", value=[[5, 5]]), "covered: expected an integer from 6"),
    "floats": (changed("state", "covered", value=[[0.0, 20]]), "covered: expected an integer from 0 .*, got 0.0"),
    "beyond": (changed("state", "covered", value=[[1, 21]]), "covered: expected an integer from 0 to 20, got 21"),
    "kind": (changed("state", "audit", "x\u001b[31m", value={"count": 1, "first": [[0, 0]]}), r"audit: 'x\\x1b"),
    "finding": (changed("state", "audit", "nan", "count", value=0), "nan: expected an integer from 1"),
    "place": (changed("state", "audit", "nan", "first", value=[[99, 0.0]]), "nan: row 99 is not covered"),
    "picked": (changed("state", "picked", value={"worst": {}}), "picked: 'count' is missing"),
    "picked too many": (changed("state", "picked", value={"worst": PICKED}), "picked: 'worst' is unknown"),
    "no table": (changed("state", "tables", value={"x": TABLE}), "tables: 'x' is unknown"),
    "runs": (changed("state", "equal", value=[[3, 5]]), "equal: expected runs of 0 rows"),
    "expected": (changed("expected", value="2"), "expected: expected an integer from 20 to 20, got '2'"),
    "elapsed": (changed("elapsed", value="x"), "elapsed: expected float or int, got 'x'"),
    "notes": (changed("notes", value=[1]), "notes: expected str, got 1"),
    "inputs": (changed("inputs", value=[]), "inputs: expected dict or NoneType"),
    "question": (changed("question", "classes", value=0), "classes: expected an integer from 1"),
    "metric": (changed("question", "metrics", value=["magic"]), "'magic'"),
    "question field": (changed("question", "x", value=0), "question: 'x' is unknown"),
    "by": (changed("question", "by", value=[[["Nothing"]]]), r"by: \['Nothing'\] is not a grouping"),
    "no by": (changed("question", "by", value=[[]]), "by: a slicing has at least one grouping"),
    "state": (changed("state", value=None), "state: expected a mapping, got None"),
    "format": (changed("format", value=1), "not a daskxent report of format 6"),
    "missing": (changed("available", remove=True), "report: 'available' is missing"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_report_is_checked_field_by_field(kind, tmp_path):
    data, message = BAD[kind]
    with pytest.raises(ValueError, match=message):
        dx.Report.from_json(json.dumps(data))
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(data))
    done = CliRunner().invoke(cli.main, ["merge", str(file)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: {file} holds no report: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.isprintable() or done.stderr[:-1].isprintable()


@pytest.mark.parametrize("text", ["", "[" * 100_000, "{}", "null", "\x00", "[1]", '"a"'])
def test_what_is_no_report_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011
        dx.Report.from_json(text)


def mutated(value, rng):
    """Change something somewhere in plain data."""
    junk = [None, -1, 10**30, 1.5, "", "x", [], {}, [[]], True, "0x", float("nan")]
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.2:
            return {name: each for name, each in value.items() if name != key}
        return value | {key: mutated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [mutated(each, rng) if i == at else each for i, each in enumerate(value)]
    return rng.choice(junk)


@pytest.mark.fuzz
def test_reports_with_anything_in_them_are_read_or_refused(tries):
    rng = random.Random(0)
    for _ in tries(1500):
        try:
            report = dx.Report.from_json(json.dumps(mutated(GOOD, rng)))
        except ValueError:
            continue
        assert repr(report)
        assert dx.Report.from_json(report.to_json()) == report
        report.to_dict()


@pytest.mark.fuzz
def test_journals_with_anything_in_them_are_read_or_refused(tmp_path, tries):
    rng, path = random.Random(1), tmp_path / "run.journal"
    wanted = dx.evaluate(Y, X, from_logits=True, journal=path)
    lines = [json.loads(line[9:]) for line in path.read_text().splitlines()]
    for _ in tries(400):
        records = mutated(lines, rng)
        if not isinstance(records, list):
            continue
        texts = [json.dumps(record).encode() for record in records]
        path.write_bytes(b"".join(b"%08x %s\n" % (zlib.crc32(text), text) for text in texts))
        try:
            report = dx.evaluate(Y, X, from_logits=True, journal=path)
        except ValueError as error:
            assert str(error).startswith((f"journal {path}:", "y_"))  # noqa: PT017 - some of them pass
        else:
            assert report.rows == wanted.rows
        with suppress(ValueError):
            journals.read(str(path))


def test_a_journal_without_a_total_is_refused(tmp_path):
    path = tmp_path / "run.journal"
    dx.evaluate(Y, X, from_logits=True, journal=path)
    header, part = (json.loads(line[9:]) for line in path.read_text().splitlines())
    del part["state"]["total"]["totals"]["accuracy"]
    texts = [json.dumps(record).encode() for record in (header, part)]
    path.write_bytes(b"".join(b"%08x %s\n" % (zlib.crc32(text), text) for text in texts))
    with pytest.raises(dx.JournalError, match=r"a record does not belong to this journal: .* 'accuracy' is missing$"):
        dx.evaluate(Y, X, from_logits=True, journal=path)
