"""Loaded by the worker processes of `test_faults` (``dask worker --preload``): parts are noted, slowed and sabotaged.

Orders are a JSON file in the directory that SABOTAGE names, read anew for each part:

* ``sleep``: seconds that every part takes longer
* ``held``: first steps of parts that wait until the orders are others
* ``poison``: steps whose parts kill their worker
* ``flaky``: {end of a chunk's path: number of reads that fail}
"""

import errno
import importlib
import json
import os
import signal
import time
from pathlib import Path

from daskxent.run import parts
from daskxent.sources.files import Files

HERE = Path(os.environ["SABOTAGE"])


def read_orders():
    return json.loads((HERE / "orders.json").read_text())


def note(file, text):
    """Append a line, in one piece whoever else is writing."""
    with open(HERE / file, "ab", buffering=0) as log:
        log.write(f"{text}\n".encode())


def evaluate_part(inputs, question, start, stop, *more):
    orders = read_orders()
    note("begun", f"{os.getpid()} {start} {stop}")
    time.sleep(orders.get("sleep", 0))
    while start in read_orders().get("held", []):
        time.sleep(0.02)
    if any(start <= step < stop for step in orders.get("poison", [])):
        os.kill(os.getpid(), signal.SIGKILL)
    return true_evaluate_part(inputs, question, start, stop, *more)


def fetch(files, key, span, buffer):
    path = f"{files.where}/{key}"
    for end, failures in read_orders().get("flaky", {}).items():
        if path.endswith(end):
            note("failed", path)
            if (HERE / "failed").read_text().splitlines().count(path) <= failures:
                raise OSError(errno.EIO, "Input/output error", path)
    return true_fetch(files, key, span, buffer)


importlib.import_module("zarr")  # now, because a short life may end before it is loaded
if parts.evaluate_part.__module__ == parts.__name__:  # preloaded once
    true_evaluate_part, parts.evaluate_part = parts.evaluate_part, evaluate_part
    true_fetch, Files.fetch = Files.fetch, fetch
