"""Show where the time of an evaluation goes, on one thread.

The functions that do the work of a stage are wrapped in clocks from outside; the product knows nothing of them. A
stage within a stage (the reading of labels, which are chunks too) counts for the outer one.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest.mock import patch

import numpy as np
import reads
import scans
from bench import HERE, SMALL
from harness import Step, in_turn, take
from shootout import laid_out

STAGES = {
    "read": "daskxent.sources.files.Files.fetch",
    "decode": "daskxent.sources.chunks.Chunks._decoded",
    "score and add up": "daskxent.run.scoring.Block.state",
    "labels and weights": "daskxent.sources.boxes._read",
}


class Clocks:
    """Seconds and calls by stage."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._running = False

    def wrap(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with a clock around it."""

        def clocked(*args: Any, **kwargs: Any) -> Any:
            if self._running:
                return function(*args, **kwargs)
            self._running = True
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._running = False
                self.seconds[stage] += time.perf_counter() - start
                self.calls[stage] += 1

        return clocked

    def run(self, work: Callable[[], Any]) -> float:
        """Run something with the clocks in place and return how many seconds it takes in all."""
        with ExitStack() as patches:
            for stage, place in STAGES.items():
                patches.enter_context(patch(place, self.wrap(stage, resolve_name(place))))
            start = time.perf_counter()
            work()
            return time.perf_counter() - start


def profile(labels: Any, logits: Any) -> list[list[str]]:
    """Evaluate arrays twice, the first time to load what is needed, and return a row for each stage."""
    import daskxent as dx

    clocks = Clocks()

    def run() -> None:
        dx.evaluate(labels, logits, from_logits=True, threads=1)

    run()
    total = clocks.run(run)
    clocks.seconds["rest"] = total - clocks.seconds.total()
    clocks.seconds["all"] = total
    return [
        [name, f"{1e3 * seconds:.1f}", f"{seconds / total:.0%}", str(clocks.calls[name] or "")]
        for name in (*STAGES, "rest", "all")
        for seconds in [clocks.seconds[name]]
    ]


def dumps(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the dumps of the benchmarks that there are profiles of, by codec."""
    scale = SMALL if options.small else 1
    chunk, classes = reads.SMALL_CHUNK
    small = {"rows": chunk * max(10, int(reads.CHUNKS * scale)), "classes": classes, "chunk": chunk, "codec": "none"}
    return {
        **{codec: reads.normal(options.data, scale, codec=codec, sharded=False) for codec in ("zstd", "lz4", "none")},
        "small chunks": {"data": str(options.data), **small},
    }


def show(what: str, labels: Any, logits: Any) -> None:
    print(f"{what}, one thread\n")
    print(*laid_out([["stage", "ms", "share", "calls"], *profile(labels, logits)]), sep="\n", end="\n\n")


def main() -> None:
    """Print a table for each dump and array."""
    parser = argparse.ArgumentParser(description="Show where the time of an evaluation goes, on one thread.")
    parser.add_argument("--small", action="store_true", help="tiny data, to see that the program runs")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="where data is kept")
    options = parser.parse_args()
    for name, dump in dumps(options).items():
        take(Step("reads.write", dump))
        path = reads.place(**dump)
        show(f"{name}: {dump['rows']:,} rows in chunks of {dump['chunk']:,}", path / "labels", path / "logits")
    for classes in (1_000, 100, 10):
        array = scans.logits(options.data, SMALL if options.small else 1, classes)
        take(Step("scans.write", array))
        path = scans.place(array["data"], array["shape"], "f4", -1, False)
        logits = np.load(path)
        show(f"in memory: {len(logits):,} rows of {classes:,} classes", np.load(scans.labels_of(path)), logits)
        seconds = in_turn({"sum": partial(np.add.reduce, logits.reshape(-1))}, 3)["sum"]
        print(f"A sum of the same array on one thread takes {1e3 * float(np.median(seconds)):.1f} ms.\n")


if __name__ == "__main__":
    main()
