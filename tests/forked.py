"""Processes of Dask that begin with their modules imported: a fork takes 0.1 s of a processor, the imports take 2 s."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import dask
from dask.cli import run_cli
from distributed import Client, LocalCluster
from distributed.utils import get_mp_context

FORKING = {"distributed.worker.multiprocessing-method": "forkserver"}

with dask.config.set(FORKING):
    FORKS: Any = get_mp_context()  # which names its own modules, once
FORKS.set_forkserver_preload(
    ["forked", "distributed.cli.dask_scheduler", "distributed.cli.dask_worker", "zarr", "daskxent.run.cluster"]
)


@contextmanager
def two_workers() -> Iterator[Client]:
    """Start two worker processes of two threads; their client is not the current one."""
    with (
        dask.config.set(FORKING),
        LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def start(arguments: list[str], environment: dict[str, str], output: Path) -> BaseProcess:
    """Start what ``python -m dask`` does with these arguments, in a session of its own."""
    process: BaseProcess = FORKS.Process(target=_dask, args=(arguments, environment, output))
    process.start()
    return process


def _dask(arguments: list[str], environment: dict[str, str], output: Path) -> None:
    os.setsid()
    os.environ.update(environment)
    dask.config.refresh()
    with open(output, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv[:] = ["dask", *arguments]
    run_cli()
