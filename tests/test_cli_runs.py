import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import sized
import zarr
from click.testing import CliRunner

import daskxent as dx
from daskxent import api, cli
from daskxent.report import Report
from daskxent.run.failures import ClusterLost, Interrupted
from daskxent.show.arguments import arrays_below

ROWS = 40


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    sized.give(monkeypatch, smallest_part_bytes=1)


@pytest.fixture
def dump(tmp_path):
    rng = np.random.default_rng(8)
    group = zarr.create_group(tmp_path / "dump.zarr")
    group.create_array("labels", data=rng.integers(0, 3, ROWS), chunks=(10,))
    group.create_array("logits", data=rng.normal(size=(ROWS, 3)).astype("float32"), chunks=(10, 3))
    return tmp_path / "dump.zarr"


@pytest.fixture
def wanted(dump):
    return dx.evaluate(dump / "labels", dump / "logits", from_logits=True, threads=1)


def run(*arguments):
    return CliRunner().invoke(cli.main, list(map(str, arguments)))


def evaluate(dump, *options):
    return run("evaluate", dump / "labels", dump / "logits", "--from-logits", *options, "--json")


def written(dump, path, *options):
    """Evaluate and write the report to a file."""
    result = evaluate(dump, *options)
    assert result.exit_code == 0, result.output
    path.write_text(result.stdout)
    return path


def test_a_journal_goes_on(dump, tmp_path, wanted):
    journal = tmp_path / "run.journal"
    reports = dx.stream(dump / "labels", dump / "logits", from_logits=True, threads=1, journal=journal)
    next(reports)
    reports.close()
    result = evaluate(dump, "--journal", journal)
    assert Report.from_json(result.stdout) == wanted
    assert json.loads(result.stdout)["notes"] == ["10 rows were in the journal already"]
    other = evaluate(dump, "--journal", journal, "--metric", "accuracy")
    assert (other.exit_code, other.stdout) == (2, "")
    assert "question.metrics was ['crossentropy', 'accuracy'], is ['accuracy']" in other.stderr


@pytest.mark.parametrize(
    ("kind", "status", "said"), [(ClusterLost, 1, "Error: lost"), (Interrupted, 130, "Interrupted")]
)
def test_what_is_kept_is_reported(dump, wanted, monkeypatch, kind, status, said):
    error = kind("lost")
    error.report = api.replace(wanted, expected=ROWS + 10)

    def fail(**options):
        error.journal = options["journal"]
        raise error

    monkeypatch.setattr(api, "evaluate", fail)
    result = evaluate(dump)
    assert (result.exit_code, result.stderr) == (status, f"{said} (40 of 50 rows were evaluated)\n")
    result = evaluate(dump, "--journal", "run.journal")
    more = "they are in run.journal, and the same command resumes from there"
    assert (result.exit_code, result.stderr) == (status, f"{said} (40 of 50 rows were evaluated; {more})\n")


def test_merge(dump, tmp_path, wanted):
    spans = ["0:13", "13:20", "20:40"]
    files = [written(dump, tmp_path / f"{i}.json", "--steps", span) for i, span in enumerate(spans)]
    result = run("merge", *reversed(files), "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert Report.from_json(result.stdout) == wanted
    table = run("merge", *files)
    assert table.exit_code == 0
    assert f"crossentropy  {wanted['crossentropy']:.10g} ± " in table.stdout


def test_merge_tells_gaps(dump, tmp_path):
    files = [written(dump, tmp_path / f"{i}.json", "--steps", span) for i, span in enumerate(["5:13", "20:30"])]
    result = run("merge", *files)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == ["Missing: rows 0 to 4", "Missing: rows 13 to 19", "Missing: rows 30 to 39"]
    assert "18 of 40 (incomplete)" in result.stdout
    alone = run("merge", files[0], "--json")
    assert alone.exit_code == 1
    assert Report.from_json(alone.stdout).rows == 8


def test_merge_refuses(dump, tmp_path):
    first = written(dump, tmp_path / "first.json", "--steps", "0:20")
    second = written(dump, tmp_path / "second.json", "--steps", "15:40")
    other = written(dump, tmp_path / "other.json", "--steps", "20:40", "--metric", "bits")
    (tmp_path / "no.json").write_text("[]")
    for files, said in [
        ([first, second], "rows 15 to 19 are covered twice"),
        ([first, other], "different questions"),
        ([first, tmp_path / "no.json"], "no.json holds no report: not a daskxent report"),
        ([first, tmp_path / "none.json"], "No such file"),
    ]:
        result = run("merge", *files)
        assert (result.exit_code, result.stdout) == (2, "")
        assert said in result.stderr


def test_verify(dump, tmp_path):
    file = written(dump, tmp_path / "report.json", "--journal", tmp_path / "run.journal")
    result = run("verify", file)
    assert (result.exit_code, result.stdout) == (0, "4 parts gave the same bits\n")
    for parts, said in ((2, "2 parts"), (1, "1 part")):
        assert run("verify", file, "--parts", parts).stdout == f"{said} gave the same bits\n"
    zarr.open_array(dump / "logits")[25, 1] = 0.5
    found = {run("verify", file, "--parts", "1", "--seed", seed).exit_code for seed in range(20)}
    assert found == {0, 2}
    result = run("verify", file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: verify: rows 20 to 29 give other bits than the report was made from\n"
    result = run("verify", written(dump, file))
    assert result.exit_code == 2
    assert "without a journal" in result.stderr


def test_a_home_directory_is_found(dump, tmp_path, wanted, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    result = run(
        "evaluate", "~/dump.zarr/labels", "~/dump.zarr/logits", "--from-logits", "--journal", "~/run.journal", "--json"
    )
    assert Report.from_json(result.stdout) == wanted
    assert (tmp_path / "run.journal").exists()
    (tmp_path / "report.json").write_text(result.stdout)
    assert run("verify", "~/report.json").stdout == "4 parts gave the same bits\n"
    missing = run("plan", "~/none.zarr/labels", "~/dump.zarr/logits")
    assert missing.stderr == "Error: LABELS: there is nothing at ~/none.zarr/labels\n"


def test_a_report_is_shown_where_the_current_directory_was_removed(dump, tmp_path, monkeypatch, wanted):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = run("evaluate", dump / "labels", dump / "logits", "--from-logits")
    assert result.exit_code == 0, result.output
    assert f"labels        {dump}/labels, (40,) int64 in chunks of (10,)\n" in result.stdout


@pytest.mark.slow
def test_nobody_reads_what_is_printed(dump):
    command = [sys.executable, "-m", "daskxent", "evaluate", dump / "labels", dump / "logits", "--from-logits"]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as output:
        ended = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.slow
def test_an_interrupt_while_the_command_is_imported(tmp_path):
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt\n")  # the first thing that takes time
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-m", "daskxent", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path})
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "Interrupted\n")


SWALLOWED = """
import os, signal
for count in range({times}):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        pass
print("went on")
"""


@pytest.mark.slow
def test_an_interrupt_that_an_import_would_swallow(tmp_path):
    (tmp_path / "click.py").write_text(SWALLOWED.format(times=1))
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-m", "daskxent", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path})
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "Interrupted\n")


@pytest.mark.slow
def test_a_second_interrupt_ends_what_takes_time_to_end():
    script = f"""
import sys, types
sys.modules["daskxent.cli"] = cli = types.ModuleType("daskxent.cli")
cli.main = lambda: exec({SWALLOWED.format(times=2)!r})
from daskxent.__main__ import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "Interrupted\n")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_zip_file_alone_is_a_dump(dump, wanted, zarr_format):
    group = zarr.create_group(dump.with_name("other.zarr"), zarr_format=zarr_format)
    for name, array in zarr.open_group(dump).arrays():
        group.create_array(name, data=array[...])
    group.create_array("below/ids", data=np.arange(3))
    file = shutil.make_archive(str(dump), "zip", dump.with_name("other.zarr"))
    done = run("evaluate", file, "--from-logits", "--json")
    assert dx.Report.from_json(done.stdout).state == wanted.state
    assert f"Taking labels {file}/labels, predictions {file}/logits\n" in done.stderr
    assert [each.value for each in arrays_below(None, None, f"{file}/")] == [
        f"{file}/{name}" for name in ("below/ids", "labels", "logits")
    ]
    one = shutil.make_archive(str(dump), "zip", dump / "labels")
    assert f"{one} is not a dump of several arrays: give both paths" in run("evaluate", one).stderr


@pytest.mark.parametrize("hold", [".npy", ".npz", ".zarr"])
def test_log_probabilities_are_known_by_their_usual_name(tmp_path, hold):
    rng, at = np.random.default_rng(0), tmp_path / f"d{hold}"
    arrays = {"labels": rng.integers(0, 3, 40), "log_probabilities": np.log(rng.dirichlet(np.ones(3), 40))}
    if hold == ".npz":
        np.savez(at, **arrays)
    elif hold == ".npy":
        at.mkdir()
        for name, values in arrays.items():
            np.save(at / name, values)
    else:
        group = zarr.create_group(at)
        for name, values in arrays.items():
            group.create_array(name, data=values)
    wanted = dx.evaluate(*arrays.values(), predictions="log_probabilities").state
    assert dx.Report.from_json(run("evaluate", at, "--json").stdout).state == wanted
    assert run("plan", at).exit_code == 0
    assert run("rows", at, "--column", "loss", "--out", tmp_path / "out").exit_code == 0


def test_a_weight_of_zero_is_given(dump):
    zarr.open_group(dump)["weights"] = np.arange(1.0, ROWS + 1)
    done = run("evaluate", dump, "--from-logits", "--weights", 0, "--json")
    assert "logits, weights 0\n" in done.stderr
    assert json.loads(done.stdout)["weight"] == 0


def test_a_dump_of_many_arrays_is_evaluated_with_its_weights(tmp_path):
    at, rng = str(tmp_path / "d.zarr"), np.random.default_rng(0)
    group = zarr.open_group(at, mode="w")
    arrays = {"labels": rng.integers(0, 3, 40), "logits": rng.normal(size=(40, 3)), "weights": rng.random(40)}
    for name, values in (arrays | {f"column{i}": np.arange(40) for i in range(10)}).items():
        group.create_array(name, data=values)
    done = CliRunner().invoke(cli.main, ["evaluate", at, "--from-logits", "--json"])
    assert f", weights {at}/weights\n" in done.stderr
    weighted = dx.evaluate(arrays["labels"], arrays["logits"], sample_weight=arrays["weights"], from_logits=True)
    assert dx.Report.from_json(done.stdout).state == weighted.state
    below = arrays_below(None, None, f"{at}/")
    assert [each.value for each in below] == [f"{at}/{name}" for name in sorted(group.array_keys())]
    shown = f"{at} holds {', '.join(f'column{i}' for i in range(10))} and 3 more"
    typo = CliRunner().invoke(cli.main, ["evaluate", f"{at}/labels", f"{at}/logit"])
    assert typo.stderr == f"Error: PREDICTIONS: there is nothing at {at}/logit; {shown}\n"
    shutil.rmtree(f"{at}/labels")
    none = CliRunner().invoke(cli.main, ["evaluate", at])
    assert none.stderr.startswith(f"Error: {shown[:-6]}2 more; expected labels called 'labels', ")


def test_a_dump_whose_arrays_have_usual_names(tmp_path):
    rng = np.random.default_rng(0)
    group = zarr.open_group(tmp_path / "d.zarr", mode="w")
    for name, values in (
        ("labels", rng.integers(0, 3, 40)),
        ("logits", rng.normal(size=(40, 3))),
        ("weights", rng.random(40)),
    ):
        group.create_array(name, data=values)
    at = str(tmp_path / "d.zarr")
    done = CliRunner().invoke(cli.main, ["evaluate", at, "--from-logits", "--json"])
    assert done.exit_code == 0, done.stderr
    assert done.stderr.startswith(f"Taking labels {at}/labels, predictions {at}/logits, weights {at}/weights\n")
    whole = dx.evaluate(f"{at}/labels", f"{at}/logits", sample_weight=f"{at}/weights", from_logits=True)
    assert dx.Report.from_json(done.stdout) == whole
    assert CliRunner().invoke(cli.main, ["plan", at, "--from-logits"]).exit_code == 0
    typo = CliRunner().invoke(cli.main, ["evaluate", f"{at}/labels", f"{at}/logit", "--from-logits"])
    assert typo.stderr == f"Error: PREDICTIONS: there is nothing at {at}/logit; {at} holds labels, logits, weights\n"
    for given, message in (
        (tmp_path, "is not there, or holds no arrays; expected labels called 'labels', 'label', 'y_true', "),
        (tmp_path / "none", "holds no arrays"),
    ):
        lost = CliRunner().invoke(cli.main, ["evaluate", str(given)])
        assert lost.exit_code == 2
        assert message in lost.stderr
    assert CliRunner().invoke(cli.main, ["evaluate", "-h"]).exit_code == 0
