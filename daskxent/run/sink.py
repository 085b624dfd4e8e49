"""Keep columns of every row: in NumPy arrays, or in a zarr group that parts write page by page.

A page is what is written as one: some whole steps along the lead axis. Parts begin and end at pages, so that no two
processes write to the same one, and a part that is evaluated twice writes the same bytes twice.
"""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import dataclass, field, replace
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
from daskxent.sources.fingerprint import fingerprint
from daskxent.sources.paths import place

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

    def begun(self, inputs: Inputs, plan: Plan, journal: str | os.PathLike[str] | None = None) -> tuple[Group, bool]:
        """Create the group, or check that it is of the same rows.

        Parameters
        ----------
        inputs : Inputs
        plan : Plan
            What is asked, of which steps.
        journal : path, optional
            What holds the parts that are in the group already.

        Returns
        -------
        (Group, bool)
            The group as it is, and whether it is complete. It is not if anything was written since that it was made of.

        Raises
        ------
        FileExistsError
            There is something else at the path, or a column was removed.
        """
        mark = {
            "complete": False,
            "run": None,
            "page": page_steps(inputs, plan),
            "version": inputs.version(plan.start, plan.stop),
            "journal": None if journal is None else place(journal),
            "about": self._about(inputs, plan),
        }
        try:
            group = opened(self.path, "r+", self.storage)
        except FileNotFoundError:
            found = self._create(inputs, mark)
        except (FileExistsError, NotADirectoryError, ValueError) as error:  # as zarr has it
            raise FileExistsError(f"out: {self.path} exists, and is not a zarr group: {error}") from error
        else:
            found = self._continued(group, inputs, mark)
        return replace(self, page=found["page"], run=found["run"]), found["complete"]

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

    def _about(self, inputs: Inputs, plan: Plan) -> Any:
        """Return what was asked of which arrays, as JSON has it."""
        about = {
            "question": plan.question.to_json(),
            "steps": [plan.start, plan.stop],
            "inputs": fingerprint(inputs, inputs.positions[inputs.lead]),
            "columns": self.names,
        }
        return json.loads(json.dumps(about))

    def _create(self, inputs: Inputs, mark: dict[str, Any]) -> dict[str, Any]:
        import zarr

        self._check_empty()
        try:
            group = zarr.create_group(self.path, attributes={MARK: mark}, storage_options=given(self.storage))
            return self._add_arrays(group, inputs, mark)
        except OSError as error:
            raise Unwritable(f"out: {self.path} cannot be created: {error}") from error

    def _continued(self, group: Any, inputs: Inputs, mark: dict[str, Any]) -> dict[str, Any]:
        """Return the mark of a group that is there, if it is of the same rows."""
        found = group.attrs.get(MARK)
        if not isinstance(found, dict):
            raise FileExistsError(f"out: {self.path} exists, and daskxent did not write it")
        anew = mark["version"] not in (None, found["version"])
        rewritten = anew and found["version"] is not None and _are_stored(mark["about"]["inputs"])
        different = [
            f"{name} was {was!r}, is {now!r}"
            for name, was, now in differences(found["about"], mark["about"])
            if not (rewritten and name.endswith(".sample"))  # the versions say it, of every step
        ]
        if different:
            raise FileExistsError(f"out: {self.path} holds other rows: {'; '.join(different)}")
        if found["run"] is None:
            return self._add_arrays(group, inputs, {**mark, "page": found["page"]})
        if missing := [name for name in self.names if name not in group]:
            raise FileExistsError(
                f"out: {self.path} has lost {', '.join(missing)}; remove the group, and its journal if there is one, "
                "and all is computed anew"
            )
        if anew:
            # Only the journal that has been kept all along knows which pages are still good.
            kept = mark["journal"] is not None and mark["journal"] == found["journal"]
            found = {**mark, "page": found["page"], "run": found["run"] if kept else _new_run()}
            group.attrs[MARK] = found
        return dict(found)

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
        mark = {**mark, "run": _new_run()}
        group.attrs[MARK] = mark
        return mark


def _new_run() -> str:
    return os.urandom(8).hex()


def _are_stored(identity: Any) -> bool:
    """Return whether none of the arrays is in memory, where what differs is another array and no later state of it."""
    if isinstance(identity, dict):
        return identity.get("where") != "memory" and all(map(_are_stored, identity.values()))
    return not isinstance(identity, list) or all(map(_are_stored, identity))


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
