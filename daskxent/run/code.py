"""Which code this process runs, without which two would not give the same bits, and for which worker of Dask's."""

from __future__ import annotations

import hashlib
import sys
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from daskxent.run.failures import IncompleteResult


@cache
def digest() -> str:
    """Return a name of the code of the package that this process runs: 2 ms, once."""
    found = hashlib.sha256(version("daskxent").encode())
    folders = [files("daskxent")]
    for folder in folders:
        for entry in sorted(folder.iterdir(), key=lambda each: each.name):
            if entry.is_dir():
                folders.append(entry)
            elif entry.name.endswith(".py"):
                found.update(entry.name.encode() + entry.read_bytes())
    return found.hexdigest()[:16]


def check(expected: str) -> None:
    """Raise unless this process, a worker's, runs the code that the parts were handed out by."""
    if digest() == expected:
        return
    worker = this_worker()
    where = "this process" if worker is None else f"worker {worker.address}"
    raise IncompleteResult(
        f"{where} runs other code than the client (daskxent {version('daskxent')}, digest {digest()}, not {expected}): "
        "install the same version everywhere"
    )


def this_worker() -> Any:
    """Return the worker in one of whose tasks this is called; None outside."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None
