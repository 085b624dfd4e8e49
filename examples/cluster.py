"""Evaluate on a Dask cluster: two worker processes here, any scheduler's address elsewhere."""

import tempfile
from pathlib import Path

import numpy as np
import zarr
from distributed import Client, LocalCluster

import daskxent as dx


def write_dump(path: Path) -> None:
    rng = np.random.default_rng(0)
    group = zarr.create_group(path)
    group.create_array("labels", data=rng.integers(1000, size=40_000))
    group.create_array("logits", data=rng.normal(size=(40_000, 1000)).astype("float32"), chunks=(4_000, 1000))


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "dump.zarr"  # workers read it themselves: it lies where all of them can see it
        write_dump(path)
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            there = dx.evaluate(path / "labels", path / "logits", from_logits=True, client=client)
        print(there)

        here = dx.evaluate(path / "labels", path / "logits", from_logits=True, threads=1)
        assert here == there  # not nearly: every sum, count and finding is the same
        print("the same bits on one thread of this process")


if __name__ == "__main__":  # worker processes import this file
    main()
