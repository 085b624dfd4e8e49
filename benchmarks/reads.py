"""How fast zarr dumps are evaluated, compared with zarr's own read and with a plain dask.array expression."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import scans
from harness import THREADS, Case, Found, Measured, Row, Step, in_turn, unfinished

ROWS, CLASSES, CHUNK_ROWS = 200_000, 1_000, 10_000
SHARD = 8  # chunks
BLOCKS = 4  # of classes, where they are split
CHUNKS, SMALL_CHUNK, DASK_CHUNKS = 20_000, (100, 10), 2_000
MAPS, MAP_CLASSES, SIDE = 32, 4, 512
# Maps in a chunk of labels, and chunks along each side of a map.
REACH = {"in chunks of a map": (1, 1, 1), "in 2 chunks": (MAPS, 2, 1), "in 16 chunks": (MAPS, 4, 4)}


# --- Steps. The arguments that say which dump it is are those of `write`. ---


def write(**dump: Any) -> None:
    """Write a dump of random normal logits, unless it is there, and read its files, so that they are in memory."""
    path = place(**dump)
    if not path.exists():
        part = unfinished(path)
        _write(part, **{name: value for name, value in dump.items() if name != "data"})
        part.rename(path)
    for file in path.rglob("*"):
        if file.is_file():
            file.read_bytes()


def place(
    data: str,
    rows: int,
    classes: int = CLASSES,
    chunk: int = CHUNK_ROWS,
    codec: str = "zstd",
    sharded: bool = False,
    blocks: int = 1,
) -> Path:
    split = f"-in{blocks}" if blocks > 1 else ""
    return Path(data) / f"normal-{rows}x{classes}-by{chunk}{split}-{codec}{'-sharded' if sharded else ''}.zarr"


def _write(
    path: Path,
    rows: int,
    classes: int = CLASSES,
    chunk: int = CHUNK_ROWS,
    codec: str = "zstd",
    sharded: bool = False,
    blocks: int = 1,
) -> None:
    import numpy as np
    import zarr
    from zarr.codecs import BloscCodec

    codecs = {"zstd": "auto", "lz4": BloscCodec(cname="lz4", shuffle="shuffle"), "none": None}  # auto: zarr's default
    group = zarr.create_group(path)
    create: dict[str, Any] = {"compressors": codecs[codec]}
    labels = group.create_array("labels", shape=(rows,), chunks=(chunk,), dtype="i8", **create)
    single = group.create_array("labels_in_one", shape=(rows,), chunks=(rows,), dtype="i8", **create)
    create |= {"shards": (SHARD * chunk, classes)} if sharded else {}
    logits = group.create_array(
        "logits", shape=(rows, classes), chunks=(chunk, classes // blocks), dtype="f4", **create
    )
    single[:] = np.random.default_rng(0).integers(classes, size=rows)
    labels[:] = single[:]
    step = chunk * SHARD if sharded else chunk * max(1, (1 << 22) // (chunk * classes))
    for start in range(0, rows, step):
        shape = min(step, rows - start), classes
        logits[start : start + step] = 3 * np.random.default_rng(start).standard_normal(shape, dtype=np.float32)


def evaluate(
    labels: str = "labels", ways: dict[str, dict[str, Any]] | None = None, lazy: bool = False, **dump: Any
) -> Measured:
    """Time `evaluate`, with some options in turn; `lazy` gives it dask arrays."""
    import daskxent as dx

    scans.load_all()
    path, answers = place(**dump), []

    def arrays() -> tuple[Any, Any]:
        if not lazy:
            return path / labels, path / "logits"
        import dask.array as da

        return da.from_zarr(str(path), component=labels), da.from_zarr(str(path), component="logits")

    def evaluation(options: dict[str, Any]) -> Callable[[], Any]:
        given = {"from_logits": True, "threads": THREADS} | options
        return lambda: answers.append(dx.evaluate(*arrays(), **given)["crossentropy"])

    seconds = in_turn({name: evaluation(options) for name, options in (ways or {"daskxent": {}}).items()})
    return seconds if ways else seconds | {"answer": answers[:1]}


def zarr_read(**dump: Any) -> Measured:
    """Time some ways in which zarr itself can read all chunks on two threads; nothing is computed."""
    import zarr

    logits = zarr.open_array(place(**dump) / "logits", mode="r")

    def read_by(chunks: int) -> None:
        step = chunks * logits.chunks[0]
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda at: logits[at : at + step].shape, range(0, logits.shape[0], step)))

    ways: dict[str, Callable[[], Any]] = {f"by {n}": lambda n=n: read_by(n) for n in (1, SHARD // 2, SHARD)}
    return in_turn(ways | {"all at once": lambda: logits[...].shape})


def dask_array(**dump: Any) -> Measured:
    """Time the same crossentropy and accuracy as a plain dask.array expression on threads."""
    import dask
    import dask.array as da
    import numpy as np

    path, answers = place(**dump), []

    def gather(logits: Any, labels: Any) -> Any:
        return np.take_along_axis(logits, labels, axis=1)

    def run() -> None:
        labels, logits = (da.from_zarr(str(path), component=name) for name in ("labels", "logits"))
        peak = logits.max(axis=1, keepdims=True)
        log_mass = peak + da.log(da.exp(logits - peak).sum(axis=1, keepdims=True))
        target = da.map_blocks(gather, logits, labels[:, None], chunks=(logits.chunks[0], (1,)), dtype="f4")
        accuracy = (logits.argmax(axis=1) == labels).mean()
        answer = dask.compute((log_mass - target).mean(), accuracy, scheduler="threads", num_workers=THREADS)
        answers.append(float(answer[0]))

    return in_turn({"dask.array": run}) | {"answer": answers[:1]}


def write_maps(data: str, side: int) -> None:
    """Write segmentation maps in chunks of one, with the same labels in several chunks, unless they are there."""
    import numpy as np
    import zarr

    path = maps(data, side)
    if not path.exists():
        part = unfinished(path)
        group, rng = zarr.create_group(part), np.random.default_rng(0)
        shape = MAPS, MAP_CLASSES, side, side
        logits = group.create_array("logits", shape=shape, chunks=(1, *shape[1:]), dtype="f4")
        for number in range(MAPS):
            logits[number] = 3 * rng.standard_normal(shape[1:], dtype=np.float32)
        labels = rng.integers(MAP_CLASSES, size=(MAPS, side, side))
        for name, (deep, high, wide) in REACH.items():
            group.create_array(name, data=labels, chunks=(deep, side // high, side // wide))
        part.rename(path)
    for file in path.rglob("*"):
        if file.is_file():
            file.read_bytes()


def maps(data: str, side: int) -> Path:
    return Path(data) / f"maps-{MAPS}x{MAP_CLASSES}x{side}x{side}.zarr"


def evaluate_maps(labels: str, **dump: Any) -> Measured:
    """Time `evaluate` on maps, and count how often a chunk of labels is decoded, on the average."""
    import zarr

    import daskxent as dx
    from daskxent.sources.chunks import Chunks

    path, answers, decode, decoded = maps(**dump), [], Chunks._decoded, []

    def counted(self: Any, *given: Any) -> Any:
        decoded.append(self.name)
        return decode(self, *given)

    def run() -> None:
        decoded.clear()
        report = dx.evaluate(path / labels, path / "logits", from_logits=True, axis=1, threads=THREADS)
        answers.append(report["crossentropy"])

    Chunks._decoded = counted  # type: ignore[method-assign]
    seconds = in_turn({"daskxent": run})
    stored = zarr.open_array(path / labels, mode="r").nchunks
    return seconds | {"decoded": [decoded.count("y_true") / stored], "answer": answers[:1]}


# --- Cases. ---


def cases(data: Path, scale: float) -> Iterator[Case]:
    """Yield the cases."""
    for name, codec, sharded, of_zarr, of_dask in (
        ("zstd", "zstd", False, 2.5, 3),
        ("blosc lz4 shuffle", "lz4", False, 4, 5),
        ("uncompressed", "none", False, 8, 10),
        ("zstd, sharded", "zstd", True, 2.5, 3),
    ):
        yield read(name, normal(data, scale, codec=codec, sharded=sharded), of_zarr, of_dask)
    yield split(data, scale)
    yield lazy(data, scale)
    yield small_chunks(data, scale)
    yield reach(data, scale)


def normal(data: Path, scale: float, rows: int = ROWS, **dump: Any) -> dict[str, Any]:
    """Return the arguments of a dump in chunks of 40 MB."""
    return {"data": str(data), "rows": max(10, int(rows * scale)), "chunk": max(1, int(CHUNK_ROWS * scale)), **dump}


def read(name: str, dump: dict[str, Any], of_zarr: float, of_dask: float) -> Case:
    size = dump["rows"] * CLASSES * 4 / 1e9

    def rows(found: Found) -> Iterator[Row]:
        ours, what = size / found("daskxent"), f"zarr, {name}"
        yield Row.faster(what, ours, "zarr's own read", size / found("zarr"), of_zarr)
        yield Row.faster(what, ours, "dask.array", size / found("dask.array"), of_dask)

    steps = {
        "daskxent": Step("reads.evaluate", dump),
        "zarr": Step("reads.zarr_read", dump),
        "dask.array": Step("reads.dask_array", dump),
    }
    case = f"read-{dump['codec']}{'-sharded' if dump['sharded'] else ''}"
    return Case(case, [Step("reads.write", dump)], steps, rows)


def split(data: Path, scale: float) -> Case:
    whole = normal(data, scale, codec="zstd", sharded=False)
    dump = whole | {"blocks": BLOCKS}
    size = dump["rows"] * CLASSES * 4 / 1e9

    def rows(found: Found) -> Iterator[Row]:
        what, theirs = f"zarr, zstd, chunks of {CLASSES // BLOCKS} of the classes", size / found("whole rows")
        yield Row.faster(what, size / found("split"), "chunks of whole rows", theirs, 0.8)

    steps = {"split": Step("reads.evaluate", dump), "whole rows": Step("reads.evaluate", whole)}
    return Case("read-split", [Step("reads.write", each) for each in (dump, whole)], steps, rows)


def lazy(data: Path, scale: float) -> Case:
    dump = normal(data, scale, codec="zstd", sharded=False)
    size = dump["rows"] * CLASSES * 4 / 1e9

    def rows(found: Found) -> Iterator[Row]:
        ours, what = size / found("dask arrays"), "dask arrays of zarr, zstd"
        yield Row.faster(what, ours, "our own read of it", size / found("paths"), 0.5)
        yield Row.faster(what, ours, "dask.array", size / found("dask.array"), 2)

    steps = {
        "dask arrays": Step("reads.evaluate", dump | {"lazy": True}),
        "paths": Step("reads.evaluate", dump),
        "dask.array": Step("reads.dask_array", dump),
    }
    return Case("read-dask", [Step("reads.write", dump)], steps, rows)


def small_chunks(data: Path, scale: float) -> Case:
    chunk, classes = SMALL_CHUNK
    counts = {"daskxent": max(10, int(CHUNKS * scale)), "dask.array": max(10, int(DASK_CHUNKS * scale))}
    dumps = {
        name: {"data": str(data), "rows": count * chunk, "classes": classes, "chunk": chunk, "codec": "none"}
        for name, count in counts.items()
    }
    ours = dumps["daskxent"]

    def rows(found: Found) -> Iterator[Row]:
        theirs = found("dask.array") / counts["dask.array"]
        for labels, name in (("labels_in_one", "labels in one chunk"), ("labels", "labels in small chunks")):
            each = found(labels) / counts["daskxent"]
            what = f"{counts['daskxent']:,} chunks of {SMALL_CHUNK}, {name}"
            yield Row.below(what, each * 1e6, 120, "us a chunk")
            yield Row.faster(what, 1e-3 / each, "dask.array", 1e-3 / theirs, 15, "k chunks/s")

    steps = {labels: Step("reads.evaluate", ours | {"labels": labels}) for labels in ("labels_in_one", "labels")}
    steps["dask.array"] = Step("reads.dask_array", dumps["dask.array"])
    # The dump that dask.array gets is a tenth, with other labels: its answer is about the same.
    return Case("chunks", [Step("reads.write", dump) for dump in dumps.values()], steps, rows, tolerance=0.2)


def reach(data: Path, scale: float) -> Case:
    dump = {"data": str(data), "side": max(16, int(SIDE * scale**0.5) // 4 * 4)}
    one, *others = REACH

    def rows(found: Found) -> Iterator[Row]:
        for name in others:
            what = f"{MAPS} maps, labels {name} over all of them"
            share = found(name, "daskxent") / found(one, "daskxent")
            yield Row.below(what, share, 1.25, "x", f"labels {one}: {1e3 * found(one, 'daskxent'):.0f} ms")
            yield Row.below(what, found(name, "decoded"), 1, "decoded / stored")

    steps = {name: Step("reads.evaluate_maps", dump | {"labels": name}) for name in REACH}
    return Case("reach", [Step("reads.write_maps", dump)], steps, rows)
