"""Whether two processes run the same code, without which they would not give the same bits."""

from __future__ import annotations

import hashlib
import sys
from functools import cache
from importlib.metadata import version
from importlib.resources import files

from daskxent.report import IncompleteResult


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
    where = "this process"
    if "distributed" in sys.modules:
        from distributed import get_worker

        where = f"worker {get_worker().address}"
    raise IncompleteResult(
        f"{where} runs other code than the client (daskxent {version('daskxent')}, digest {digest()}, not {expected}): "
        "install the same version everywhere"
    )
