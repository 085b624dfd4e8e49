"""What the benchmarks share: steps in processes of their own, taken in turn, and the rows of the table.

Run as a program, this calls one function of a module next to it and prints what it returns, as JSON. Nothing but the
standard library is imported here, because peers live in environments without daskxent and its dependencies.
"""

import importlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

THREADS = 2  # what the targets are stated for

Measured = dict[str, list[float]]  # by what was measured: seconds, megabytes, an answer
NO_TIMES = {"answer", "peak", "cpu"}  # what are not seconds on the clock


class Step(NamedTuple):
    """A call of ``module.function`` in a process of its own."""

    function: str
    arguments: dict[str, Any]
    python: str = sys.executable
    environment: dict[str, str] | None = None  # variables of that process, besides those of this one


class Found:
    """What the steps of a case measured, over all rounds."""

    def __init__(self, results: dict[str, list[Measured]]) -> None:
        self.results = results

    def __call__(self, step: str, *keys: str) -> float:
        """Return the median of one measure, the least median of several; NaN where the step was not taken."""
        samples: dict[str, list[float]] = {}
        for result in self.results.get(step, []):
            for key in keys or result.keys() - NO_TIMES:
                samples.setdefault(key, []).extend(result[key])
        return min(map(median, samples.values()), default=math.nan)

    def answers(self) -> list[float]:
        """Return the crossentropies that were computed on the way."""
        return [answer for results in self.results.values() for each in results for answer in each.get("answer", [])]


class Row(NamedTuple):
    """A line of the table."""

    what: str
    figure: str
    against: str
    target: str
    ratio: float
    held: bool

    @classmethod
    def faster(cls, what: str, ours: float, against: str, theirs: float, least: float, unit: str = "GB/s") -> "Row":
        """Compare two speeds, in 1e9 of something per second."""
        ratio = ours / theirs
        other = against if math.isnan(theirs) else f"{against}: {shown(theirs)} {unit}"
        return cls(what, f"{shown(ours)} {unit}", other, f">= {least:g} x", ratio, ratio >= least)

    @classmethod
    def below(cls, what: str, value: float, most: float, unit: str, against: str = "") -> "Row":
        """Compare a figure with the most that it may be."""
        ratio = value / most
        return cls(what, f"{shown(value)} {unit}", against, f"<= {shown(most)} {unit}", ratio, ratio <= 1)

    def cells(self) -> list[str]:
        """Return the line as it is printed."""
        measured = not math.isnan(self.ratio)
        held = ("yes" if self.held else "**no**") if measured else "not measured"
        return [self.what, self.figure, self.against, self.target, f"{self.ratio:.2f}" if measured else "", held]


HEADER = ["what", "figure", "compared with", "target", "ratio", "held"]


class Case(NamedTuple):
    """Steps that are taken in turn, once in each round, and the rows that come of them."""

    name: str
    before: list[Step]  # once: data is written and brought into the page cache, kernels are compiled
    steps: dict[str, Step]
    rows: Callable[[Found], Iterable[Row]]
    tolerance: float = 1e-4  # relative, between answers: float32 sums are good for some 1e-7 a term


def shown(value: float) -> str:
    """Return a number with three digits, or more where they are before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def measure(case: Case, rounds: int) -> Found:
    """Take the steps of a case, in turn, every second time the other way round.

    Raises
    ------
    SystemExit
        The steps gave different answers: what computes something else is not compared.
    """
    for step in case.before:
        take(step)
    results: dict[str, list[Measured]] = {name: [] for name in case.steps}
    for number in range(rounds):
        for name, step in list(case.steps.items())[:: -1 if number % 2 else 1]:
            print(f"{case.name}, round {number + 1} of {rounds}: {name}", file=sys.stderr)
            results[name].append(take(step))
    found = Found(results)
    answers = found.answers()
    if answers and max(answers) - min(answers) > case.tolerance * max(answers):
        raise SystemExit(f"{case.name}: the answers differ: {sorted(set(answers))}")
    return found


def take(step: Step) -> Any:
    """Call the function of a step in a new process and return what it returns."""
    command = [step.python, __file__, step.function, json.dumps(step.arguments)]
    environment = os.environ | (step.environment or {})
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return json.loads(output.splitlines()[-1])


def in_turn(ways: dict[str, Callable[[], Any]], repeats: int = 1) -> Measured:
    """Time ways of doing something, one after the other, after a run of each to load and compile what it needs.

    How much memory that run takes at its peak, beyond what is held before, is measured as well, in MB; of all others
    the seconds that the cores spent on them, which other programs disturb less than those on the clock.
    """
    forget_peak()
    before = resident_memory()
    for run in ways.values():
        run()
    found: Measured = {name: [] for name in ways} | {"peak": [(peak_memory() - before) / 1e6], "cpu": []}
    for _ in range(repeats):
        for name, run in ways.items():
            spent = time.process_time()
            found[name].append(timed(run))
            found["cpu"].append(time.process_time() - spent)
    return found


def timed(run: Callable[[], Any]) -> float:
    """Return how many seconds a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak_memory() -> int:
    """Return the most memory that this process has held so far, in bytes."""
    try:
        # On Linux getrusage starts from what the process held that started this one.
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1 << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> None:
    """Let `peak_memory` begin again at what is held now, where that is possible."""
    with suppress(OSError), open("/proc/self/clear_refs", "w") as order:
        order.write("5")


def resident_memory() -> int:
    """Return what this process holds, in bytes; where that cannot be known, the most it has held."""
    try:
        with open("/proc/self/statm") as numbers:
            return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_memory()


def unfinished(path: Path) -> Path:
    """Return where to write what gets its own name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.name}.{os.getpid()}.unfinished")


def main() -> None:
    """Take one step."""
    module, _, function = sys.argv[1].partition(".")
    print(json.dumps(getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))))


if __name__ == "__main__":
    main()
