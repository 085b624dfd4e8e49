"""Kill what can be killed, with SIGKILL, while real schedulers, workers and clients run, and compare with a calm run.

By the numbers of the list of faults that this project keeps:

* I1 to I5, I9, I11, I13 to I16 are tests here; I6, I7 and I8 are in `test_journal`.
* I10, a straggler, is a test as far as there is something to hold: the rest continues meanwhile, and the end is right.
  Nothing is started twice to overtake it, because parts are small and Dask gives no sign of a worker that is slow.
* I12, a worker out of memory, is left out: its nanny ends it as SIGKILL does, which I4 tests. When it does depends on
  how fast the machine is, and `plan` says the memory in advance.
"""

import asyncio
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import dask.array as da
import forked
import numpy as np
import pytest
import sized
import zarr
from distributed import Client, get_client
from distributed.chaos import KillWorker
from running import prepared

import daskxent as dx
from daskxent.numbers.state import merge_all
from daskxent.run import cluster as driver
from daskxent.run.parts import Work
from daskxent.sources import zarr_arrays

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

ROWS, CHUNK = 400, 10
TESTS = Path(__file__).parent
OPTIONS = {"from_logits": True, "metrics": ("crossentropy", "accuracy", "top_2_accuracy")}


class Site:
    """A scheduler and workers, each a process of its own, and the orders for those who sabotage them."""

    def __init__(self, directory, allowed_failures=1):
        self.directory, self.processes, self.closed = directory, [], threading.Event()
        self.order()
        self.environment = {
            "SABOTAGE": str(directory),
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(allowed_failures),
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s",  # how long a dead worker is asked for its results
        }
        file = directory / "scheduler.json"
        options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show"]
        self.scheduler = self.start("scheduler", *options, "--scheduler-file", file)
        until(lambda: file.exists() and file.stat().st_size)
        self.address = json.loads(file.read_text())["address"]

    def start(self, *arguments):
        process = forked.start(list(map(str, arguments)), self.environment, self.directory / "output")
        self.processes.append(process)
        return process

    def worker_arguments(self, nanny):
        return [
            "worker", self.address, "--host", "127.0.0.1", "--nthreads", "1", "--memory-limit", "0",
            "--no-dashboard", "--nanny" if nanny else "--no-nanny", "--local-directory", self.directory,
            "--preload", TESTS / "sabotage.py",
        ]  # fmt: skip

    def worker(self, nanny=False):
        return self.start(*self.worker_arguments(nanny))

    @contextmanager
    def kept(self, count):
        """Start workers, and others whenever they die: what nannies do, for whom each takes 3 s to be there."""

        def keep():
            workers = []
            while not self.closed.wait(0.05):
                workers = [worker for worker in workers if worker.is_alive()]
                workers += [self.worker() for _ in range(count - len(workers))]

        keeper = threading.Thread(target=keep)
        keeper.start()
        try:
            yield
        finally:
            self.closed.set()
            keeper.join()

    @contextmanager
    def fresh_worker(self, **environment):
        """A worker whose interpreter and modules begin in this environment."""
        command = [sys.executable, "-m", "dask", *map(str, self.worker_arguments(nanny=False))]
        with (
            open(self.directory / "output", "ab") as output,
            subprocess.Popen(
                command, stdout=output, stderr=output, env={**os.environ, **self.environment, **environment}
            ) as process,
        ):
            try:
                yield
            finally:
                process.terminate()

    def order(self, **orders):
        (self.directory / "new").write_text(json.dumps(orders))
        (self.directory / "new").rename(self.directory / "orders.json")

    def begun(self):
        """List (process, start, stop) of the parts that were begun."""
        return read_lines(self.directory / "begun")

    def close(self):
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()  # it may not have a group yet
            process.join()


def read_lines(file):
    return [tuple(map(int, line.split())) for line in file.read_text().splitlines()] if file.exists() else []


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@contextmanager
def connected(site):
    with Client(site.address, set_as_default=False, timeout=30) as client:
        yield client


async def finished(future):
    while future.status == "pending":
        await asyncio.sleep(0.005)


def processes(client):
    """Numbers of the worker processes that answer."""
    return [number for number in client.run(os.getpid, on_error="ignore").values() if isinstance(number, int)]


def end(process):
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def idle(client):
    """Whether two workers answer, and have forgotten what they had to do before."""
    counts = client.run(lambda dask_worker: len(dask_worker.state.tasks), on_error="ignore")
    return sorted(counts.values(), key=str) == [0, 0]


def ours(client):
    """Count the tasks of ours that the scheduler knows."""
    return client.run_on_scheduler(lambda dask_scheduler: sum("daskxent" in str(key) for key in dask_scheduler.tasks))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A scheduler with two workers of one thread, and others when they die."""
    made = Site(tmp_path_factory.mktemp("site"))
    with made.kept(2):
        yield made
    made.close()


@pytest.fixture
def client(site):
    site.order(sleep=0.03)
    with connected(site) as client:
        until(lambda: idle(client))
        for file in ("begun", "failed"):
            (site.directory / file).unlink(missing_ok=True)
        yield client


@pytest.fixture
def bare(tmp_path):
    """A scheduler of its own, for those who kill it or need workers that stay dead."""
    made = Site(tmp_path)
    made.order(sleep=0.03)
    yield made
    made.close()


@pytest.fixture(scope="module")
def values():
    rng = np.random.default_rng(5)
    return {
        "labels": rng.integers(0, 7, ROWS),
        "logits": rng.normal(0, 3, (ROWS, 7)).astype("float32"),
        "weights": rng.random(ROWS),
    }


def write(path, values):
    group = zarr.create_group(path, overwrite=True)
    for name, array in values.items():
        group.create_array(name, data=array, chunks=(CHUNK, *array.shape[1:]))
    return path


@pytest.fixture(scope="module")
def dump(values, tmp_path_factory):
    return write(tmp_path_factory.mktemp("dump") / "dump.zarr", values)


@pytest.fixture(scope="module")
def wanted(dump):
    return dx.evaluate(**arguments(dump), threads=1)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    parts_of(monkeypatch, 1)


def parts_of(monkeypatch, chunks):
    sized.give(monkeypatch, part_bytes=chunks * CHUNK * 7 * 4, smallest_part_bytes=chunks * CHUNK * 7 * 4)


def arguments(dump, **options):
    return {
        "y_true": dump / "labels",
        "y_pred": dump / "logits",
        "sample_weight": dump / "weights",
        **OPTIONS,
        **options,
    }


def disturbed(reports, moments):
    """Exhaust reports and return the last one; `moments` says after how many of them what is done."""
    for number, report in enumerate(reports, 1):
        last = report
        moments.get(number, int)()
    return last


# Workers die.


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_worker_is_killed(client, dump, wanted, seed):  # I1
    rng = random.Random(seed)
    victim = rng.choice(processes(client))

    def kill():
        time.sleep(rng.random() * 0.05)
        end(victim)

    report = disturbed(dx.stream(**arguments(dump), client=client), {rng.randrange(1, 20): kill})
    assert report == wanted
    assert report.complete
    until(lambda: ours(client) == 0)


def test_nannies_start_every_worker_that_is_killed_again(bare, dump, wanted):
    bare.worker(nanny=True), bare.worker(nanny=True)
    with connected(bare) as client:
        client.wait_for_workers(2, timeout=60)
        first, second = processes(client)
        moments = {5: lambda: end(first), 20: lambda: end(second)}
        assert disturbed(dx.stream(**arguments(dump), client=client), moments) == wanted


@pytest.mark.parametrize("mode", ["sys.exit", "segfault", "graceful"])
def test_workers_die_all_the_time(bare, dump, wanted, mode):  # I2
    bare.order(sleep=0.05)
    with bare.kept(2), connected(bare) as client:
        client.register_plugin(KillWorker(delay="2 s", mode=mode))
        while len({process for process, _, _ in bare.begun()}) < 4:  # two of them are dead
            assert dx.evaluate(**arguments(dump), client=client) == wanted


def test_a_worker_is_killed_when_it_has_finished(client, dump, wanted, monkeypatch):  # I3
    fetch, left = driver.Window._fetch, [1, 1]

    async def kill_first(window, future):
        await finished(future)
        if left:
            left.pop()
            holders = await client.who_has([future])
            for number in (await client.run(os.getpid, workers=list(*holders.values()))).values():
                end(number)
        await fetch(window, future)

    monkeypatch.setattr(driver.Window, "_fetch", kill_first)
    assert dx.evaluate(**arguments(dump), client=client) == wanted
    assert not left


def test_rows_that_kill_their_workers_are_named(client, site, dump, wanted, monkeypatch):  # I4
    parts_of(monkeypatch, 4)
    monkeypatch.setattr(driver, "LAST_CHANCES", 0)
    site.order(sleep=0.03, poison=[205])
    with pytest.raises(dx.Poisoned, match=r"^rows 200 to 209 kill the workers that evaluate them") as caught:
        dx.evaluate(**arguments(dump), client=client)
    site.order()
    assert caught.value.report.gaps == ((200, 210),)
    here = dx.evaluate(**arguments(dump, steps=(0, 200)), threads=1)
    here = here.merge(dx.evaluate(**arguments(dump, steps=(210, ROWS)), threads=1))
    assert caught.value.report.state == here.state
    until(lambda: ours(client) == 0)


def test_rows_that_killed_a_few_workers_by_chance_are_counted(client, site, dump, wanted):
    site.order(sleep=0.03, poison=[205])
    reports = dx.stream(**arguments(dump), client=client)

    def spare():
        until(lambda: sum(start <= 205 < stop for _, start, stop in site.begun()) >= 2)
        site.order(sleep=0.03)

    # By 30 parts the killer was handed out; few enough are left to be suspected with it that all 30 do come.
    assert disturbed(reports, {30: spare}) == wanted


def test_dask_arrays_outlive_a_worker(client, dump, wanted):
    held = arguments(dump) | {"y_pred": da.from_zarr(str(dump / "logits"))}
    victim = processes(client)[0]
    assert disturbed(dx.stream(**held, client=client), {1: lambda: end(victim)}) == wanted


def test_chunks_of_dask_arrays_that_kill_their_workers_are_named(client, values):
    def deadly(block, block_info):
        if block_info[0]["chunk-location"][0] == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return block

    # All last chances are needed: of a deadly row of chunks one may still be running when its neighbour is tried alone.
    x = da.from_array(values["logits"], chunks=(40, 4)).map_blocks(deadly, dtype="float32")
    with pytest.raises(dx.Poisoned, match=r"^rows 200 to 239 kill the workers that evaluate them") as caught:
        dx.evaluate(values["labels"], x, client=client, **OPTIONS)
    assert caught.value.report.gaps == ((200, 240),)
    spared = np.r_[0:200, 240:ROWS]
    here = dx.evaluate(values["labels"][spared], values["logits"][spared], threads=1, **OPTIONS)
    assert caught.value.report.metrics == here.metrics
    until(lambda: ours(client) == 0)


def test_every_chance_of_a_chunk_of_a_dask_array_is_one(client, values, tmp_path):
    deaths = tmp_path / "deaths"

    def deadly(block):
        with open(deaths, "a+") as file:
            if file.tell() < 2 * (driver.LAST_CHANCES + 1):  # two deaths are one try: all but the last chance
                file.write("x")
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        return block

    x = da.from_array(values["logits"], chunks=(-1, 4)).map_blocks(deadly, dtype="float32", meta=values["logits"][:0])
    report = dx.evaluate(values["labels"], x, client=client, **OPTIONS)
    assert report.metrics == dx.evaluate(y_true=values["labels"], y_pred=values["logits"], **OPTIONS).metrics


# The scheduler dies, or there are no workers.


def test_the_scheduler_is_killed(client, bare, dump, wanted, tmp_path):  # I5
    bare.worker()
    journal = tmp_path / "run.journal"
    with connected(bare) as lost:
        lost.wait_for_workers(1, timeout=60)
        reports = dx.stream(**arguments(dump), client=lost, journal=journal)
        with pytest.raises(dx.ClusterLost) as caught:
            disturbed(reports, {7: bare.scheduler.kill})
    assert caught.value.journal == str(journal)
    assert 70 <= caught.value.report.rows < ROWS
    report = dx.evaluate(**arguments(dump), client=client, journal=journal)
    assert report == wanted
    assert report.notes == (f"{caught.value.report.rows} rows were in the journal already",)


def test_the_scheduler_was_killed_before(bare, dump):
    with connected(bare) as lost:
        bare.scheduler.kill()
        for _ in range(2):  # the client has not noticed, or is about to connect again
            with pytest.raises(dx.ClusterLost, match=r"^the connection to the scheduler was lost"):
                dx.evaluate(**arguments(dump), client=lost, worker_timeout=3)


def test_the_scheduler_is_killed_under_dask_arrays(bare, dump):
    bare.worker()
    held = arguments(dump) | {"y_pred": da.from_zarr(str(dump / "logits"))}
    with connected(bare) as lost:
        lost.wait_for_workers(1, timeout=60)
        with pytest.raises(dx.ClusterLost) as caught:
            disturbed(dx.stream(**held, client=lost), {1: bare.scheduler.kill})
    assert 0 < caught.value.report.rows < ROWS


def test_workers_come_and_go(bare, dump, wanted, monkeypatch):  # I11
    monkeypatch.setattr(driver, "LOOK_AROUND", 0.05)
    submit, widths, seen = driver.Window.submit, {0: [], 1: [], 2: [], "1 again": []}, [0]

    def noted(window, items):
        submit(window, items)
        widths[seen[-1]].append(len(window._pending))

    monkeypatch.setattr(driver.Window, "submit", noted)
    with connected(bare) as client:

        def count(workers, name):
            until(lambda: len(client.nthreads()) == workers)
            time.sleep(driver.LOOK_AROUND)
            seen.append(name)

        first = bare.worker()  # it is not there yet
        moments = {
            1: lambda: count(1, 1),
            10: lambda: (bare.worker(), count(2, 2)),
            25: lambda: (end(first.pid), count(1, "1 again")),
        }
        assert disturbed(dx.stream(**arguments(dump), client=client), moments) == wanted
    assert widths[0][0] == 1
    assert max(widths[1]) == max(widths["1 again"]) == driver.IN_FLIGHT
    assert max(widths[2]) == 2 * driver.IN_FLIGHT


def test_no_workers_for_too_long(bare, dump, monkeypatch):
    only = bare.worker()
    monkeypatch.setattr(driver, "LOOK_AROUND", 0.1)
    with connected(bare) as client:
        client.wait_for_workers(1, timeout=60)
        reports = dx.stream(**arguments(dump), client=client, worker_timeout=1)
        with pytest.raises(dx.Stalled, match="no workers for 1 seconds") as caught:
            disturbed(reports, {4: only.kill})
        assert 40 <= caught.value.report.rows < ROWS
        with pytest.raises(dx.Stalled):
            dx.evaluate(**arguments(dump), client=client, worker_timeout=0.5)


def test_no_workers_when_results_are_fetched(bare, dump, monkeypatch):
    only, fetch = bare.worker(), driver.Window._fetch

    async def kill_first(window, future):
        await finished(future)
        only.kill()
        await fetch(window, future)

    monkeypatch.setattr(driver.Window, "_fetch", kill_first)
    with connected(bare) as client:
        client.wait_for_workers(1, timeout=60)
        with pytest.raises(dx.Stalled):
            dx.evaluate(**arguments(dump), client=client, worker_timeout=2)


@pytest.mark.parametrize("kind", ["stored", "dask"])
def test_what_is_stopped_is_not_waited_for_without_end(bare, dump, monkeypatch, kind):
    only = bare.worker()
    monkeypatch.setattr(driver, "LOOK_AROUND", 0.1)
    held = arguments(dump)
    if kind == "dask":
        held["y_pred"] = da.from_zarr(str(dump / "logits"))
    with connected(bare) as client:
        client.wait_for_workers(1, timeout=60)
        assert dx.evaluate(**held, client=client).complete  # nothing is to be compiled any more
        with pytest.raises(dx.Stalled, match=r"^no part was finished by 1 thread of workers for 2 seconds") as caught:
            disturbed(
                dx.stream(**held, client=client, worker_timeout=2),
                {1: lambda: os.kill(only.pid, signal.SIGSTOP)},
            )
        assert caught.value.report.rows < ROWS
        os.kill(only.pid, signal.SIGCONT)
        monkeypatch.setattr(driver, "ANSWER_SECONDS", 0.5)
        with pytest.raises(dx.Stalled, match=r"^the scheduler did not answer for 2 seconds"):
            disturbed(
                dx.stream(**held, client=client, worker_timeout=2),
                {1: lambda: os.kill(bare.scheduler.pid, signal.SIGSTOP)},
            )
        with pytest.raises(dx.Stalled, match=r"^the scheduler did not answer for 1 seconds"):
            dx.evaluate(**held, client=client, worker_timeout=1)
        os.kill(bare.scheduler.pid, signal.SIGCONT)


def test_waiting_for_workers_is_reported_once(bare, dump, monkeypatch, caplog):
    monkeypatch.setattr(driver, "LOOK_AROUND", 0.05)
    monkeypatch.setattr(driver, "PATIENCE", 0.2)
    with connected(bare) as client, pytest.raises(dx.Stalled, match=r"^there were no workers for 1 seconds"):
        dx.evaluate(**arguments(dump), client=client, worker_timeout=1)
    assert [(record.name, record.getMessage()) for record in caplog.records if record.name == "daskxent"] == [
        ("daskxent", "waiting for workers, giving up after 1 s")
    ]


@pytest.mark.parametrize("kind", ["stored", "dask"])
def test_a_worker_with_other_code_is_refused(bare, dump, tmp_path, kind):
    other = tmp_path / "other"
    shutil.copytree(Path(dx.__file__).parent, other / "daskxent", ignore=shutil.ignore_patterns("__pycache__"))
    with open(other / "daskxent" / "numbers" / "records.py", "a") as file:
        file.write("\nEPSILON = 1e-6\n")
    held = arguments(dump)
    if kind == "dask":
        held["y_pred"] = da.from_zarr(str(dump / "logits"))
    with bare.fresh_worker(PYTHONPATH=str(other), PYTHONSAFEPATH="1"), connected(bare) as client:
        client.wait_for_workers(1, timeout=60)
        named = (
            rf"worker {next(iter(client.nthreads()))} runs other code than the client \(daskxent 0\.1\.0, digest \w+"
        )
        with pytest.raises(dx.IncompleteResult, match=named):
            dx.evaluate(**held, client=client)


def test_inside_a_task_it_runs_on_the_thread_of_the_task(client, dump, wanted):
    def task(held):
        get_client()  # from now on the worker has one
        threads = [thread.name for thread in threading.enumerate()]
        report = dx.evaluate(**held)
        new = {thread.name for thread in threading.enumerate()} - set(threads)
        return report, [name for name in new if name.startswith("daskxent")]

    every = client.map(task, [arguments(dump)] * 4, pure=False)  # more than there are threads
    assert list(client.gather(every)) == [(wanted, [])] * 4


# Storage fails.


def test_reads_that_fail_are_tried_again(client, site, dump, wanted):  # I9
    site.order(flaky={"logits/c/7/0": 2, "labels/c/30": 1})
    report = dx.evaluate(**arguments(dump), client=client)
    assert report == wanted
    assert report.retries == 3


def test_reads_that_keep_failing_end_the_run(client, site, dump, monkeypatch):
    site.order(flaky={"logits/c/7/0": 99})
    with pytest.raises(dx.Unreadable, match=r"rows 70 to 79: .* 5 times, .*y_pred: chunk c/7/0 of .*logits") as caught:
        dx.evaluate(**arguments(dump), client=client)
    assert caught.value.report.rows < ROWS
    assert len((site.directory / "failed").read_text().splitlines()) == 5
    until(lambda: ours(client) == 0)


def test_data_errors_are_reported_at_once(client, site, dump, values, tmp_path):
    labels = values["labels"].copy()
    labels[123] = 7
    bad = write(tmp_path / "bad.zarr", {**values, "labels": labels})
    with pytest.raises(ValueError, match=r"y_true: label 7 at row 123 is outside \[0, 7\)"):
        dx.evaluate(**arguments(bad), client=client)
    (bad / "logits/c/2/0").write_bytes(b"no chunk")
    with pytest.raises(ValueError, match=r"y_pred: chunk c/2/0 of .* cannot be decoded"):
        dx.evaluate(**arguments(bad, on_invalid="skip"), client=client)
    assert sum(start == 20 for _, start, _ in site.begun()) == 2  # once by each


# The client is interrupted.


COMMAND = f"""
import sys
from pytest import MonkeyPatch
sys.path.insert(0, {str(TESTS)!r})
import sized
from daskxent import cli
sized.give(MonkeyPatch(), smallest_part_bytes=1)
cli.main()
"""


CLIENT = """
import sys, daskxent as dx
from distributed import Client
from pytest import MonkeyPatch
sys.path.insert(0, {tests!r})
import sized
sized.give(MonkeyPatch(), part_bytes=1, smallest_part_bytes=1)
with Client(sys.argv[1]) as client:
    dump = sys.argv[2]
    try:
        dx.evaluate(dump + "/labels", dump + "/logits", sample_weight=dump + "/weights", client=client, {options})
    except KeyboardInterrupt as error:
        print(error.report.to_json())
"""


def begun_by(site, process, parts):
    until(lambda: len(site.begun()) >= parts or process.poll() is not None)
    assert process.poll() is None


def test_the_client_is_interrupted(client, site, dump, wanted):  # I13
    site.order(sleep=0.3)
    script = CLIENT.format(tests=str(TESTS), options=", ".join(f"{name}={value!r}" for name, value in OPTIONS.items()))
    command = [sys.executable, "-c", script, site.address, str(dump)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        begun_by(site, process, 8)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=30)
    partial = dx.Report.from_json(printed)
    assert 0 < partial.rows < ROWS
    parts = [dx.evaluate(**arguments(dump, steps=span), threads=1).state for span in partial.state.covered]
    assert partial.state == merge_all(parts)
    until(lambda: ours(client) == 0)
    site.order()
    assert dx.evaluate(**arguments(dump), client=client) == wanted


def test_the_command_is_interrupted(client, site, dump):
    site.order(sleep=0.3)
    arrays = [str(dump / "labels"), str(dump / "logits")]
    command = [sys.executable, "-c", COMMAND, "evaluate", *arrays, "--from-logits", "--scheduler", site.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        begun_by(site, process, 4)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1].startswith("Interrupted")
    until(lambda: ours(client) == 0)


def test_nothing_is_left_of_a_stream_that_is_dropped(client, dump):
    reports = dx.stream(**arguments(dump), client=client)
    next(reports)
    reports.close()
    until(lambda: ours(client) == 0)
    assert client.futures == {}


# What must not be mixed up.


def test_a_straggler_holds_nobody_up(client, site, dump, wanted):  # I10
    site.order(held=[0])
    for report in dx.stream(**arguments(dump), client=client):
        if report.rows == ROWS - CHUNK:
            assert report.gaps == ((0, CHUNK),)
            site.order()
    assert report == wanted


def test_what_comes_back_twice_counts_once(client, dump, wanted, monkeypatch):  # I14
    fetch = driver.Window._fetch

    async def twice(window, future):
        await asyncio.gather(fetch(window, future), fetch(window, future))

    monkeypatch.setattr(driver.Window, "_fetch", twice)
    assert dx.evaluate(**arguments(dump), client=client) == wanted


def test_two_evaluations_share_a_client(client, dump, wanted):  # I15
    found = {}
    other = arguments(dump, steps=(100, 300))

    def evaluate(name, asked):
        found[name] = dx.evaluate(**asked, client=client)

    asked = {"whole": arguments(dump), "same": arguments(dump), "other": other}
    threads = [threading.Thread(target=evaluate, args=item) for item in asked.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"whole": wanted, "same": wanted, "other": dx.evaluate(**other, threads=1)}


def test_a_rewritten_dump_is_read_anew(client, values, tmp_path, wanted):
    moved = write(tmp_path / "dump.zarr", values)
    assert dx.evaluate(**arguments(moved), client=client) == wanted
    write(moved, {**values, "logits": values["logits"][::-1]})
    again = dx.evaluate(**arguments(moved), client=client)
    assert again == dx.evaluate(**arguments(moved), threads=1)
    assert again["crossentropy"] != wanted["crossentropy"]


def test_any_mix_of_processors_gives_the_same_bits(client, site, dump, wanted):  # I16
    def wide():
        """Name the instructions that NumPy has found and could do without."""
        return np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])

    with site.fresh_worker(NPY_DISABLE_CPU_FEATURES=" ".join(wide())):
        client.wait_for_workers(3, timeout=60)
        assert sorted(client.run(wide).values()) == [[], wide(), wide()]
        assert dx.evaluate(**arguments(dump), client=client) == wanted
        assert len({process for process, _, _ in site.begun()}) == 3


def test_asynchronous_clients(site, dump, wanted, client):
    async def evaluate():
        async with Client(site.address, asynchronous=True, set_as_default=False) as own:
            for call in (dx.stream, dx.evaluate):
                with pytest.raises(TypeError, match=r"client: this one is asynchronous: await daskxent.aevaluate"):
                    call(**arguments(dump), client=own)
            with own.as_current():
                streamed = [report async for report in dx.astream(**arguments(dump))]
                rows = [report.rows for report in streamed]  # of several parts where they are done at once
                assert rows == sorted(set(rows))
                assert 1 < len(rows) <= ROWS // CHUNK
                async for report in dx.astream(**arguments(dump)):
                    assert 0 < report.rows < ROWS
                    break
                calls = dx.aevaluate(**arguments(dump), client=own), dx.aevaluate(**arguments(dump))
                return [*await asyncio.gather(*calls), streamed[-1]]

    assert asyncio.run(evaluate()) == [wanted] * 3


def clients(client):
    """Count the connections to the scheduler."""
    return client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.clients))


@pytest.mark.parametrize("parts", [0, 2])
def test_an_evaluation_that_is_no_longer_awaited_stops(site, dump, client, parts):
    site.order(sleep=0.3)
    before = clients(client)

    async def evaluate():
        async with Client(site.address, asynchronous=True, set_as_default=False) as own:
            running = asyncio.create_task(dx.aevaluate(**arguments(dump), client=own))
            while not running.done() and len(site.begun()) < parts:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

    asyncio.run(evaluate())  # waits for its threads
    until(lambda: ours(client) == 0 and clients(client) == before)
    assert len(site.begun()) < ROWS // CHUNK


def test_an_array_that_changed_its_shape_is_refused(values, tmp_path):
    moved = write(tmp_path / "dump.zarr", values)
    inputs, question = prepared(**arguments(moved))
    sent = pickle.dumps(Work(inputs, question))
    zarr.open_array(moved / "logits").resize((ROWS + 1, 7))
    zarr_arrays._opened_again.cache_clear()
    with pytest.raises(ValueError, match=r"y_pred: the shape or the storage of .*logits has changed"):
        pickle.loads(sent)


def test_the_scheduler_keeps_a_window_of_small_tasks(client, dump):
    def known(dask_scheduler):
        """Sizes of our tasks, as the scheduler passes them on."""
        tasks = [task for task in dask_scheduler.tasks.values() if "daskxent" in str(task.key)]
        return [len(pickle.dumps((task.key, task.run_spec))) for task in tasks]

    found = [client.run_on_scheduler(known) for _ in dx.stream(**arguments(dump), client=client)]
    assert 0 < max(map(len, found)) <= 2 * 2 * driver.IN_FLIGHT
    assert 0 < max(map(max, filter(None, found))) < 1000 + 3 * len(str(dump))
