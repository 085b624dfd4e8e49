"""Take the steps of the benchmarks that run daskxent on two sides in turn, and compare seconds and memory."""

import json
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from typing import NamedTuple

import costs
import reads
import scans
from harness import NO_TIMES, Case, Found, Step, measure, shown
from revisions import Side
from shootout import laid_out

OURS = ("scans.scan", "scans.losses", "reads.evaluate", "costs.start_up")
LESS = {"scans.scan": {"sums": False}, "costs.start_up": {"first": False}}  # what is left out of them
SCALE = 0.25  # of the sizes of `make bench`
LEFT_OUT = ("scan-maps: last axis", "*: usual", "read-lz4: *", "read-zstd-sharded: *")  # much like others
LITTLE = 4  # MB: too little memory to make a ratio of


class Timed(NamedTuple):
    """A step, and what must be done before it, once."""

    name: str
    before: list[Step]
    step: Step


def timed(data: Path, scale: float) -> Iterator[Timed]:
    """Yield each step of the benchmarks that runs daskxent, once: what is added there is compared here as well."""
    seen: set[str] = set()
    scale *= SCALE
    for case in (*scans.cases(data, scale, None), *reads.cases(data, scale), costs.starting(data)):
        new = {}
        for name, step in case.steps.items():
            ours = Step(step.function, step.arguments | LESS.get(step.function, {}))
            left_out = step.function not in OURS or any(fnmatch(f"{case.name}: {name}", each) for each in LEFT_OUT)
            if not left_out and json.dumps(ours[:2], sort_keys=True) not in seen:
                new[name] = ours
        seen.update(json.dumps(ours[:2], sort_keys=True) for ours in new.values())
        before = [step for step in case.before if step.function.endswith(".write")]
        for name, ours in new.items():
            yield Timed(case.name if len(new) == 1 else f"{case.name}: {name}", before, ours)


def chosen(data: Path, scale: float, only: list[str]) -> list[Timed]:
    """Return the steps that were asked for."""
    return [each for each in timed(data, scale) if any(fnmatch(each.name, asked) for asked in only)]


def compare(sides: tuple[Side, Side], steps: list[Timed], rounds: int) -> tuple[str, list[str]]:
    """Take steps on both sides, in turn; return a table, and which steps failed or gave other answers, in any bit."""
    first, second = (side.name.split(" (")[0] for side in sides)
    header = ["what", f"{first}, s", f"{second}, s", "ratio", "by round", "of cpu", "by round"]
    header += [f"{first}, MB", f"{second}, MB", "ratio"]
    rows, failed = [], []
    for name, before, step in steps:
        on = {side.name: step._replace(python=side.python, environment=side.environment) for side in sides}
        try:
            found = measure(Case(name, before, on, lambda found: [], tolerance=0), rounds)
        except (SystemExit, subprocess.CalledProcessError) as error:
            failed.append(str(error) if isinstance(error, SystemExit) else f"{name}: a step failed")
            continue
        rows += compared(name, sides, found)
        print(*laid_out([header, rows[-1]]), sep="\n", file=sys.stderr)
    return "\n".join([*laid_out([header, *rows]), "", *summary(rows)]), failed


def summary(rows: list[list[str]]) -> Iterator[str]:
    """Say in a line each how far the ratios of times, of cpu and of memory reach."""
    for what, column in (("times", 3), ("cpu", 5), ("memory", 9)):
        ratios = [float(row[column]) for row in rows if row[column]]
        if ratios:
            yield f"{what}: ratios of {min(ratios):.2f} to {max(ratios):.2f}, median {median(ratios):.2f}"


def compared(name: str, sides: tuple[Side, Side], found: Found) -> Iterator[list[str]]:
    """Yield a row for each time that a step measured."""
    measured = found.results[sides[0].name][0].keys()
    for key in sorted(measured - NO_TIMES):
        row = [name if key == "daskxent" else f"{name}, {key}"]
        row += [*(shown(found(side.name, key)) for side in sides), *ratios(sides, found, key)]
        if "peak" not in measured:
            yield [*row, *[""] * 5]
            continue
        peaks = [found(side.name, "peak") for side in sides]
        more = f"{peaks[1] / peaks[0]:.2f}" if min(peaks) > LITTLE else ""
        yield [*row, *ratios(sides, found, "cpu"), *map(shown, peaks), more]


def ratios(sides: tuple[Side, Side], found: Found, key: str) -> tuple[str, str]:
    """Return the ratio of the medians of a measure, and between which bounds it is in single rounds."""
    theirs, ours = (found(side.name, key) for side in sides)
    rounds = zip(*(found.results[side.name] for side in sides), strict=True)
    each = [median(mine[key]) / median(other[key]) for other, mine in rounds]
    return f"{ours / theirs:.2f}", f"{min(each):.2f} to {max(each):.2f}"
