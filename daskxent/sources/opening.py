"""Open whatever holds an array as a `Source`: paths, arrays, slices of them, and several joined."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daskxent.show.tables import as_html
from daskxent.sources import archives, arrow, hdf5, kld, raw, remote, zipped
from daskxent.sources.joined import Joined
from daskxent.sources.local import takes
from daskxent.sources.meaning import check_attributes, is_labelled
from daskxent.sources.memory import Memory, from_lists, plain
from daskxent.sources.npy import Npy
from daskxent.sources.paths import exists, local, matching, place
from daskxent.sources.sliceable import Sliceable, is_sliceable
from daskxent.sources.sliced import Sliced, parsed, resolved, written
from daskxent.sources.zarr_arrays import checked, members, open_zarr

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from daskxent.sources.sliced import Index
    from daskxent.sources.source import Source


LOADED = 32 << 20  # bytes up to which an xarray.DataArray is loaded: to slice one takes 100 us a box


class Opener(NamedTuple):
    """A format.

    Attributes
    ----------
    takes : callable
        Whether a path or URL, as the user gave it but for its index, is of the format.
    open : callable
        From the path and the name of the array in messages to a `Source`; of URLs it takes the options of their file
        system as well.
    names : callable, optional
        From the path of a file to the names of its arrays.
    """

    takes: Callable[[str], bool]
    open: Callable[..., Source]
    names: Callable[[str], Sequence[str]] | None = None


# Asked in this order, before anything checks whether there is something at the path.
OPENERS = [
    Opener(raw.takes, raw.open_raw),
    Opener(remote.takes, remote.open_remote),
    Opener(lambda path: path.endswith(".npy"), Npy.open),
    Opener(takes(".zip"), zipped.open_zipped, zipped.names_in),
    Opener(takes(".safetensors"), archives.open_safetensors, archives.names_in_safetensors),
    Opener(takes(".npz"), archives.open_npz, archives.names_in_npz),
    Opener(takes(*hdf5.ENDS), hdf5.open_hdf5, hdf5.names_in),
    Opener(takes(".parquet"), arrow.open_parquet, partial(arrow.names_in, "Parquet")),
    Opener(takes(*arrow.ARROW), arrow.open_arrow, partial(arrow.names_in, "Arrow")),
    Opener(takes(".kld"), kld.open_kld, lambda path: kld.NAMES),
    Opener(lambda path: True, open_zarr),
]


class LazyArray:
    """An array that is not read before it is needed: `open` and `concat` make them.

    It has the shape and dtype of a NumPy array, takes NumPy's basic slices without steps, and `numpy.asarray` reads it.

    Examples
    --------
    >>> lazy = open(np.arange(12).reshape(3, 4))[:, 1:]
    >>> lazy, np.asarray(lazy[-1])
    (LazyArray((3, 3), int64), array([ 9, 10, 11]))
    """

    def __init__(self, recipe: _Recipe) -> None:
        self._recipe = recipe

    @cached_property
    def _source(self) -> Source:
        return self._recipe.opened(self._recipe.title)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        return self._source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return self._source.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> LazyArray:
        """Return a part, lazily."""
        return LazyArray(_Part(self._recipe, resolved(key, self.shape, self._recipe.title)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        whole = self._source.read(tuple(slice(0, n) for n in self.shape))
        return np.array(whole, dtype)

    def __repr__(self) -> str:
        return f"LazyArray({self.shape}, {self.dtype})"

    def _repr_html_(self) -> str:
        lines = [("shape", str(self.shape)), ("dtype", str(self.dtype))]
        lines.append(("bytes", f"{math.prod(self.shape) * self.dtype.itemsize:,}"))
        cuts = [self._source.stored(axis) for axis in range(self.ndim)]
        if any(cuts):
            lines.append(
                ("stored in", " x ".join("1" if each is None else f"{each.count(0, each.length):,}" for each in cuts))
            )
        where = call_of(self)
        if where is not None:
            lines.append(("of", str(where)))
        return as_html("LazyArray", lines)

    def opened(self, name: str) -> Source:
        """Open the array under a name for messages."""
        return self._recipe.opened(name)

    def call(self) -> Any:
        """Return how to make it again, as JSON; None if it is not made of paths alone."""
        return self._recipe.call()


@dataclass(frozen=True)
class _Given:
    """Something that can be opened."""

    given: Any
    storage: Mapping[str, Any] | None = None

    @property
    def title(self) -> str:
        return os.fspath(self.given) if isinstance(self.given, (str, os.PathLike)) else "array"

    def opened(self, name: str) -> Source:
        source: Source = open_array(self.given, name, self.storage)
        return source

    def call(self) -> Any:
        return None if self.storage else call_of(self.given)  # which may be secret


@dataclass(frozen=True)
class _Part:
    """A part of something that can be opened."""

    of: _Recipe
    index: Index

    @property
    def title(self) -> str:
        return self.of.title

    def opened(self, name: str) -> Source:
        return part(self.of.opened(name), self.index)

    def call(self) -> Any:
        inner = self.of.call()
        return None if inner is None else {"of": inner, "index": written(self.index)}


@dataclass(frozen=True)
class _Join:
    """Several things that can be opened, one after the other."""

    members: tuple[_Recipe, ...]
    axis: int
    title = "array"

    def opened(self, name: str) -> Source:
        several = [member.opened(f"{name}[{i}]") for i, member in enumerate(self.members)]
        return join(several, self.axis, name)

    def call(self) -> Any:
        inner = [member.call() for member in self.members]
        return None if None in inner else {"members": inner, "axis": self.axis}


_Recipe = _Given | _Part | _Join


def call_of(given: Any) -> Any:
    """Return how to open an array again, as JSON; None for arrays that are not stored."""
    if isinstance(given, LazyArray):
        return given.call()
    if isinstance(given, (str, os.PathLike)):
        return place(given)
    if isinstance(given, (list, tuple)) and all(isinstance(each, (str, os.PathLike)) for each in given):
        return list(map(place, given))
    if isinstance(given, (np.generic, np.ndarray)) and given.ndim == 0:
        given = given.item()
    return given if isinstance(given, (int, float)) else None


def again(call: Any) -> Any:
    """Return what `call_of` describes, to be opened."""
    return LazyArray(_recipe(call)) if isinstance(call, dict) else call


def _recipe(call: Any) -> _Recipe:
    if not isinstance(call, dict):
        return _Given(call)
    if "members" in call:
        return _Join(tuple(map(_recipe, call["members"])), call["axis"])
    inner = _recipe(call["of"])
    index = parsed(f"x{call['index']}")[1]
    return _Part(inner, resolved(index, inner.opened("array").shape, "array"))


def open(
    given: Any, *, dtype: Any = None, shape: Sequence[int] | None = None, offset: int = 0,
    storage_options: Mapping[str, Any] | None = None,
) -> LazyArray:  # fmt: skip
    """Open an array, wherever it is, to be sliced, joined and evaluated; nothing is read.

    Parameters
    ----------
    given : path, URL, list of paths, zarr.Array, numpy.ndarray, xarray.DataArray or lists of numbers
        A path may carry an index: ``"dump.zarr/logits[:, :-1, :50257]"``. Several paths, or a path with ``*``, are
        joined along the first axis.
    dtype : dtype or "bfloat16", optional
        Of a file of bare numbers, little-endian and in C order; the same as ``"logits.bin?dtype=float16&shape=-1,10"``.
    shape : sequence of int, optional
        Of such a file; -1 for as many as there are.
    offset : int
        Bytes before its numbers.
    storage_options : mapping, optional
        What the file system of a URL takes, such as ``{"anon": True}``.

    Returns
    -------
    LazyArray

    Raises
    ------
    FileNotFoundError
        There is nothing at a path.
    IndexError
        The index is not one of NumPy's basic ones, has steps, or does not fit.
    TypeError
        It is a dask array, which is lazy itself.

    Examples
    --------
    >>> open([[1, 2], [3, 4]]).shape
    (2, 2)
    """
    if is_dask(_unwrapped(given, "array")):
        raise TypeError("open: a dask array is lazy itself: slice it, and join several with dask.array.concatenate")
    if dtype is not None:
        given = raw.described(os.fspath(given), dtype, shape, offset)
    lazy = given if isinstance(given, LazyArray) else LazyArray(_Given(given, storage_options))
    lazy.shape  # noqa: B018 - opens it, so that errors come now
    return lazy


def concat(arrays: Sequence[Any], axis: int = 0) -> Any:
    """Join arrays one after the other, lazily: files of rows, or blocks of classes.

    Parameters
    ----------
    arrays : sequence of what `open` takes
        Of one dtype, and of one shape but for their length along `axis`.
    axis : int
        0 joins rows, -1 joins classes.

    Returns
    -------
    LazyArray or dask.array.Array
        A dask array if all are.

    Raises
    ------
    ValueError
        There are none, or shapes or dtypes do not fit; the message names the first that does not.

    Examples
    --------
    >>> concat([[[1, 2]], [[3, 4], [5, 6]]])
    LazyArray((3, 2), int64)
    """
    if isinstance(arrays, (str, os.PathLike)):
        raise TypeError(f"concat: expected several arrays, got the path {os.fspath(arrays)!r}; open() takes one with *")
    if not hasattr(arrays, "__iter__"):
        raise TypeError(f"concat: expected several arrays, got {arrays!r}")
    arrays = [_unwrapped(each, f"array[{i}]") for i, each in enumerate(arrays)]
    if not arrays:
        raise ValueError("concat: expected at least one array")
    if any(map(is_dask, arrays)):
        import dask.array as da

        if not all(map(is_dask, arrays)):
            raise ValueError("concat: expected either all dask arrays or none")
        return da.concatenate(arrays, axis=axis)
    recipes = tuple(each._recipe if isinstance(each, LazyArray) else _Given(each) for each in arrays)
    return open(LazyArray(_Join(recipes, axis)))


def join(several: list[Source], axis: int, name: str) -> Source:
    """Join sources along an axis, after their shapes and dtypes were compared."""
    first, ndim = several[0], len(several[0].shape)
    if not -ndim <= axis < ndim:
        raise ValueError(f"{first.name}: axis {axis} is out of range for shape {tuple(first.shape)}")
    for each in several[1:]:
        rest = [shape[: axis % ndim] + shape[axis % ndim + 1 :] for shape in (each.shape, first.shape)]
        if len(each.shape) != ndim or rest[0] != rest[1]:
            raise ValueError(
                f"{each.name}: shape {tuple(each.shape)} does not continue {first.name} of shape {tuple(first.shape)} "
                f"along axis {axis}"
            )
        if each.dtype != first.dtype:
            raise ValueError(f"{each.name}: dtype {each.dtype} differs from {first.dtype} of {first.name}")
    return Joined(several, axis % ndim, name)


def part(source: Source, index: Index) -> Source:
    """Return a part of a source."""
    if isinstance(source, Memory):
        return Memory(source.array[index], source.name)
    return Sliced(source, index)


def is_dask(given: Any) -> bool:
    """Whether `given` is a dask array."""
    return type(given).__module__.startswith("dask.array") and hasattr(given, "dask")


def with_storage(given: Any, storage: Mapping[str, Any]) -> Any:
    """Return a path, or paths, to be opened with what their file system takes; anything else as it is."""
    several = given if isinstance(given, (list, tuple)) else [given]
    paths = bool(several) and all(isinstance(each, (str, os.PathLike)) for each in several)
    return LazyArray(_Given(given, storage)) if paths else given


def open_array(given: Any, name: str, storage: Mapping[str, Any] | None = None) -> Any:
    """Open an array wherever it is.

    Parameters
    ----------
    given : str, Path, list of paths, LazyArray, zarr, NumPy, xarray or dask array, or nested lists of numbers
        A path or URL in one of the formats of `OPENERS`: ``logits.npy``, or an array by its name in a group or file,
        ``dump.zarr/logits``, ``dump.h5/logits``; it may carry an index. Several paths, or a path with ``*``, are joined
        along the first axis.
    name : str
        What the array is called in messages.
    storage : mapping, optional
        What the file systems of URLs take.

    Returns
    -------
    Source or dask.array.Array
        A dask array is returned as it is.

    Raises
    ------
    FileNotFoundError
        There is nothing at the path.
    ValueError
        The path is a group, or what is there is not an array; a dask array has chunks of unknown length.
    TypeError
        `given` is none of the above, or a list of arrays, which may mean rows or classes.

    Examples
    --------
    >>> open_array([[1, 2], [3, 4]], "y_pred").shape
    (2, 2)
    """
    given = _unwrapped(given, name)
    if isinstance(given, LazyArray):
        return given.opened(name)
    if is_dask(given):
        if any(np.isnan(size) for sizes in given.chunks for size in sizes):
            raise ValueError(f"{name}: its dask chunks have unknown lengths; call compute_chunk_sizes() on it first")
        return given
    if isinstance(given, (str, Path)):
        return _open_path(os.fspath(given), name, storage)
    return _open_held(given, name, storage)


def _open_held(given: Any, name: str, storage: Mapping[str, Any] | None = None) -> Source:
    """Open something that holds an array."""
    if isinstance(given, np.ndarray):
        return Memory(plain(given, name), name)
    if type(given).__module__.partition(".")[0] == "zarr":
        if not hasattr(given, "chunks"):
            raise ValueError(f"{name}: {members(given, str(given.store_path))}")
        return checked(given, name)
    if isinstance(given, (list, tuple)) and given:
        return _open_several(given, name, storage)
    if type(given).__module__.partition(".")[0] == "h5py" and (dataset := hdf5.opened_already(given, name)):
        return dataset
    if is_sliceable(given):
        return Sliceable(given, name)
    if isinstance(given, (list, tuple, int, float)) or hasattr(given, "__array__"):
        return Memory(from_lists(given, name), name)
    raise TypeError(
        f"{name}: expected a path, a zarr, NumPy, dask or xarray array, or lists of numbers; got {type(given).__name__}"
    )


def _open_several(given: Sequence[Any], name: str, storage: Mapping[str, Any] | None) -> Source:
    """Open a list: of paths, or of numbers."""
    if all(isinstance(each, (str, os.PathLike)) for each in given):
        return join([_open_path(os.fspath(each), f"{name}[{i}]", storage) for i, each in enumerate(given)], 0, name)
    if any(isinstance(each, (str, os.PathLike)) or getattr(each, "ndim", 0) for each in given):
        raise TypeError(
            f"{name}: a {type(given).__name__} of {len(given)} arrays may mean rows or classes: "
            "daskxent.concat(arrays, axis=0) joins rows, daskxent.concat(arrays, axis=-1) joins classes"
        )
    return Memory(from_lists(given, name), name)


def _unwrapped(given: Any, name: str) -> Any:
    """Return the array inside an xarray.DataArray; a large one that may not be loaded yet is returned as it is."""
    if not is_labelled(given):
        return given
    check_attributes(given.attrs, given.dtype, name)
    return given if given.chunks is None and given.nbytes > LOADED else given.data


def _open_path(given: str, name: str, storage: Mapping[str, Any] | None = None) -> Source:
    """Open a path; what is there under its whole name comes before an index or a pattern that the name could be."""
    given = local(given)
    path, index = (given, None) if exists(given) else parsed(given)
    whole = "*" not in path or "://" in path or exists(path)
    several = enumerate([] if whole else matching(path, name))
    names = {path: name} if whole else {each: f"{name}[{i}] ({each})" for i, each in several}
    options = {"storage": storage} if storage and "://" in path else {}
    opened = [next(each for each in OPENERS if each.takes(at)).open(at, names[at], **options) for at in names]
    source = opened[0] if whole else join(opened, 0, name)
    return source if index is None else part(source, resolved(index, source.shape, name))
