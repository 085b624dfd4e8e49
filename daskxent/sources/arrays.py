"""Open whatever holds an array as a `Source`: something with a shape that reads boxes.

Nothing here loads data: a path becomes an open zarr array or a memory map, which is read piece by piece.
"""

from __future__ import annotations

import itertools
import math
import os
import pickle
import threading
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from daskxent.sources.chunks import Chunks, Scratch
from daskxent.sources.kept import KEPT, Opening
from daskxent.sources.layout import layout_digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

Box = tuple[slice, ...]

ADDRESS_BYTES = 1024  # a store whose pickle is longer holds the data itself


class Source(Protocol):
    """An array that can be read by boxes from any thread or process; pickles."""

    @property
    def name(self) -> str:
        """What the array is called in messages."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements as they are read."""

    @property
    def blocks(self) -> tuple[int, ...] | None:
        """Length along every axis of what is stored, read and decoded as one; None where any box is cheap."""

    @property
    def pieces(self) -> tuple[int, ...] | None:
        """Length along every axis of what is decoded as one; None where any box is cheap."""

    def read(self, box: Box, absent: list[Box] | None = None) -> NDArray[Any]:
        """Read the elements in a box of slices with steps of 1.

        What is not stored reads as the fill value and its box is added to `absent`; without a list to add it to,
        it is an error.
        """

    def refresh(self) -> None:
        """Make the calling thread look anew at what is stored: it may have been rewritten since the last read."""


@dataclass(frozen=True)
class Memory:
    """A NumPy array."""

    array: NDArray[Any]
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return self.array.dtype

    @property
    def blocks(self) -> None:
        """None: any box is cheap."""
        return

    pieces = blocks

    def read(self, box: Box, absent: list[Box] | None = None) -> NDArray[Any]:
        """Return a view of the elements in a box."""
        return self.array[box]

    def refresh(self) -> None:
        """Do nothing: nothing is remembered."""


@dataclass(frozen=True)
class Window:
    """What a NumPy array holds from `offset` to `offset + len(held)` along one axis, addressed as if it were whole."""

    held: NDArray[Any]
    name: str
    shape: tuple[int, ...]
    axis: int
    offset: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return self.held.dtype

    @property
    def blocks(self) -> None:
        """None: any box is cheap."""
        return

    pieces = blocks

    def read(self, box: Box, absent: list[Box] | None = None) -> NDArray[Any]:
        """Return a view of the elements in a box, which must lie inside the window."""
        at = box[self.axis]
        moved = slice(at.start - self.offset, at.stop - self.offset)
        return self.held[(*box[: self.axis], moved, *box[self.axis + 1 :])]

    refresh = Memory.refresh


@dataclass(frozen=True)
class Npy:
    """A ``.npy`` file, mapped anew for each read so that the pages read before can leave memory."""

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def open(cls, path: str, name: str) -> Npy:
        """Read the header of a file."""
        try:
            array = np.lib.format.open_memmap(path, mode="r")
        except ValueError as error:
            raise ValueError(f"{name}: {path} cannot be read as a .npy array: {error}") from error
        return cls(path, name, array.shape, array.dtype)

    @property
    def blocks(self) -> None:
        """None: any box is cheap."""
        return

    pieces = blocks

    def read(self, box: Box, absent: list[Box] | None = None) -> NDArray[Any]:
        """Map the file and return a view of the elements in a box."""
        return np.asarray(np.lib.format.open_memmap(self.path, mode="r")[box])

    refresh = Memory.refresh


class Zarr:
    """A zarr array of format 2 or 3, on any store, read chunk by chunk.

    Each thread keeps the chunk it read last, so that neighbouring boxes of one chunk decode it once. A chunk of which
    a box takes only a part is also kept for all threads: see `kept`.

    Parameters
    ----------
    array : zarr.Array
    name : str
    opening : Opening, optional
        That of an array that was opened before, in this process or another one.
    shared : bool
        Whether chunks that a box takes whole are kept as well, because other boxes take them too.
    """

    def __init__(self, array: Any, name: str, opening: Opening | None = None, shared: bool = False) -> None:
        self.array, self.name, self.opening, self.shared = array, name, opening or Opening(), shared
        self.chunks = Chunks(array, name)
        self._thread = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        rest = self.name, self.opening, self.shared
        # Once for every task of a run: the address of an array takes a tenth of its pickle.
        return (Zarr, (self.array, *rest)) if self._address is None else (_at, (*self._address, *rest))

    @cached_property
    def _address(self) -> tuple[str | bytes, str, Any, str] | None:
        """Where another process finds the array, and what to know it by; None if its store holds the data itself."""
        from zarr.storage import LocalStore

        store = self.array.store
        where = str(store.root.absolute()) if type(store) is LocalStore else pickle.dumps(store)
        if len(where) > ADDRESS_BYTES:
            return None
        return where, self.array.path, self.array.metadata.zarr_format, layout_digest(self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        return self.chunks.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return self.chunks.dtype

    @property
    def blocks(self) -> tuple[int, ...]:
        """Shape of a shard, or of a chunk where there are no shards."""
        return self.chunks.blocks

    @property
    def pieces(self) -> tuple[int, ...]:
        """Shape of what is decoded as one: a chunk, or an inner chunk of a shard."""
        return self.chunks.chunks

    def read(self, box: Box, absent: list[Box] | None = None) -> NDArray[Any]:
        """Read a box; inside one chunk the result is a view, good until the thread's next read."""
        pieces = self.pieces
        first = tuple([s.start // n for s, n in zip(box, pieces, strict=True)])
        last = tuple([(s.stop - 1) // n for s, n in zip(box, pieces, strict=True)])
        if first == last:
            return self._part(first, box, absent)
        out = np.empty(tuple(s.stop - s.start for s in box), self.dtype)
        for index in itertools.product(*(range(i, j + 1) for i, j in zip(first, last, strict=True))):
            part = tuple(
                slice(max(s.start, i * n), min(s.stop, (i + 1) * n)) for s, i, n in zip(box, index, pieces, strict=True)
            )
            target = tuple(slice(p.start - s.start, p.stop - s.start) for p, s in zip(part, box, strict=True))
            out[target] = self._part(index, part, absent)
        return out

    def refresh(self) -> None:
        """Forget what the calling thread read last, and take what is kept only if its file is the same."""
        mine = self._mine()
        mine.index = mine.chunk = mine.scratch.shard = None
        mine.versions = True

    def _part(self, index: tuple[int, ...], box: Box, absent: list[Box] | None) -> NDArray[Any]:
        chunk = self._chunk(index, box)
        if chunk is not None:
            return chunk[tuple(slice(s.start - i * n, s.stop - i * n) for s, i, n in zip(box, index, self.pieces))]  # noqa: B905 - hot
        if absent is None:
            raise self.chunks.missing(index)
        absent.append(box)
        return np.broadcast_to(np.full(1, self.chunks.fill(), self.dtype), tuple(s.stop - s.start for s in box))

    def _chunk(self, index: tuple[int, ...], box: Box) -> NDArray[Any] | None:
        mine = self._mine()
        if mine.index != index:
            mine.index = mine.chunk = None
            if self.shared or self._more(index, box):
                mine.chunk = self._kept(index, mine)
            else:
                mine.chunk = self.chunks.read(index, mine.scratch)
            mine.index = index
        return mine.chunk  # type: ignore[no-any-return]

    def _kept(self, index: tuple[int, ...], mine: Any) -> NDArray[Any] | None:
        """Read a chunk that other boxes will take too."""
        version = self.chunks.version(index) if mine.versions else ()
        if version is None:
            return self.chunks.read(index, mine.scratch)
        return KEPT.get((self.opening.key, index, version), partial(self.chunks.read_apart, index, mine.scratch))

    def _more(self, index: tuple[int, ...], box: Box) -> bool:
        """Tell whether there is more in a chunk than a box takes: other boxes will take the rest."""
        lengths = tuple([s.stop - s.start for s in box])
        return lengths != self.pieces and lengths != self.chunks.extent(index)

    def _mine(self) -> Any:
        """Return what the calling thread remembers."""
        mine = self._thread
        if not hasattr(mine, "index"):
            mine.index, mine.chunk, mine.scratch = None, None, Scratch()
            mine.versions = False  # whether files may have been rewritten since what is kept was read
        return mine


def _at(where: str | bytes, path: str, zarr_format: Any, digest: str, name: str, *rest: Any) -> Zarr:
    return Zarr(_opened_again(where, path, zarr_format, digest, name), name, *rest)


@lru_cache(maxsize=64)
def _opened_again(where: str | bytes, path: str, zarr_format: Any, digest: str, name: str) -> Any:
    """Open an array, but keep none of its chunks, which may be rewritten between two runs."""
    import zarr

    store = where if isinstance(where, str) else pickle.loads(where)
    array = zarr.open_array(store, path=path, mode="r", zarr_format=zarr_format)
    if layout_digest(array) != digest:
        raise ValueError(f"{name}: the shape or the storage of {array.store_path} has changed since it was opened")
    return array


class Joined:
    """Consecutive blocks of classes, each an array of its own, as one array."""

    def __init__(self, members: list[Any], axis: int) -> None:
        self.members, self.axis = members, axis
        widths = [member.shape[axis] for member in members]
        self.starts = [0, *itertools.accumulate(widths)]
        first = members[0].shape
        self.name = members[0].name
        self.shape = (*first[:axis], self.starts[-1], *first[axis + 1 :])
        self.dtype = members[0].dtype
        self.blocks = members[0].blocks
        self.pieces = members[0].pieces

    def read(self, box: Box, absent: list[Box] | None = None) -> NDArray[Any]:
        """Read a box; over several members it is put together."""
        classes = box[self.axis]
        parts = []
        for member, start, stop in zip(self.members, self.starts, self.starts[1:], strict=False):
            low, high = max(classes.start, start), min(classes.stop, stop)
            if low < high:
                inside = (*box[: self.axis], slice(low - start, high - start), *box[self.axis + 1 :])
                missing: list[Box] | None = None if absent is None else []
                parts.append(member.read(inside, missing))
                if absent is not None and missing:
                    absent += [self._whole(gap, start) for gap in missing]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=self.axis)

    def refresh(self) -> None:
        """Refresh all members."""
        for member in self.members:
            member.refresh()

    def _whole(self, box: Box, start: int) -> Box:
        """Count a member's box from the first class of all."""
        classes = slice(box[self.axis].start + start, box[self.axis].stop + start)
        return (*box[: self.axis], classes, *box[self.axis + 1 :])


class Viewed:
    """An array of uint16 that holds bfloat16 numbers: zarr has no type for them."""

    def __init__(self, source: Any) -> None:
        from ml_dtypes import bfloat16

        self.source, self.name, self.shape = source, source.name, source.shape
        self.dtype: np.dtype[Any] = np.dtype(bfloat16)
        self.blocks, self.pieces = source.blocks, source.pieces

    def read(self, box: Box, absent: list[Box] | None = None) -> NDArray[Any]:
        """Read a box and take its bits for bfloat16."""
        bits: NDArray[Any] = _native(self.source.read(box, absent))
        return bits.view(self.dtype)

    def refresh(self) -> None:
        """Refresh what is viewed."""
        self.source.refresh()


def _native(array: Any) -> Any:
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def class_cuts(source: Source, axis: int) -> list[int]:
    """Return where the blocks of classes begin that `source` can read one at a time, and where the last one ends."""
    if isinstance(source, Joined):
        inner = zip(source.members, source.starts, strict=False)
        return [*(start + cut for member, start in inner for cut in class_cuts(member, axis)[:-1]), source.starts[-1]]
    width, classes = source.pieces[axis] if source.pieces else source.shape[axis], source.shape[axis]
    return [*range(0, classes, max(1, width)), classes]


def tiny(source: Source, below: int) -> bool:
    """Tell whether pieces hold so few bytes that threads would only take turns at reading them."""
    if isinstance(source, Joined):
        return tiny(source.members[0], below)
    if isinstance(source, Viewed):
        return tiny(source.source, below)
    if not isinstance(source, Zarr) or not source.chunks.local:
        return False
    return math.prod(source.pieces) * source.dtype.itemsize < below


def window(source: Any, axis: int | None, start: int, stop: int) -> Any:
    """Return a source that holds no more of an in-memory array than ``start <= index < stop`` along `axis`."""
    if isinstance(source, Joined):
        return Joined([window(member, axis, start, stop) for member in source.members], source.axis)
    if isinstance(source, Viewed):
        return Viewed(window(source.source, axis, start, stop))
    if not isinstance(source, Memory) or axis is None:
        return source
    held = source.array[(slice(None),) * axis + (slice(start, stop),)]
    return Window(held, source.name, source.shape, axis, start)


def is_dask(given: Any) -> bool:
    """Whether `given` is a dask array."""
    return type(given).__module__.startswith("dask.array") and hasattr(given, "dask")


def open_array(given: Any, name: str) -> Any:
    """Open an array wherever it is.

    Parameters
    ----------
    given : str, Path, zarr.Array, numpy.ndarray, xarray.DataArray, dask.array.Array, or nested lists of numbers
        A path or URL ends in ``.npy`` or names a zarr array, inside its group: ``dump.zarr/logits``.
    name : str
        What the array is called in messages.

    Returns
    -------
    Source or dask.array.Array
        A dask array is returned as it is.

    Raises
    ------
    FileNotFoundError
        There is nothing at the path.
    ValueError
        The path is a group, or what is there is no array; a dask array has chunks of unknown length.
    TypeError
        `given` is none of the above.

    Examples
    --------
    >>> open_array([[1, 2], [3, 4]], "y_pred").shape
    (2, 2)
    """
    given = _unwrapped(given)
    if is_dask(given):
        if any(np.isnan(size) for sizes in given.chunks for size in sizes):
            raise ValueError(f"{name}: its dask chunks have unknown lengths; call compute_chunk_sizes() on it first")
        return given
    if isinstance(given, (str, Path)):
        return _open_path(os.fspath(given), name)
    if isinstance(given, np.ndarray):
        return Memory(plain(given, name), name)
    if type(given).__module__.partition(".")[0] == "zarr":
        if not hasattr(given, "chunks"):
            raise ValueError(f"{name}: {_members(given, str(given.store_path))}")
        return Zarr(given, name)
    if isinstance(given, (list, tuple, int, float)) or hasattr(given, "__array__"):
        return Memory(_from_lists(given, name), name)
    raise TypeError(
        f"{name}: expected a path, a zarr, NumPy, dask or xarray array, or lists of numbers; got {type(given).__name__}"
    )


def plain(given: Any, name: str) -> NDArray[Any]:
    """Return a NumPy array without the ways of a subclass: masks would be lost, and rows of np.matrix are matrices."""
    if np.ma.is_masked(given):
        raise ValueError(f"{name}: masked elements are not taken; fill them, and hide their rows with weights of 0")
    return np.asarray(given)


def open_predictions(given: Any, axis: int, view: str | None = None) -> Any:
    """Open predictions: one array, or a list of arrays that are consecutive blocks of classes along `axis`.

    Parameters
    ----------
    given : as for `open_array`, or a list of such
    axis : int
    view : {"bfloat16"}, optional
        What the bits of uint16 elements stand for.

    Raises
    ------
    ValueError
        The blocks differ in more than their number of classes, or `view` does not fit.
    """
    if view not in (None, "bfloat16"):
        raise ValueError(f"view: expected 'bfloat16', got {view!r}")
    if view and not find_spec("ml_dtypes"):
        raise ImportError("view: bfloat16 needs ml_dtypes: pip install 'daskxent[bfloat16]'")
    if not _are_blocks(given):
        return _viewed(open_array(given, "y_pred"), view)
    blocks = [_viewed(open_array(block, f"y_pred[{i}]"), view) for i, block in enumerate(given)]
    first = blocks[0]
    for i, block in enumerate(blocks):
        same = len(block.shape) == len(first.shape) and -len(first.shape) <= axis < len(first.shape)
        if not same or np.delete(block.shape, axis).tolist() != np.delete(first.shape, axis).tolist():
            raise ValueError(
                f"y_pred[{i}]: shape {tuple(block.shape)} does not continue y_pred[0] of shape {tuple(first.shape)} "
                f"along axis {axis}"
            )
        if block.dtype != first.dtype:
            raise ValueError(f"y_pred[{i}]: dtype {block.dtype} differs from {first.dtype} of y_pred[0]")
    if any(map(is_dask, blocks)):
        import dask.array as da

        if not all(map(is_dask, blocks)):
            raise ValueError("y_pred: blocks of classes must all be dask arrays, or none")
        return da.concatenate(blocks, axis=axis)
    return Joined(blocks, axis % len(first.shape))


def _are_blocks(given: Any) -> bool:
    if not isinstance(given, (list, tuple)) or not given:
        return False
    return all(isinstance(block, (str, Path)) or np.ndim(block) > 1 for block in given) and not any(
        isinstance(block, (list, tuple)) for block in given
    )


def _viewed(array: Any, view: str | None) -> Any:
    if view is None:
        return array
    if array.dtype.name not in ("uint16", "void16"):  # numpy.save writes bfloat16 as bytes without a meaning
        raise ValueError(f"view: bfloat16 is stored as uint16; y_pred has dtype {array.dtype}")
    if is_dask(array):
        from ml_dtypes import bfloat16

        return _native(array).view(bfloat16)
    return Viewed(array)


def _unwrapped(given: Any) -> Any:
    """Return the array inside an xarray.DataArray."""
    if type(given).__module__.partition(".")[0] == "xarray" and hasattr(given, "dtype"):
        return given.data
    return given


def check_dims(**given: Any) -> None:
    """Check that the dimensions that the arrays of xarray share are in the same order in all of them."""
    named = {name: array.dims for name, array in given.items() if _unwrapped(array) is not array}
    for (one, first), (other, second) in itertools.combinations(named.items(), 2):
        if [dim for dim in first if dim in second] != [dim for dim in second if dim in first]:
            raise ValueError(f"{other}: dimensions {second} are not in the order of {first} of {one}; transpose it")


def _from_lists(given: Any, name: str) -> NDArray[Any]:
    try:
        return np.asarray(given)
    except ValueError as error:
        raise ValueError(f"{name}: the nested lists do not form an array: {error}") from error


def place(path: str | os.PathLike[str]) -> str:
    """Return a path or URL as it reads from any directory: a worker may run in another one.

    Examples
    --------
    >>> place("s3://dumps/a.zarr"), place("/dumps/../b.npy")
    ('s3://dumps/a.zarr', '/b.npy')
    """
    path = os.fspath(path)
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def _open_path(path: str, name: str) -> Source:
    local = "://" not in path
    path, given = place(path), path
    if local and not os.path.exists(path):
        raise FileNotFoundError(f"{name}: there is nothing at {given}")
    if path.endswith(".npy"):
        if not local:
            raise ValueError(f"{name}: a .npy file is memory-mapped: expected a local path, got {path}")
        return Npy.open(path, name)
    import zarr

    try:
        found = zarr.open(path, mode="r")
    except (FileNotFoundError, NotADirectoryError) as error:
        what = f"{path} is no zarr array" if local else f"there is no zarr array at {path}"
        raise (ValueError if local else FileNotFoundError)(f"{name}: {what}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # what zarr makes of damaged metadata
        raise ValueError(f"{name}: the zarr metadata at {path} cannot be understood: {error!r}") from error
    except Exception as error:
        if local or isinstance(error, (OSError, ImportError)):
            raise
        raise OSError(f"{name}: {path} cannot be opened: {error}") from error  # of the library that serves the URL
    if isinstance(found, zarr.Group):
        raise ValueError(f"{name}: {_members(found, path)}")
    return Zarr(found, name)


def _members(group: Any, where: str) -> str:
    names = ", ".join(sorted(key for key, _ in group.arrays()))
    return f"{where} is a zarr group, not an array; it holds {names or 'no arrays'}"
