"""The files that a dataset of HDF5 takes its numbers from besides its own: links, raw files, virtual datasets."""

from __future__ import annotations

import itertools
import math
import os
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from daskxent.sources.source import Box


def files_of(dataset: Any, file: str, name: str) -> list[str]:
    """Return the paths of all files but `file` that a dataset takes its numbers from, each once.

    Raises
    ------
    FileNotFoundError
        One that a virtual dataset is made of is not there: HDF5 would read the fill value.
    ValueError
        It is no file of HDF5, or has no such dataset, where HDF5 would do the same; or a dataset is made of itself.
    """
    return sorted(set(_files(dataset, name, ())) - {file})


def _files(dataset: Any, name: str, within: tuple[str, ...]) -> Iterator[str]:
    """Yield the files of a dataset, of which others within which it was met are made."""
    own = os.path.abspath(dataset.file.filename)
    place = f"{own}{dataset.name}"
    if place in within:  # to read it ends the process
        raise ValueError(f"{name}: {place} is a virtual dataset that is made of itself")
    yield own
    yield from (path for path, *_ in dataset.external or () if os.path.exists(path))
    several = dataset.virtual_sources() if dataset.is_virtual else ()
    for file, inner in sorted({(each.file_name, each.dset_name) for each in several}):
        if "%" not in f"{file}{inner}":  # which stands for numbers, of as many as there are
            yield from _behind(dataset, file, inner, name, (*within, place))


def _behind(dataset: Any, file: str, inner: str, name: str, within: tuple[str, ...]) -> Iterator[str]:
    """Yield the files behind one source of a virtual dataset."""
    import h5py

    path, what = _path(dataset, file), f"{name}: {within[-1]} is made of {file}"
    if path is None:
        raise FileNotFoundError(f"{what}, which is not there")
    try:
        opened = dataset.file if file == "." else h5py.File(path, dataset.file.mode)  # as HDF5 opens it
    except OSError as error:
        raise ValueError(f"{what}, which cannot be read as an HDF5 file: {error}") from error
    try:
        found = linked(opened, inner)
        if not isinstance(found, h5py.Dataset):
            raise ValueError(f"{what}, which has no dataset {inner}")
        yield from _files(found, name, within)
    finally:
        if file != ".":
            opened.close()


def _path(dataset: Any, file: str) -> str | None:
    """Return where HDF5 looks for a source of a virtual dataset; None if it is not there."""
    own: str = os.path.abspath(dataset.file.filename)
    if file == ".":
        return own
    prefix = os.environ.get("HDF5_VDS_PREFIX", "").replace("${ORIGIN}", os.path.dirname(own))
    places = (os.path.abspath(os.path.join(place, file)) for place in (prefix, os.path.dirname(own), ""))
    return next(filter(os.path.exists, places), None)


def linked(group: Any, path: str) -> Any:
    """Return what is at a path in a group; None if a link there leads nowhere."""
    try:
        return group.get(path)
    except (KeyError, OSError, RuntimeError, ValueError):  # as h5py has it, of links of different kinds
        return None


class Filled(NamedTuple):
    """What of a virtual dataset its sources fill, in cells between all edges of theirs; HDF5 fills up the rest.

    Attributes
    ----------
    edges : list of list of int
        Along each axis.
    cells : array of bool
        Which are filled.
    """

    edges: list[list[int]]
    cells: NDArray[np.bool_]

    def gaps(self, box: Box) -> Iterator[Box]:
        """Yield the parts of a box that no source fills."""
        taken = [
            range(bisect_right(edges, s.start) - 1, bisect_left(edges, s.stop))
            for s, edges in zip(box, self.edges, strict=True)
        ]
        for cell in itertools.product(*taken):
            if not self.cells[cell]:
                places = zip(box, self.edges, cell, strict=True)
                yield tuple(slice(max(s.start, edges[i]), min(s.stop, edges[i + 1])) for s, edges, i in places)


def filled(dataset: Any) -> Filled | None:
    """Return what of a dataset its sources fill; None if that is all, or if they are no boxes of known lengths."""
    if not dataset.is_virtual:
        return None
    sources = dataset.virtual_sources()
    boxes = [box for each in sources if (box := _box(each.vspace)) is not None]
    if len(boxes) < len(sources):
        return None
    ends = [{0, n} for n in dataset.shape]
    for box in boxes:
        for s, edges in zip(box, ends, strict=True):
            edges |= {s.start, s.stop}
    found = [sorted(edges) for edges in ends]
    cells = np.zeros([len(edges) - 1 for edges in found], bool)
    for box in boxes:
        places = zip(box, found, strict=True)
        cells[tuple(slice(bisect_left(edges, s.start), bisect_left(edges, s.stop)) for s, edges in places)] = True
    return None if cells.all() else Filled(found, cells)


def _box(space: Any) -> Box | None:
    """Return the box that a selection is; None if it is not one, or of a length without a limit."""
    try:
        low, high = space.get_select_bounds()
    except (ValueError, RuntimeError):  # as h5py has it
        return None
    box = tuple(slice(first, last + 1) for first, last in zip(low, high, strict=True))
    return box if math.prod(s.stop - s.start for s in box) == space.get_select_npoints() else None
