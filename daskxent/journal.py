"""A file that remembers what has been evaluated, so that a run that was cut short goes on where it stopped.

Plain text, one record a line: eight hexadecimal digits of a CRC-32, a space, a JSON object. The first record says
what was evaluated and what was asked; each further one holds the state of a part, exactly, or says that the arrays
have grown. Lines are only ever appended. A process killed while it writes leaves at most an unfinished last line,
which is dropped; any other damage is an error. One process writes at a time.
"""

from __future__ import annotations

import io
import json
import os
import time
import zlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from daskxent.numbers.state import State, merge_all
from daskxent.report import differences

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FORMAT = 2
SYNC_SECONDS = 1.0  # how much work a crash of the machine, not just of the process, may cost


class JournalError(ValueError):
    """The journal is damaged, in use, or belongs to another evaluation."""


class Journal:
    """The parts evaluated so far.

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
    ) -> None:
        self.path = path
        self.state = State.zero()  # of all parts that were in the journal when it was opened
        self._file = _locked(path)
        self._synced = time.monotonic()
        try:
            self.inputs = fingerprint(steps)
            header = {"daskxent journal": FORMAT, "call": call, **_asked(question, self.inputs, steps)}
            records = self._records(_line(header))
            if not records:
                self._write(header)
                return
            known = [record for record in records if "steps" in record][-1]
            if steps < known["steps"]:
                raise JournalError(f"journal {path}: made for {known['steps']} steps along the first axis, now {steps}")
            self._check(known, _asked(question, fingerprint(known["steps"]), known["steps"]))
            self.state = merge_all(_states(records))
            if steps > known["steps"]:
                self._write(_asked(question, self.inputs, steps))
        except BaseException:
            self._file.close()
            raise

    def append(self, state: State) -> None:
        """Remember the state of a part."""
        self._write({"state": state.to_json()})

    def close(self) -> None:
        """Make sure that what was written stays, and let other processes in."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(_line(record))
        self._file.flush()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _records(self, header: bytes) -> list[dict[str, Any]]:
        """Read all records; cut an unfinished last line off."""
        lines = self._file.read().split(b"\n")
        torn = lines.pop()
        if not lines and not header.startswith(torn):
            raise JournalError(f"journal {self.path}: this file is no journal")
        records = [_record(line, self.path, number) for number, line in enumerate(lines, 1)]
        if records and records[0].get("daskxent journal") != FORMAT:
            raise JournalError(f"journal {self.path}: line 1 is not the header of a journal of format {FORMAT}")
        if torn:
            self._file.seek(-len(torn), io.SEEK_END)
            self._file.truncate()
        self._file.seek(0, io.SEEK_END)
        return records

    def _check(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        new = json.loads(json.dumps(new))
        found = [
            f"{name} was {was!r}, is {now!r}" for name, was, now in differences({key: old[key] for key in new}, new)
        ]
        if found:
            raise JournalError(f"journal {self.path}: belongs to another evaluation: {'; '.join(found)}")


def read(path: str) -> tuple[dict[str, Any], list[State]]:
    """Return the header and the states of a journal without writing to it."""
    with open(path, "rb") as file:
        lines = file.read().split(b"\n")[:-1]
    records = [_record(line, path, number) for number, line in enumerate(lines, 1)]
    if not records or records[0].get("daskxent journal") != FORMAT:
        raise JournalError(f"journal {path}: this file is no journal")
    return records[0], list(_states(records))


def _asked(question: dict[str, Any], inputs: dict[str, Any], steps: int) -> dict[str, Any]:
    return {"question": question, "inputs": inputs, "steps": steps}


def _states(records: list[dict[str, Any]]) -> Iterator[State]:
    return (State.from_json(record["state"]) for record in records if "state" in record)


def _locked(path: str) -> Any:
    """Open a file for reading and appending that no other process has open as a journal."""
    with ExitStack() as closing:
        file = closing.enter_context(open(path, "a+b"))
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no such locks on Windows
            pass
        except BlockingIOError as error:
            raise JournalError(f"journal {path}: another process is writing it") from error
        file.seek(0)
        closing.pop_all()
        return file


def _line(record: dict[str, Any]) -> bytes:
    text = json.dumps(record, separators=(",", ":"), sort_keys=True).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _record(line: bytes, path: str, number: int) -> dict[str, Any]:
    digits, _, text = line.partition(b" ")
    if digits != b"%08x" % zlib.crc32(text):
        raise JournalError(f"journal {path}: line {number} is damaged")
    record: dict[str, Any] = json.loads(text)
    return record
