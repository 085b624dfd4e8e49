"""Size and speed of codecs on real logits: of the language model of examples/language_model.py, of the demo's network.

    python benchmarks/compression.py

Each codec encodes and decodes chunks of 4 MB on one thread; the medians of five rounds, in turns. What `dx.create` uses
was chosen by this table.
"""

from __future__ import annotations

import runpy
import statistics
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numcodecs
import numpy as np
import zarr

from daskxent.demo import write_dump

CHUNK = 4 << 20  # bytes
ROUNDS = 5
CODECS = {
    "none": None,
    "zstd 1": numcodecs.Zstd(1),
    "zstd 3": numcodecs.Zstd(3),
    "lz4": numcodecs.LZ4(),
    "blosc lz4, shuffle": numcodecs.Blosc("lz4", 5, numcodecs.Blosc.SHUFFLE),
    "blosc lz4, bitshuffle": numcodecs.Blosc("lz4", 5, numcodecs.Blosc.BITSHUFFLE),
    "blosc zstd 1, shuffle": numcodecs.Blosc("zstd", 1, numcodecs.Blosc.SHUFFLE),
    "blosc zstd 1, bitshuffle": numcodecs.Blosc("zstd", 1, numcodecs.Blosc.BITSHUFFLE),
    "blosc zstd 3, bitshuffle": numcodecs.Blosc("zstd", 3, numcodecs.Blosc.BITSHUFFLE),
}


def logits_of_the_example() -> np.ndarray:
    """Train the model of the example and return the logits it dumped, but for the padding of the vocabulary."""
    made = runpy.run_path(str(Path(__file__).parents[1] / "examples/language_model.py"))
    return np.asarray(made["logits_of"](made["test"]), np.float32)


def logits_of_the_demo() -> np.ndarray:
    """Classify digits as the demo does, and return their logits."""
    with tempfile.TemporaryDirectory() as scratch:
        write_dump(f"{scratch}/dump.zarr", 40_000_000)
        return np.asarray(zarr.open_array(f"{scratch}/dump.zarr/logits", mode="r")[:])


def main() -> None:
    """Print the tables."""
    numcodecs.blosc.set_nthreads(1)
    for what, logits in (("language model", logits_of_the_example()), ("digits", logits_of_the_demo())):
        table(what, logits)


def table(what: str, logits: np.ndarray) -> None:
    """Print a table for each dtype."""
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        plain = np.frombuffer(logits.astype(dtype).tobytes(), np.uint16 if dtype != np.float32 else np.float32)
        chunks = [plain[at : at + CHUNK // plain.itemsize] for at in range(0, plain.size, CHUNK // plain.itemsize)][:8]
        nbytes = sum(chunk.nbytes for chunk in chunks)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in CODECS}
        size = {}
        for _ in range(ROUNDS):
            for name, codec in CODECS.items():
                began = time.perf_counter()
                encoded = [chunk.tobytes() if codec is None else codec.encode(chunk) for chunk in chunks]
                middle = time.perf_counter()
                out = np.empty_like(chunks[0])
                for chunk, each in zip(chunks, encoded, strict=True):
                    if codec is None:
                        out[: chunk.size] = np.frombuffer(each, chunk.dtype)
                    else:
                        codec.decode(each, out[: chunk.size])
                times[name].append((middle - began, time.perf_counter() - middle))
                size[name] = sum(len(each) for each in encoded)
        print(f"\n{what}, {np.dtype(dtype).name}, {nbytes / 1e6:.0f} MB")
        print(f"{'codec':28}{'size':>7}{'write GB/s':>12}{'read GB/s':>11}")
        for name, each in times.items():
            write, read = (statistics.median(column) for column in zip(*each, strict=True))
            print(f"{name:28}{size[name] / nbytes:7.2f}{nbytes / write / 1e9:12.2f}{nbytes / read / 1e9:11.2f}")


if __name__ == "__main__":
    main()
