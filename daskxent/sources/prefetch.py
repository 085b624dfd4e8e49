"""Encoded chunks that are asked for before they are needed: a store far away then costs its bandwidth, not its latency.

Whoever evaluates a part says which chunks it will read, in order, and which parts come after. A bounded window of them
is under way or waits encoded, for all threads of the process together; decoding and scanning stay where they are. What
is read before its turn has come is fetched by the reader, as without a window.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from daskxent.sources.objects import RANGE, loop_of_stores

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator

    from daskxent.sources.files import Bytes

    Index = tuple[int, ...]

# For 1 GB/s at 50 ms and 80 MB/s a connection: 63 requests for chunks of 1 MB, 25 of 4 MB, 14 of 40 MB.
WINDOW_BYTES = 128 << 20
REQUESTS = 64
REMEMBERED = 1 << 14  # chunks that were read by parts, at most


class Chunks(Protocol):
    """The chunks of one array."""

    @property
    def nbytes(self) -> int:
        """Bytes of a decoded chunk."""

    def in_one_object(self, one: Index, other: Index) -> bool:
        """Return whether two chunks are in one object."""

    async def encoded(self, several: list[Index], expected: int) -> list[Bytes | None]:
        """Get some chunks of one object, encoded, of about this many bytes each; None for what is not stored."""


Item = tuple[Chunks, "Index"]


@dataclass
class _Part:
    """The chunks of a part that were not asked for yet, and those that wait to be read."""

    items: Iterator[Item]
    begun: bool = False
    waiting: dict[Item, _Chunk] = field(default_factory=dict)
    pushed: Item | None = None
    nbytes: int = 0  # of those that wait; kept, because there may be ten thousand


@dataclass
class _Chunk:
    """A chunk that was asked for: its bytes, when they have come, and how many they are, or may be."""

    nbytes: int
    done: Future[Bytes | None] = field(default_factory=Future)


class Window:
    """What is asked for ahead in this process.

    Parameters
    ----------
    most_bytes : int
        Encoded chunks under way or waiting, in bytes.
    most_requests : int
        Requests under way.
    """

    def __init__(self, most_bytes: int = WINDOW_BYTES, most_requests: int = REQUESTS) -> None:
        self.most_bytes, self.most_requests = most_bytes, most_requests
        self._lock = threading.RLock()
        self._parts: OrderedDict[Hashable, _Part] = OrderedDict()
        self._read: OrderedDict[Item, None] = OrderedDict()  # before its turn, or by several boxes
        self._requests = 0
        self._usual: dict[Chunks, int] = {}  # bytes of a chunk of an array, as far as is known

    @property
    def _nbytes(self) -> int:
        """Encoded bytes under way or waiting; there are a few parts."""
        return sum(part.nbytes for part in self._parts.values())

    def announce(self, part: Hashable, items: Iterable[Item]) -> None:
        """Say which chunks a part will read, if that was not said before."""
        with self._lock:
            if part in self._parts:
                return
            found = _Part(iter(items))
            found.pushed = next(found.items, None)
            if found.pushed is not None:  # or nothing of it is far away
                self._parts[part] = found
                self._fill()

    def begin(self, part: Hashable) -> None:
        """Say that a part is being read: its chunks come before those of parts that wait."""
        with self._lock:
            if part in self._parts:
                self._parts[part].begun = True
                self._fill()

    def end(self, part: Hashable, rest: Hashable = None) -> None:
        """Drop what a part has not read; or keep it for the rest of it, which is read later."""
        with self._lock:
            found = self._parts.pop(part, None)
            if found is not None and rest is not None:
                found.begun = False
                self._parts[rest] = found
                self._parts.move_to_end(rest, last=False)
            elif found is not None:
                self._fill()
            if not self._parts:
                self._read.clear()
                self._usual.clear()

    def forget(self, parts: Iterable[Hashable]) -> None:
        """Drop what was announced of parts that will not be read."""
        for part in parts:
            self.end(part)

    def take(self, chunks: Chunks, index: Index) -> Future[Bytes | None] | None:
        """Return what becomes the bytes of a chunk; None if it was not asked for."""
        if not self._parts:
            return None
        item = chunks, index
        with self._lock:
            self._read[item] = None
            if len(self._read) > REMEMBERED:
                self._read.popitem(last=False)
            for part in self._parts.values():
                if item in part.waiting:
                    chunk = part.waiting.pop(item)
                    part.nbytes -= chunk.nbytes
                    self._fill()
                    return chunk.done
        return None

    def _fill(self) -> None:
        """Ask for chunks as long as there is room."""
        while self._requests < self.most_requests and self._nbytes < self.most_bytes:
            begun = [part for part in self._parts.values() if part.begun and part.pushed]
            late = (part for part in self._parts.values() if part.pushed)
            part = min(begun, key=lambda each: each.nbytes) if begun else next(late, None)
            if part is None:
                return
            group = self._group(part)
            if group:
                self._ask(part, group)

    def _group(self, part: _Part) -> list[Item]:
        """Take the next chunks of a part that are in one object, and not more than a request is for."""
        found: list[Item] = []
        nbytes = 0
        while part.pushed is not None:
            chunks, index = part.pushed
            more = nbytes + self._size(chunks)
            if found and (found[0][0] is not chunks or not chunks.in_one_object(found[0][1], index) or more > RANGE):
                break
            if part.pushed not in self._read and not any(part.pushed in each.waiting for each in self._parts.values()):
                found.append(part.pushed)
                nbytes = more
            part.pushed = next(part.items, None)
        return found

    def _size(self, chunks: Chunks) -> int:
        """Return how many bytes a chunk of an array will have, about."""
        return self._usual.get(chunks, chunks.nbytes)

    def _ask(self, part: _Part, group: list[Item]) -> None:
        chunks = group[0][0]
        each = self._size(chunks)
        asked = {item: _Chunk(each) for item in group}
        part.waiting |= asked
        requests = max(1, each * len(group) // RANGE)
        part.nbytes += each * len(group)
        self._requests += requests
        asyncio.run_coroutine_threadsafe(self._fetch(chunks, part, asked, requests), loop_of_stores())

    async def _fetch(self, chunks: Chunks, part: _Part, asked: dict[Item, _Chunk], requests: int) -> None:
        """Get some chunks, and give them, or the error, to whoever reads them."""
        try:
            expected = next(iter(asked.values())).nbytes
            found: Any = await chunks.encoded([index for _, index in asked], expected)
        except Exception as error:
            found = itertools.repeat(error)
        except asyncio.CancelledError as error:  # readers must not wait for ever
            found = itertools.repeat(OSError(f"the request was given up: {type(error).__name__}"))
        with self._lock:
            self._requests -= requests
            for (item, chunk), result in zip(asked.items(), found, strict=False):
                if isinstance(result, Exception):
                    chunk.done.set_exception(result)
                    continue
                size = 0 if result is None else result.size
                if part.waiting.get(item) is chunk:
                    part.nbytes += size - chunk.nbytes
                chunk.nbytes = size
                self._usual[chunks] = max(size, self._usual.get(chunks, 0) * 7 // 8)
                chunk.done.set_result(result)
            self._fill()


@contextlib.contextmanager
def reading(window: Window, part: Hashable, items: Iterable[Item]) -> Iterator[list[Any]]:
    """Read a part with a window; what is left of it, if anything, is put into the list."""
    rest: list[Any] = []
    window.announce(part, items)
    window.begin(part)
    try:
        yield rest
    finally:
        window.end(part, rest[0] if rest else None)


WINDOW = Window()
if hasattr(os, "register_at_fork"):  # where a child may find it locked by a thread that it does not have
    os.register_at_fork(after_in_child=WINDOW.__init__)  # type: ignore[misc]
