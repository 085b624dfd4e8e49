"""Dask arrays: one task per chunk of predictions, and a tree of merges.

Each chunk of the predictions becomes one task, into which Dask fuses the chunk's own reading and whatever elementwise
work the user's graph does on it; where the class axis is split, a chunk yields the records of its rows, and one more
task per chunk of rows merges them. Predictions are rechunked in one case only: where a question needs whole rows (such
as for dense labels or the entropy) and the class axis is split, its chunks are joined. Labels and weights, a few bytes
a row, are cut to the row chunks of the predictions.

Only public functions of `dask.array` are used. Each task keeps the class axis, with length 1, in its output: Dask
does not fuse reads into a blockwise task that drops an axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.numbers import records
from daskxent.numbers.state import State, merge_all
from daskxent.run import code
from daskxent.run.planning import Plan
from daskxent.run.scoring import Block, as_dense, as_rows, scan
from daskxent.sources.align import Along, Inputs, marked
from daskxent.sources.boxes import Aligned, held_bytes, joined_bytes
from daskxent.sources.cuts import Even, chunked
from daskxent.sources.memory import Memory, Unstored, plain
from daskxent.sources.opening import is_dask
from daskxent.sources.sizes import USUAL, Sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from daskxent.numbers.question import Question
    from daskxent.sources.columns import Column
    from daskxent.sources.source import Box


def states(inputs: Inputs, question: Question, run: str = "") -> Any:
    """Return a dask array of one `State` per chunk of positions.

    Parameters
    ----------
    inputs : Inputs
        With dask predictions; what lies along them may be dask arrays or sources.
    question : Question
    run : str
        The run that computes the graph, once. Tasks of different runs have different keys: a cluster would answer with
        what it remembers. Empty for a graph of the user's, who may compute it again after something was rewritten.

    Returns
    -------
    dask.array.Array
        Of objects, with the axes of the positions.
    """
    return per_chunk(inputs, question, _state_of, dtype=object, size=_one, run=run)


def reduced(
    every: Any,
    finish: Callable[[State], Any],
    dtype: np.dtype[Any],
    split_every: int | None = None,
    run: str | None = None,
) -> Any:
    """Merge an array of `states`, as a tree of tasks, and finish what comes of it.

    Parameters
    ----------
    every : dask.array.Array
    finish : callable
        From the state of all rows to a number; must pickle.
    dtype : dtype
        Of that number.
    split_every : int, optional
        How many states a task of the tree merges; Dask's default otherwise.
    run : str, optional
        As for `states`; by default equal merges have equal keys.

    Returns
    -------
    dask.array.Array
        Without axes.
    """
    import dask.array as da

    aggregate = partial(_finish_block, finish=finish)
    return da.reduction(
        every,
        _same_block,
        aggregate,
        combine=_merge_block,
        dtype=dtype,
        meta=np.empty((), dtype),
        split_every=split_every,
        name=run,
    )


def merged(every: Any, run: str) -> Any:
    """Merge an array of `states` to one state, whose key no other run has."""
    return reduced(every, _boxed, np.dtype(object), run=run)


def deferred(inputs: Inputs, question: Question, finish: Callable[[State], Any], split_every: int | None) -> Any:
    """Return a `dask.delayed.Delayed` of what `finish` makes of the state of all rows."""
    from dask.delayed import delayed

    one = reduced(states(inputs, question), _boxed, np.dtype(object), split_every)
    return delayed(_unboxed)(one.to_delayed().item(), finish)  # which fuses tasks; an array would be taken as it is


def _boxed(state: State) -> NDArray[Any]:
    out = np.empty((), object)
    out[()] = state
    return out


def _unboxed(state: Any, finish: Callable[[State], Any]) -> Any:
    return finish(state.item() if isinstance(state, np.ndarray) else state)


def groups(inputs: Inputs, question: Question, size: int) -> Iterator[Any]:
    """Yield the array of `states` in groups of about `size` chunks."""
    every = states(inputs, question, run="groups")
    step = max(1, size // math.prod(every.numblocks[1:]))
    for first in range(0, every.numblocks[0], step):
        yield every.blocks[first : first + step]


def plan(inputs: Inputs, question: Question, threads: int) -> Plan:
    """Describe the evaluation of dask predictions: a part is a chunk of positions."""
    x = inputs.predictions
    dtype = x.dtype["value"] if x.dtype.names else x.dtype
    largest = math.prod(max(sizes) for sizes in x.chunks)
    chunk = 2 * largest * dtype.itemsize + joined_bytes(inputs, largest)
    length = inputs.positions[inputs.lead]
    rows = math.prod(max(sizes) for axis, sizes in enumerate(x.chunks) if axis != inputs.axis)
    return Plan(
        question=question,
        shape=tuple(x.shape),
        dtype=str(dtype),
        start=0,
        stop=length,
        step=1,
        cuts=chunked(x.chunks[inputs.lead_axis]),
        rows_per_step=inputs.rows_per_step,
        threads=threads,
        nbytes=math.prod(x.shape) * dtype.itemsize,
        chunks=math.prod(x.numblocks),
        memory=threads * chunk + held_bytes(inputs, threads, rows),
    )


def per_chunk(
    inputs: Inputs,
    question: Question,
    finish: Callable[[Block], NDArray[Any]],
    *,
    dtype: Any,
    size: Callable[[int], int] | None = None,
    run: str = "",
) -> Any:
    """Return a dask array made of one task per chunk of predictions.

    Parameters
    ----------
    inputs, question
        As for `states`.
    finish : callable
        From a `Block` to the array for its positions; must pickle.
    dtype : dtype
        Of the result.
    size : callable, optional
        From the length of a chunk of positions to that of the result; by default they are the same.
    run : str
        As for `states`.

    Returns
    -------
    dask.array.Array
        With the axes and the chunks of the positions.
    """
    import dask.array as da

    x = inputs.predictions
    if question.whole_rows and x.numblocks[inputs.axis] > 1:
        x = x.rechunk({inputs.axis: -1}, method="tasks")  # such a row cannot be scored class by class
    axes = tuple(range(x.ndim))
    at = axes[: inputs.axis] + axes[inputs.axis + 1 :]
    cut = partial(_cut, x=x, strict=question.on_missing == "raise", once=bool(run))
    dense = cut(inputs.dense_labels, axes, axes=axes) if inputs.dense else (None, None)
    columns = {name: cut(along.source, along.follows, axes=at) for name, along in inputs.along.items()}
    further = [arg for column in columns.values() for arg in column]
    further += (spans := [arg for axis in at for arg in (_spans(x, axis), (axis,))])
    along = {name: along.without_source() for name, along in inputs.along.items()}
    dtypes = x.dtype, inputs.dense_labels.dtype if inputs.dense and is_dask(inputs.dense_labels) else None
    task = Task(question, inputs.axis, inputs.positions, along, dtypes, finish, run, inputs.sizes)
    sizes: dict[int, Any] = {axis: tuple(map(size, x.chunks[axis])) if size else x.chunks[axis] for axis in at}
    blockwise = partial(da.blockwise, dtype=dtype, align_arrays=False, token="daskxent")
    empty = np.empty((0,) * x.ndim, dtype)
    if x.numblocks[inputs.axis] == 1:
        sizes[inputs.axis] = _one
        whole = blockwise(task.evaluate, axes, x, axes, *dense, *further, adjust_chunks=sizes, meta=empty)
        return whole[tuple(0 if axis == inputs.axis else slice(None) for axis in axes)]
    block = _spans(x, inputs.axis), (inputs.axis,)
    each = dict.fromkeys(axes, _one)
    records = da.blockwise(
        task.scan, axes, x, axes, *columns["labels"], *block, *spans, dtype=object, adjust_chunks=each,
        meta=empty.astype(object), align_arrays=False, token="daskxent-scan",
    )  # fmt: skip
    return blockwise(task.merge, at, records, axes, *further, adjust_chunks=sizes, meta=np.empty((0,) * len(at), dtype))


@dataclass(frozen=True)
class Task:
    """What is done with a chunk: pickles, and knows of the arrays only how the chunk lies in them.

    `dtypes` are those that the dask arrays of predictions and of dense labels promise for their chunks.
    The methods take, after what is scanned, a chunk of each array along the rows and where the chunk begins and ends.
    """

    question: Question
    axis: int
    positions: tuple[int, ...]
    along: Mapping[str, Along]
    dtypes: tuple[np.dtype[Any], np.dtype[Any] | None]
    finish: Callable[[Block], NDArray[Any]]
    run: str = ""
    sizes: Sizes = USUAL
    code: str = field(default_factory=code.digest)

    def evaluate(self, x: Any, dense: Any, *further: Any) -> NDArray[Any]:
        """Score and finish a chunk of all classes; the result keeps the class axis, with length 1."""
        values, _, unstored = self._rows(x, self.question.classes, further[len(self.along) :])
        missing = {"prediction_missing": unstored}
        if self.question.dense:
            dense, unknown = _apart(dense, "y_true", x.shape, self.dtypes[1])
            dense = as_dense(dense, self.axis)
            missing["label_missing"] = None if unknown is None else np.asarray(unknown.any(axis=self.axis))
        return np.expand_dims(self._finished(further, missing, values=values, dense=dense), self.axis)

    def scan(self, x: Any, labels: Any, block: Any, *spans: Any) -> NDArray[Any]:
        """Scan a block of some classes of a chunk of positions: records, and rows that are not stored."""
        out = np.empty((1,) * x.ndim, object)
        values, shape, unstored = self._rows(x, _lengths([block])[0], spans)
        sparse = self._column("labels", labels, shape).values
        out[(0,) * x.ndim] = scan(self.question, values, sparse, int(block[0]["start"]), self.sizes), unstored
        return out

    def merge(self, blocks: Any, *further: Any) -> NDArray[Any]:
        """Merge the records of all blocks of classes and finish the chunk."""
        scanned, gaps = zip(*(block.item() for block in blocks), strict=True)
        unstored = [rows for rows in gaps if rows is not None]
        missing = {"prediction_missing": np.logical_or.reduce(unstored) if unstored else None}
        return self._finished(further, missing, records=reduce(records.merge, scanned))

    def _rows(self, x: Any, classes: int, spans: Any) -> tuple[NDArray[Any], tuple[int, ...], NDArray[np.bool_] | None]:
        """Return a chunk of predictions as rows, the shape of its positions, and which of them are not stored."""
        code.check(self.code)
        shape = _lengths(spans)
        values, missing = _apart(x, "y_pred", (*shape[: self.axis], classes, *shape[self.axis :]), self.dtypes[0])
        rows = None if missing is None else np.asarray(missing.any(axis=self.axis))
        return as_rows(values, self.axis), shape, rows

    def _column(self, name: str, given: Any, shape: tuple[int, ...]) -> Column:
        along = self.along[name]
        part, missing = _apart(given, along.title, tuple(shape[axis] for axis in along.follows if axis is not None))
        return along.column(part, missing, shape)

    def _finished(
        self, further: tuple[Any, ...], missing: dict[str, NDArray[np.bool_] | None], **scanned: Any
    ) -> NDArray[Any]:
        """Finish a chunk of positions, with a chunk of each array along it, and then where it lies, `further`."""
        spans = further[len(self.along) :]
        shape, box = _lengths(spans), tuple(slice(*map(int, span[0])) for span in spans)
        columns = {name: self._column(name, given, shape) for name, given in zip(self.along, further, strict=False)}
        aligned = Aligned(box, columns)
        missing |= aligned.missing()
        known = {kind: rows.reshape(-1) for kind, rows in missing.items() if rows is not None}
        return self.finish(Block(self.question, aligned, self.positions, missing=known, sizes=self.sizes, **scanned))


def met(inputs: Inputs, fill: bool = False) -> Inputs:
    """Turn stored predictions into a dask array of their own chunks where anything along them is a dask array."""
    predictions, *others = inputs.sources()
    return in_dask(inputs, fill) if any(map(is_dask, others)) and not is_dask(predictions) else inputs


def in_dask(inputs: Inputs, fill: bool) -> Inputs:
    """Turn stored predictions into a dask array; with `fill` what is not stored is filled and reported, no error."""
    if is_dask(inputs.predictions):
        return inputs
    lead = inputs.lead_axis
    return replace(inputs, predictions=from_source(inputs.predictions, lead, inputs.sizes.piece_bytes, fill))


def from_source(source: Any, lead: int, piece_bytes: int, fill: bool = False) -> Any:
    """Return a source as a dask array of the source's own chunks, or of pieces along `lead` where it has none.

    With `fill` the array says what is not stored, and `states` and `per_chunk` know how to read it.
    """
    import dask.array as da

    cuts = [source.stored(axis) for axis in range(len(source.shape))]
    if cuts[lead] is None:
        step = max(1, piece_bytes * source.shape[lead] // max(1, math.prod(source.shape) * source.dtype.itemsize))
        cuts[lead] = Even(source.shape[lead], step)
    chunks = tuple(
        (n,) if each is None else tuple(stop - start for start, stop in each.ranges(0, n))
        for each, n in zip(cuts, source.shape, strict=True)
    )
    if isinstance(source, Memory):
        return da.from_array(source.array, chunks=chunks, name=False)
    held = _Marked(source, once=False) if fill else _Sliceable(source, once=False)
    return da.from_array(held, chunks=chunks, name=False, inline_array=True)


def _one(_: int) -> int:
    return 1


def _state_of(block: Block) -> NDArray[Any]:
    out = np.empty((1,) * len(block.positions), object)
    out[(0,) * out.ndim] = replace(block.evaluated(), covered=block.covered())
    return out


def _same_block(found: NDArray[Any], **_: Any) -> NDArray[Any]:
    return found


def _merge_block(found: NDArray[Any], **_: Any) -> NDArray[Any]:
    out = np.empty((1,) * found.ndim, object)
    out[(0,) * out.ndim] = merge_all(found.flat)
    return out


def _finish_block(found: NDArray[Any], finish: Callable[[State], Any], **_: Any) -> NDArray[Any]:
    return np.asarray(finish(merge_all(found.flat)))


def _spans(x: Any, axis: int) -> Any:
    """Return where the chunks of an axis start and stop: literal numbers for each chunk, no tasks."""
    import dask.array as da

    stops = np.cumsum(x.chunks[axis])
    spans = np.empty(len(stops), [("start", np.int64), ("stop", np.int64)])
    spans["start"], spans["stop"] = stops - x.chunks[axis], stops
    return da.from_array(spans, chunks=1)


def _lengths(spans: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(span[0]["stop"] - span[0]["start"]) for span in spans)


class _Sliceable:
    """A source as `dask.array.from_array` wants it; what is not stored is an error.

    It is read `once`, or anew each time, because what is stored may have been rewritten meanwhile.
    """

    def __init__(self, source: Any, once: bool) -> None:
        self.source, self.shape, self.dtype, self.ndim = source, source.shape, source.dtype, len(source.shape)
        self.once = once

    def __getitem__(self, index: tuple[Any, ...]) -> NDArray[Any]:
        steps = [i if isinstance(i, slice) else slice(i, i + 1) for i in index]
        box = tuple(slice(*step.indices(length)[:2]) for step, length in zip(steps, self.shape, strict=True))
        if not self.once:
            self.source.refresh()
        return self.read(box)[tuple(slice(None) if isinstance(i, slice) else 0 for i in index)]

    def read(self, box: Box) -> NDArray[Any]:
        """Read a copy: the source may reuse its memory for the next box."""
        return np.array(self.source.read(box))


class _Marked(_Sliceable):
    """A source that reads what is not stored as the fill value, and marks it: see `_apart`."""

    def __init__(self, source: Any, once: bool) -> None:
        super().__init__(source, once)
        value = object if source.dtype.kind == "T" else source.dtype  # which have no place in a structure
        self.dtype = np.dtype([("value", value), ("missing", bool)])

    def read(self, box: Box) -> NDArray[Any]:
        """Read values, and whether they are missing."""
        gaps: list[Box] = []
        values = self.source.read(box, gaps)
        marked_values = np.zeros(values.shape, self.dtype)
        marked_values["value"] = values
        if gaps:
            marked_values["missing"] = marked(gaps, box)
        return marked_values


def _promised(chunk: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any] | None) -> NDArray[Any]:
    """Return a chunk as a NumPy array, if it has the shape and the dtype, if any, that its dask array promised."""
    if np.shape(chunk) != shape:
        raise ValueError(f"{name}: a chunk of the dask array has shape {np.shape(chunk)} where {shape} was promised")
    array = plain(chunk, name)
    if dtype is not None and array.dtype.newbyteorder("=") != dtype.newbyteorder("="):
        raise TypeError(f"{name}: a chunk of the dask array has dtype {array.dtype} where {dtype} was promised")
    return array


def _apart(
    chunk: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any] | None = None
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return the values of a chunk, and which of them are missing; None if all are there."""
    array = _promised(chunk, name, shape, dtype)
    if array.dtype.names is None:
        return array, None
    return np.asarray(array["value"], order="C"), array["missing"] if array["missing"].any() else None


def _cut(
    source: Any, follows: tuple[int | None, ...], *, axes: tuple[int, ...], x: Any, strict: bool, once: bool
) -> tuple[Any, Any]:
    """Return a source cut to the chunks of `x`, and the axes of `x` that it lies along, as `blockwise` takes them.

    `follows` says which of `axes` each axis of the source follows.
    """
    import dask.array as da

    if isinstance(source, Memory) and not follows:
        return (_Marked(source, once).read(()) if isinstance(source, Unstored) else source.array), None  # a number
    lies = tuple(axes[axis] for axis in follows if axis is not None)
    chunks = tuple((1,) if axis is None else x.chunks[axes[axis]] for axis in follows)
    if is_dask(source):
        array = source if source.chunks == chunks else source.rechunk(chunks, method="tasks")
    elif isinstance(source, Memory):
        array = da.from_array(source.array, chunks=chunks, name=False)
    else:
        several = any(count > 1 for axis, count in enumerate(x.numblocks) if axis not in lies)
        if several:  # tasks side by side take the same
            source = source.shared()
        held = _Sliceable(source, once) if strict else _Marked(source, once)
        array = da.from_array(held, chunks=chunks, name=False, inline_array=True)
    if None in follows:
        array = array[tuple(0 if axis is None else slice(None) for axis in follows)]
    return array, lies
