"""Evaluate dumps behind a server that is 50 ms away and sends 80 MB/s a connection, in turns with what else reads them.

    python benchmarks/far.py

For each size of chunks, in turns: local files, the server through obstore and through s3fs, zarr's own read through
obstore (which computes nothing), and a bare download of the same objects by 64 requests at once, the floor: the server
shares the cores. Medians of three rounds, in seconds; after them the requests of an evaluation, and the objects.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import zarr
from obstore.store import S3Store
from zarr.storage import ObjectStore

import daskxent as dx
from daskxent.sources import buckets

ROUNDS = 3
CLASSES = 1000
SIZES = {"1MB": (200_000, 250), "4MB": (100_000, 1_000), "40MB": (100_000, 10_000)}
RANGE = 8 << 20


def written(root: Path) -> None:
    """Write a dump for each size of chunks."""
    rng = np.random.default_rng(0)
    for name, (rows, chunk) in SIZES.items():
        logits = rng.normal(0, 3, (rows, CLASSES)).astype("float32")
        zarr.create_array(root / name, name="logits", data=logits, chunks=(chunk, CLASSES))
        zarr.create_array(root / name, name="labels", data=rng.integers(0, CLASSES, rows), chunks=(rows,))


def evaluate(where: str, options: dict[str, Any] | None, fast: bool = True) -> None:
    """Evaluate a dump, with obstore or without."""
    find = buckets.find_spec
    buckets.find_spec = find if fast else lambda name: None
    try:
        dx.evaluate(f"{where}/labels", f"{where}/logits", from_logits=True, storage_options=options)
    finally:
        buckets.find_spec = find


def read_with_zarr(store: Any, path: str) -> None:
    """Read all logits, some chunks at a time, with as many requests at once as help."""
    with zarr.config.set({"async.concurrency": 64}):
        array = zarr.open_array(ObjectStore(store, read_only=True), path=path, mode="r")
        step = max(array.chunks[0], 64_000_000 // (4 * CLASSES))
        for start in range(0, array.shape[0], step):
            array[start : start + step]


def download(store: Any, path: str, files: list[Path]) -> None:
    """Get all objects in ranges."""

    async def every() -> None:
        some = asyncio.Semaphore(64)

        async def one(key: str, start: int, stop: int) -> None:
            async with some:
                await obstore.get_range_async(store, key, start=start, end=stop)

        wanted = []
        for file in files:
            size = file.stat().st_size
            key = f"{path}/{file.parent.name}/{file.name}"
            wanted += [one(key, start, min(size, start + RANGE)) for start in range(0, size, RANGE)]
        await asyncio.gather(*wanted)

    asyncio.run(every())


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "b"
        written(root)
        line = [sys.executable, Path(__file__).with_name("objects.py"), scratch]
        server = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            measure(root, url)
        finally:
            server.kill()


def measure(root: Path, url: str) -> None:
    """Time everything in turns."""
    options = {"anon": True, "client_kwargs": {"endpoint_url": url}}
    store = S3Store("b", endpoint=url, skip_signature=True, client_options={"allow_http": True})
    print("chunks     local  obstore    s3fs  zarr reads  download  requests  objects")
    for name in SIZES:
        files = sorted((root / name / "logits/c").rglob("0"))
        files = [file for file in files if file.is_file()]
        cases = {
            "local": partial(evaluate, os.fspath(root / name), None),
            "obstore": partial(evaluate, f"s3://b/{name}", options),
            "s3fs": partial(evaluate, f"s3://b/{name}", options, fast=False),
            "zarr": partial(read_with_zarr, store, f"{name}/logits"),
            "download": partial(download, store, f"{name}/logits/c", files),
        }
        times: dict[str, list[float]] = {case: [] for case in cases}
        asked = 0
        for case in cases.values():
            case()  # imports, connections, compilation
        for _ in range(ROUNDS):
            for case, done in cases.items():
                urllib.request.urlopen(f"{url}/requests").read()
                began = time.perf_counter()
                done()
                times[case].append(time.perf_counter() - began)
                if case == "obstore":
                    asked = json.load(urllib.request.urlopen(f"{url}/requests"))["GET"]
        found = [statistics.median(times[case]) for case in cases]
        widths = (8, 9, 8, 12, 10)
        shown = "".join(f"{each:{width}.2f}" for each, width in zip(found, widths, strict=True))
        print(f"{name:8}{shown}{asked:10}{len(files) + 3:9}", flush=True)


if __name__ == "__main__":
    main()
