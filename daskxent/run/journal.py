"""What has been evaluated, kept in a file, so that a run that was cut short goes on where it stopped.

The first record says what was evaluated and what was asked; each further one holds the state of a part, exactly, or
says that the arrays have grown. Where states are large the file does not grow with the number of parts: when their
lines are longer than a multiple of what they add up to, the file is exchanged for one that holds the sum of all so far,
a *snapshot*, in their place. `journal_file` says what becomes of a process that is killed meanwhile.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from daskxent.numbers.state import Running, State, merge_all
from daskxent.report import differences
from daskxent.run.journal_file import JournalError, JournalFile, read_records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Journal", "JournalError", "Kept", "read"]

FORMAT = 2
# The states of this many bytes are kept part by part, which `verify` needs: 20,000 parts of ordinary rows, 10 TB, are
# 14 MB. To read them takes a second or two.
KEEP_BYTES = 16 << 20
# Beyond that, parts are kept up to this many times the size of the last snapshot. The file then is at most three times
# as large as what it adds up to, and a part. Where parts share their keys, snapshots cost half of what the parts do.
GROWTH = 2.0


class Journal:
    """The parts evaluated so far; `sums` is what they add up to.

    Parameters
    ----------
    path : str
        Created if there is none.
    question : dict
        What is asked; must be that of the journal.
    fingerprint : callable
        From a number of steps to what identifies the inputs over that many; must be that of the journal, which may
        have been made when there were fewer steps.
    steps : int
        Steps there are now.
    call : dict, optional
        How to repeat the evaluation.
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
        question: dict[str, Any],
        fingerprint: Callable[[int], dict[str, Any]],
        steps: int,
        call: dict[str, Any] | None = None,
        *,
        keep_bytes: int = KEEP_BYTES,
        growth: float = GROWTH,
    ) -> None:
        self.path = path
        self._keep_bytes, self._growth = keep_bytes, growth
        self._file = JournalFile(path)
        try:
            self.inputs = fingerprint(steps)
            asked = _asked(question, self.inputs, steps)
            header = {"daskxent journal": FORMAT, "call": call, **asked}
            self._found = _Found(path)
            self.sums = Running(merge_all(self._found.states(self._file.records(header))))
            known = self._found.header
            if not known:
                self._found.header = header
                self._file.begin(header)
                return
            if steps < known["steps"]:
                raise JournalError(f"journal {path}: made for {known['steps']} steps along the first axis, now {steps}")
            self._check(known, _asked(question, fingerprint(known["steps"]), known["steps"]))
            self._file.clean()
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

    def append(self, state: State) -> bool:
        """Remember the state of a part, and add it to `sums`; tell whether those hold all by now."""
        self.sums.refuse_covered(state)
        found = self._found
        found.part_bytes += self._file.append({"state": state.to_json()})
        whole = self.sums.add(state)
        if self._file.exchangeable and found.part_bytes > max(self._keep_bytes, self._growth * found.snapshot_bytes):
            snapshot = self.sums.merge().to_json()
            _, found.snapshot_bytes = self._file.exchange([found.header, {"snapshot": snapshot}])
            found.part_bytes = 0
        return whole

    def close(self) -> None:
        """Make sure that what was written stays, and let other processes in."""
        self._file.close()

    def _check(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        new = json.loads(json.dumps(new))
        found = [
            f"{name} was {was!r}, is {now!r}" for name, was, now in differences({key: old[key] for key in new}, new)
        ]
        if found:
            raise JournalError(f"journal {self.path}: belongs to another evaluation: {'; '.join(found)}")


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
        states = list(found.states(read_records(file, path)))
    if not found.header:
        raise JournalError(f"journal {path}: this file is no journal")
    return Kept(found.header, states.pop(0) if found.snapshot_bytes else None, states)


@dataclass
class _Found:
    """What is met on the way through the records: the header as it is by now, and how long the lines of states are."""

    path: str
    header: dict[str, Any] = field(default_factory=dict)
    snapshot_bytes: int = 0
    part_bytes: int = 0

    def states(self, records: Iterable[tuple[dict[str, Any], int]]) -> Iterator[State]:
        """Yield the state of every record that has one."""
        for record, size in records:
            if not self.header and record.get("daskxent journal") != FORMAT:
                raise JournalError(f"journal {self.path}: line 1 is not the header of a journal of format {FORMAT}")
            if "steps" in record:
                self.header |= record
            elif "snapshot" in record:
                self.snapshot_bytes = size
                yield State.from_json(record["snapshot"])
            else:
                self.part_bytes += size
                yield State.from_json(record["state"])


def _asked(question: dict[str, Any], inputs: dict[str, Any], steps: int) -> dict[str, Any]:
    return {"question": question, "inputs": inputs, "steps": steps}
