import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "shootout.py"
spec = importlib.util.spec_from_file_location("shootout", PROGRAM)
shootout = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shootout)

RESULTS = [
    {"peer": "daskxent", "version": "1", "case": "easy", "value": 2.5},
    {"peer": "daskxent", "version": "1", "case": "bad", "error": "ValueError", "message": "label -1\nat row 7"},
    {"peer": "keras", "version": "2", "case": "easy", "value": "nan"},
    {"peer": "keras", "version": "", "case": "bad", "error": "crash", "message": "m" * 200},
    {"peer": "torch", "version": "3", "case": "easy", "value": None},
]
TRUTHS = {"easy": 2.5, "bad": None}


def ask(script: str, cases: list[str]) -> list:
    return list(shootout.ask([sys.executable, "-c", script], "torch", cases))


@pytest.mark.slow
@pytest.mark.parametrize("case", shootout.CASES)
def test_daskxent_is_right(case):
    result = shootout.answer("daskxent", case)
    assert shootout.is_right(result, shootout.truth(shootout.CASES[case]())), result


def test_daskxent_names_row_and_value_of_a_bad_label():
    message = shootout.answer("daskxent", "labels of -1")["message"]
    assert "label -1" in message
    assert "row 7" in message


def test_daskxent_names_both_shapes():
    message = shootout.answer("daskxent", "accuracy: 100 labels, 1 prediction")["message"]
    assert "(100,)" in message
    assert "(1, 3)" in message


@pytest.mark.parametrize(
    ("scores", "logits", "expected"),
    [
        ([[0.5, 0.25, 0.25]], False, np.log(2)),
        ([[0, 1, 0]], False, -np.log(1e-7)),
        ([[0, 0, -np.inf]], True, np.log(2)),
        ([[0, 60_000, 0]], True, 60_000),
    ],
)
def test_truth(scores, logits, expected):
    case = shootout.Case("crossentropy", [(np.array([0]), np.array(scores))], logits)
    assert shootout.truth(case) == pytest.approx(expected, rel=1e-7)


def test_truth_leaves_out_what_is_to_be_ignored():
    case = shootout.Case("accuracy", [(np.array([0, -1, 1]), np.array([[1, 0]] * 3))], ignore=-1)
    assert shootout.truth(case) == 0.5


@pytest.mark.parametrize(
    ("result", "expected", "right"),
    [
        ({"value": 1 + 1e-7}, 1, True),
        ({"value": 1 + 1e-5}, 1, False),
        ({"value": "inf"}, 1, False),
        ({"value": 1.0}, None, False),
        ({"error": "ValueError"}, None, True),
        ({"error": "ValueError"}, 1, False),
        ({"error": "TypeError"}, None, False),
        ({"error": "crash"}, None, False),
    ],
)
def test_right_or_wrong(result, expected, right):
    assert shootout.is_right(result, expected) is right


def test_a_crash_is_a_cell():
    script = """
import json, os, sys
for case in sys.argv[1:]:
    if case == "b":
        print("out of luck", file=sys.stderr, flush=True)
        os._exit(9)
    print("noise")
    print(json.dumps({"case": case, "value": 1}), flush=True)
"""
    first, crash, last = ask(script, ["a", "b", "c"])
    assert (first["case"], last["case"]) == ("a", "c")
    assert (crash["case"], crash["error"]) == ("b", "crash")
    assert crash["message"] == "the process ended with 9: out of luck"


def test_a_peer_that_cannot_start_is_all_crashes():
    assert [result["error"] for result in ask("raise SystemExit(1)", ["a", "b"])] == ["crash", "crash"]


@pytest.mark.slow
def test_answers_are_lines_of_json():
    command = [sys.executable, PROGRAM, "--answer", "daskxent", "--cases", "labels of -1", "-inf off the target"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [json.loads(line)["case"] for line in lines] == ["labels of -1", "-inf off the target"]


def test_table():
    text = shootout.markdown(RESULTS, TRUTHS, {"dask-ml": "no such release"})
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert rows[0] == ["", "truth", "daskxent", "keras", "torch"]
    assert rows[2] == ["easy", "2.5", "2.5 ✓", "**nan ✗**", "-"]
    assert rows[3] == ["bad", "an error", "ValueError ✓", "**crash ✗**", "-"]
    assert "* keras 2: " in text
    assert "* dask-ml: left out, it could not be installed: `no such release`" in text
    assert "* daskxent (bad): `ValueError: label -1 at row 7`" in text
    assert "m" * 150 + "...`" in text


def test_a_peer_that_cannot_be_installed_is_left_out(monkeypatch, tmp_path):
    def install(name, home):
        if name != "daskxent":
            raise subprocess.CalledProcessError(1, "pip", stderr=f"looking\nERROR: no {name}\n")
        return Path(sys.executable)

    monkeypatch.setattr(shootout, "install", install)
    monkeypatch.setattr(shootout, "ask", lambda command, name, cases: iter([{"peer": name}]))
    results, left_out = shootout.ask_all(tmp_path)
    assert results == [{"peer": "daskxent"}]
    assert left_out["keras"] == "ERROR: no keras"


def test_peers_are_installed_once(tmp_path):
    installs = shootout.PEERS["torch"].installs
    stamp = tmp_path / "torchmetrics" / "installed.txt"  # the first of those with the same installs
    stamp.parent.mkdir()
    stamp.write_text("\n".join(installs))
    assert shootout.install("torch", tmp_path) == shootout.python_of(stamp.parent)
    assert shootout.install("daskxent", tmp_path) == Path(sys.executable)


def test_the_table_goes_between_the_marks(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- shootout -->\nold\n<!-- /shootout -->\nafter ✓\n", encoding="utf-8")
    for _ in range(2):
        shootout.put_into(page, "new\n")
    expected = "before\n<!-- shootout -->\nnew\n<!-- /shootout -->\nafter ✓\n"
    assert page.read_text(encoding="utf-8") == expected


def test_a_page_without_marks_is_left_alone(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("<!-- /shootout --> <!-- shootout -->")
    with pytest.raises(ValueError, match="not found"):
        shootout.put_into(page, "new")
    assert page.read_text() == "<!-- /shootout --> <!-- shootout -->"
