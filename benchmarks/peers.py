"""In turns with the fastest readers and scans: TensorStore and zarrs, which only read; jax and ONNX Runtime in memory.

    make .venv/bench.stamp
    .venv/bin/python benchmarks/peers.py

`make bench` ends with it. All in turns in one run, medians of five rounds, two threads each; each case is run once more
before it is timed, so that threads of another that still spin do not count. Reading peers compute nothing; ours
evaluates crossentropy and accuracy. In memory all compute both of float32 logits. CPU is that of the whole process, in
seconds, or in ns a row. At the end a plain loop in C, on one thread: what exact sums cost.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads=2")

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import tensorstore as ts
import zarr
from onnx import TensorProto, helper
from zarr.codecs import BloscCodec, ZstdCodec

import daskxent as dx

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 5
THREADS = 2
SHAPES = {  # rows, classes, dtype, rows of a chunk, codec
    "float32 x 1,000, zstd, 1 MB": (100_000, 1_000, "float32", 250, ZstdCodec(level=1)),
    "float32 x 1,000, zstd, 40 MB": (100_000, 1_000, "float32", 10_000, ZstdCodec(level=1)),
    "float16 x 50,257, zstd, 4 MB": (3_200, 50_257, "float16", 40, ZstdCodec(level=1)),
    "bfloat16 x 128,256, lz4, 4 MB": (1_600, 128_256, "bfloat16", 16, BloscCodec(cname="lz4", shuffle="shuffle")),
}
CLASSES = (2, 10, 50, 1_000)
VALUES = 40_000_000
FLAGS = "-O3", "-march=native", "-ffast-math", "-shared", "-fPIC"


def timed(cases: dict[str, Callable[[], Any]]) -> dict[str, tuple[float, float]]:
    """Return seconds and CPU seconds of each case, in turns."""
    for case in cases.values():
        case()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            case()
            began, used = time.perf_counter(), time.process_time()
            case()
            found[name].append((time.perf_counter() - began, time.process_time() - used))
    return {name: tuple(map(statistics.median, zip(*times, strict=True))) for name, times in found.items()}  # type: ignore[misc]


def read_tensorstore(path: Path) -> None:
    """Read everything, some chunks at a time."""
    context = ts.Context({"data_copy_concurrency": {"limit": THREADS}, "file_io_concurrency": {"limit": THREADS}})
    array = ts.open({"driver": "zarr3", "kvstore": f"file://{path}/"}, context=context).result()
    step = max(array.chunk_layout.read_chunk.shape[0] * 8, 1)
    for start in range(0, array.shape[0], step):
        array[start : min(start + step, array.shape[0])].read().result()


def read_zarr(path: Path, pipeline: str) -> None:
    """Read everything through zarr, with its own codecs or with those of zarrs."""
    with zarr.config.set({"codec_pipeline.path": pipeline, "threading.max_workers": THREADS}):
        array = zarr.open_array(path, mode="r")
        step = array.chunks[0] * 8
        for start in range(0, array.shape[0], step):
            array[start : start + step]


def reading() -> None:
    """Print the table of readers."""
    rng = np.random.default_rng(0)
    print(f"{'':32}{'evaluate':>16}{'TensorStore':>16}{'zarrs':>16}{'zarr':>16}")
    for name, (rows, classes, dtype, chunk, codec) in SHAPES.items():
        kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "x.zarr"
            stored = "uint16" if dtype == "bfloat16" else dtype
            array = zarr.create_array(
                path, shape=(rows, classes), chunks=(chunk, classes), dtype=stored, compressors=[codec]
            )
            for start in range(0, rows, chunk):
                some = rng.normal(0, 3, (min(chunk, rows - start), classes)).astype("float32").astype(kind)
                array[start : start + chunk] = some.view(stored)
            labels = rng.integers(0, classes, rows)
            view = "bfloat16" if dtype == "bfloat16" else None
            found = timed(
                {
                    "evaluate": partial(dx.evaluate, labels, path, from_logits=True, threads=THREADS, view=view),
                    "TensorStore": partial(read_tensorstore, path),
                    "zarrs": partial(read_zarr, path, "zarrs.ZarrsCodecPipeline"),
                    "zarr": partial(read_zarr, path, "zarr.core.codec_pipeline.BatchedCodecPipeline"),
                }
            )
        shown = "".join(f"{f'{wall:.3f} ({cpu:.2f})':>16}" for wall, cpu in found.values())
        print(f"{name:32}{shown}", flush=True)


@jax.jit
def with_jax(logits: Any, labels: Any) -> Any:
    """Compute both metrics."""
    losses = jax.nn.logsumexp(logits, axis=1) - jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return losses.mean(), (logits.argmax(axis=1) == labels).mean()


def onnx_session() -> onnxruntime.InferenceSession:
    """Return a graph of both metrics."""
    nodes = [
        helper.make_node("LogSoftmax", ["x"], ["logp"], axis=1),
        helper.make_node("GatherElements", ["logp", "index"], ["right"], axis=1),
        helper.make_node("ReduceMean", ["right"], ["loss"], keepdims=0),
        helper.make_node("ArgMax", ["x"], ["best"], axis=1, keepdims=1),
        helper.make_node("Equal", ["best", "index"], ["hit"]),
        helper.make_node("Cast", ["hit"], ["one"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["one"], ["accuracy"], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "c"]),
              helper.make_tensor_value_info("index", TensorProto.INT64, ["n", 1])]  # fmt: skip
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in ("loss", "accuracy")]
    model = helper.make_model(
        helper.make_graph(nodes, "metrics", inputs, outputs), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def scanning() -> None:
    """Print the table of scans in memory."""
    rng, session = np.random.default_rng(0), onnx_session()
    print(f"\n{'ns a row, CPU in brackets':32}{'evaluate':>16}{'jax':>16}{'ONNX Runtime':>16}")
    for classes in CLASSES:
        rows = VALUES // classes if classes > 10 else 4_000_000
        logits = rng.normal(0, 3, (rows, classes)).astype("float32")
        labels = rng.integers(0, classes, rows)
        held, index = jnp.asarray(logits), jnp.asarray(labels.astype("int32"))
        found = timed(
            {
                "evaluate": partial(dx.evaluate, labels, logits, from_logits=True, threads=THREADS),
                "jax": lambda held=held, index=index: jax.block_until_ready(with_jax(held, index)),
                "ONNX": partial(session.run, None, {"x": logits, "index": labels[:, None]}),
            }
        )
        shown = "".join(f"{f'{wall / rows * 1e9:.1f} ({cpu / rows * 1e9:.1f})':>16}" for wall, cpu in found.values())
        print(f"{f'{classes:,} classes':32}{shown}", flush=True)


def looping() -> None:
    """Print the table of plain loops in C."""
    compiler = shutil.which("cc")
    if compiler is None:
        print("\nno C compiler, no plain loop")
        return
    with tempfile.TemporaryDirectory() as scratch:
        library = Path(scratch) / "plain.so"
        subprocess.run([compiler, *FLAGS, Path(__file__).with_name("plain.c"), "-o", library, "-lm"], check=True)
        plain, rng = ctypes.CDLL(str(library)), np.random.default_rng(0)
    print(f"\n{'ns of CPU a number, one thread':32}{'evaluate':>16}{'plain C':>16}{'ratio':>16}")
    for dtype in ("float32", "float16", "bfloat16"):
        loop, kind = getattr(plain, f"of_{dtype}", None), np.dtype(getattr(ml_dtypes, dtype, dtype))
        if loop is None:
            continue
        loop.restype = ctypes.c_double
        for classes in (100, 1_000, 128_256):
            rows = VALUES // classes
            logits = rng.normal(0, 3, (rows, classes)).astype("float32").astype(kind)
            labels, room, hits = rng.integers(0, classes, rows), np.empty(classes, "float32"), ctypes.c_int64()
            addresses = [ctypes.c_void_p(each.ctypes.data) for each in (logits, labels, room)]
            sizes = ctypes.c_int64(rows), ctypes.c_int64(classes)
            cases = {
                "evaluate": partial(dx.evaluate, labels, logits, from_logits=True, threads=1),
                "plain C": partial(loop, *addresses[:2], *sizes, addresses[2], ctypes.byref(hits)),
            }
            assert abs(cases["plain C"]() / rows - cases["evaluate"]()["crossentropy"]) < 1e-3
            ours, theirs = (cpu / logits.size * 1e9 for _, cpu in timed(cases).values())
            shown = "".join(f"{each:16.2f}" for each in (ours, theirs, ours / theirs))
            print(f"{f'{dtype} x {classes:,} classes':32}{shown}", flush=True)


if __name__ == "__main__":
    reading()
    scanning()
    looping()
