"""Datasets of HDF5 files, ``dump.h5/logits``, read chunk by chunk; netCDF-4 files are such files."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections import OrderedDict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.cache import Opening
from daskxent.sources.codecs import native_dtype
from daskxent.sources.cuts import Even
from daskxent.sources.local import LocalFile, chosen, entered, written
from daskxent.sources.made_of import files_of, filled, linked
from daskxent.sources.meaning import check_attributes
from daskxent.sources.objects import failing
from daskxent.sources.pieces import Pieces, note, unwritten
from daskxent.sources.sliceable import Sliceable
from daskxent.sources.source import joined_versions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from daskxent.sources.source import Box

ENDS = ".h5", ".hdf5", ".nc"


class Hdf5(Pieces, LocalFile):
    """A dataset of an HDF5 file, which every process opens for itself.

    The library reads in one thread at a time. A chunk that nobody wrote is missing, as it is in zarr; HDF5 reads it as
    the fill value.

    Parameters
    ----------
    file, inner : str
        The file, and the path of the dataset in it.
    name : str
    nbytes : int
        Size of the file.
    """

    def __init__(self, file: str, inner: str, name: str, nbytes: int, opening: Opening | None = None) -> None:
        super().__init__(file, name, nbytes)
        self._further: dict[str, Any] = {}
        self.check_unchanged()  # a worker may have another file there
        self.inner, self.path, self.opening = inner, f"{file}/{inner}", opening or Opening()
        if opening is None:  # others could not open the file for writing while it is open here
            weakref.finalize(self.opening, _OPEN.pop, file, None).atexit = False
        if self._dataset.shape is None:
            raise ValueError(f"{name}: {self.path} is a dataset without any elements")
        self._further = {each: written(each) for each in files_of(self._dataset, file, name)}
        self._filled = filled(self._dataset)
        self.shape, self.dtype = self._dataset.shape, native_dtype(self._dataset.dtype)
        chunks = self._dataset.chunks or (None,) * len(self.shape)
        self.cuts = [None if size is None else Even(n, size) for n, size in zip(self.shape, chunks, strict=True)]

    def __reduce__(self) -> tuple[Any, ...]:
        return Hdf5, (self.file, self.inner, self.name, self.nbytes, self.opening)

    @property
    def _dataset(self) -> Any:
        return _opened(self.file, self._written)[self.inner]

    def check_unchanged(self) -> None:
        """Raise if one of the files is another one than that which was opened."""
        super().check_unchanged()
        for file, was in self._further.items():
            if written(file) != was:
                raise ValueError(f"{self.name}: {file} was rewritten since it was opened")

    def version(self, box: Box) -> str | None:
        """Return when the files were written, and their sizes."""
        further = ["{1} {2}".format(*was) for was in self._further.values()]
        own = super().version(box)
        return joined_versions([own, *further]) if further else own

    def fill(self) -> Any:
        """Return the fill value of the dataset."""
        return self._dataset.fillvalue

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Read a box; the file must be the one that was opened."""
        self.check_unchanged()
        note(list(self._filled.gaps(box)) if self._filled else [], missing, self.missing)
        return super().read(box, missing)

    def piece(self, box: Box) -> NDArray[Any] | None:
        """Read one chunk, or any box of a dataset without chunks."""
        with failing(f"{self.name}: {self.path}"):
            if not _is_written(self._dataset, tuple(s.start for s in box)):
                return None
            strings = self.dtype.kind == "O"
            return np.asarray((self._dataset.asstr() if strings else self._dataset)[box], self.dtype)


class Held(Sliceable):
    """A dataset of a file that is open for writing, or in memory: no other process could open it."""

    def __init__(self, dataset: Any, name: str) -> None:
        super().__init__(dataset, name)
        self._filled = filled(dataset)

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Read a box."""
        note(list(self._filled.gaps(box) if self._filled else self._gaps(box)), missing, self._missing)
        return super().read(box)

    def _missing(self, box: Box) -> ValueError:
        return unwritten(self.name, f"{self.array.file.filename}{self.array.name}", box, self.array.fillvalue)

    def _gaps(self, box: Box) -> Iterator[Box]:
        """Yield the parts of a box that are in chunks that nobody wrote."""
        sizes = [self._chunks[axis] if self._chunks else max(1, n) for axis, n in enumerate(self.shape)]
        ranges = [Even(n, size).ranges(s.start, s.stop) for n, size, s in zip(self.shape, sizes, box, strict=True)]
        for part in itertools.product(*ranges):
            begin = tuple(start // size * size for (start, _), size in zip(part, sizes, strict=True))
            if not _is_written(self.array, begin):
                yield tuple(slice(*each) for each in part)


def _is_written(dataset: Any, begin: tuple[int, ...]) -> bool:
    """Return whether the chunk that begins at a place, or a dataset that has no chunks, has a place in the file."""
    import h5py

    stored = dataset.id
    layout = stored.get_create_plist().get_layout()
    if layout == h5py.h5d.CHUNKED:
        return stored.get_chunk_info_by_coord(begin).byte_offset is not None
    external = dataset.external is not None
    return layout != h5py.h5d.CONTIGUOUS or external or not dataset.size or stored.get_offset() is not None


# Files by their paths, with what sets them apart from those that take their place: to open one takes a millisecond.
# Those that were used last are kept, as long as any of their datasets is in use where it was opened; a file that is
# dropped closes when nobody reads it any more.
MOST_OPEN = 64
_OPEN: OrderedDict[str, tuple[Any, Any]] = OrderedDict()
_LOCK = threading.Lock()


def _opened(file: str, written: Any) -> Any:
    """Return an open file; one that was rewritten is closed before, because HDF5 would keep using what it knew."""
    import h5py

    with _LOCK:
        known, opened = _OPEN.pop(file, (None, None))  # which the garbage collector may do at any time
        if known != written or not opened:
            if opened:
                opened.close()
            opened = h5py.File(file, "r")
        _OPEN[file] = written, opened
        while len(_OPEN) > MOST_OPEN:
            _OPEN.popitem(last=False)
        return opened


def _forked() -> None:
    global _LOCK
    _LOCK = threading.Lock()  # a thread that is not in this process may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def opened_already(given: Any, name: str) -> Hdf5 | Held | None:
    """Return a dataset of a file that is open; None for what is no dataset."""
    if not given:
        raise ValueError(f"{name}: its HDF5 file was closed")
    if not hasattr(given, "shape"):  # a group
        return None
    check_attributes(given.attrs, given.dtype, name)
    if given.file.driver != "sec2" or given.file.mode != "r":
        if given.shape is None:
            raise ValueError(f"{name}: {given.file.filename}{given.name} is a dataset without any elements")
        files_of(given, "", name)
        return Held(given, name)
    file = os.path.abspath(given.file.filename)
    return Hdf5(file, given.name.lstrip("/"), name, os.stat(file).st_size)


def open_hdf5(path: str, name: str) -> Hdf5:
    """Open a dataset of an HDF5 file; of the only one the name may be left out."""
    file, inner = entered(path, name, *ENDS)
    if not find_spec("h5py"):
        raise ImportError(f"{name}: HDF5 files need h5py: pip install 'daskxent[hdf5]'")
    try:
        opened = _opened(file, written(file))
        if not _is_dataset(linked(opened, inner or "/")):
            inner = chosen(inner, _datasets(opened), file, name)
        check_attributes(opened[inner].attrs, opened[inner].dtype, name)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{name}: {file} cannot be read as an HDF5 file: {error}") from error
    return Hdf5(file, inner, name, os.stat(file).st_size)


def names_in(path: str) -> list[str]:
    """Return the names of the datasets of a file."""
    return _datasets(_opened(path, written(path)))


def _datasets(top: Any) -> list[str]:
    """Return the paths of the datasets in a group and in those below, in order; not of groups inside themselves."""
    import h5py

    found, left = list[str](), [("", top, [top])]
    while left:
        path, each, above = left.pop()
        if _is_dataset(each):
            found.append(path)
            continue
        for name in sorted(each, reverse=True):
            below = linked(each, name)
            if isinstance(below, (h5py.Dataset, h5py.Group)) and below not in above:
                left.append((f"{path}/{name}".lstrip("/"), below, [*above, below]))
    return found


def _is_dataset(found: Any) -> bool:
    import h5py

    return isinstance(found, h5py.Dataset)
