"""Encoded chunks out of any zarr store, in the calling thread."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.buckets import url_of
from daskxent.sources.files import Files

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    import zarr

    from daskxent.sources.files import Buffer, Bytes


RANGE = 8 << 20  # bytes of a request: chunks that are larger, or next to one another, are asked for in such ranges

PAUSES = 0.1, 0.3, 0.9  # seconds before a request is made again
RETRIED: deque[str] = deque()  # the keys of what was asked for again, until they are counted
GAP = 1 << 16  # bytes between two parts of an object that are asked for together


@contextlib.contextmanager
def failing(what: str) -> Iterator[None]:
    """Take the errors of libraries that read for what they are: of storage, to be tried again, with its name."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        first = str(error).partition("\n")[0]  # what follows is obstore's debugging output
        raise OSError(f"{what}: {type(error).__name__}: {first}") from error


class Objects:
    """The chunks of an array in any zarr store, through the store's own methods.

    Parameters
    ----------
    array : zarr.Array
        The array.
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        from zarr.storage import MemoryStore, ZipStore

        url = url_of(array.store)
        self.where = str(array.store_path) if url is None else f"{url}/{array.path}".rstrip("/")
        self._store = array.store
        self._prefix = f"{array.path}/" if array.path else ""
        self.far = not isinstance(array.store, (MemoryStore, ZipStore))

    def fetch(self, key: str, span: slice, buffer: Buffer) -> Bytes | None:
        """Get the bytes `span` of one object; None if there is no such object. `buffer` is not used."""
        return waited(self.get(key, span))  # type: ignore[no-any-return]

    async def get(self, key: str, span: slice) -> Bytes | None:
        """Get the bytes `span` of one object, in one request; None if there is no such object."""
        from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
        from zarr.buffer.cpu import buffer_prototype

        request: Any = None
        if span.start is None:
            # Without a range s3fs asks for the size first: a request more.
            request = OffsetByteRequest(0) if hasattr(self._store, "fs") else None
        elif span.stop is None:
            request = SuffixByteRequest(-span.start) if span.start < 0 else OffsetByteRequest(span.start)
        else:
            request = RangeByteRequest(span.start, span.stop)
        for pause in (*PAUSES, None):
            try:
                with failing(self.where):
                    found = await self._store.get(self._prefix + key, buffer_prototype, request)
                break
            except (FileNotFoundError, PermissionError):
                raise
            except OSError:  # throttled, or a connection was reset
                if pause is None:
                    raise
                RETRIED.append(key)
                await asyncio.sleep(pause)
        return None if found is None else np.asarray(found.as_numpy_array()).view(np.uint8)

    async def get_large(self, key: str, expected: int) -> Bytes | None:
        """Get an object of about this many bytes, in several ranges at once if it is large; None if there is none."""
        if expected < 2 * RANGE:
            return await self.get(key, slice(None))
        edges = list(range(0, expected - RANGE // 2, RANGE))
        spans = [slice(*pair) for pair in itertools.pairwise(edges)] + [slice(edges[-1], None)]
        found = await asyncio.gather(*(self.get(key, span) for span in spans), return_exceptions=True)
        parts = [each for each in found if isinstance(each, np.ndarray)]
        if len(parts) < len(found) or any(part.size < RANGE for part in parts[:-1]):
            return await self.get(key, slice(None))  # it is smaller than was expected, or not there
        return np.concatenate(parts)

    async def get_spans(self, key: str, places: list[tuple[int, int]]) -> dict[tuple[int, int], Bytes]:
        """Get parts of one object, by offset and length; what is next to one another, or nearly so, in one request."""
        runs: list[list[tuple[int, int]]] = []
        for place in sorted(places):
            if runs and place[0] - sum(runs[-1][-1]) <= GAP:
                runs[-1].append(place)
            else:
                runs.append([place])
        whole = await asyncio.gather(*(self.get(key, slice(run[0][0], sum(run[-1]))) for run in runs))
        return {
            (start, length): held[start - run[0][0] : start - run[0][0] + length]
            for run, held in zip(runs, whole, strict=True)
            if held is not None
            for start, length in run
        }

    def first_bytes(self, keys: list[str], count: int) -> list[bytes]:
        """Get up to `count` bytes of some objects, all at once; none of what is not there."""

        async def all_of_them() -> list[Bytes | None]:
            return await asyncio.gather(*(self.get(key, slice(0, count)) for key in keys))

        return [b"" if each is None else each.tobytes() for each in waited(all_of_them())]

    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""
        with failing(self.where):
            return bool(waited(self._store.exists(self._prefix + key)))

    def version(self, key: str) -> None:
        """Return None: to ask would take as long as to get the object."""

    def written(self, key: str, opening: bytes = b"") -> tuple[Any, ...] | None:
        """Return the size and the ETag or time of an object, () if there is none; None if the store does not say.

        The array's objects are listed once for each opening, a thousand with a request: to ask for one of them takes as
        long as to get it.
        """
        at = opening, self.where
        if at not in _LISTED:
            if len(_LISTED) >= MOST_LISTED:
                _LISTED.clear()
            _LISTED[at] = self._list()
        listed = _LISTED[at]
        return None if listed is None else listed.get(key, ())

    def _list(self) -> dict[str, tuple[Any, ...]] | None:
        if hasattr(self._store, "store"):
            return self._listed_by_obstore(self._store.store)
        fs, root = getattr(self._store, "fs", None), getattr(self._store, "path", "")
        if fs is None or {"http", "https"} & set(np.atleast_1d(fs.protocol)):  # web pages are not lists of objects
            return None
        prefix = f"{root}/{self._prefix}".rstrip("/")
        fs.invalidate_cache()
        with failing(self.where):
            found = waited(fs._find(prefix, detail=True))  # a coroutine for those who have a loop, as fsspec says
        skip = len(prefix.lstrip("/")) + 1
        listed = {name.lstrip("/")[skip:]: known for name, info in found.items() if (known := known_by(info))}
        return listed if len(listed) == len(found) else None

    def _listed_by_obstore(self, store: Any) -> dict[str, tuple[Any, ...]] | None:
        import obstore

        with failing(self.where):
            batches = list(obstore.list(store, self._prefix.rstrip("/") or None))
        found = itertools.chain.from_iterable(batches)
        return {info["path"].removeprefix(self._prefix): (info["size"], info["e_tag"]) for info in found}


def retried() -> int:
    """Return how many requests were made again since this was asked, for whatever part of the process."""
    count = 0
    with contextlib.suppress(IndexError):
        while True:
            RETRIED.popleft()
            count += 1
    return count


# Objects of an array by opening and place; a run has a few arrays.
MOST_LISTED = 64
_LISTED: dict[tuple[bytes, str], dict[str, tuple[Any, ...]] | None] = {}
TIMES = "LastModified", "last_modified", "updated", "mtime", "created"


def known_by(info: dict[str, Any]) -> tuple[Any, ...] | None:
    """Return the size of an object, and its ETag or when it was written, as the stores call them; None without both."""
    by = next((str(info[name]) for name in ("ETag", "etag", *TIMES) if info.get(name)), None)
    return None if by is None else (info.get("size"), by)


_LOOP: list[tuple[int, asyncio.AbstractEventLoop]] = []


def loop_of_stores() -> asyncio.AbstractEventLoop:
    """Return the event loop on which zarr runs its stores."""
    if not _LOOP or _LOOP[0][0] != os.getpid() or _LOOP[0][1].is_closed():  # a child has none of its threads

        async def running() -> asyncio.AbstractEventLoop:
            return asyncio.get_running_loop()

        _LOOP[:] = [(os.getpid(), waited(running()))]
    return _LOOP[0][1]


def waited(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a store's coroutine where its connections live: on zarr's event loop."""
    try:
        from zarr.core.sync import sync  # the one name here that zarr does not call public
    except ImportError:
        return asyncio.run(work)
    return sync(work)


def open_bytes(array: zarr.Array[Any]) -> Files | Objects:
    """Choose the quickest way to the bytes of an array's chunks."""
    from zarr.storage import LocalStore

    if type(array.store) is LocalStore:  # a subclass may keep its bytes elsewhere
        return Files(os.path.join(str(array.store.root), array.path) if array.path else str(array.store.root))
    return Objects(array)
