import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from daskxent import api, cli
from daskxent.numbers.question import Question
from daskxent.numbers.state import State
from daskxent.report import Report
from daskxent.run.failures import IncompleteResult

SCRIPTS = Path(sys.executable).parent
ENTRY_POINTS = [[str(SCRIPTS / "daskxent")], [sys.executable, "-m", "daskxent"], [str(SCRIPTS / "dask"), "xent"]]
LABELS = [1, 2, 0, 2]
LOGITS = np.log([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]])
# Losses are ln 2, ln 4, ln 2, ln 2; weighted below: (1 + 2 * 2 + 3 + 4) ln 2 / 10.
CROSSENTROPY = 1.25 * np.log(2)
WEIGHTED = 1.2 * np.log(2)


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    import zarr

    path = tmp_path_factory.mktemp("dump") / "dump.zarr"
    group = zarr.create_group(path)
    group.create_array("labels", data=np.array(LABELS, np.int16))
    group.create_array("logits", data=LOGITS, chunks=(2, 3))
    group.create_array("weights", data=np.array([1.0, 2.0, 3.0, 4.0]))
    group.create_array("zeros", data=np.zeros(4))
    np.save(path / "labels.npy", LABELS)
    return path


@pytest.fixture
def inputs(dump):
    return [str(dump / "labels"), str(dump / "logits"), "--from-logits"]


def run(*arguments):
    return CliRunner().invoke(cli.main, list(map(str, arguments)))


def evaluate(*arguments):
    """Run `evaluate --json` and return what it printed."""
    result = run("evaluate", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def table(text):
    """Read a printed table."""
    return dict(re.findall(r"^  (\S+(?: \S+)*)  +(.*)$", text, re.MULTILINE))


def refusal(*arguments):
    """Run what is bad use and return the last line on stderr."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("command", ENTRY_POINTS, ids=["daskxent", "python -m daskxent", "dask xent"])
def test_entry_points(command, inputs):
    done = subprocess.run([*command, "evaluate", *inputs, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["crossentropy"] == pytest.approx(CROSSENTROPY, rel=1e-15)  # the logs are rounded
    assert done.stderr == ""  # no bar in a pipe
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("daskxent, version ")
    wrong = subprocess.run([*command, "evaluate", "nothing", "here"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "Error: LABELS: there is nothing at nothing\n"


@pytest.mark.slow
def test_help_is_quick_because_nothing_heavy_is_imported():
    heavy = ["numpy", "dask", "zarr", "numba", "distributed", "sklearn"]
    script = f"""
import sys
from daskxent.cli import main
main(["evaluate", "--help"], standalone_mode=False)
print("imported:", *[name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "imported:"


def test_help_lists_the_commands():
    assert {"evaluate", "plan", "demo"} <= set(run("--help").stdout.split())


def test_table_for_people(inputs, dump):
    result = run("evaluate", *inputs, "--weights", dump / "weights")
    assert result.exit_code == 0
    shown = table(result.stdout)
    assert float(shown["crossentropy"].split(" ± ")[0]) == pytest.approx(WEIGHTED, rel=1e-9)  # ten digits shown
    assert (shown["accuracy"], shown["rows"], shown["weight"]) == ("0.8 ± 0.22", "4", "10")
    assert shown["peak memory"].endswith("B of this process")


def test_weights_may_be_a_number(inputs, tmp_path):
    found = evaluate(*inputs, "--weights", "2.5", "--journal", tmp_path / "j")
    assert found["weight"] == 10
    assert found["crossentropy"] == evaluate(*inputs)["crossentropy"]
    assert evaluate(*inputs, "--weights", "2")["weight"] == 8


def test_json_is_the_whole_report(inputs):
    result = run("evaluate", *inputs, "--json")
    report = Report.from_json(result.stdout)
    assert report == api.evaluate(LABELS, LOGITS, from_logits=True)
    assert len(result.stdout.splitlines()) == 1


def test_metrics(inputs):
    found = evaluate(*inputs, "--metric", "bits", "--metric", "top_2_accuracy")
    assert found["bits"] == pytest.approx(1.25, rel=1e-15)
    assert found["top_2_accuracy"] == 1  # classes tied at the boundary are in
    assert "crossentropy" not in found


def test_rows(inputs):
    found = evaluate(*inputs, "--steps", "1:3")
    assert (found["rows"], found["accuracy"], found["state"]["covered"]) == (2, 0.5, [[1, 3]])


def test_ignore_class(inputs):
    found = evaluate(*inputs, "--ignore-class", "2")
    assert (found["counted"], found["accuracy"], found["audit"]["ignored"]["count"]) == (2, 1, 2)


def test_axis(tmp_path, dump):
    np.save(tmp_path / "turned.npy", LOGITS.T)
    assert evaluate(dump / "labels.npy", tmp_path / "turned.npy", "--axis", "0", "--from-logits")["accuracy"] == 0.75


def test_label_smoothing(tmp_path, dump):
    np.save(tmp_path / "hot.npy", np.eye(3)[LABELS])
    for labels in (tmp_path / "hot.npy", dump / "labels"):
        found = evaluate(labels, dump / "logits", "--from-logits", "--label-smoothing", "1")
        assert found["crossentropy"] == pytest.approx(5 / 3 * np.log(2), rel=1e-15)  # the mean over all classes


def test_on_invalid(tmp_path, dump):
    np.save(tmp_path / "wrong.npy", [1, 2, 3, 2])
    wrong = [tmp_path / "wrong.npy", dump / "logits", "--from-logits"]
    assert refusal("evaluate", *wrong) == "Error: LABELS: label 3 at row 2 is outside [0, 3)"
    assert evaluate(*wrong, "--on-invalid", "skip")["counted"] == 3


def test_bfloat16_kept_as_uint16(tmp_path, dump):
    import ml_dtypes

    logits = LOGITS.astype(ml_dtypes.bfloat16)
    np.save(tmp_path / "view.npy", logits.view(np.uint16))
    found = evaluate(dump / "labels", tmp_path / "view.npy", "--view", "bfloat16", "--from-logits")
    assert found["state"] == api.evaluate(LABELS, logits, from_logits=True).state.to_json()


def test_on_missing(tmp_path):
    import zarr

    zarr.create_array(tmp_path / "labels", shape=4, chunks=2, dtype="u1")
    zarr.create_array(tmp_path / "logits", shape=(4, 3), chunks=(2, 3), dtype="f4")[:2] = 1
    arrays = [tmp_path / "labels", tmp_path / "logits", "--from-logits"]
    assert "chunk c/1/0" in refusal("evaluate", *arrays)
    assert evaluate(*arrays, "--on-missing", "fill")["accuracy"] == 1


def test_threads(inputs):
    one, two = (evaluate(*inputs, "--threads", threads) for threads in (1, 2))
    assert one["state"] == two["state"]


def test_plan_evaluates_nothing(inputs, monkeypatch):
    monkeypatch.setattr(api, "_stream", None)
    found = json.loads(run("plan", *inputs, "--json").stdout)
    assert (found["rows"], found["chunks"], found["classes"], found["nbytes"]) == (4, 2, 3, LOGITS.nbytes)
    for_people = run("plan", *inputs)
    assert for_people.exit_code == 0
    assert for_people.stdout.startswith("Plan\n  metrics ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "5"], "Error: Invalid value for '--steps': '5' is not START:STOP, two whole numbers"),
        (["--steps", "0:4:2"], "Error: Invalid value for '--steps': '0:4:2' is not START:STOP"),
        (["--threads", "0"], "Error: --threads: expected at least 1, got 0"),
        (["--axis", "2"], "Error: --axis: 2 is out of range for PREDICTIONS of shape (4, 3)"),
        (["--metric", "acc"], "Error: --metric: 'acc' is unknown; known are 'crossentropy', 'accuracy', "),
        (["--metric", "bytes", "--bytes", "2.5"], "Error: --bytes: expected an array or a whole number, got 2.5"),
        (["--weights", "missing.npy"], "Error: --weights: there is nothing at missing.npy"),
        (["--label-smoothing", "2"], "Error: --label-smoothing: expected a number from 0 to 1, got 2.0"),
        (["--on-invalid", "hope"], "Error: Invalid value for '--on-invalid': 'hope' is not one of "),
        (
            ["--by", "k=label & k=prediction"],
            "Error: Invalid value for '--by': 'k=label & k=prediction' has two groupings",
        ),
        (["--scheduler", "nowhere"], "Error: missing port number in address 'nowhere'"),
        (["--scheduler", "tcp://h:1", "--threads", "2"], "Error: --scheduler and --threads exclude each other"),
        (["--no-such-option"], "Error: No such option '--no-such-option'."),
        (["one argument too many"], "Error: Got unexpected extra argument (one argument too many)"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "plan"])
def test_bad_use(inputs, command, arguments, message):
    assert refusal(command, *inputs, *arguments).startswith(message)


def test_ids_without_what_they_need_are_said_in_the_words_of_a_shell(dump, inputs):
    message = "Error: --ids: needs --predictions log_probabilities, with the classes along the last axis"
    assert refusal("evaluate", *inputs, "--ids", dump / "logits") == message


@pytest.mark.parametrize("name", ["labels.npy", "labels"])
def test_one_array_is_no_dump(dump, name):
    message = f"Error: {dump / name} is not a dump of several arrays: give both paths, labels and predictions"
    assert refusal("evaluate", dump / name) == message


def test_swapped_arguments_are_bad_input(dump):
    assert "are LABELS and PREDICTIONS swapped?" in refusal("evaluate", dump / "logits", dump / "labels")


def ends(monkeypatch, error):
    """Let an evaluation end with an error; return exit status and stderr."""

    def evaluate(*_, **__):
        raise error

    monkeypatch.setattr(api, "evaluate", evaluate)
    result = CliRunner().invoke(cli.main, ["evaluate", "labels", "predictions"], catch_exceptions=False)
    return result.exit_code, result.stderr


def test_an_incomplete_result_is_a_failed_run(monkeypatch):
    report = Report(Question(("accuracy",), 3), State(), 10)
    error = IncompleteResult("10 of 10 rows were not evaluated", report)
    assert ends(monkeypatch, error) == (1, "Error: 10 of 10 rows were not evaluated\n")


def test_an_unreadable_disk_is_a_failed_run(monkeypatch):
    assert ends(monkeypatch, OSError(5, "Input/output error")) == (1, "Error: [Errno 5] Input/output error\n")


def test_a_worker_killed_again_and_again_is_a_failed_run(monkeypatch):
    from distributed import KilledWorker

    status, message = ends(monkeypatch, KilledWorker("part", SimpleNamespace(address="tcp://lost:1"), 3))
    assert status == 1
    assert message.startswith("Error: Attempted to run task 'part' on 4 different workers")


def test_a_bug_shows_its_traceback(monkeypatch):
    with pytest.raises(AssertionError, match="a bug"):
        ends(monkeypatch, AssertionError("a bug"))


def test_no_weight_warns_and_is_complete(inputs, dump):
    result = run("evaluate", *inputs, "--weights", dump / "zeros", "--json")
    assert result.exit_code == 0
    assert result.stderr == "Warning: no row was counted: the metrics are NaN\n"
    assert json.loads(result.stdout)["crossentropy"] is None


@pytest.mark.slow
def test_progress_is_drawn_in_a_pipe_only_when_asked(inputs):
    assert run("evaluate", *inputs, "--no-progress").stderr == ""
    assert run("evaluate", *inputs).stderr == ""
    shown = run("evaluate", *inputs, "--progress")
    assert "4 of 4 rows" in shown.stderr
    assert "4 of 4 rows" not in shown.stdout


def on_a_terminal(*arguments):
    """Run with stderr on a terminal; return the exit status and what the terminal showed."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen([*ENTRY_POINTS[0], *arguments], stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            shown += os.read(ours, 1 << 16)
        except OSError:  # how Linux says that the other end is closed
            break
    os.close(ours)
    process.communicate(timeout=60)
    return process.returncode, shown.decode()


@pytest.mark.slow
def test_progress_is_drawn_on_a_terminal(inputs):
    status, shown = on_a_terminal("evaluate", *inputs)
    assert status == 0
    assert "4 of 4 rows" in shown
    assert on_a_terminal("evaluate", *inputs, "--no-progress") == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--workers", "2"]])
def test_interrupted(tmp_path, options):
    rows = 16_000_000  # 64 GB, of which no byte is on the disk
    np.lib.format.open_memmap(tmp_path / "logits.npy", "w+", np.float32, (rows, 1000))
    np.lib.format.open_memmap(tmp_path / "labels.npy", "w+", np.uint8, (rows,))
    process = subprocess.Popen(
        [*ENTRY_POINTS[0], "evaluate", "labels.npy", "logits.npy", "--from-logits", "--progress", *options],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr.read(1)  # the bar: it has begun
    time.sleep(1)  # until the workers are in the midst of it
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1].startswith("Interrupted")
    assert "Traceback" not in err
    assert "distributed.worker" not in err


@pytest.mark.slow
def test_workers_need_no_port_of_their_own(inputs):
    with socket.socket() as other:
        with suppress(OSError):  # somebody else has it
            other.bind(("127.0.0.1", 8787))
            other.listen()
        command = [*ENTRY_POINTS[0], "evaluate", *inputs, "--workers", "1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""


@pytest.mark.slow
def test_workers_that_are_being_started_say_nothing_when_interrupted(inputs):
    command = [*ENTRY_POINTS[0], "evaluate", *inputs, "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def spawned():
        for each in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                if os.getsid(int(each.name)) == process.pid and b"spawn_main" in (each / "cmdline").read_bytes():
                    return True
        return False

    while not spawned():
        time.sleep(0.01)
    time.sleep(0.3)  # they import
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "Interrupted\n")


@pytest.mark.slow
def test_demo_writes_once_and_evaluates(tmp_path):
    import zarr

    def demo():
        done = subprocess.run(
            [*ENTRY_POINTS[0], "demo", "--size", "1MB"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        # On a slow machine where nobody has compiled the scans before, that is reported.
        assert done.stderr.strip() in {"", "Compiling the scans, which is done once and kept ..."}
        return table(done.stdout)

    first = demo()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*") if path.suffix != ".html"}
    second = demo()
    assert written == {path: path.stat().st_mtime_ns for path in written}
    for shown in (first, second):
        del shown["elapsed"], shown["peak memory"], shown["made"]
    assert first == second
    assert first["rows"] == f"{10**6 // 45:,}"
    assert 0.7 < float(first["accuracy"].split(" ± ")[0]) < 1
    assert first["dump"].startswith("demo/digits.zarr, ")
    weights = zarr.open_array(tmp_path / "demo" / "digits.zarr" / "weights")[:]
    assert first["weight"] == f"{weights.sum(dtype=np.float64):,.10g}"


@pytest.mark.slow
def test_demo_shows_its_bars_when_asked(tmp_path):
    shown = run("demo", "--size", "50kB", "--out", tmp_path, "--progress")
    assert "writing" in shown.stderr
    assert "1.11 k of 1.11 k rows" in shown.stderr
    assert (tmp_path / "report.html").read_text().count("<figure") == 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "much"], "Error: not a size: 'much'; write it as 100MB, 1GB, 2GiB or a number of bytes"),
        (["--threads", "0"], "Error: Invalid value for '--threads': 0 is not in the range x>=1."),
        (["--size", "44"], "Error: a dump of 44 bytes is too small: one row takes 45"),
    ],
)
def test_demo_bad_use(tmp_path, arguments, message):
    assert refusal("demo", "--out", tmp_path, *arguments) == message
    assert not any(tmp_path.iterdir())  # said before anything is written


def test_demo_leaves_what_is_no_dump_alone(tmp_path):
    (tmp_path / "digits.zarr").write_text("mine")
    assert "exists and is not a demo dump" in refusal("demo", "--out", tmp_path, "--size", "1MB")
    assert "Not a directory" in refusal("demo", "--out", tmp_path / "digits.zarr", "--size", "1MB")


@pytest.mark.slow
def test_peak_memory_is_of_this_process():
    script = "import numpy; from daskxent.show.shell import peak_memory; print(peak_memory())"
    held = np.ones(1 << 26)  # 512 MB here are not the child's
    peak = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    assert 10_000_000 < peak < 300_000_000 < held.nbytes


@pytest.mark.slow
def test_on_a_cluster(inputs, dump, client, monkeypatch):
    weighted, scheduler = [*inputs, "--weights", dump / "weights"], client.scheduler.address
    assert evaluate(*weighted, "--scheduler", scheduler)["state"] == evaluate(*weighted)["state"]
    monkeypatch.chdir(dump)  # the workers run elsewhere
    assert (
        evaluate("labels", "logits", "--from-logits", "--scheduler", scheduler)["state"] == evaluate(*inputs)["state"]
    )
    plan = run("plan", *inputs, "--scheduler", scheduler, "--json")
    assert json.loads(plan.stdout)["threads"] == 4


@pytest.mark.slow
def test_nobody_is_left_connected(inputs, client):
    evaluate(*inputs, "--scheduler", client.scheduler.address)
    connected = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.clients))
    assert [name for name in connected if name.startswith("Client-")] == [client.id]


@pytest.mark.slow
def test_a_bad_address_is_one_line_to_the_very_end(inputs):
    command = [*ENTRY_POINTS[0], "evaluate", *inputs, "--scheduler", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "Error: missing port number in address 'nowhere'\n")


@pytest.mark.slow
def test_no_scheduler_is_a_failed_run(inputs, monkeypatch):
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        result = run("evaluate", *inputs, "--scheduler", "tcp://127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: Timed out trying to connect to tcp://127.0.0.1:1")
