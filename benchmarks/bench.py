"""Measure everything that the project promises about speed and memory, and print it as one table.

Every step is a process of its own; the steps of a case are taken in turn in every round, so that a slow moment of the
machine meets all alike, and the medians over the rounds are compared. `scans`, `reads`, `costs` and
`awkward` hold the cases.
"""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path

import awkward
import costs
import reads
import scans
from harness import HEADER, THREADS, Case, Found, measure
from shootout import install, laid_out, put_into

HERE = Path(__file__).parent
MARKS = ("<!-- bench -->", "<!-- /bench -->")
SMALL = 0.001  # --small: a thousandth of everything, to see that it runs
PACKAGES = ("daskxent", "numpy", "numba", "zarr", "numcodecs", "dask")


def cases(options: argparse.Namespace, torch: str | None) -> Iterator[Case]:
    """Yield all cases, in the order of the table."""
    scale = SMALL if options.small else 1
    yield from scans.cases(options.data, scale, torch)
    yield from reads.cases(options.data, scale)
    yield from costs.cases(options.data, scale, options.large)
    yield from awkward.cases(options.data, scale)


def chosen(options: argparse.Namespace, torch: str | None) -> list[Case]:
    """Return the cases that were asked for."""
    return [case for case in cases(options, torch) if any(fnmatch(case.name, asked) for asked in options.only)]


def find_torch(options: argparse.Namespace) -> tuple[str | None, str]:
    """Return the Python that has torch, if any, and what the table says about it."""
    if not any(case.name.startswith("scan") for case in chosen(options, None)):
        return None, "not asked for"
    if options.without_torch:
        return None, "left out"
    try:
        python = str(install("torch", options.peers))
        command = [python, "-c", "import torch; print(torch.__version__)"]
        return python, subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        why = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        return None, f"could not be installed: {why}"


def processor() -> str:
    """Return the name of the processor, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine(options: argparse.Namespace, torch: str) -> str:
    """Say where and how the table was made."""
    load = f", load {os.getloadavg()[0]:.1f} at the beginning" if hasattr(os, "getloadavg") else ""
    versions = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)]
    rounds = "1 round" if options.rounds == 1 else f"medians of {options.rounds} rounds"
    size = f"; {SMALL:g} of the sizes: these figures mean nothing" if options.small else ""
    return (
        f"{processor()}, {os.cpu_count()} cores{load}; {platform.system()}; {', '.join(versions)}; "
        f"torch: {torch}. {THREADS} threads, {rounds}{size}."
    )


def table(measured: list[tuple[Case, Found]]) -> str:
    """Lay the rows out, as markdown."""
    return "\n".join(laid_out([HEADER, *(row.cells() for case, found in measured for row in case.rows(found))]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what the project promises about speed and memory.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="NAME", help="cases, such as chunks or 'scan-*'")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--small", action="store_true", help="tiny data, to see that the programs run")
    parser.add_argument("--large", action="store_true", help="the memory of a dump of 8 GB instead of 2.4 GB")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="where data is kept (10 GB; 16 GB if large)")
    parser.add_argument("--peers", type=Path, default=HERE / ".peers", help="where torch is installed")
    parser.add_argument("--without-torch", action="store_true")
    parser.add_argument(
        "--markdown",
        type=Path,
        nargs="?",
        const=HERE / "README.md",
        metavar="PAGE",
        help=f"put the table between the marks {MARKS[0]} of this page, README.md next to this program if not given",
    )
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if not chosen(options, None):
        parser.error(f"--only: there is no case {' or '.join(options.only)}; --list has them all")
    return options


def main() -> None:
    """Measure and print."""
    options = parse()
    if options.list:
        print(*(case.name for case in chosen(options, None)), sep="\n")
        return
    python, torch = find_torch(options)
    preamble = machine(options, torch)
    measured = []
    for case in chosen(options, python):
        measured.append((case, measure(case, options.rounds)))
        print(table(measured[-1:]), file=sys.stderr)
    text = f"{preamble}\n\n{table(measured)}\n"
    print(text)
    if options.markdown:
        put_into(options.markdown, f"\n{text}\n", MARKS)


if __name__ == "__main__":
    main()
