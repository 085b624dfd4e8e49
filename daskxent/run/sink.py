"""Keep columns of every row: in NumPy arrays, or in a zarr group that parts write page by page.

A page is what is written as one: some whole steps along the lead axis. Parts begin and end at pages, so that no two
processes write to the same one, and a part that is evaluated twice writes the same bytes twice.
"""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from daskxent.numbers.reading import differences
from daskxent.numbers.status import ROW_COLUMNS, unset
from daskxent.run.dump_arrays import given, opened
from daskxent.run.failures import Unwritable
from daskxent.sources.cuts import Even

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from daskxent.numbers.status import Scored
    from daskxent.run.planning import Plan
    from daskxent.sources.align import Inputs
    from daskxent.sources.source import Box

MARK = "daskxent rows"  # the attribute of a group that says whether it is complete, and of what


class Sink(Protocol):
    """What takes the columns of scored rows."""

    @property
    def page(self) -> int | None:
        """Steps along the lead axis that are written as one; None where any box is cheap."""

    def columns(self, rows: Scored) -> Mapping[str, NDArray[Any]]:
        """Return what is kept of rows."""

    def write(self, box: Box, columns: Mapping[str, NDArray[Any]]) -> None:
        """Write the columns of a box of positions, each of the shape of the box."""


def page_steps(inputs: Inputs, plan: Plan) -> int:
    """Return how many steps a page takes: no more than a part, about `sizes.page_rows`, whole chunks of predictions."""
    grid = plan.cuts.size if isinstance(plan.cuts, Even) and not plan.cuts.phase else 1
    most = min(plan.step, inputs.sizes.page_rows / inputs.rows_per_step)
    return max(1, round(most / grid)) * grid


@dataclass(frozen=True)
class Arrays:
    """Columns in NumPy arrays of the shape of the positions."""

    arrays: Mapping[str, NDArray[Any]]
    page = None

    def columns(self, rows: Scored) -> Mapping[str, NDArray[Any]]:
        """Return what is kept of rows."""
        return rows.columns(self.arrays)

    def write(self, box: Box, columns: Mapping[str, NDArray[Any]]) -> None:
        """Write the columns of a box of positions."""
        for name, values in columns.items():
            self.arrays[name][box] = values


@dataclass(frozen=True)
class Group:
    """Columns in the arrays of a zarr group.

    Parameters
    ----------
    path : str
        Path or URL of the group.
    names : tuple of str
    page : int
        Steps along the lead axis in a chunk of the arrays.
    run : str
        What no other group has, not even one that took the place of this one.
    storage : mapping or None
        What the file system of a URL takes.
    """

    path: str
    names: tuple[str, ...]
    page: int = 0
    run: str = ""
    storage: Mapping[str, Any] | None = None

    def columns(self, rows: Scored) -> Mapping[str, NDArray[Any]]:
        """Return what is kept of rows."""
        return rows.columns(self.names)

    def write(self, box: Box, columns: Mapping[str, NDArray[Any]]) -> None:
        """Write the columns of a box of positions."""
        try:
            arrays = _opened(self.path, self.names, pickle.dumps(self.storage), self.run)
            for name, values in columns.items():
                arrays[name][box] = values
        except OSError as error:
            where = ", ".join(f"{s.start}:{s.stop}" for s in box)
            raise Unwritable(f"out: positions {where} cannot be written to {self.path}: {error}") from error

    def begin(self, inputs: Inputs, about: dict[str, Any], page: int) -> dict[str, Any]:
        """Create the group, or check that it is of the same rows.

        Parameters
        ----------
        inputs : Inputs
        about : dict
            What was asked of which arrays.
        page : int
            Steps in a chunk of the arrays, if they are to be created.

        Returns
        -------
        dict
            `complete`; `page` as it is; and `run`, which no other group has.

        Raises
        ------
        FileExistsError
            There is something else at the path, or a column was removed.
        """
        about = json.loads(json.dumps({**about, "columns": self.names}))
        try:
            group = opened(self.path, "r+", self.storage)
        except FileNotFoundError:
            return self._create(inputs, about, page)
        except (FileExistsError, NotADirectoryError, ValueError) as error:  # as zarr has it
            raise FileExistsError(f"out: {self.path} exists, and is not a zarr group: {error}") from error
        found = group.attrs.get(MARK)
        if not isinstance(found, dict):
            raise FileExistsError(f"out: {self.path} exists, and daskxent did not write it")
        different = [f"{name} was {was!r}, is {now!r}" for name, was, now in differences(found["about"], about)]
        if different:
            raise FileExistsError(f"out: {self.path} holds other rows: {'; '.join(different)}")
        if found["run"] is None:
            return self._add_arrays(group, inputs, found)
        if missing := [name for name in self.names if name not in group]:
            raise FileExistsError(
                f"out: {self.path} has lost {', '.join(missing)}; remove the group, and its journal if there is one, "
                "and all is computed anew"
            )
        return found

    def end(self) -> None:
        """Mark the group as complete, and remove what a process that was killed while it wrote has left there."""
        for left in self._left():
            left.unlink(missing_ok=True)
        group = opened(self.path, "r+", self.storage)
        mark: Any = group.attrs[MARK]
        group.attrs[MARK] = {**mark, "complete": True}

    def opened(self) -> dict[str, Any]:
        """Return the arrays by name, to be read."""
        group = opened(self.path, "r", self.storage)
        return {name: group[name] for name in self.names}

    def _create(self, inputs: Inputs, about: dict[str, Any], page: int) -> dict[str, Any]:
        import zarr

        self._check_empty()
        mark: Any = {"complete": False, "run": None, "page": page, "about": about}
        try:
            group = zarr.create_group(self.path, attributes={MARK: mark}, storage_options=given(self.storage))
            return self._add_arrays(group, inputs, mark)
        except OSError as error:
            raise Unwritable(f"out: {self.path} cannot be created: {error}") from error

    def _check_empty(self) -> None:
        """Refuse a local directory that holds more than what a process left that was killed while it created it."""
        if "://" in self.path or not os.path.isdir(self.path):
            return
        found = sorted({*Path(self.path).iterdir()} - {*self._left()})
        if found:
            raise FileExistsError(f"out: {self.path} exists, and is not a zarr group: it holds {found[0].name}")

    def _left(self) -> list[Path]:
        """Return what zarr left on a local disk, here and in the arrays, where it was killed while it wrote."""
        if "://" in self.path:
            return []
        below = chain.from_iterable(Path(self.path, name).rglob("*.partial") for name in self.names)
        return [*Path(self.path).glob("zarr.*.partial"), *below]

    def _add_arrays(self, group: Any, inputs: Inputs, mark: dict[str, Any]) -> dict[str, Any]:
        """Create the arrays, or those that a process that was killed meanwhile has not; only then there is a `run`."""
        shape, page = inputs.positions, mark["page"]
        chunks = tuple(min(page, n) if axis == inputs.lead else n for axis, n in enumerate(shape))
        for name in self.names:
            if name not in group:
                fill: Any = unset(name)
                group.create_array(name, shape=shape, chunks=chunks, dtype=ROW_COLUMNS[name], fill_value=fill)
        mark = {**mark, "run": os.urandom(8).hex()}
        group.attrs[MARK] = mark
        return mark


@lru_cache(maxsize=8)
def _opened(path: str, names: tuple[str, ...], storage: bytes, run: str) -> dict[str, Any]:
    """Return the arrays of a group to write to; those of another `run` may have another layout."""
    group = opened(path, "r+", pickle.loads(storage))
    return {name: group[name] for name in names}


@dataclass
class Pages:
    """Gathers the columns of a part's boxes, and writes them a page at a time.

    Boxes come in C order, with the lead axis first, and cover all positions of their steps.
    """

    sink: Sink
    inputs: Inputs
    stop: int
    _steps: slice = field(default_factory=lambda: slice(0, 0))  # of the page that is held
    _held: dict[str, NDArray[Any]] = field(default_factory=dict)

    @cached_property
    def _cuts(self) -> Even:
        return Even(self.stop, self.sink.page or 1)

    def add(self, box: Box, columns: Mapping[str, NDArray[Any]]) -> None:
        """Take the columns of a box, flat, and write the pages that are complete with it."""
        lead, shape = self.inputs.lead, tuple(s.stop - s.start for s in box)
        if self.sink.page is None:
            self.sink.write(box, {name: values.reshape(shape) for name, values in columns.items()})
            return
        steps = box[lead]
        for start, stop in self._cuts.ranges(steps.start, steps.stop):
            if not self._steps.start <= start < self._steps.stop:
                self.flush()
                self._begin(start, columns)
            inside = (*box[:lead], slice(start - self._steps.start, stop - self._steps.start), *box[lead + 1 :])
            some = (slice(None),) * lead + (slice(start - steps.start, stop - steps.start),)
            for name, values in columns.items():
                self._held[name][inside] = values.reshape(shape)[some]

    def flush(self) -> None:
        """Write what is held."""
        if self._held:
            everywhere = [slice(0, n) for n in self.inputs.positions]
            everywhere[self.inputs.lead] = self._steps
            self.sink.write(tuple(everywhere), self._held)
            self._held = {}

    def ends(self, step: int) -> bool:
        """Return whether pages end at a step."""
        return self._cuts.floor(step) == step

    def _begin(self, start: int, columns: Mapping[str, NDArray[Any]]) -> None:
        lead, stop = self.inputs.lead, self._cuts.ceil(start + 1)
        shape = tuple(stop - start if axis == lead else n for axis, n in enumerate(self.inputs.positions))
        self._steps = slice(start, stop)
        self._held = {name: np.empty(shape, values.dtype) for name, values in columns.items()}
