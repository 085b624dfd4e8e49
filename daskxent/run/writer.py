"""Write dumps: batches of any length become shards, and a mark says how far the dump is.

Rows are held until they fill a shard; a shard is written once and never again. A mark says up to where all shards are
written, so that a writer that was killed leaves a dump of whole shards, which says how far it is complete.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from functools import cached_property
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.run.checking import at_least
from daskxent.run.dump_arrays import CODECS, FLOATS, Layout, as_dtype, chosen, columns_of, name_of, opened, taken
from daskxent.sources.dump_marks import MARK
from daskxent.sources.memory import from_lists
from daskxent.sources.paths import place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

WRITERS = 2  # shards that are written at a time: zarr alone keeps 1.3 cores busy


class Dump:
    """A dump that is being written, or a range of one: `create` and `reopen` make them.

    Use it as a context manager: at its end what is left is written and the dump is marked as complete. An error inside
    leaves it unfinished, with all shards that were full. Two shards are encoded and written while the next one is
    filled: an error of the storage is raised by a later `append`, or at the end. Three shards are held.

    Attributes
    ----------
    path : str
    steps : int
        Steps along the first axis that were appended so far.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as scratch:
    ...     with create(f"{scratch}/dump.zarr", classes=3) as dump:
    ...         dump.append(np.zeros((5, 3), "float32"), [0, 1, 2, 0, 1])
    ...         dump.append(np.zeros((2, 3), "float32"), [2, 2])
    >>> dump.steps
    7
    """

    def __init__(
        self,
        path: str,
        asked: Mapping[str, Any],
        layout: Layout | None = None,
        steps: int = 0,
        stretch: tuple[int, int] | None = None,
    ) -> None:
        self.path, self.steps = path, steps
        self._asked, self._layout = asked, layout
        self._stretch = stretch  # the steps that this one writes, if it is a range
        # One shard is filled while threads encode and write others.
        self._held: dict[str, NDArray[Any]] = {}
        self._spare: list[dict[str, NDArray[Any]]] = []
        self._writing: deque[tuple[Thread, dict[str, NDArray[Any]]]] = deque()
        self._failed: list[BaseException] = []
        self._metadata = Lock()  # zarr reads, changes and writes lengths and marks, which are in one file
        self._ended = False  # what was held is written: more steps would have to go into the same shard

    def __repr__(self) -> str:
        return f"Dump({self.path!r}, steps={self.steps})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._layout is not None and self.steps % self._layout.shard and not self._ended:
            raise ValueError(f"{self.path}: a dump that holds steps of a shard cannot be pickled; pickle its ranges")
        return Dump, (self.path, self._asked, self._layout, self.steps, self._stretch)

    def append(self, logits: Any, labels: Any = None, **columns: Any) -> None:
        """Add the next steps; full shards are written.

        Parameters
        ----------
        logits : (n, ..., C) array
            NumPy, torch (on any device) or JAX; converted to the dtype of the dump. The first batch decides on what
            `create` left open.
        labels : (n, ...) array of int, optional
            Here always or never.
        **columns : (n, ...) arrays
            Further arrays along the steps, such as ids of documents: the same in each batch.

        Raises
        ------
        FileExistsError
            Something came to the path after `create` had looked.
        ValueError
            Shapes do not fit one another, or those of before; numbers do not fit the dtype of the dump; there are
            other columns than before; more steps than the range has; the dump is finished.
        """
        if self._ended:
            raise ValueError(f"append: {self.path} is finished")
        given = {"logits": logits, **({} if labels is None else {"labels": labels}), **columns}
        arrays = {name: from_lists(each, name) for name, each in given.items()}
        layout = self._layout or self._laid_out(arrays)
        self._checked(arrays, layout)
        step = self._first + self.steps
        batch = {name: as_dtype(each, layout.dtypes[name], name, step) for name, each in arrays.items()}
        if self._layout is None:  # not before the batch is known to be good: what is there is replaced
            layout.create(self._asked["overwrite"])
            self._layout = layout
        self._add(batch, layout.shard)

    def _add(self, batch: Mapping[str, NDArray[Any]], shard: int) -> None:
        """Hold steps, and write shards as they become full."""
        done, count = 0, len(batch["logits"])
        while done < count:
            filled = self.steps % shard
            some = min(count - done, shard - filled)
            for name, each in batch.items():
                if name not in self._held:
                    self._held[name] = self._room(name, each, shard)
                self._held[name][filled : filled + some] = each[done : done + some]
            done, self.steps = done + some, self.steps + some
            if self.steps % shard == 0:
                self._write(shard)

    def _room(self, name: str, batch: NDArray[Any], shard: int) -> NDArray[Any]:
        """Return room for a shard; a writer killed while it finished the dump may have stored its first steps."""
        room, stored = np.empty((shard, *batch.shape[1:]), batch.dtype), self.steps % shard
        if stored:
            room[:stored] = self._arrays[name][self.steps - stored : self.steps]
        return room

    def part(self, start: int, stop: int) -> Dump:
        """Return a range of steps, to be written by another thread, process or machine.

        Parameters
        ----------
        start, stop : int
            Steps; multiples of `shard_steps`, or the end.

        Raises
        ------
        ValueError
            The length of the dump is not known; a border is inside a shard.
        """
        known = self._layout
        if known is None or known.length is None:
            raise ValueError("part: ranges can be written where create(..., steps=N) says how long the dump is")
        inside = [edge for edge in (start, stop) if edge % known.shard and edge != known.length]
        if inside or not 0 <= start < stop <= known.length:
            whole = f"whole shards of {known.shard} in {known.length} steps"
            raise ValueError(f"part: {start}:{stop} is not a range of {whole}")
        return Dump(self.path, self._asked, known, stretch=(start, stop))

    @property
    def shard_steps(self) -> int | None:
        """Steps of a shard; None as long as nothing is known of the predictions."""
        return None if self._layout is None else self._layout.shard

    def finish(self) -> None:
        """Write what is held, and mark the dump as complete; a range of one is only compared with its length.

        Raises
        ------
        ValueError
            Something was not written.
        """
        if self._layout is None:
            raise ValueError(f"{self.path}: nothing was appended")
        self._wait()
        self._check_length(self._layout.length or 0)
        if self._held and self.steps % self._layout.shard and not self._ended:  # after `reopen` nothing may be held
            self._write(self.steps % self._layout.shard)
        self._ended = True
        self._wait()
        if self._stretch is not None:
            return
        missing = self._layout.missing()
        if missing is not None:
            raise ValueError(f"{self.path}/{missing[0]}: the shard of step {missing[1]} was not written")
        self._layout.mark(self._arrays, complete=True)

    def _check_length(self, length: int) -> None:
        """Refuse to end before all steps were appended: a shard that is written counts, whatever it lacks."""
        if self._stretch is not None:
            start, stop = self._stretch
            if start + self.steps < stop:
                raise ValueError(f"{self.path}: the range {start}:{stop} ends after {self.steps} steps")
        elif self.steps and self.steps < length:
            raise ValueError(f"{self.path}: {self.steps} of {length} steps were appended")

    def __enter__(self) -> Dump:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        if kind is None:
            self.finish()
        for thread, _ in self._writing:
            thread.join()

    @property
    def _first(self) -> int:
        """The step at which it begins."""
        return 0 if self._stretch is None else self._stretch[0]

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        assert self._layout is not None
        return self._layout.arrays("r+")

    def _laid_out(self, arrays: Mapping[str, NDArray[Any]]) -> Layout:
        """Decide on the layout, by the first batch."""
        dtypes = {name: name_of(each.dtype) for name, each in arrays.items()}
        dtypes["logits"] = self._asked["dtype"] or dtypes["logits"]
        return chosen(self.path, {name: each.shape[1:] for name, each in arrays.items()}, dtypes, self._asked)

    def _checked(self, arrays: Mapping[str, NDArray[Any]], known: Layout) -> None:
        """Refuse a batch that does not fit what was appended before."""
        if set(arrays) != set(known.row):
            raise ValueError(f"append: expected {', '.join(known.row)}, got {', '.join(arrays)}")
        for name, each in arrays.items():
            if each.shape != (*arrays["logits"].shape[:1], *known.row[name]):
                expected = ", ".join(map(str, ("n", *known.row[name])))
                raise ValueError(f"{name}: expected shape ({expected}) along the other arrays, got {each.shape}")
        stop = known.length if self._stretch is None else self._stretch[1]
        reached = self._first + self.steps + len(arrays["logits"])
        if stop is not None and reached > stop:
            raise ValueError(f"append: {reached} steps, but the range ends after {stop}")

    def _write(self, count: int) -> None:
        """Begin to write so many steps that are held, the last ones that were appended."""
        self._wait(WRITERS - 1)
        self._lengthen()
        before = self._writing[-1][0] if self._writing else None
        thread = Thread(target=self._store, args=(self._held, count, self.steps, before), name="daskxent writer")
        thread.start()
        self._writing.append((thread, self._held))
        self._held = self._spare.pop() if self._spare else {}

    def _wait(self, most: int = 0) -> None:
        """Wait until at most so many shards are being written.

        An error of theirs is raised here, each time: no further shard must be written.
        """
        while len(self._writing) > most:
            thread, held = self._writing.popleft()
            thread.join()
            self._spare.append(held)
        if self._failed:
            raise self._failed[0]

    def _lengthen(self) -> None:
        """Let arrays of no known length reach to the steps that were appended: here, as threads do it in any order."""
        assert self._layout is not None
        try:
            for array in self._arrays.values() if self._layout.length is None else ():
                with self._metadata:
                    array.resize((self._first + self.steps, *array.shape[1:]))
        except BaseException as error:  # of whatever store
            self._failed.append(error)
            raise

    def _store(self, held: Mapping[str, NDArray[Any]], count: int, steps: int, before: Thread | None) -> None:
        """Write steps; mark the dump as complete so far when those before are written too."""
        assert self._layout is not None
        stop = self._first + steps
        try:
            for name, array in self._arrays.items():
                array[stop - count : stop] = held[name][:count]
            if before is not None:
                before.join()
            if self._stretch is None and not self._failed:
                with self._metadata:
                    self._layout.mark(self._arrays, complete=False, steps=steps)
        except BaseException as error:  # of whatever store: raised by the next append
            self._failed.append(error)


def create(
    path: str | os.PathLike[str],
    *,
    classes: int | None = None,
    dtype: Any = None,
    steps: int | None = None,
    positions: Sequence[int] = (),
    columns: Mapping[str, Any] | None = None,
    codec: str = "lz4",
    checksums: bool = False,
    chunk_bytes: int = 4 << 20,
    shard_bytes: int = 64 << 20,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Dump:
    """Create a dump to append batches of logits and labels to.

    Parameters
    ----------
    path : path or URL
        Of a new zarr group.
    classes : int, optional
        Compared with the batches.
    dtype : {"float16", "bfloat16", "float32", "float64"}, optional
        Of the logits; by default that of the first batch.
    steps : int, optional
        Length along the first axis, where it is known: ranges can then be written at once, see `Dump.part`. It takes
        `classes`, `dtype` and `columns`.
    positions : sequence of int
        Axes of a step other than the classes, such as the length of sequences; with `steps` only.
    columns : mapping of str to dtype, optional
        Further arrays along the steps; with `steps` only.
    codec : {"lz4", "zstd", "none"}
        lz4 after a shuffle of bytes is read fastest, zstd is smaller.
    checksums : bool
        Store a crc32c with each chunk, which is checked whenever it is read.
    chunk_bytes : int
        Bytes of logits that are decoded as one, about.
    shard_bytes : int
        Bytes of logits in a file, about; so much is held until it is written.
    overwrite : bool
        Replace what is there.
    storage_options : mapping, optional
        What the file system of a URL takes.

    Returns
    -------
    Dump

    Raises
    ------
    FileExistsError
        There is something at the path.
    ValueError
        An option is none of those above, or one is missing that `steps` needs.

    Examples
    --------
    >>> import tempfile
    >>> from daskxent import evaluate
    >>> with tempfile.TemporaryDirectory() as scratch:
    ...     with create(f"{scratch}/dump.zarr", classes=2) as dump:
    ...         for _ in range(3):
    ...             dump.append(np.eye(2, dtype="float32"), [0, 1])
    ...     evaluate(f"{scratch}/dump.zarr/labels", f"{scratch}/dump.zarr/logits", from_logits=True)["accuracy"]
    1.0
    """
    path, dtype = place(path), None if dtype is None else name_of(dtype, "dtype")
    if codec not in CODECS:
        raise ValueError(f"codec: expected one of {', '.join(CODECS)}, got {codec!r}")
    if dtype is not None and dtype not in FLOATS:
        raise ValueError(f"dtype: expected one of {', '.join(FLOATS)}, got {dtype!r}")
    counts = {"classes": classes, "steps": steps, "chunk_bytes": chunk_bytes, "shard_bytes": shard_bytes}
    for name, each in counts.items():
        if each is not None:
            at_least(1)(each, name)
    if steps is None and (positions or columns):
        name = "positions" if positions else "columns"
        raise ValueError(f"{name}: goes with steps=N; without, the first batch shows what there is")
    if not overwrite and _is_there(path, storage_options):
        raise taken(path)
    asked = {
        "classes": classes, "dtype": dtype, "codec": codec, "checksums": checksums, "storage": storage_options,
        "chunk_bytes": chunk_bytes, "shard_bytes": shard_bytes, "overwrite": overwrite,
    }  # fmt: skip
    if steps is None:
        return Dump(path, asked)
    if classes is None or dtype is None:
        raise ValueError("steps: classes= and dtype= must be given as well")
    further = columns_of(columns or {})
    positions = tuple(positions) if isinstance(positions, Iterable) else (positions,)
    for length in positions:
        at_least(1)(length, "positions")
    row = {"logits": (*positions, classes), "labels": tuple(positions), **dict.fromkeys(further, ())}
    known = chosen(path, row, {"logits": dtype, "labels": "int64", **further}, asked, steps)
    known.create(overwrite)
    return Dump(path, asked, known)


def reopen(path: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> Dump:
    """Open a dump that `create` began: to write ranges of it, to finish it, or to go on after its last shard.

    Parameters
    ----------
    path : path or URL
    storage_options : mapping, optional
        What the file system of a URL takes.

    Returns
    -------
    Dump

    Raises
    ------
    FileNotFoundError
        There is no such group.
    ValueError
        It was not written by `create`, or is complete.
    """
    path = place(path)
    arrays = {name: array for name, array in _arrays_in(path, storage_options) if MARK in array.attrs}
    if "logits" not in arrays:
        raise ValueError(f"{path} is not a dump that daskxent.create wrote")
    logits, marks = arrays["logits"], [each.attrs[MARK] for each in arrays.values()]
    mark, steps = logits.attrs[MARK], min(each["steps"] for each in marks)
    if all(each["complete"] for each in marks):
        raise ValueError(f"{path} is complete: it has {steps} steps")
    chunk = logits.chunks[0]
    known = Layout(
        path=path,
        row={name: each.shape[1:] for name, each in arrays.items()},
        dtypes={name: each.attrs[MARK]["view"] or name_of(each.dtype) for name, each in arrays.items()},
        chunk=chunk,
        shard=(logits.shards or (chunk,))[0],
        codec=mark["codec"],
        checksums=mark["checksums"],
        length=mark["length"],
        storage=storage_options,
    )
    return Dump(path, {}, known, 0 if known.length else steps)


def _arrays_in(path: str, storage: Mapping[str, Any] | None) -> Iterable[tuple[str, Any]]:
    """Return the arrays of a group, none of what is there and is no group."""
    try:
        found: Iterable[tuple[str, Any]] = opened(path, "r", storage).arrays()
    except (FileNotFoundError, ValueError) as error:  # zarr's, of files of any kind and of arrays
        if isinstance(error, FileNotFoundError) and not os.path.lexists(path):
            raise
        return ()
    return found


def _is_there(path: str, storage: Mapping[str, Any] | None) -> bool:
    """Return whether there is something at a path, or a group behind a URL."""
    if "://" not in path:
        return os.path.lexists(path)
    try:
        opened(path, "r", storage)
    except FileNotFoundError:
        return False
    return True
