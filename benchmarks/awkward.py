"""Dumps whose labels and weights are cut otherwise than their predictions: what is decoded again, and what is held.

Each is evaluated once in a process of its own, where the same question was asked of a few rows before, so that what is
imported and compiled is not counted.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from harness import THREADS, Case, Found, Measured, Row, Step, peak_memory, resident_memory, unfinished

OF_PLAN = 1.3  # times what the plan says that the peak may be
FLOOR = 64  # MB, what a process may take besides


class Dump(NamedTuple):
    """Arrays and how they are cut; rows are those of a full-size run."""

    rows: int
    shape: tuple[int, ...]  # of the predictions of a row or a step
    chunk: int  # rows or steps of predictions in a chunk
    labels: tuple[int, ...]  # a chunk of labels, with those of the classes if they are dense
    dtype: str = "f4"
    dense: str = ""  # the dtype of dense labels
    weights: bool = False  # in one chunk
    joined: tuple[int, ...] = ()  # a chunk of the second of two arrays of classes
    lazy: bool = False  # predictions as dask arrays, on the threads of a cluster
    smoothing: float = 0.0
    axis: int = -1


WHOLE = 10**9  # as many as there are
DECODED = {
    "dense labels in chunks of 5,000 rows": Dump(20_000, (200,), 20, (5_000, 100), dense="f4"),
    "blocks of classes in chunks of 20 and of 5,000 rows": Dump(20_000, (200,), 20, (20,), joined=(5_000, 100)),
    "labels in one chunk, dask arrays on a cluster": Dump(8_000_000, (2,), 50_000, (WHOLE,), lazy=True),
}
HELD = {
    "labels in one chunk": Dump(40_000_000, (2,), 6_500_000, (WHOLE,), dtype="f2"),
    "label smoothing": Dump(13_000_000, (2,), 6_500_000, (6_500_000,), smoothing=0.1),
    "dense float64 labels": Dump(6_500_000, (8,), 1_600_000, (1_600_000, 8), dense="f8"),
    "weights in one chunk": Dump(20_000_000, (2,), 6_500_000, (6_500_000,), weights=True),
    "maps with label smoothing": Dump(16, (4, 1024, 1024), 1, (1, 1024, 1024), smoothing=0.1, axis=1),
}
DUMPS = DECODED | HELD


# --- Steps. ---


def write(data: str, name: str, scale: float) -> None:
    """Write a dump of random logits, and a small one of its kind, unless they are there; read their files."""
    path = place(data, name, scale)
    if not path.exists():
        part = unfinished(path)
        rows = DUMPS[name].rows
        _write(part / "all", DUMPS[name], max(2, int(rows * scale)))
        _write(part / "few", DUMPS[name], min(rows // 8, 20_000))
        part.rename(path)
    for file in path.rglob("*"):
        if file.is_file():
            file.read_bytes()


def place(data: str, name: str, scale: float) -> Path:
    return Path(data) / f"{slug(name)}-{scale:g}.zarr"


def slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def _write(path: Path, dump: Dump, rows: int) -> None:
    import numpy as np
    import zarr

    group, rng, classes = zarr.create_group(path), np.random.default_rng(0), dump.shape[0]
    chunks = {"logits": (dump.chunk, *dump.shape)} | ({"more": dump.joined} if dump.joined else {})
    for name, chunk in chunks.items():
        shape, chunk = (rows, *chunk[1:]), (min(chunk[0], rows), *chunk[1:])
        array = group.create_array(name, shape=shape, chunks=chunk, dtype=dump.dtype)
        for at in range(0, rows, chunk[0]):
            some = min(chunk[0], rows - at), *shape[1:]
            array[at : at + some[0]] = rng.standard_normal(some, dtype=np.float32).astype(dump.dtype)
    labels: Any = rng.integers(classes, size=(rows, *dump.shape[1:]))
    if dump.dense:
        labels = np.eye(classes, dtype=dump.dense)[labels]
    group.create_array("labels", data=labels, chunks=tuple(map(min, dump.labels, labels.shape)))
    if dump.weights:
        group.create_array("weights", data=rng.random(rows), chunks=(rows,))


def evaluate(data: str, name: str, scale: float) -> Measured:
    """Evaluate a dump once; return how often a chunk is decoded, and the peak of memory and the plan's, in MB."""
    from contextlib import nullcontext

    cluster: Any = nullcontext()
    if DUMPS[name].lazy:
        from distributed import Client

        cluster = Client(n_workers=1, threads_per_worker=THREADS, processes=False, dashboard_address=None)
    with cluster:
        return _evaluated(place(data, name, scale), DUMPS[name])


def _evaluated(path: Path, dump: Dump) -> Measured:
    import daskxent as dx
    from daskxent.sources.chunks import Chunks

    decode, decoded = Chunks._decoded, list[str]()

    def counted(self: Any, *given: Any) -> Any:
        decoded.append(self.name)
        return decode(self, *given)

    dx.evaluate(**_arguments(path / "few", dump))
    Chunks._decoded = counted  # type: ignore[method-assign]
    before, given = resident_memory(), _arguments(path / "all", dump)
    answer = dx.evaluate(**given)["crossentropy"]
    peak = (peak_memory() - before) / 1e6
    planned = 0 if dump.lazy else dx.plan(**given).memory
    return {
        "decoded": [len(decoded) / _stored(path / "all", dump)],
        "peak": [peak],
        "plan": [planned / 1e6],
        "answer": [answer],
    }


def _arguments(path: Path, dump: Dump) -> dict[str, Any]:
    import daskxent as dx

    logits: Any = path / "logits"
    if dump.joined:
        logits = dx.concat([logits, path / "more"], axis=-1)
    if dump.lazy:
        import dask.array as da

        logits = da.from_zarr(str(logits))
    given = {"y_true": path / "labels", "y_pred": logits, "from_logits": True, "axis": dump.axis}
    given |= {"label_smoothing": dump.smoothing} | ({} if dump.lazy else {"threads": THREADS})
    return given | ({"sample_weight": path / "weights"} if dump.weights else {})


def _stored(path: Path, dump: Dump) -> int:
    """Return in how many chunks everything is stored; dask reads its arrays itself."""
    import zarr

    names = {each.name for each in path.iterdir() if each.is_dir()} - ({"logits"} if dump.lazy else set())
    return sum(zarr.open_array(path / name, mode="r").nchunks for name in names)


# --- Cases. ---


def cases(data: Path, scale: float) -> Iterator[Case]:
    """Yield the cases."""
    for name in DECODED:
        yield case(
            name, data, scale, lambda found, name=name: Row.below(name, found(name, "decoded"), 1, "decoded / stored")
        )
    for name in HELD:
        yield case(name, data, scale, lambda found, name=name: _peak(name, found, scale))


def _peak(name: str, found: Found, scale: float) -> Row:
    plan, besides = found(name, "plan"), 0 if scale == 1 else FLOOR
    return Row.below(
        f"peak memory, {name}", found(name, "peak"), OF_PLAN * plan + besides, "MB", f"plan: {plan:.0f} MB"
    )


def case(name: str, data: Path, scale: float, row: Callable[[Found], Row]) -> Case:
    dump = {"data": str(data), "name": name, "scale": scale}
    steps = {name: Step("awkward.evaluate", dump)}
    return Case(slug(name), [Step("awkward.write", dump)], steps, lambda found: [row(found)])
