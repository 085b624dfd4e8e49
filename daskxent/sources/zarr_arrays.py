"""zarr arrays of formats 2 and 3, on any store, read chunk by chunk."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import re
import threading
import time
import warnings
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from daskxent.sources.bits import is_unknown, open_bits
from daskxent.sources.buckets import stores
from daskxent.sources.cache import KEPT, Opening
from daskxent.sources.chunks import Chunks, Scratch
from daskxent.sources.converted import Viewed, as_bfloat16
from daskxent.sources.cuts import Even
from daskxent.sources.dump_marks import is_bfloat16, unfinished
from daskxent.sources.files import Buffer
from daskxent.sources.layout import address, layout, layout_digest
from daskxent.sources.local import bfloat16_dtype
from daskxent.sources.meaning import check_attributes
from daskxent.sources.objects import PAUSES, RETRIED
from daskxent.sources.paths import found
from daskxent.sources.rectilinear import Rectilinear, is_switched_off, open_rectilinear
from daskxent.sources.source import SAMPLE_BYTES, SAMPLES, Base, digest, pieced, spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from daskxent.sources.source import Box, Source

ADDRESS_BYTES = 1024  # a store whose pickle is longer holds the data itself
THROTTLED = "503", "429", "SlowDown", "reset by peer"  # signs of a store that asks for patience
_THREAD = threading.local()
_JOINED = re.compile(r"(\[\d+\])+( \(.*\))?$", re.DOTALL)  # what joining adds to a name: y_pred[2] (x.zarr)
TOGETHER = 4 << 20  # bytes of small chunks that are read as one: what is between two boxes is 0.2 ms of Python


class Zarr(Base):
    """A zarr array of format 2 or 3, on any store, read chunk by chunk.

    Each thread keeps the chunk it read last, so that neighbouring boxes of one chunk decode it once. A chunk of which
    a box takes only a part is also kept for all threads: see `cache`.

    Parameters
    ----------
    array : zarr.Array
    name : str
    opening : Opening, optional
        That of an array that was opened before, in this process or another one.
    side_by_side : bool
        Whether chunks that a box takes whole are kept as well, because other boxes take them too.
    together : int
        Small chunks are read as one up to this many bytes.
    """

    def __init__(
        self,
        array: Any,
        name: str,
        opening: Opening | None = None,
        side_by_side: bool = False,
        together: int = TOGETHER,
    ) -> None:
        self.array, self.name, self.opening, self.side_by_side = array, name, opening or Opening(), side_by_side
        self.chunks = Chunks(array, name)
        self.shape, self.dtype = self.chunks.shape, self.chunks.dtype
        self.unfinished = unfinished(array.attrs)
        self.far = self.chunks.far and self.chunks.fast
        rows_alone = self.chunks.fast and len(self.shape) > 1 and self.chunks.chunks[1:] == self.shape[1:]
        self._several = max(1, together // max(1, self.chunks.nbytes)) if rows_alone else 1
        self._thread = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        rest = self.name, self.opening, self.side_by_side
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

    def stored(self, axis: int) -> Even:
        """Return the borders of shards, or of chunks where there are no shards."""
        return Even(self.shape[axis], self.chunks.blocks[axis])

    def pieces(self, axis: int) -> Even:
        """Return the borders of what is decoded as one: a chunk, or an inner chunk of a shard."""
        return Even(self.shape[axis], self.chunks.chunks[axis])

    def together(self, axis: int) -> Even:
        """Return the borders of what is read as one: several small chunks along the first axis."""
        return Even(self.shape[axis], self.chunks.chunks[axis] * (1 if axis else self._several))

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Read a box; inside one chunk the result is a view, good until the thread's next read."""
        pieces = self.chunks.chunks
        first = tuple([s.start // n for s, n in zip(box, pieces, strict=True)])
        last = tuple([(s.stop - 1) // n for s, n in zip(box, pieces, strict=True)])
        if first == last:
            return self._part(first, box, missing)
        if self._several > 1 and self._are_whole(box, first[0], last[0]):
            return self._one_by_one(box, first[0], last[0], missing)

        def part(inside: Box) -> NDArray[Any]:
            return self._part(tuple(s.start // n for s, n in zip(inside, pieces, strict=True)), inside, missing)

        return pieced(box, map(self.pieces, range(len(box))), self.dtype, part)

    def encoded(self, box: Box) -> Iterable[tuple[Chunks, tuple[int, ...]]]:
        """Yield the chunks of a box, if they are far away."""
        if not self.far:
            return
        grid = [range(s.start // n, -(-s.stop // n)) for s, n in zip(box, self.chunks.chunks, strict=True)]
        for index in itertools.product(*grid):
            yield self.chunks, index

    def refresh(self) -> None:
        """Forget what the calling thread read last, and take what is kept only if its file is the same."""
        mine = self._mine()
        mine.index = mine.chunk = mine.scratch.shard = mine.scratch.stream = None
        mine.versions = True

    def shared(self) -> Zarr:
        """Return the same, which keeps chunks that a box takes whole as well."""
        return Zarr(self.array, self.name, self.opening, side_by_side=True)

    def tiny(self, below: int) -> bool:
        """Return whether chunks are local and small."""
        return self.chunks.local and self.chunks.nbytes < below

    def identity(self, box: Box, lead: int | None) -> Any:
        """Return where the array is and how it is stored, too."""
        return {**super().identity(box, lead), "where": address(self.array), "layout": layout(self.array)}

    def sample(self, box: Box, lead: int | None) -> str:
        """Digest a few chunks' first bytes, or a few steps; only of what is full, because the rest may grow."""
        first = [s.start // n for s, n in zip(box, self.chunks.chunks, strict=True)]
        full = 0 if lead is None else box[lead].stop // self.chunks.chunks[lead] - first[lead]
        if not full:
            return super().sample(box, lead)
        at = [
            tuple(index + i if axis == lead else index for axis, index in enumerate(first))
            for i in spread(full, SAMPLES if self.chunks.local else 2)
        ]
        return digest(self.chunks.first_bytes(at, SAMPLE_BYTES))

    def version(self, box: Box) -> str | None:
        """Digest sizes and times of the files or objects that hold a box; None where a store does not say them."""
        blocks, pieces = self.chunks.blocks, self.chunks.chunks
        grid = [range(s.start // n, -(-s.stop // n)) for s, n in zip(box, blocks, strict=True)]
        inner = [n // piece for n, piece in zip(blocks, pieces, strict=True)]
        found = []
        for block in itertools.product(*grid):
            index = tuple([i * n for i, n in zip(block, inner, strict=True)])
            found.append(self.chunks.written(index, self.opening.key))
            if found[-1] is None:
                return None
        return digest(repr(found).encode())

    def _are_whole(self, box: Box, first: int, last: int) -> bool:
        """Return whether a box is some whole chunks that are read as one."""
        length = self.chunks.chunks[0]
        whole = first * length, min((last + 1) * length, self.shape[0])
        if last - first >= self._several or (box[0].start, box[0].stop) != whole or self.side_by_side:
            return False
        return tuple(s.stop - s.start for s in box[1:]) == self.shape[1:]

    def _one_by_one(self, box: Box, first: int, last: int, missing: list[Box] | None) -> NDArray[Any]:
        """Read whole chunks into memory of the thread's, back to back."""
        mine, nbytes, length = self._mine(), self.chunks.nbytes, self.chunks.chunks[0]
        memory = _memory_for(self.name).take((last - first + 1) * nbytes)
        for number in range(first, last + 1):
            index, place = (number, *[0] * (len(box) - 1)), memory[(number - first) * nbytes :][:nbytes]
            chunk = self.chunks.read(index, mine.scratch, Buffer(place))
            if chunk is None:
                lead = slice(number * length, min((number + 1) * length, self.shape[0]))
                chunk = self._missing(index, (lead, *box[1:]), missing)
            if not np.may_share_memory(chunk, place):
                place[: chunk.nbytes].view(self.dtype).reshape(chunk.shape)[...] = chunk
        found: NDArray[Any] = memory.view(self.dtype).reshape(-1, *self.shape[1:])[: box[0].stop - box[0].start]
        found.flags.writeable = False
        return found

    def _part(self, index: tuple[int, ...], box: Box, missing: list[Box] | None) -> NDArray[Any]:
        chunk = self._chunk(index, box)
        if chunk is not None:
            begins = zip(box, index, self.chunks.chunks)  # noqa: B905 - hot
            return chunk[tuple(slice(s.start - i * n, s.stop - i * n) for s, i, n in begins)]
        return self._missing(index, box, missing)

    def _missing(self, index: tuple[int, ...], box: Box, missing: list[Box] | None) -> NDArray[Any]:
        """Return the fill value for a box of a chunk that is not stored, or raise."""
        if missing is None:
            raise self.chunks.missing(index)
        missing.append(box)
        return np.broadcast_to(np.full((), self.chunks.fill(), self.dtype), tuple(s.stop - s.start for s in box))

    def _chunk(self, index: tuple[int, ...], box: Box) -> NDArray[Any] | None:
        mine = self._mine()
        if mine.index != index:
            mine.index = mine.chunk = None
            if self.side_by_side or self._more(index, box):
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
        """Return whether there is more in a chunk than a box takes: other boxes will take the rest."""
        lengths = tuple([s.stop - s.start for s in box])
        return lengths != self.chunks.chunks and lengths != self.chunks.extent(index)

    def _mine(self) -> Any:
        """Return what the calling thread remembers."""
        mine = self._thread
        if not hasattr(mine, "index"):
            mine.index, mine.chunk, mine.scratch = None, None, Scratch()
            mine.versions = False  # whether files may have been rewritten since what is kept was read
        return mine


def _memory_for(name: str) -> Buffer:
    """Return the calling thread's memory for chunks that are read together: one for all files of a joined array."""
    return cast("Buffer", _THREAD.__dict__.setdefault(_JOINED.sub("", name), Buffer()))


def _at(where: str | bytes, path: str, zarr_format: Any, digest: str, name: str, *rest: Any) -> Zarr:
    return Zarr(_opened_again(where, path, zarr_format, digest, name), name, *rest)


@lru_cache(maxsize=64)
def _opened_again(where: str | bytes, path: str, zarr_format: Any, digest: str, name: str) -> Any:
    """Open an array, but keep none of its chunks, which may be rewritten between two runs."""
    import zarr

    store = where if isinstance(where, str) else pickle.loads(where)
    try:
        array = zarr.open_array(store, path=path, mode="r", zarr_format=zarr_format)
    except ValueError as error:
        if not is_unknown(error):
            raise
        array = open_bits(zarr.storage.LocalStore(store, read_only=True) if isinstance(store, str) else store, path)
    if layout_digest(array) != digest:
        raise ValueError(f"{name}: the shape or the storage of {array.store_path} has changed since it was opened")
    return array


def members(group: Any, where: str) -> str:
    """Say what a group holds, as it is not an array."""
    with warnings.catch_warnings(action="ignore"):  # of what else is in the directory
        try:
            names = ", ".join(sorted(key for key, _ in group.arrays())) or "no arrays"
        except ValueError:  # of bfloat16, or damaged
            names = "some that zarr alone does not open"
    return f"{where} is a zarr group, not an array; it holds {names}"


def checked(array: Any, name: str) -> Source:
    """Return a zarr array as a source, unless its attributes change its numbers."""
    check_attributes(array.attrs, array.dtype, name)
    try:
        found = Zarr(array, name)
        return Viewed(found, as_bfloat16, bfloat16_dtype()) if is_bfloat16(array.attrs) else found
    except NotImplementedError as error:  # zarr's, of grids that are not regular
        if not hasattr(array, "read_chunk_sizes"):
            raise ValueError(f"{name}: {array.store_path} is stored in a way that is not read here: {error}") from error
        return Rectilinear(array, name)


# What makes an array of files that are not read, by the ends of their names.
CONVERTED = {
    (".pt", ".pth"): 'numpy.save("array.npy", torch.load("{}").float().numpy())',
    (".pkl", ".pickle"): 'numpy.save("array.npy", numpy.asarray(pickle.load(open("{}", "rb"))))',
    (".csv", ".txt"): 'numpy.save("array.npy", numpy.loadtxt("{}", delimiter=","))',
}


def _converting(path: str) -> str:
    """Return what to type instead of the path of a file that is not read."""
    name = os.path.basename(path)
    line = next((line for ends, line in CONVERTED.items() if name.endswith(ends)), "")
    return f"; {line.format(name)}" if line else ""


def open_zarr(path: str, name: str, storage: Mapping[str, Any] | None = None) -> Source:
    """Open the array at a path or URL, with what its file system takes."""
    path = found(path, name)
    if "://" not in path:
        return _opened(path, path, name)
    try:
        several = list(stores(path, storage))
    except ImportError as error:
        raise ImportError(f"{name}: {path} needs another package: {error}") from error
    for store in several[:-1]:
        with contextlib.suppress(OSError):  # of credentials or a region that only the next one knows
            return _patiently(store, path, name)
    return _patiently(several[-1], path, name)


def _patiently(store: Any, path: str, name: str) -> Source:
    """Open what is in a store that may ask for patience."""
    for pause in PAUSES:
        try:
            return _opened(store, path, name)
        except OSError as error:
            if not any(sign in str(error) for sign in THROTTLED):
                raise
        RETRIED.append(path)
        time.sleep(pause)
    return _opened(store, path, name)


def _by_zarr(store: Any, local: bool) -> Any:
    """Return what zarr finds; where a request takes long, for format 3 alone first, which is one and not three."""
    import zarr

    with contextlib.nullcontext() if local else contextlib.suppress(FileNotFoundError):
        return zarr.open(store, mode="r", zarr_format=None if local else 3)
    return zarr.open(store, mode="r")


def _opened(store: Any, path: str, name: str) -> Source:
    """Open what zarr finds in a store, or at a local path."""
    import zarr

    local = "://" not in path
    try:
        opened = _by_zarr(store, local)
    except (FileNotFoundError, NotADirectoryError) as error:
        what = f"{path} is not a zarr array{_converting(path)}" if local else f"there is no zarr array at {path}"
        raise (ValueError if local else FileNotFoundError)(f"{name}: {what}") from error
    except OSError:
        raise
    except Exception as error:
        return opened_despite(error, zarr.storage.LocalStore(path, read_only=True) if local else store, path, name)
    if isinstance(opened, zarr.Group):
        raise ValueError(f"{name}: {members(opened, path)}")
    return checked(opened, name)


def opened_despite(error: Exception, store: Any, path: str, name: str, inner: str = "") -> Source:
    """Open the array at the top of a store, or at `inner`, that zarr alone does not open; or say why not."""
    from zarr.storage import StorePath

    if is_unknown(error):
        return Viewed(checked(open_bits(store, inner), name), as_bfloat16, bfloat16_dtype())
    if is_switched_off(error):
        return checked(open_rectilinear(StorePath(store, inner), name), name)
    if "No Zarr data type" in str(error):
        raise ValueError(f"{name}: zarr does not know the dtype of {path}") from error
    damaged = isinstance(error, (ValueError, TypeError, KeyError, AttributeError))
    if "://" not in path or damaged:
        raise ValueError(f"{name}: the zarr metadata at {path} cannot be understood: {error!r}") from error
    raise OSError(f"{name}: {path} cannot be opened: {error}") from error  # of the library that serves the URL
