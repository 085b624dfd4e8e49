"""Compare the speed and the memory of evaluating a dump with that of other ways, in turn.

Every measurement is a process of its own. All cases of a round run one after the other, so that a slow moment of the
machine meets them alike; the medians over the rounds are compared.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

# Heavy imports are inside functions: the peak memory of a child starts at that of its parent, which must stay small.

CLASSES = 1_000
CHUNK_ROWS = 10_000
THREADS = os.cpu_count() or 1

Run = Callable[[], float | None]  # what is timed; gives the crossentropy, if it is one


def lz4() -> Any:
    from zarr.codecs import BloscCodec

    return BloscCodec(cname="lz4")


CODECS: dict[str, Callable[[], Any]] = {"zstd": lambda: "auto", "lz4": lz4, "none": lambda: None}  # zstd: the default


# --- The cases: a function that imports what it needs and returns what to run on a dump. ---


def with_daskxent(dump: Path) -> Run:
    import daskxent as dx

    return lambda: dx.evaluate(f"{dump}/labels", f"{dump}/logits", from_logits=True)["crossentropy"]


def with_dask_array(dump: Path) -> Run:
    import dask
    import dask.array as da
    import numpy as np

    def gather(logits: Any, labels: Any) -> Any:
        return np.take_along_axis(logits, labels, axis=1)

    def run() -> float:
        labels, logits = (da.from_zarr(str(dump), component=name) for name in ("labels", "logits"))
        peak = logits.max(axis=1, keepdims=True)
        log_mass = peak + da.log(da.exp(logits - peak).sum(axis=1, keepdims=True))
        target = da.map_blocks(gather, logits, labels[:, None], chunks=(logits.chunks[0], (1,)), dtype="f4")
        loss = (log_mass - target).mean()
        accuracy = (logits.argmax(axis=1) == labels).mean()
        return float(dask.compute(loss, accuracy, scheduler="threads", num_workers=THREADS)[0])

    return run


def with_zarr_read(dump: Path) -> Run:
    import zarr

    def run() -> None:
        labels, logits = (zarr.open_array(dump / name, mode="r") for name in ("labels", "logits"))

        def read(start: int) -> None:
            rows = slice(start, start + CHUNK_ROWS)
            _ = labels[rows], logits[rows]

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(read, range(0, logits.shape[0], CHUNK_ROWS)))

    return run


BASELINE = "zarr read"  # what the ratios are taken to
CASES = {
    "daskxent.evaluate": with_daskxent,
    "dask.array": with_dask_array,
    BASELINE: with_zarr_read,
}


# --- The dump: random normal logits, written in pieces, and a small one to warm up on. ---


def write_dump(path: Path, rows: int, codec: str) -> None:
    """Write the dump unless it is there; its name says all that decides its content."""
    if path.exists():
        return
    import numpy as np
    import zarr

    unfinished = path.with_suffix(".unfinished")
    group = zarr.create_group(unfinished, overwrite=True)
    create: dict[str, Any] = {"compressors": CODECS[codec]()}
    labels = group.create_array("labels", shape=(rows,), chunks=(CHUNK_ROWS,), dtype="i8", **create)
    logits = group.create_array("logits", shape=(rows, CLASSES), chunks=(CHUNK_ROWS, CLASSES), dtype="f4", **create)
    for start in range(0, rows, CHUNK_ROWS):
        rng = np.random.default_rng(start)
        count = min(CHUNK_ROWS, rows - start)
        labels[start : start + count] = rng.integers(CLASSES, size=count)
        logits[start : start + count] = 3 * rng.standard_normal((count, CLASSES), dtype=np.float32)
    unfinished.rename(path)


def dump_path(options: argparse.Namespace, rows: int) -> Path:
    path: Path = options.data / f"normal-{rows}x{CLASSES}-{options.codec}.zarr"
    return path


# --- One measurement, in a process of its own. ---


def peak_memory() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure(case: str, dump: Path, warm_dump: Path) -> dict[str, Any]:
    """Time one run; what is loaded or compiled on the first use is done before, on a dump of one chunk."""
    run, warm_up = CASES[case](dump), CASES[case](warm_dump)
    before = peak_memory()
    warm_up()
    start = time.perf_counter()
    answer = run()
    return {"seconds": time.perf_counter() - start, "peak": peak_memory() - before, "answer": answer}


def in_child(*arguments: str) -> Any:
    """Run a step of this script in a new process and return what it prints."""
    command = [sys.executable, __file__, *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


# --- All of it. ---


def compare(options: argparse.Namespace, own: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Measure each case in each round; the first round only warms the page cache and compiles, and is dropped."""
    results: dict[str, list[dict[str, Any]]] = {case: [] for case in options.cases}
    for number in range(options.rounds + 1):
        for case, found in results.items():
            result = in_child(*own, "--measure", case)
            if number:
                found.append(result)
                print(f"round {number}: {case:20}{result['seconds']:8.2f} s", file=sys.stderr)
    return results


def table(results: dict[str, list[dict[str, Any]]], size: int) -> str:
    """Lay out the medians, with the range of the seconds, since other work on the machine shows in it."""
    seconds = {case: [result["seconds"] for result in found] for case, found in results.items()}
    floor = median(seconds[BASELINE]) if BASELINE in seconds else float("nan")
    lines = [f"{'case':20}{'seconds':>9}{'range':>14}{'GB/s':>7}{'x ' + BASELINE:>13}{'peak MB':>9}{'answer':>12}"]
    for case, found in results.items():
        middle, span = median(seconds[case]), f"{min(seconds[case]):.2f}-{max(seconds[case]):.2f}"
        peak, answer = median(result["peak"] for result in found), found[0]["answer"]
        lines.append(
            f"{case:20}{middle:9.2f}{span:>14}{size / middle / 1e9:7.2f}{floor / middle:13.2f}{peak:9.0f}"
            + (f"{answer:12.6f}" if answer is not None else f"{'':12}")
        )
    return "\n".join(lines)


def check_answers(results: dict[str, list[dict[str, Any]]]) -> None:
    """Refuse to compare cases that compute something else."""
    answers = [result["answer"] for found in results.values() for result in found if result["answer"] is not None]
    if answers and max(answers) - min(answers) > 1e-4 * max(answers):  # float32 sums: some 1e-7 a term
        raise SystemExit(f"the answers differ: {sorted(set(answers))}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare the speed and the memory of evaluating a dump.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=200_000, help=f"rows of {CLASSES} float32 logits")
    parser.add_argument("--codec", choices=CODECS, default="zstd")
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "data", help="where dumps are kept")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)  # the two steps run in a child
    parser.add_argument("--measure", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1 or options.rows < 1:
        parser.error("--rounds and --rows must be at least 1")
    return options


def main() -> None:
    """Run one step in a child, or the whole comparison."""
    options = parse()
    rows = [min(CHUNK_ROWS, options.rows), options.rows]
    warm_dump, dump = (dump_path(options, count) for count in rows)
    if options.write:
        for count in rows:
            write_dump(dump_path(options, count), count, options.codec)
        print("null")
    elif options.measure:
        print(json.dumps(measure(options.measure, dump, warm_dump)))
    else:
        own = ["--rows", str(options.rows), "--codec", options.codec, "--data", str(options.data)]
        in_child(*own, "--write")
        results = compare(options, own)
        check_answers(results)
        size = options.rows * (CLASSES * 4 + 8)
        print(f"{options.rows} x {CLASSES} float32, {options.codec}, {size / 1e6:.0f} MB, {THREADS} threads")
        print(table(results, size))


if __name__ == "__main__":
    main()
