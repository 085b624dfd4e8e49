"""What has been evaluated, kept in a file, so that an interrupted run resumes where it stopped.

The first record says what was evaluated and what was asked; each further one holds the state of a part, exactly, and
the version of what was read for it, or says that the arrays have grown. What was written anew since is evaluated again.
Where states are large the file does not grow with the number of parts: when their lines are longer than a multiple of
what they add up to, the file is exchanged for one that holds the sum of all so far, a *snapshot*, in their place.
`journal_file` says what becomes of a process that is killed meanwhile.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from daskxent.numbers import reading
from daskxent.numbers.reading import differences
from daskxent.numbers.state import Running, State, merge_all
from daskxent.run.journal_file import JournalError, JournalFile, read_records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Journal", "JournalError", "Kept", "read"]

T = TypeVar("T")

FORMAT = 5
Versions = tuple[tuple[int, int, str], ...]  # of ranges of steps
# The states of this many bytes are kept part by part, which `verify` needs: 20,000 parts of ordinary rows, 10 TB, are
# 14 MB. To read them takes a second or two.
KEEP_BYTES = 16 << 20
# Beyond that, parts are kept up to this many times the size of the last snapshot. The file then is at most three times
# as large as what it adds up to, and a part. Where parts share their keys, snapshots cost half of what the parts do.
GROWTH = 2.0


class Journal:
    """The parts evaluated so far; `sums` is what they add up to, and `stale` counts rows that were written anew since.

    Parameters
    ----------
    path : str
        Created if there is none.
    question : callable
        From a number of steps to what is asked of that many; must be that of the journal, which may have been made when
        there were fewer steps.
    fingerprint : callable
        From a number of steps to what identifies the inputs over that many; likewise.
    steps : int
        Steps there are now.
    call : dict, optional
        How to repeat the evaluation.
    version : callable, optional
        From a range of steps to what changes when anything they need is written anew, or None: see `Inputs.version`.
    check : callable, optional
        Raises a ValueError for a state that does not answer the question.
    keep_bytes, growth : int, float
        A snapshot takes the place of parts when their lines are longer than `keep_bytes` and than `growth` times the
        last snapshot.

    Raises
    ------
    JournalError
        Another process writes it; a line other than the last is damaged; or it belongs to other inputs or another
        question, in which case the message names the field that differs.
    """

    def __init__(
        self,
        path: str,
        question: Callable[[int], dict[str, Any]],
        fingerprint: Callable[[int], dict[str, Any]],
        steps: int,
        call: dict[str, Any] | None = None,
        *,
        version: Callable[[int, int], str | None] = lambda start, stop: None,
        check: Callable[[State], object] = lambda state: None,
        keep_bytes: int = KEEP_BYTES,
        growth: float = GROWTH,
    ) -> None:
        self.path, self.stale = path, 0
        self._keep_bytes, self._growth = keep_bytes, growth
        self._file = JournalFile(path)
        try:
            self.inputs = fingerprint(steps)
            asked = _asked(question(steps), self.inputs, steps)
            header = {"daskxent journal": FORMAT, "call": call, **asked}
            self._found = _Found(path)
            kept = [each for each in self._found.parts(self._file.records(header)) if self._is_fresh(each, version)]
            self.sums = Running(self._found.checked(merge_all, [each.state for each in kept]))
            self._versions = list(chain.from_iterable(each.versions for each in kept))
            known = self._found.header
            if not known:
                self._found.header = header
                self._file.exchange([header])
                return
            if steps < known["steps"]:
                raise JournalError(f"journal {path}: made for {known['steps']} steps along the first axis, now {steps}")
            before = known["steps"]
            self._check(known, _asked(question(before), fingerprint(before), before), bool(kept))
            for part in kept:
                self._found.checked(check, part.state)
            self._file.clean()
            if not kept:  # whatever was read before, as up to a bad label, may have been corrected
                known = self._found.header = header
            if self.stale or not kept:
                self._file.exchange([known, *map(_Part.record, kept)])
            if steps > known["steps"]:
                known |= asked
                self._file.append(asked)
        except BaseException:
            self._file.close()
            raise

    @property
    def state(self) -> State:
        """What all parts add up to."""
        return self.sums.merge()

    def append(self, state: State, versions: Versions = ()) -> bool:
        """Remember the state of a part, and add it to `sums`; return whether those hold all by now."""
        self.sums.refuse_covered(state)
        found = self._found
        found.part_bytes += self._file.append(_Part("state", state, versions).record())
        self._versions += versions
        whole = self.sums.add(state)
        if found.part_bytes > max(self._keep_bytes, self._growth * found.snapshot_bytes):
            snapshot = _Part("snapshot", self.sums.merge(), tuple(self._versions))
            _, found.snapshot_bytes = self._file.exchange([found.header, snapshot.record()])
            found.part_bytes = 0
        return whole

    def _is_fresh(self, part: _Part, version: Callable[[int, int], str | None]) -> bool:
        """Return whether what was read for a part is still what is there; count the rows of one for which it is not."""
        fresh = all(version(start, stop) in (was, None) for start, stop, was in part.versions)
        self.stale += 0 if fresh else part.state.rows
        return fresh

    def close(self) -> None:
        """Make sure that what was written stays, and let other processes in."""
        self._file.close()

    def _check(self, old: dict[str, Any], new: dict[str, Any], has_parts: bool) -> None:
        new, versioned = json.loads(json.dumps(new)), self._versions or self.stale or not has_parts
        found = [
            f"{name} was {was!r}, is {now!r}"
            for name, was, now in differences({key: old[key] for key in new}, new)
            if not (versioned and name.endswith(".sample"))  # the versions say it, of every part; or there is none
        ]
        if found:
            differs = "; ".join(found)
            raise JournalError(f"journal {self.path}: belongs to another evaluation: {differs}; name another file")


class Kept(NamedTuple):
    """What a journal holds: `header`, the state of all parts before the last snapshot, and those of parts since."""

    header: dict[str, Any]
    snapshot: State | None
    parts: list[State]

    @property
    def state(self) -> State:
        """What all of it adds up to."""
        return merge_all(self.parts if self.snapshot is None else [self.snapshot, *self.parts])


def read(path: str) -> Kept:
    """Return what is in a journal without writing to it; somebody may be writing it meanwhile."""
    found = _Found(path)
    with open(path, "rb") as file:
        states = [part.state for part in found.parts(read_records(file, path))]
    if not found.header:
        raise JournalError(f"journal {path}: this file is not a journal")
    kept = Kept(found.header, states.pop(0) if found.snapshot_bytes else None, states)
    found.checked(lambda: kept.state)
    return kept


class _Part(NamedTuple):
    """What a record holds: the state of a part, or of all before, a "snapshot"."""

    kind: str
    state: State
    versions: Versions

    def record(self) -> dict[str, Any]:
        """Return the record."""
        return {self.kind: self.state.to_json(), "versions": self.versions}


@dataclass
class _Found:
    """What is met on the way through the records: the header as it is by now, and how long the lines of states are."""

    path: str
    header: dict[str, Any] = field(default_factory=dict)
    snapshot_bytes: int = 0
    part_bytes: int = 0

    def parts(self, records: Iterable[tuple[dict[str, Any], int]]) -> Iterator[_Part]:
        """Yield what is held by every record that has a state."""
        for record, size in records:
            if not self.header and not self._is_header(record):
                raise JournalError(f"journal {self.path}: line 1 is not the header of a journal of format {FORMAT}")
            if "steps" in record:
                self.checked(reading.whole, record["steps"], "steps")
                self.header |= record
                continue
            kind = "snapshot" if "snapshot" in record else "state"
            if kind == "snapshot":
                self.snapshot_bytes = size
            else:
                self.part_bytes += size
            yield _Part(kind, *self.checked(self._read, record, kind))

    def checked(self, check: Callable[..., T], *given: Any) -> T:
        """Return what is made of a record; a ValueError is one of the journal."""
        try:
            return check(*given)
        except ValueError as error:
            raise JournalError(f"journal {self.path}: a record does not belong to this journal: {error}") from error

    @staticmethod
    def _is_header(record: dict[str, Any]) -> bool:
        types = {"question": dict, "inputs": dict, "steps": int}
        return record.get("daskxent journal") == FORMAT and all(
            type(record.get(name)) is kind for name, kind in types.items()
        )

    @staticmethod
    def _read(record: dict[str, Any], kind: str) -> tuple[State, Versions]:
        read = reading.mapping(record, "record", kind, "versions")
        versions = [reading.several(each, "versions", 3) for each in reading.several(read["versions"], "versions")]
        for start, stop, version in versions:
            reading.whole(stop, "versions", reading.whole(start, "versions") + 1)
            reading.one_of(version, "versions", str)
        state = State.from_json(read[kind])
        if not state.covered:
            raise ValueError("covered: no rows")
        return state, tuple((start, stop, version) for start, stop, version in versions)


def _asked(question: dict[str, Any], inputs: dict[str, Any], steps: int) -> dict[str, Any]:
    return {"question": question, "inputs": inputs, "steps": steps}
