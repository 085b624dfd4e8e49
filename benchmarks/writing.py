"""What `dx.create` costs more than zarr's own write of the same arrays, in turns in one run.

    python benchmarks/writing.py

Batches of 256 rows are appended; zarr gets the whole array at once, in the same chunks, shards and codec.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
import zarr
from zarr.codecs import BloscCodec

import daskxent as dx

ROUNDS = 5
BATCH = 256
CASES = ((160_000, 1_000, "float32"), (8_000, 50_257, "bfloat16"), (16_000_000, 10, "float32"))


def append(path: Path, logits: np.ndarray, labels: np.ndarray, batch: int) -> None:
    """Write as a training loop does."""
    with dx.create(path) as dump:
        for at in range(0, len(labels), batch):
            dump.append(logits[at : at + batch], labels[at : at + batch])


def write(path: Path, logits: np.ndarray, labels: np.ndarray, like: zarr.Array) -> None:
    """Write the arrays whole."""
    group = zarr.open_group(path, mode="w")
    codec = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")
    for name, array, shards in (("logits", logits, like.shards), ("labels", labels, None)):
        chunks = like.chunks if name == "logits" else (like.shards or like.chunks)[:1]
        made = group.create_array(
            name, shape=array.shape, dtype=array.dtype, chunks=chunks, shards=shards, compressors=[codec],
            config={"write_empty_chunks": True},
        )  # fmt: skip
        step = (shards or chunks)[0]
        for at in range(0, len(array), step):
            made[at : at + step] = array[at : at + step]


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    print(f"{'rows x classes':24}{'MB':>6}{'zarr s':>8}{'create s':>10}{'ratio':>7}")
    for rows, classes, dtype in CASES:
        kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        logits = rng.normal(0, 3, (rows, classes)).astype(np.float32).astype(kind)
        labels = rng.integers(0, classes, rows)
        plain = logits.view(np.uint16) if dtype == "bfloat16" else logits
        batch = BATCH if classes > 10 else 1 << 14
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "dump.zarr"
            append(path, logits, labels, batch)
            like = zarr.open_array(path / "logits", mode="r")
            times: tuple[list[float], list[float]] = ([], [])
            several = partial(write, path, plain, labels, like), partial(append, path, logits, labels, batch)
            for _ in range(ROUNDS):
                for done, taken in zip(several, times, strict=True):
                    shutil.rmtree(path, ignore_errors=True)
                    began = time.perf_counter()
                    done()
                    taken.append(time.perf_counter() - began)
        theirs, ours = map(statistics.median, times)
        size = f"{rows:,} x {classes:,} {dtype}"
        print(f"{size:24}{logits.nbytes / 1e6:6.0f}{theirs:8.2f}{ours:10.2f}{ours / theirs:7.2f}", flush=True)


if __name__ == "__main__":
    main()
