"""Columns of Parquet and Arrow files, ``dump.parquet/logits``: numbers, strings, or lists of one number per class."""

from __future__ import annotations

import functools
import itertools
import math
import os
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daskxent.sources.cache import Opening
from daskxent.sources.cuts import chunked
from daskxent.sources.local import LocalFile, chosen, entered
from daskxent.sources.objects import failing
from daskxent.sources.pieces import Pieces

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from daskxent.sources.source import Box

ARROW = ".arrow", ".feather"


class Format(NamedTuple):
    """A format of files of columns.

    Attributes
    ----------
    rows : callable
        From a file to its schema and the number of rows of each group of rows that can be read alone.
    group : callable
        From a file, a column and the number of a group to the column there.
    first : callable
        From a file and a column to its first row.
    """

    rows: Callable[[str], tuple[Any, list[int]]]
    group: Callable[[str, str, int], Any]
    first: Callable[[str, str], Any]


def _parquet_rows(file: str) -> tuple[Any, list[int]]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file) as opened:
        groups = [opened.metadata.row_group(i).num_rows for i in range(opened.metadata.num_row_groups)]
        return opened.schema_arrow, groups


def _parquet_group(file: str, column: str, number: int) -> Any:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file, memory_map=True) as opened:
        return opened.read_row_group(number, columns=[column], use_threads=False).column(column).combine_chunks()


def _parquet_first(file: str, column: str) -> Any:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file) as opened:
        batches = opened.iter_batches(1, columns=[column], use_threads=False)
        return next((batch.column(0)[0].as_py() for batch in batches), [])


def _arrow_rows(file: str) -> tuple[Any, list[int]]:
    import pyarrow as pa

    with pa.memory_map(file) as opened:
        schema = pa.ipc.open_file(opened).schema
        # The number of rows is in the batches: that of the shortest column is looked at.
        shortest = min(range(len(schema)), key=lambda i: str(schema.types[i]).count("list"))
        reader = pa.ipc.open_file(opened, options=pa.ipc.IpcReadOptions(included_fields=[shortest]))
        return schema, [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]


def _arrow_group(file: str, column: str, number: int) -> Any:
    import pyarrow as pa

    with pa.memory_map(file) as opened:
        at = pa.ipc.open_file(opened).schema.get_field_index(column)
        reader = pa.ipc.open_file(opened, options=pa.ipc.IpcReadOptions(included_fields=[at]))
        return reader.get_batch(number).column(0)


def _arrow_first(file: str, column: str) -> Any:
    groups = (_arrow_group(file, column, number) for number, rows in enumerate(_arrow_rows(file)[1]) if rows)
    return next((group[0].as_py() for group in groups), [])


FORMATS = {
    "Parquet": Format(_parquet_rows, _parquet_group, _parquet_first),
    "Arrow": Format(_arrow_rows, _arrow_group, _arrow_first),
}


class Column(Pieces, LocalFile):
    """A column of a file, read a group of rows at a time.

    Parameters
    ----------
    file, inner : str
        The file, and what the column is called.
    name : str
    nbytes : int
        Size of the file.
    form : {"Parquet", "Arrow"}
    groups : tuple of int
        Rows of each group.
    row : tuple of int
        Shape of a row.
    dtype : dtype
    """

    def __init__(
        self, file: str, inner: str, name: str, nbytes: int, form: str, groups: tuple[int, ...], row: tuple[int, ...],
        dtype: Any, opening: Opening | None = None,
    ) -> None:  # fmt: skip
        super().__init__(file, name, nbytes)
        self.inner, self.path, self.form, self.groups = inner, f"{file}/{inner}", form, groups
        self.opening, self.shape, self.dtype = opening or Opening(), (sum(groups), *row), dtype
        self.cuts = [chunked(groups) if sum(groups) else None, *(None for _ in row)]

    def __reduce__(self) -> tuple[Any, ...]:
        place = self.file, self.inner, self.name, self.nbytes, self.form, self.groups
        return Column, (*place, self.shape[1:], self.dtype, self.opening)

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Read a box; the file must be the one that was opened."""
        self.check_unchanged()
        return super().read(box, missing)

    def piece(self, box: Box) -> NDArray[Any]:
        """Read the column in a group of rows."""
        starts = [0, *itertools.accumulate(self.groups)]
        first = bisect_right(starts, box[0].start) - 1  # others that begin there are empty
        with failing(f"{self.name}: {self.path}"):
            column = FORMATS[self.form].group(self.file, self.inner, first)
        found = self._plain(getattr(column, "storage", column), box[0].start)
        return found[:, *box[1:]]

    def _plain(self, column: Any, start: int) -> NDArray[Any]:
        """Return a column as an array; `start` is the number of its first row."""
        shape, flat = [len(column)], column
        for width in self.shape[1:]:
            short = np.flatnonzero(flat.value_lengths().fill_null(0).to_numpy() != width)
            if short.size:
                row = start + int(short[0]) // math.prod(shape[1:])
                raise ValueError(f"{self.name}: {self.path} has no list of {width} numbers at row {row}, as before it")
            shape.append(width)
            flat = flat.flatten()
        if flat.null_count and self.dtype.kind != "O":
            row = start + int(np.flatnonzero(flat.is_null().to_numpy(False))[0]) // math.prod(shape[1:])
            raise ValueError(f"{self.name}: {self.path} is null at row {row}")
        plain = flat.dictionary_decode() if hasattr(flat, "dictionary_decode") else flat
        return np.asarray(plain.to_numpy(zero_copy_only=False), self.dtype).reshape(shape)


def _described(kind: Any, first: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape of one row, and the dtype, of a column of some type; `first` returns its first row."""
    import pyarrow.types as types

    shape, value = [], None
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        if types.is_fixed_size_list(kind):
            shape.append(kind.list_size)
        else:
            value = first() if value is None else value
            shape.append(len(functools.reduce(lambda inner, _: inner[0], shape, value)))
        kind = kind.value_type
    if types.is_dictionary(kind):
        kind = kind.value_type
    return tuple(shape), np.dtype(kind.to_pandas_dtype())


def names_in(form: str, path: str) -> list[str]:
    """Return the names of the columns of a file."""
    names: list[str] = FORMATS[form].rows(path)[0].names
    return names


def open_columns(path: str, name: str, form: str, ends: tuple[str, ...]) -> Column:
    """Open a column of a file; of the only one the name may be left out."""
    file, inner = entered(path, name, *ends)
    try:
        import pyarrow as pa
    except ImportError as error:
        raise ImportError(f"{name}: {form} files need pyarrow: pip install 'daskxent[arrow]'") from error
    try:
        schema, groups = FORMATS[form].rows(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{name}: {file} cannot be read as a file of {form}: {error}") from error
    inner = chosen(inner, schema.names, file, name)
    kind = schema.field(inner).type
    while hasattr(kind, "storage_type"):  # tensors of a fixed shape
        kind = kind.storage_type
    first = functools.partial(FORMATS[form].first, file, inner)
    try:
        row, dtype = _described(kind, first)
    except (NotImplementedError, TypeError, IndexError) as error:
        raise ValueError(f"{name}: {path} is of type {kind}, which is not an array of numbers or strings") from error
    return Column(file, inner, name, os.stat(file).st_size, form, tuple(groups), row, dtype)


open_parquet = functools.partial(open_columns, form="Parquet", ends=(".parquet",))
open_arrow = functools.partial(open_columns, form="Arrow", ends=ARROW)
