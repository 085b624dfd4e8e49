"""How fast arrays in memory are scanned, compared with a streaming sum of the same array and with torch."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness import THREADS, Case, Found, Measured, Row, Step, in_turn, shown, unfinished

ELEMENTS = 102_400_000  # 410 MB of float32
REPEATS = 3  # in each process: a sum takes 20 ms, so that one of them shows little
SLICE = 16 << 20  # bytes that are written, or given to torch, at a time


# --- Steps. The arguments that say which array it is are those of `write`. ---


def write(data: str, shape: list[int], dtype: str = "f4", axis: int = -1, probabilities: bool = False) -> None:
    """Write random predictions and labels, unless they are there."""
    import numpy as np

    path = place(data, shape, dtype, axis, probabilities)
    if path.exists():
        return
    rng = np.random.default_rng(0)
    classes, positions = shape[axis], [n for at, n in enumerate(shape) if at != axis % len(shape)]
    part = unfinished(path)
    np.save(labels_of(path), rng.integers(classes, size=positions))
    stored = np.lib.format.open_memmap(part, "w+", "u2" if dtype == "bfloat16" else dtype, tuple(shape))
    step = max(1, SLICE * shape[0] // (4 * math.prod(shape)))
    for start in range(0, shape[0], step):
        values = 3 * rng.standard_normal((min(step, shape[0] - start), *shape[1:]), dtype=np.float32)
        if probabilities:
            values = np.exp(values)
            values /= values.sum(axis=axis, keepdims=True)
        stored[start : start + step] = values.view("u4") >> 16 if dtype == "bfloat16" else values
    stored.flush()
    part.rename(path)


def place(data: str, shape: list[int], dtype: str, axis: int, probabilities: bool) -> Path:
    kind = "probabilities" if probabilities else "logits"
    return Path(data) / f"{kind}-{dtype}-{'x'.join(map(str, shape))}-axis{axis}.npy"


def labels_of(path: Path) -> Path:
    return path.with_name(f"labels-of-{path.name}")


def scan(
    data: str,
    shape: list[int],
    dtype: str = "f4",
    axis: int = -1,
    probabilities: bool = False,
    sums: bool = False,
    ways: dict[str, dict[str, Any]] | None = None,
    options: dict[str, Any] | None = None,
    form: str = "plain",
) -> Measured:
    """Time `evaluate`, in some ways in turn, and sums of the same array.

    `options` go with all ways; `form` is one of `FORMS`: what the arrays are made into before.
    """
    import daskxent as dx

    load_all()
    path = place(data, shape, dtype, axis, probabilities)
    labels, values = formed(path, form)
    given = {"from_logits": not probabilities, "axis": axis, "threads": THREADS} | (options or {})
    if dtype == "bfloat16":
        given["view"] = dtype
    answers = []

    def evaluation(way: dict[str, Any]) -> Callable[[], Any]:
        return lambda: answers.append(dx.evaluate(labels, values, **given | way)["crossentropy"])

    timed = {name: evaluation(options) for name, options in (ways or {"daskxent": {}}).items()}
    seconds = in_turn(timed | (streaming_sums(values) if sums else {}), REPEATS)
    return seconds if ways else seconds | {"answer": answers[:1]}


def losses(form: str = "plain", **array: Any) -> Measured:
    """Time the losses per row of logits."""
    import daskxent as dx

    load_all()
    labels, values = formed(place(axis=-1, probabilities=False, **array), form)
    found = []

    def run() -> None:
        found.append(dx.losses.sparse_categorical_crossentropy(labels, values, from_logits=True))

    seconds = in_turn({"daskxent": run}, REPEATS)
    return seconds | {"answer": [float(found[0].mean(dtype=float))]}


def load_all() -> None:
    """Have all imported, and kernels loaded, that an evaluation needs: their memory is not that of an evaluation."""
    import numpy as np

    import daskxent as dx

    rows = np.zeros((1 << 10, 1 << 6), np.float32)
    dx.evaluate(np.zeros(len(rows), np.int64), rows, from_logits=True, threads=THREADS)


def formed(path: Path, form: str) -> tuple[Any, Any]:
    """Return labels and predictions of the last axis, made into something else."""
    import numpy as np

    return FORMS[form](np.load(labels_of(path)), np.load(path))


def one_hot(labels: Any, values: Any) -> tuple[Any, Any]:
    import numpy as np

    dense = np.zeros(values.shape, np.float32)
    dense[np.arange(len(labels)), labels] = 1
    return dense, values


def blocks(labels: Any, values: Any) -> tuple[Any, Any]:
    """Return four blocks of classes."""
    import either
    import numpy as np

    return labels, either.joined(list(map(np.ascontiguousarray, np.array_split(values, 4, axis=-1))), -1)


def dask_arrays(labels: Any, values: Any) -> tuple[Any, Any]:
    """Return dask arrays of 16 chunks of whole rows."""
    import dask.array as da

    chunk = -(-len(labels) // 16)
    return da.from_array(labels, chunks=chunk), da.from_array(values, chunks=(chunk, -1))


def doubled(labels: Any, values: Any) -> tuple[Any, Any]:
    """Make every row of probabilities exceptional: it sums to 2."""
    values *= 2
    return labels, values


def not_numbers(labels: Any, values: Any) -> tuple[Any, Any]:
    """Make every row exceptional: it has a NaN."""
    values[:, -1] = float("nan")
    return labels, values


FORMS: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "plain": lambda labels, values: (labels, values),
    **{form.__name__: form for form in (one_hot, blocks, dask_arrays, doubled, not_numbers)},
}


def streaming_sums(values: Any) -> dict[str, Callable[[], Any]]:
    """Return two ways to sum an array on two threads; the faster one is what memory can do."""
    import numba
    import numpy as np

    halves = np.array_split(values.reshape(-1), THREADS)
    pool = ThreadPoolExecutor(THREADS)

    @numba.njit(nogil=True, fastmath=True)
    def add(half: Any) -> Any:
        total = half.dtype.type(0)
        for i in range(half.size):
            total += half[i]
        return total

    return {
        "NumPy sum": lambda: list(pool.map(np.add.reduce, halves)),
        "numba sum": lambda: list(pool.map(add, halves)),
    }


def torch_scan(data: str, shape: list[int], dtype: str = "f4") -> Measured:
    """Time torch's cross_entropy and argmax: over the whole array, and over slices that fit the cache."""
    import numpy as np
    import torch

    torch.set_num_threads(THREADS)
    path = place(data, shape, dtype, -1, False)
    labels = torch.from_numpy(np.load(labels_of(path)))
    values = torch.from_numpy(np.load(path))
    if dtype == "bfloat16":
        values = values.view(torch.bfloat16)
    answers = []

    @torch.inference_mode()
    def run(step: int) -> None:
        loss = hits = 0.0
        for start in range(0, len(labels), step):
            here, target = values[start : start + step], labels[start : start + step]
            loss += float(torch.nn.functional.cross_entropy(here, target)) * len(target)
            hits += int((here.argmax(1) == target).sum())
        answers.append(loss / len(labels))

    step = max(1, SLICE // (values.element_size() * shape[1]))
    seconds = in_turn({"whole": lambda: run(len(labels)), "slices": lambda: run(step)})
    return seconds | {"answer": answers[-1:] if dtype == "f4" else []}  # a mean of 16 bits is coarse, or overflows


# --- Cases. ---


def cases(data: Path, scale: float, torch: str | None) -> Iterator[Case]:
    """Yield the cases; `torch` is the Python that has it, if any."""
    for classes, of_sum, of_torch in ((1_000, 0.4, 10), (32_000, 0.4, 10), (100, 0.25, 5), (10, 0.12, 5)):
        yield float32(data, scale, torch, classes, of_sum, of_torch)
    yield halves(data, scale, torch)
    yield probabilities(data, scale)
    yield maps(data, scale)
    yield from special(data, scale)


def logits(data: Path, scale: float, classes: int = 1_000, dtype: str = "f4") -> dict[str, Any]:
    """Return the arguments of an array of 410 MB."""
    elements = ELEMENTS * (1 if dtype == "f4" else 2)
    return {"data": str(data), "shape": [max(8, int(elements * scale) // classes), classes], "dtype": dtype}


def gbytes(array: dict[str, Any]) -> float:
    return elements(array) * (4 if array.get("dtype", "f4") == "f4" else 2)


def elements(array: dict[str, Any]) -> float:
    """Return the elements of an array, in 1e9."""
    return math.prod(array["shape"]) / 1e9


def with_torch(array: dict[str, Any], torch: str | None, name: str = "torch") -> dict[str, Step]:
    return {name: Step("scans.torch_scan", array, torch)} if torch else {}


def than_torch(what: str, ours: float, size: float, found: Found, step: str, least: float, unit: str) -> Row:
    """Compare with torch given the whole array; say what it does with slices."""
    whole, slices = (size / found(step, way) for way in ("whole", "slices"))
    return Row.faster(
        what, ours, "torch" if math.isnan(slices) else f"torch (slices: {shown(slices)})", whole, least, unit
    )


def float32(data: Path, scale: float, torch: str | None, classes: int, of_sum: float, of_torch: float) -> Case:
    array = logits(data, scale, classes)
    what = f"float32 logits, {classes:,} classes, in memory"

    def rows(found: Found) -> Iterator[Row]:
        ours, size = gbytes(array) / found("scan", "daskxent"), gbytes(array)
        yield Row.faster(what, ours, "sum", size / found("scan", "NumPy sum", "numba sum"), of_sum)
        yield than_torch(what, ours, size, found, "torch", of_torch, "GB/s")

    steps = {"scan": Step("scans.scan", array | {"sums": True}), **with_torch(array, torch)}
    return Case(f"scan-{classes}", [Step("scans.write", array)], steps, rows)


def halves(data: Path, scale: float, torch: str | None) -> Case:
    arrays = {name: logits(data, scale, dtype=dtype) for name, dtype in HALVES.items()}

    def rows(found: Found) -> Iterator[Row]:
        unit = "G elements/s"
        speed = {name: elements(array) / found(name) for name, array in arrays.items()}
        for name in list(HALVES)[1:]:
            what = f"{name} logits, 1,000 classes, in memory"
            yield Row.faster(what, speed[name], "our float32", speed["float32"], 0.8, unit)
            yield than_torch(what, speed[name], elements(arrays[name]), found, f"torch {name}", 8, unit)

    steps = {name: Step("scans.scan", array) for name, array in arrays.items()}
    for name in list(HALVES)[1:]:
        steps |= with_torch(arrays[name], torch, f"torch {name}")
    # The arrays differ in their rows.
    return Case("scan-half", [Step("scans.write", array) for array in arrays.values()], steps, rows, tolerance=0.2)


HALVES = {"float32": "f4", "float16": "f2", "bfloat16": "bfloat16"}


def probabilities(data: Path, scale: float) -> Case:
    array = logits(data, scale) | {"probabilities": True}

    def rows(found: Found) -> Iterator[Row]:
        theirs = gbytes(array) / found("scan", "NumPy sum", "numba sum")
        what = "float32 probabilities, 1,000 classes, in memory"
        yield Row.faster(what, gbytes(array) / found("scan", "daskxent"), "sum", theirs, 0.5)

    steps = {"scan": Step("scans.scan", array | {"sums": True})}
    return Case("scan-probabilities", [Step("scans.write", array)], steps, rows)


def maps(data: Path, scale: float) -> Case:
    side = max(8, int(512 * math.sqrt(scale)))
    array = {"data": str(data), "shape": [16, 21, side, side], "axis": 1}
    flat = {"data": str(data), "shape": [16 * side * side, 21]}

    def rows(found: Found) -> Iterator[Row]:
        ours, theirs = elements(array) / found("maps"), elements(flat) / found("last axis")
        what = f"float32 maps (16, 21, {side}, {side}), axis=1, in memory"
        yield Row.faster(what, ours, "our last axis, 21 classes", theirs, 0.5, "G elements/s")

    steps = {"maps": Step("scans.scan", array), "last axis": Step("scans.scan", flat)}
    return Case("scan-maps", [Step("scans.write", each) for each in (array, flat)], steps, rows, tolerance=0.2)


TOP_5 = {"metrics": ["crossentropy", "accuracy", "top_5_accuracy"]}


def special(data: Path, scale: float) -> Iterator[Case]:
    """Yield what goes other ways than whole rows of usual numbers with integer labels, compared with those."""
    array, small = logits(data, scale), logits(data, scale / 4)
    unit = array | {"probabilities": True}
    yield against("dense", "one-hot float32 labels", small, {"form": "one_hot"}, "integer labels", 0.25)
    yield against("smoothed", "label_smoothing=0.1", small, {"options": {"label_smoothing": 0.1}}, "without", 0.5)
    yield against("losses", "losses per row", array, {}, "evaluate", 0.5, "scans.losses")
    yield against("unnormalised", "probabilities that sum to 2", unit, {"form": "doubled"}, "that sum to 1", 0.3)
    yield against("nan", "logits with a NaN in each row", array, {"form": "not_numbers"}, "without", 0.3)
    yield against("top-5", "top_5_accuracy", logits(data, scale, 10), {"options": TOP_5}, "without", 0.5)
    yield against("blocks", "a list of four blocks of classes", array, {"form": "blocks"}, "one array", 0.5)
    yield against("dask", "dask arrays in memory, 16 chunks", array, {"form": "dask_arrays"}, "NumPy arrays", 0.5)


def against(
    name: str,
    what: str,
    array: dict[str, Any],
    differently: dict[str, Any],
    against: str,
    least: float,
    function: str = "scans.scan",
) -> Case:
    """Compare with an evaluation of the same array, which may have another answer."""

    def rows(found: Found) -> Iterator[Row]:
        text = f"{what}, {array['shape'][1]:,} classes"
        speeds = (elements(array) / found(step) for step in ("special", "usual"))
        yield Row.faster(text, next(speeds), against, next(speeds), least, "G elements/s")

    steps = {"special": Step(function, array | differently), "usual": Step("scans.scan", array)}
    return Case(name, [Step("scans.write", array)], steps, rows, tolerance=math.inf)
