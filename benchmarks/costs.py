"""What evaluating costs besides throughput: plans, memory, growth, threads and start-up."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import reads
import scans
from harness import (
    THREADS,
    Case,
    Found,
    Measured,
    Row,
    Step,
    in_turn,
    peak_memory,
    resident_memory,
    unfinished,
)

CHUNKS = 1_000_000
REPORTS = 10_000
LARGE_CHUNK = 250_000  # rows: 1 GB
BESIDES = 64  # MB, beyond the chunks at hand


# --- Steps. ---


def write_chunkless(data: str, chunks: int) -> None:
    """Write the metadata of a dump of many small chunks; planning reads no more than that."""
    import zarr

    path = chunkless(data, chunks)
    if path.exists():
        return
    part, (rows, classes) = unfinished(path), reads.SMALL_CHUNK
    group = zarr.create_group(part)
    group.create_array("labels", shape=(chunks * rows,), chunks=(rows,), dtype="i8")
    group.create_array("logits", shape=(chunks * rows, classes), chunks=reads.SMALL_CHUNK, dtype="f4")
    part.rename(path)


def chunkless(data: str, chunks: int) -> Path:
    return Path(data) / f"metadata-of-{chunks}-chunks.zarr"


def plan(data: str, chunks: int) -> Measured:
    """Time planning, cutting the plan into its parts included, and trace its memory."""
    import tracemalloc

    import daskxent as dx

    path = chunkless(data, chunks)

    def run() -> list[Any]:
        return list(dx.plan(path / "labels", path / "logits", from_logits=True, threads=THREADS))

    seconds = in_turn({"seconds": run})
    tracemalloc.start()
    parts = run()
    return seconds | {"MB": [tracemalloc.get_traced_memory()[1] / 1e6], "parts": [len(parts)]}


def memory(**dump: Any) -> Measured:
    """Return the peak of the resident memory above that after the imports, and what it may be, in MB."""
    import numba
    import zarr

    import daskxent as dx
    from daskxent import api, kernels  # noqa: F401

    # numba puts off most of its own imports, 60 MB, until it meets the first function.
    numba.njit("int64(int64)", cache=True)(nothing)
    path = reads.place(**dump)
    logits = zarr.open_array(path / "logits", mode="r")
    encoded = max(file.stat().st_size for file in (path / "logits").rglob("*") if file.is_file())
    decoded = logits.chunks[0] * logits.chunks[1] * logits.dtype.itemsize
    at_once = min(THREADS, logits.cdata_shape[0])
    before = resident_memory()
    dx.evaluate(path / "labels", path / "logits", from_logits=True, threads=THREADS)
    allowed = at_once * (encoded + decoded) / 1e6 + BESIDES
    return {"peak": [(peak_memory() - before) / 1e6], "allowed": [allowed]}


def merge(count: int) -> Measured:
    """Time reading the reports of an array of jobs from JSON, in any order, and merging them."""
    import random
    from dataclasses import replace

    import numpy as np

    import daskxent as dx
    from daskxent.numbers.state import State

    rows, rng = 1_000, np.random.default_rng(0)
    one = dx.evaluate(rng.integers(5, size=rows), rng.standard_normal((rows, 5)), from_logits=True)
    every = {"expected": count * rows, "available": count * rows}
    spans = [State(one.state.total, covered=((k * rows, (k + 1) * rows),)) for k in range(count)]
    texts = [replace(one, state=state, **every).to_json() for state in random.Random(0).sample(spans, count)]
    start = time.perf_counter()
    merged = dx.Report.merge(*map(dx.Report.from_json, texts))
    return {"seconds": [time.perf_counter() - start], "answer": [merged["crossentropy"]]}


def nothing(number: int) -> int:
    return number


IMPORT = """
import time, numpy
start = time.perf_counter()
import daskxent
print(time.perf_counter() - start)
"""


def start_up(first: bool = True, **dump: Any) -> Measured:
    """Time the import, the help, and evaluations by a new process: as always, and `first` as the first one ever."""
    path = reads.place(**dump)
    python = [sys.executable, "-P"]  # not the package that is in this directory, but the one that is installed
    command = [*python, "-m", "daskxent"]
    evaluation = [*command, "evaluate", "--from-logits", path / "labels", path / "logits"]
    loaded = subprocess.run([*python, "-c", IMPORT], check=True, capture_output=True, text=True).stdout
    found = {"import": [float(loaded)]}
    for name, arguments in (("help", [*command, "--help"]), ("evaluate", evaluation)):
        before = of_children()
        found[name] = [run_program(arguments)[0]]
        found[f"{name}, cpu"] = [of_children() - before]
    if not first:
        return found
    with tempfile.TemporaryDirectory() as empty:
        seconds, said = run_program(evaluation, NUMBA_CACHE_DIR=empty)
    return found | {"first": [seconds], "said": [float("Compiling" in said)]}


def of_children() -> float:
    """Return the seconds that the cores have spent on the programs that were run."""
    import resource

    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def run_program(arguments: list[Any], **environment: str) -> tuple[float, str]:
    """Run a program; return its seconds and what it said on stderr."""
    start = time.perf_counter()
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, env=os.environ | environment)
    return time.perf_counter() - start, done.stderr


# --- Cases. ---


def cases(data: Path, scale: float, large: bool) -> Iterator[Case]:
    """Yield the cases; `large` takes a dump of 8 GB, in place of one of 2.4 GB, for the memory."""
    yield planning(data, scale)
    yield from held(data, scale, large)
    yield growth(data, scale)
    yield threads(data, scale)
    yield merging(scale)
    yield starting(data)


def planning(data: Path, scale: float) -> Case:
    given = {"data": str(data), "chunks": int(CHUNKS * scale)}
    what = f"plan of {given['chunks']:,} chunks"

    def rows(found: Found) -> Iterator[Row]:
        parts = f"{found('plan', 'parts'):,.0f} parts"
        yield Row.below(f"{what}, time", found("plan", "seconds"), 1, "s", parts)
        yield Row.below(f"{what}, memory", found("plan", "MB"), 50, "MB", parts)

    return Case("plan", [Step("costs.write_chunkless", given)], {"plan": Step("costs.plan", given)}, rows)


def held(data: Path, scale: float, large: bool) -> Iterator[Case]:
    """Yield the cases of memory: a dump, a larger one and one that is a single chunk."""
    dumps = {
        "0.8 GB": reads.normal(data, scale),
        "8 GB" if large else "2.4 GB": reads.normal(data, scale, reads.ROWS * (10 if large else 3)),
    }
    single = max(10, int(LARGE_CHUNK * scale))
    dumps["1 GB in one chunk"] = {"data": str(data), "rows": single, "chunk": single}
    for name, dump in dumps.items():

        def rows(found: Found, name: str = name) -> Iterator[Row]:
            what = f"peak memory above imports, zstd, {name}"
            yield Row.below(what, found("memory", "peak"), found("memory", "allowed"), "MB")

        # What is compiled needs memory of its own, so it is compiled before.
        before = [Step("reads.write", dump), Step("reads.evaluate", reads.normal(data, scale))]
        yield Case(f"memory-{name.replace(' ', '-')}", before, {"memory": Step("costs.memory", dump)}, rows)


def growth(data: Path, scale: float) -> Case:
    def rows(found: Found) -> Iterator[Row]:
        for name in ("zarr, zstd", "in memory"):
            tenth = found(name, "a tenth")
            against = f"a tenth of the rows: {tenth:.3g} s"
            yield Row.below(f"10 times the rows, {name}", found(name, "all") / tenth, 10.5, "x", against)

    return both("growth", data, scale, lambda count: {"all": {}, "a tenth": {"steps": [0, count // 10]}}, rows)


def threads(data: Path, scale: float) -> Case:
    def rows(found: Found) -> Iterator[Row]:
        for name in ("zarr, zstd", "in memory"):
            one, two = (1 / found(name, each) for each in ("one", "two"))
            yield Row.faster(f"two threads, {name}", two, "one thread", one, 1.7, "/s")

    return both("threads", data, scale, lambda _: {"one": {"threads": 1}, "two": {"threads": 2}}, rows)


def both(name: str, data: Path, scale: float, ways: Any, rows: Any) -> Case:
    """Make a case of evaluations with different options, of a dump and of an array in memory."""
    dump, array = reads.normal(data, scale), scans.logits(data, scale)
    steps = {
        "zarr, zstd": Step("reads.evaluate", dump | {"ways": ways(dump["rows"])}),
        "in memory": Step("scans.scan", array | {"ways": ways(array["shape"][0])}),
    }
    return Case(name, [Step("reads.write", dump), Step("scans.write", array)], steps, rows)


def merging(scale: float) -> Case:
    count = max(2, int(REPORTS * scale))

    def rows(found: Found) -> Iterator[Row]:
        yield Row.below(f"{count:,} reports read and merged", found("merge", "seconds"), 5, "s")

    return Case("reports", [], {"merge": Step("costs.merge", {"count": count})}, rows)


def starting(data: Path) -> Case:
    dump = {"data": str(data), "rows": 1_000, "chunk": 100}

    def rows(found: Found) -> Iterator[Row]:
        yield Row.below("import daskxent, beyond numpy", found("start", "import"), 0.15, "s")
        yield Row.below("daskxent --help", found("start", "help"), 0.4, "s")
        yield Row.below("a new process evaluates 4 MB of zarr", found("start", "evaluate"), 2, "s")
        said = "says that it compiles" if found("start", "said") else "says nothing"
        yield Row.below("the first one ever, which compiles", found("start", "first"), 12, "s", said)

    before = [Step("reads.write", dump), Step("reads.evaluate", dump)]
    return Case("start-up", before, {"start": Step("costs.start_up", dump)}, rows)
