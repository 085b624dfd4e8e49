"""Thousands of random questions to put to two revisions.

A question is made of its number and a seed alone, so that each process makes its own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import drawn
import numpy as np
from drawn import Draw
from question import MOST, Question, basic, laid, size, storable, without_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

EVERY = 150  # one question in this many is a large one


def question(seed: int, number: int) -> Question:
    """Make one question."""
    draw = Draw(seed, number)
    if number % EVERY == EVERY - 1:
        return LARGE[number // EVERY % len(LARGE)](draw)
    return storable(draw.weighted(FAMILIES)(draw))


# --- Families. ---


def in_memory(draw: Draw) -> Question:
    asked = basic(draw, *size(draw))
    layouts = ("plain", "plain", "plain", "fortran", "strided", "reversed", "swapped", "readonly", "npy")
    kinds = {name: {"kind": draw.among(layouts)} for name in ("y_true", "y_pred", "sample_weight")}
    if draw.chance(4) and asked.y_pred.size < 5_000:
        kinds["y_true"] = {"kind": "lists"}
    return asked._replace(stored=kinds)


def stored(draw: Draw, kinds: tuple[str, ...] = ("zarr3", "zarr3", "zarr2", "sharded"), most: int = 60) -> Question:
    """Return an evaluation of zarr arrays, with chunks of any shape, over classes as well."""
    asked = basic(draw, *size(draw))
    how = {"y_pred": chunked(draw, asked.y_pred.shape, draw.among(kinds), most)}
    for name in ("y_true", "sample_weight"):
        given = getattr(asked, name)
        along = draw.chance(70) and isinstance(given, np.ndarray) and given.ndim
        how[name] = chunked(draw, given.shape, draw.among(kinds), most) if along else {"kind": "plain"}
        if along and draw.chance(12):
            how[name] = {"kind": "dask", "chunks": tuple(draw.cuts(n) for n in given.shape)}
    asked = delayed(draw, asked._replace(stored=how)) if draw.chance(6) else asked._replace(stored=how)
    for each in how.values() if racing(asked) else ():
        each["empty"] = True  # else chunks of zeros are missing
    return asked


def chunked(draw: Draw, shape: tuple[int, ...], kind: str, most: int) -> dict[str, Any]:
    """Return how a zarr array is stored: in at most this many chunks."""
    while True:
        chunks = tuple(draw.among([n, n, -(-n // 2), 1 + draw.below(n)]) for n in shape)
        if math.prod(-(-n // chunk) for n, chunk in zip(shape, chunks, strict=True)) <= most:
            break
    how: dict[str, Any] = {"kind": kind, "chunks": chunks, "opened": draw.chance(20)}
    if kind == "sharded":
        how["shards"] = tuple(chunk * (1 + draw.below(3)) for chunk in chunks)
    # What is not usual (another order of axes or bytes, a store in memory) is read in other ways.
    how["codec"] = draw.weighted({"zstd": 4, "blosc": 4, "none": 4, "gzip": 2, "lz4": 1, "zlib": 1, "checked": 2})
    how["unusual"] = draw.weighted({"": 20, "turned": 1, "swapped": 1, "memory": 2})
    return how


def racing(asked: Question) -> bool:
    """Return whether tasks race: which error is raised is then a matter of chance."""
    return asked.call == "delayed" or any(how["kind"] == "dask" for how in asked.stored.values())


def delayed(draw: Draw, asked: Question) -> Question:
    """Return the same evaluation, as a Delayed."""
    return asked._replace(call="delayed", extra=asked.extra | {"split_every": draw.among([None, 2, 3])})


def with_gaps(draw: Draw) -> Question:
    """Return an evaluation of zarr arrays of which some chunks are not stored."""
    asked = stored(draw, ("zarr3", "zarr2"), most=20)
    for name in ("y_true", "y_pred", "sample_weight"):
        if draw.chance(60) and "codec" in asked.stored[name]:
            asked.stored[name] |= {"gaps": 1 + draw.below(3), "unusual": ""}
    chosen = draw.weighted({"fill": 6, "raise": 2, None: 2} if not racing(asked) else {"fill": 1})
    return asked._replace(options=asked.options | ({"on_missing": chosen} if chosen else {}))


def lazy(draw: Draw, rows: int = 0, classes: int = 0) -> Question:
    """Return an evaluation of dask arrays, with unequal chunks over every axis."""
    asked = basic(draw, rows, classes) if rows else basic(draw, *size(draw))
    how = {}
    for name in ("y_true", "y_pred", "sample_weight"):
        given = getattr(asked, name)
        if isinstance(given, np.ndarray) and (name == "y_pred" or draw.chance(50)):
            how[name] = {"kind": "dask", "chunks": tuple(draw.cuts(n) for n in given.shape)}
    asked = asked._replace(stored=how)
    return delayed(draw, asked) if draw.chance(15) else asked


def blocks(draw: Draw) -> Question:
    """Return an evaluation of blocks of classes, each an array of its own."""
    rows, classes = size(draw)
    asked = basic(draw, rows, max(2, classes))
    axis = asked.options.get("axis", -1)
    how: dict[str, Any] = {"kind": "blocks", "axis": axis, "widths": draw.cuts(asked.y_pred.shape[axis], 5)}
    how["of"] = draw.among(["plain", "plain", "npy", "zarr3", "zarr2", "dask"])
    return asked._replace(stored={"y_pred": how})


def streamed(draw: Draw) -> Question:
    return draw.among([in_memory, stored, lazy])(draw)._replace(call="stream")


def in_two_ranges(draw: Draw) -> Question:
    """Return two evaluations of ranges of steps, whose reports are merged."""
    asked = draw.among([in_memory, stored])(draw)
    axis = asked.options.get("axis", -1) % asked.y_pred.ndim
    steps = asked.y_pred.shape[1 if axis == 0 else 0]
    cut = 1 + draw.below(max(1, steps - 1))  # ranges without steps were refused before
    return asked._replace(call="merged", extra=asked.extra | {"steps": steps, "cut": cut})


def journaled(draw: Draw) -> Question:
    asked = stored(draw)
    for how in asked.stored.values():
        if "codec" in how:
            how |= {"opened": False, "unusual": ""}  # what is to be verified must have been given as a path
    return asked._replace(call="journaled")


def loss(draw: Draw) -> Question:
    """Return losses: per row, as a function or a class, or reduced."""
    dense = draw.chance(35)
    asked = draw.among([in_memory, in_memory, stored, lazy])(draw)
    rows, classes = _rows_and_classes(asked)
    if dense != (asked.y_true.ndim == asked.y_pred.ndim and asked.y_true.shape == asked.y_pred.shape):
        asked = basic(draw, min(rows, MOST // classes) or 1, classes, dense)
    options = {name: asked.options[name] for name in ("from_logits", "axis") if name in asked.options}
    other = "label_smoothing" if dense else "ignore_class"
    options |= {other: asked.options[other]} if other in asked.options else {}
    name = "categorical_crossentropy" if dense else "sparse_categorical_crossentropy"
    if racing(asked):
        asked = without_errors(asked)
    asked = as_keras_takes_it(draw, asked)._replace(options=options, extra={"name": name})
    if draw.chance(35):
        return asked._replace(call="loss_function")
    chosen = draw.among(["none", None, "sum", "sum_over_batch_size", "mean_with_sample_weight", "auto", "mean"])
    options |= {"reduction": chosen} | ({"dtype": draw.among(["float64", "float16"])} if draw.chance(40) else {})
    return asked._replace(call="loss_class")


def as_keras_takes_it(draw: Draw, asked: Question) -> Question:
    """Return arrays for losses and metrics: without a view, sometimes lists, float labels, or no rows at all."""
    asked = asked._replace(y_pred=_as_numbers(asked))
    if draw.chance(10):
        asked = asked._replace(y_true=asked.y_true.astype(draw.among(["f4", "f8"])))
    if draw.chance(6) and asked.y_pred.size < 2_000:
        return asked._replace(stored=asked.stored | {"y_pred": {"kind": "lists"}})
    if draw.chance(3):
        axis = asked.options.get("axis", -1) % asked.y_pred.ndim
        y_true, y_pred = asked.y_true[:0], asked.y_pred[:, :0] if axis == 0 else asked.y_pred[:0]
        return asked._replace(y_true=y_true, y_pred=y_pred, sample_weight=None, stored={})
    return asked


def metric(draw: Draw) -> Question:
    """Return a metric with a Keras name, updated several times, perhaps merged."""
    rows, classes = size(draw)
    name = draw.among([
        "SparseCategoricalCrossentropy", "CategoricalCrossentropy", "SparseCategoricalAccuracy", "CategoricalAccuracy",
        "SparseTopKCategoricalAccuracy", "TopKCategoricalAccuracy",
    ])  # fmt: skip
    asked = basic(draw, rows, classes, dense=not name.startswith("Sparse"))
    options: dict[str, Any] = {}
    if name.endswith("Crossentropy"):
        own = ("from_logits", "axis", "ignore_class" if name.startswith("Sparse") else "label_smoothing")
        options = {key: asked.options[key] for key in own if key in asked.options}
    elif asked.options.get("axis", -1) % asked.y_pred.ndim != asked.y_pred.ndim - 1:
        return metric(draw)  # these take the class axis last
    if "TopK" in name and draw.chance(70):
        options["k"] = 1 + draw.below(8)
    options |= {"dtype": "float64"} if draw.chance(50) else {}
    steps = asked.y_pred.shape[1 if options.get("axis", -1) in (0, -asked.y_pred.ndim) else 0]
    extra = {"name": name, "cuts": draw.cuts(steps, 4), "merged": draw.chance(40), "axis": options.get("axis", -1)}
    asked = as_keras_takes_it(draw, asked)
    return asked._replace(call="metric", stored={}, options=options, extra=extra)


def misfit(draw: Draw) -> Question:
    """Return what is an error: arrays that do not fit, dtypes and options that are not known."""
    asked = basic(draw, 1 + draw.below(20), 1 + draw.below(20))
    options: dict[str, Any] = draw.among([
        {"axis": 9}, {"axis": 1.5}, {"metrics": ["nonsense"]}, {"metrics": []}, {"metrics": ["top_0_accuracy"]},
        {"label_smoothing": 1.5}, {"label_smoothing": "much"}, {"on_invalid": "ignore"}, {"on_missing": "skip"},
        {"ignore_class": 0.5}, {"ignore_class": 1 << 64}, {"from_logits": "yes"}, {"view": "float8"},
        {"threads": 0}, {"allow_negative_weights": 1}, {"metrics": 5}, {},
    ])  # fmt: skip
    change = draw.below(8)
    if change == 0:
        asked = asked._replace(y_true=asked.y_true[..., :-1])
    elif change == 1:
        asked = asked._replace(y_pred=np.ones(asked.y_pred.shape, draw.among(["i8", "i2", "u2", "?"])))
    elif change == 2:
        asked = asked._replace(sample_weight=np.ones(asked.y_pred.shape[0] + 1))
    elif change == 3:
        asked = asked._replace(y_true=asked.y_true.astype(np.float64) + 0.25)
    elif change == 4:
        asked = asked._replace(y_pred=asked.y_pred.reshape(-1))
    elif change == 5:
        asked = asked._replace(y_true=asked.y_pred, y_pred=asked.y_true)
    return asked._replace(options=asked.options | options)


def on_a_cluster(draw: Draw) -> Question:
    """Return an evaluation by other processes."""
    asked = draw.among([in_memory, stored, stored, lazy, blocks])(draw)
    options = asked.options | {"on_invalid": draw.among(["skip", "count"]), "allow_negative_weights": True}
    asked = asked._replace(call=draw.among(["evaluate", "evaluate", "stream"]), options=options)
    return without_errors(asked)._replace(extra={"cluster": True})


FAMILIES: dict[Callable[[Draw], Question], int] = {
    in_memory: 38, stored: 18, lazy: 11, blocks: 7, with_gaps: 3, streamed: 2, in_two_ranges: 2, journaled: 1,
    loss: 9, metric: 5, misfit: 2, on_a_cluster: 2,
}  # fmt: skip


def _rows_and_classes(asked: Question) -> tuple[int, int]:
    classes = asked.y_pred.shape[asked.options.get("axis", -1)]
    return asked.y_pred.size // classes, classes


def _as_numbers(asked: Question) -> NDArray[Any]:
    """Return predictions as what their bits stand for: losses and metrics know no `view`."""
    import ml_dtypes

    return asked.y_pred.view(ml_dtypes.bfloat16) if "view" in asked.options else asked.y_pred


# --- Large questions: one on each side of what the small ones cannot reach. ---


def large(rows: int, classes: int, dtype: str = "f4", **given: Any) -> Callable[[Draw], Question]:
    """Return a maker of a question of usual logits, or of what `kind` says."""

    def make(draw: Draw) -> Question:
        kind = given.get("kind", drawn.bell)
        values = drawn.rounded(kind(draw, rows, classes), dtype)
        positions, axis = given.get("positions", (rows,)), given.get("axis", -1)
        options = {"metrics": ["crossentropy", "accuracy", "top_3_accuracy"], "axis": axis, "on_invalid": "skip"}
        options |= {"from_logits": kind in drawn.LOGITS, **given.get("options", {})}
        labels = draw.integers(0, classes, rows).reshape(positions)
        if given.get("dense"):
            labels = np.eye(classes, dtype=np.float32)[labels]
        weights = draw.integers(0, 5, *positions) * 0.1 if given.get("weighted", draw.chance(50)) else None
        extra = {"threads": given.get("threads", 2), **given.get("extra", {})}
        y_pred = laid(draw, values, positions, axis)
        return Question(given.get("call", "evaluate"), labels, y_pred, weights, options, given.get("stored", {}), extra)

    return make


def _zarr(*chunks: int, codec: str = "zstd") -> dict[str, Any]:
    return {"y_pred": {"kind": "zarr3", "chunks": chunks, "codec": codec}}


def _dask(*chunks: tuple[int, ...]) -> dict[str, Any]:
    return {"y_pred": {"kind": "dask", "chunks": chunks}}


def not_a_number(draw: Draw, rows: int, classes: int) -> NDArray[np.float64]:
    """Return rows of which every second one has a NaN."""
    values = drawn.bell(draw, rows, classes)
    values[::2, draw.below(classes)] = np.nan
    return values


def many_losses(draw: Draw) -> Question:
    asked = large(300_000, 10, weighted=True)(draw)
    options = {"from_logits": True, "reduction": "none"}
    return asked._replace(call="loss_class", options=options, extra={"name": "sparse_categorical_crossentropy"})


LARGE = (
    large(20_000, 1_000, threads=1),  # 80 MB: several pieces of memory
    large(20_000, 1_000, threads=2),  # several parts
    large((1 << 22) + 5, 2, "f2"),  # rows of more than a part
    large((1 << 19) + 3, 3, weighted=True),  # rows of more than one reading of labels
    large((1 << 19) + 3, 3, kind=drawn.normalised, weighted=False),
    large(4, 1 << 19),  # as many classes as can be
    large(1, (1 << 19) + 1),  # one more
    large(12_000, 300, kind=drawn.unnormalised),  # exceptional rows beyond one copy
    large(6_000, 400, kind=not_a_number, options={"from_logits": True}),
    large(4 * 130 * 130, 21, positions=(4, 130, 130), axis=1),
    large(70_000, 10, dense=True),
    large(70_000, 10, kind=drawn.normalised, dense=True),
    large(70_000, 10, options={"label_smoothing": 0.1}),
    large(40_000, 100, stored=_zarr(10_000, 100, codec="none")),  # mapped files
    large(3_000, 2_000, stored=_zarr(1_000, 700)),
    large(30_000, 10, stored=_zarr(100, 10, codec="none")),  # many chunks
    large(100_000, 10, stored=_dask((30_000, 45_000, 25_000), (10,))),
    large(3_000, 1_000, stored=_dask((1_000, 2_000), (300, 700))),
    many_losses,
    large(64, 20_000, "f8"),
)  # fmt: skip
