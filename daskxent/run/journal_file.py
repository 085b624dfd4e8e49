"""The file of a journal: lines with checksums that one process writes, and that are whole for all who read.

Plain text, one record a line: eight hexadecimal digits of a CRC-32, a space, a JSON object. Lines are appended, or the
file is exchanged for another in one step. A process killed while it appends leaves at most an unfinished last line,
which is dropped; one killed while it exchanges leaves the old file or the new one, and perhaps an unfinished one
next to it, which is removed by whoever opens the journal next. Any other damage is an error.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
import zlib
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SYNC_SECONDS = 1.0  # how much work a crash of the machine, not just of the process, may cost


class JournalError(ValueError):
    """The journal is damaged, in use, or belongs to another evaluation."""


class JournalFile:
    """A file of records that no other process has open as a journal.

    After an error of the system nothing more is written; what was in the file stays as it was.

    Parameters
    ----------
    path : str
        Created if there is none.

    Raises
    ------
    JournalError
        Another process writes it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._real = os.path.realpath(path)  # the file is exchanged, not a link that leads to it
        self._replacement = f"{self._real}.unfinished"
        self._file = _locked(self._real, path)
        self._synced = time.monotonic()

    def __del__(self) -> None:
        """Let other processes in: a stream that is dropped before it has begun does not get to close its journal."""
        if hasattr(self, "_file"):  # it was not locked otherwise
            self._file.close()

    def records(self, header: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield every record with the size of its line, then cut an unfinished last line off.

        What is unfinished in the first line must be the beginning of `header`, or the file is not a journal.
        """
        end = 0
        self._file.seek(0)
        with open(self._file.fileno(), "rb", closefd=False) as reader:
            for record, size in read_records(reader, self.path):
                end += size
                yield record, size
        self._file.seek(end)
        if not end and not _line(header).startswith(self._file.read(-1)):
            raise JournalError(f"journal {self.path}: this file is not a journal")
        self._file.truncate(end)

    def append(self, record: dict[str, Any]) -> int:
        """Add a record; return the size of its line."""
        line, end = _line(record), os.fstat(self._file.fileno()).st_size
        try:
            with _naming(self.path):
                _write(self._file, line)
                if time.monotonic() - self._synced > SYNC_SECONDS:
                    self._sync()
        except BaseException:
            with suppress(OSError):
                self._file.truncate(end)
            self._file.close()
            raise
        return len(line)

    def exchange(self, records: Iterable[dict[str, Any]]) -> list[int]:
        """Put other records in the place of all there are, in one step; return the sizes of their lines.

        Whoever opens the path finds all of the old records or all of the new ones. No other process can get in between:
        the new file is locked before it can be found, the old one for as long as it can; and see `_locked`.
        """
        if not _is_at(self._file, self._real):
            raise JournalError(f"journal {self.path}: was moved or removed while it was written")
        try:
            with _naming(self.path), ExitStack() as undo:
                new = undo.enter_context(_locked(self._replacement, self.path))
                undo.callback(self.clean)
                new.truncate(0)
                with suppress(OSError):  # not every file system has permissions
                    os.chmod(self._replacement, stat.S_IMODE(os.fstat(self._file.fileno()).st_mode))
                sizes = [_write(new, _line(record)) for record in records]
                os.fsync(new.fileno())
                os.replace(self._replacement, self._real)
                undo.pop_all()
        except BaseException:
            self._file.close()
            raise
        self._file.close()
        self._file = new
        self._sync_directory()
        return sizes

    def clean(self) -> None:
        """Remove what a process that was killed in `exchange` may have left."""
        with suppress(FileNotFoundError):
            os.unlink(self._replacement)

    def close(self) -> None:
        """Make sure that what was written stays, and let other processes in."""
        if not self._file.closed:
            with self._file, _naming(self.path):
                self._sync()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _sync_directory(self) -> None:
        """Make sure that it is the new file that is there after a crash of the machine."""
        directory = os.open(os.path.dirname(self._real), os.O_RDONLY)
        try:
            with suppress(OSError):  # not every file system can
                os.fsync(directory)
        finally:
            os.close(directory)


def read_records(file: BinaryIO, path: str) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the records of an open file with the sizes of their lines, as far as lines are finished."""
    for number, line in enumerate(file, 1):
        if line.endswith(b"\n"):
            yield _record(line[:-1], path, number), len(line)


def _line(record: dict[str, Any]) -> bytes:
    text = json.dumps(record, separators=(",", ":"), sort_keys=True).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _record(line: bytes, path: str, number: int) -> dict[str, Any]:
    digits, _, text = line.partition(b" ")
    damaged = JournalError(f"journal {path}: line {number} is damaged")
    if digits != b"%08x" % zlib.crc32(text):
        raise damaged
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged from error
    if not isinstance(record, dict):
        raise damaged
    return record


def _write(file: Any, data: bytes) -> int:
    """Write all of it: the system may take less at once."""
    left = memoryview(data)
    while left:
        left = left[os.write(file.fileno(), left) :]
    return len(data)


def _locked(real: str, path: str) -> Any:
    """Open a file for reading and appending that no other process has open so."""
    while True:
        with ExitStack() as closing:
            file = closing.enter_context(open(real, "a+b", buffering=0))
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise JournalError(f"journal {path}: is not a regular file")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise JournalError(f"journal {path}: another process is writing it") from error
            # The lock is that of a file, not of a path: the one that was opened may just have been exchanged.
            if _is_at(file, real):
                closing.pop_all()
                return file


def _is_at(file: Any, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Let an error of the system say which journal it is about."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
