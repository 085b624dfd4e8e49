"""When an evaluation has ended, however it did, no thread of it reads any more."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time

import dask.array as da
import numpy as np
import pytest
import sized

import daskxent as dx

ROWS, CLASSES, STEP = 400, 3, 10
LABELS = np.zeros(ROWS, int)


class Watched:
    """A lazy array that takes its time, and knows whether somebody reads it."""

    def __init__(self, chunks=(STEP, CLASSES)):
        self.values = np.zeros((ROWS, CLASSES), "f4")
        self.shape, self.dtype, self.ndim, self.chunks = self.values.shape, self.values.dtype, 2, chunks
        self.readers, self.begun, self.fails = set(), 0, False
        self.lock, self.gate = threading.Lock(), threading.Event()
        self.gate.set()

    def __getitem__(self, box):
        here = threading.get_ident()
        with self.lock:
            self.readers.add(here)
            self.begun += 1
            first = self.begun == 3
        if first and self.fails:
            raise ValueError("cannot be read")
        time.sleep(0.02)
        self.gate.wait(30)
        found = self.values[box]
        with self.lock:
            self.readers.discard(here)
        return found

    def __array__(self, *_, **__):
        return self[:]


@pytest.fixture
def watched(monkeypatch):
    sized.give(monkeypatch, part_bytes=5 * STEP * 12, smallest_part_bytes=1, row_bytes=1, run_rows=STEP)
    return Watched()


def evaluated(labels, watched, **options):
    with pytest.raises((ValueError, ZeroDivisionError)) as caught:
        dx.evaluate(labels, watched, from_logits=True, threads=2, **options)
    return caught


def bad_label(watched):
    return evaluated(np.where(np.arange(ROWS) == 3, 7, 0), watched)


def bad_progress(watched):
    return evaluated(LABELS, watched, progress=lambda report: 1 / 0)


def some(watched):
    reports = dx.stream(LABELS, watched, from_logits=True, threads=2)
    next(reports)
    return reports


def closed(watched):
    reports = some(watched)
    reports.close()
    return reports


def dropped(watched):
    for _ in dx.stream(LABELS, watched, from_logits=True, threads=2):
        break


def dropped_in_a_notebook(watched):
    """As cells of notebooks run, in an event loop."""

    async def cell():
        dropped(watched)

    asyncio.run(cell())


def closed_asynchronously(watched):
    async def some():
        reports = dx.astream(LABELS, watched, from_logits=True, threads=2)
        await anext(reports)
        await reports.aclose()

    asyncio.run(some())


ENDS = [bad_label, bad_progress, closed, dropped, dropped_in_a_notebook, closed_asynchronously]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_nothing_is_read_any_more(watched, end):
    kept = end(watched)
    assert watched.readers == set(), kept
    begun = watched.begun
    time.sleep(0.05)
    assert watched.begun == begun < ROWS // STEP


def test_a_part_is_left_at_its_next_box(watched):
    reports = some(watched)
    begun = watched.begun
    reports.close()
    time.sleep(0.1)
    assert watched.begun <= begun + 2  # a box for each thread; the parts are five


def test_tasks_of_dask_that_have_begun_are_awaited(watched):
    watched.fails = True
    evaluated(LABELS, da.from_array(watched, chunks=(STEP, CLASSES), name=False, asarray=False))
    assert len(watched.readers) == 1  # of the one that failed


def test_the_garbage_collector_does_not_wait_without_end(watched):
    """It runs anywhere, even within a lock that the parts need."""
    reports = some(watched)
    watched.gate.clear()
    while not watched.readers:
        time.sleep(0.001)
    cycle = [reports]
    cycle.append(cycle)
    del reports, cycle
    gc.collect()
    assert watched.readers
    watched.gate.set()


@pytest.mark.slow
def test_an_interrupt_waits_for_no_compilation(tmp_path):
    np.save(tmp_path / "logits", np.zeros((1 << 20, 64), "f4"))
    np.save(tmp_path / "labels", np.zeros(1 << 20, "u1"))
    command = [sys.executable, "-m", "daskxent", "evaluate", "labels.npy", "logits.npy", "--from-logits"]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline().startswith("Compiling the scans")
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert process.communicate(timeout=60)[1] == "Interrupted\n"
    assert process.returncode == 130
    assert time.monotonic() - began < 5  # compilation takes 20
