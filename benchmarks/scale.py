"""Show what a run on a cluster costs: a million simulated chunks, parts of almost nothing, two workers against one.

    python benchmarks/scale.py                          # everything
    python benchmarks/scale.py --chunks 50000 chunks    # a twentieth of the first

All workers are processes of one thread on this machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import zarr
from distributed import Client, LocalCluster
from invented import Invented, chunk

import daskxent as dx
from daskxent.numbers.question import Question
from daskxent.run import engines, planning
from daskxent.show.tables import show_bytes
from daskxent.sources.align import align
from daskxent.sources.sizes import USUAL, Sizes

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
SHOWN = 10  # lines in the table of a run


@contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """Start workers that can import `invented`."""
    os.environ["PYTHONPATH"] = str(HERE)
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=":0", worker_dashboard_address=None
        ) as made,
        Client(made, set_as_default=False) as client,
    ):
        yield client


def simulated(client: Any, chunks: int, shape: tuple[int, int], metric: str, sizes: Sizes = USUAL) -> tuple[float, int]:
    """Evaluate a simulated dump, print how memory goes, and return seconds and number of parts."""
    rows, classes = shape
    inputs = align(
        Invented("y_true", (chunks * rows,), np.dtype("int64"), (rows,)),
        Invented("y_pred", (chunks * rows, classes), np.dtype("float32"), shape),
        None,
    )
    inputs = replace(inputs, sizes=sizes)
    question = Question((metric,), classes, from_logits=True)
    plan = planning.cut(inputs, question, sum(client.nthreads().values()))
    print(f"{chunks:,} chunks of {show_bytes(rows * classes * 4)}, {show_bytes(plan.nbytes)} in all,")
    print(f"{len(plan):,} parts; scheduler and client are one process here")
    print("  parts done   seconds   memory, MB   tasks known to the scheduler")
    process, began = psutil.Process(), time.perf_counter()
    marks = {max(1, len(plan) * i // SHOWN) for i in range(SHOWN + 1)}
    engine = engines.engine_for(inputs, client)
    for done, report in enumerate(engines.run(inputs, question, engine), 1):
        complete = report.complete
        if done in marks:
            seconds, memory = time.perf_counter() - began, process.memory_info().rss / 1e6
            print(f"  {done:10,}  {seconds:8.1f}  {memory:11.1f}   {len(client.cluster.scheduler.tasks)}", flush=True)
    assert complete
    return time.perf_counter() - began, len(plan)


def run_chunks(options: argparse.Namespace) -> None:
    """Evaluate a dump of many chunks; the parts are cut as always."""
    with cluster(options.workers) as client:
        simulated(client, 300, (1000, 1000), "accuracy")  # the workers get ready
        seconds, parts = simulated(client, options.chunks, (1000, 1000), "accuracy")
    speed = options.chunks * 4e6 / seconds
    print(f"{parts / seconds:.1f} parts/s, {options.chunks / seconds:,.0f} chunks/s, {speed / 1e9:.1f} GB/s\n")


def run_parts(options: argparse.Namespace) -> None:
    """Evaluate parts of almost nothing: what is left is what a part costs the client and the scheduler."""
    single = Sizes(part_bytes=1, smallest_part_bytes=1)
    with cluster(options.workers) as client:
        simulated(client, 300, (10, 10), "accuracy", single)
        seconds, parts = simulated(client, options.parts, (10, 10), "accuracy", single)
    print(f"{parts / seconds:.0f} parts/s, {seconds / parts * 1e3:.2f} ms for a part that does nothing\n")


def run_workers(options: argparse.Namespace) -> None:
    """Evaluate a compressed dump on one worker and on two."""
    dump = HERE / "data" / "scale.zarr"
    if not dump.exists():
        write(dump, options.megabytes)
    medians = []
    for workers in (1, 2):
        with cluster(workers) as client:
            evaluated(dump, client)  # the workers get ready
            before = busy(client)
            taken = [evaluated(dump, client) for _ in range(options.rounds)]
            share = (busy(client) - before) / sum(taken) / workers
        medians.append(statistics.median(taken))
        spread = f"{min(taken):.2f} to {max(taken):.2f}"
        print(f"{workers} workers: {medians[-1]:.2f} s ({spread}), a core {share:.0%} of the time each")
    print(f"two workers are {medians[0] / medians[1]:.2f} times as fast as one")


def busy(client: Any) -> float:
    """Return how many seconds of processor time all workers have had: where it is little, others have the cores."""
    seconds: dict[str, float] = client.run(time.process_time)
    return sum(seconds.values())


def evaluated(dump: Path, client: Any) -> float:
    """Return how many seconds an evaluation takes."""
    began = time.perf_counter()
    dx.evaluate(dump / "labels", dump / "logits", from_logits=True, metrics=["accuracy"], client=client)
    return time.perf_counter() - began


def write(dump: Path, megabytes: int) -> None:
    """Write a dump whose decoding takes longer than its evaluation."""
    block = np.round(chunk((1000, 1000), np.dtype("float32")), 2)
    rows = len(block) * max(1, megabytes // 4)
    group = zarr.create_group(dump)
    group.create_array("labels", data=np.arange(rows) % 1000, chunks=(len(block),))
    codec = zarr.codecs.ZstdCodec(level=9)
    logits = group.create_array("logits", shape=(rows, 1000), dtype="f4", chunks=block.shape, compressors=[codec])
    for start in range(0, rows, len(block)):
        logits[start : start + len(block)] = np.roll(block, start // len(block), axis=1)


RUNS = {"chunks": run_chunks, "parts": run_parts, "workers": run_workers}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="chunks|parts|workers", help="all by default")
    parser.add_argument("--chunks", type=int, default=1_000_000, help="chunks of the simulated dump")
    parser.add_argument("--parts", type=int, default=100_000, help="parts that do nothing")
    parser.add_argument("--megabytes", type=int, default=1600, help="size of the compressed dump, decoded")
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison of workers")
    parser.add_argument("--workers", type=int, default=2, help="for chunks and parts")
    options = parser.parse_args()
    if unknown := set(options.runs) - set(RUNS):
        parser.error(f"no such run: {unknown.pop()}")
    for name in options.runs or RUNS:
        RUNS[name](options)


if __name__ == "__main__":  # worker processes import this file
    main()
