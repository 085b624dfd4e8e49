"""Decoded chunks that several boxes take parts of, kept once for all threads of the process.

A chunk of labels may reach over many boxes of predictions, and a box over several chunks of labels. Each is decoded
once, by the thread that asks first; others wait for it. What was used last is kept, up to `most_bytes`: where boxes
touch more than that, chunks are decoded again, and memory stays bounded.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# A box of maps of 1024 x 1024 touches 8 MB of int64 labels; in chunks that reach over 32 maps these are 256 MB.
KEPT_BYTES = 128 << 20
ENTRY_BYTES = 1 << 10  # the least that an entry counts for: chunks may be tiny


def most_bytes(threads: int, thread_bytes: int = KEPT_BYTES) -> int:
    """Return how much is kept while some threads read."""
    return thread_bytes * max(2, threads)


class Opening:
    """One opening of an array, in whatever processes: what is kept of it is not taken for that of another opening."""

    def __init__(self, key: bytes | None = None) -> None:
        self.key = key or os.urandom(8)
        if key is None:  # not in the processes it is sent to: there it goes with each task
            weakref.finalize(self, KEPT.forget, self.key).atexit = False

    def __reduce__(self) -> tuple[Any, ...]:
        return Opening, (self.key,)


class Kept:
    """The chunks that were used last, by keys that begin with that of an `Opening`.

    Parameters
    ----------
    thread_bytes, entry_bytes : int
        How much is kept for each thread, and the least that a chunk counts for.
    """

    def __init__(self, thread_bytes: int = KEPT_BYTES, entry_bytes: int = ENTRY_BYTES) -> None:
        self.thread_bytes, self.entry_bytes = thread_bytes, entry_bytes
        self._lock = threading.Lock()
        self._chunks: OrderedDict[tuple[Any, ...], tuple[NDArray[Any], int]] = OrderedDict()
        self._under_way: dict[tuple[Any, ...], threading.Event] = {}
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._forgotten: deque[bytes] = deque()
        self.nbytes = 0

    def get(self, key: tuple[Any, ...], read: Callable[[], NDArray[Any] | None]) -> NDArray[Any] | None:
        """Return what `read` returns, which one thread calls for all that ask meanwhile; what it raises is not shared.

        The chunk must lie in memory of its own. None is not kept.
        """
        done, chunk, thread = threading.Event(), None, threading.current_thread()
        try:
            while True:
                with self._lock:
                    self._clean()
                    self._threads.add(thread)
                    chunk = self._found(key)
                    if chunk is not None:
                        return chunk
                    reading = self._under_way.setdefault(key, done)
                if reading is done:
                    break
                reading.wait()
            chunk = read()
        finally:  # whatever ended it, a late interrupt too: others wait
            try:
                with self._lock:
                    if self._under_way.get(key) is done:
                        del self._under_way[key]
                        self._keep(key, chunk)
            finally:
                done.set()
        return chunk

    def forget(self, opening: bytes) -> None:
        """Drop what is kept of an opening, now or in the next `get`: the garbage collector may call this inside one."""
        self._forgotten.append(opening)
        if self._lock.acquire(blocking=False):
            try:
                self._clean()
            finally:
                self._lock.release()

    def _found(self, key: tuple[Any, ...]) -> NDArray[Any] | None:
        if key not in self._chunks:
            return None
        self._chunks.move_to_end(key)
        return self._chunks[key][0]

    def _keep(self, key: tuple[Any, ...], chunk: NDArray[Any] | None) -> None:
        if chunk is None:
            return
        self._chunks[key] = chunk, max(_size(chunk), self.entry_bytes)
        self.nbytes += self._chunks[key][1]
        while self.nbytes > most_bytes(len(self._threads), self.thread_bytes) and len(self._chunks) > 1:
            self.nbytes -= self._chunks.popitem(last=False)[1][1]

    def _clean(self) -> None:
        while self._forgotten:
            opening = self._forgotten.popleft()
            for key in [key for key in self._chunks if key[0] == opening]:
                self.nbytes -= self._chunks.pop(key)[1]


def _size(chunk: NDArray[Any]) -> int:
    """Return how many bytes a chunk holds on to."""
    held = chunk.base.nbytes if isinstance(chunk.base, np.ndarray) else chunk.nbytes  # it may be cut off at the bounds
    return held + (_text(chunk) if chunk.dtype.kind in "OT" else 0)


def _text(chunk: NDArray[Any]) -> int:
    """Return how many bytes the strings of a chunk take, which lie elsewhere; some may be null."""
    return sum(len(each) for each in chunk.astype(object).flat if isinstance(each, (str, bytes)))


KEPT = Kept()
if hasattr(os, "register_at_fork"):  # where a child may find it locked by a thread that it does not have
    os.register_at_fork(after_in_child=KEPT.__init__)  # type: ignore[misc]
