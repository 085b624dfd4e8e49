"""A server of objects that is as far away as one likes: it waits before it answers, and sends no faster than is said.

    python benchmarks/objects.py DIRECTORY --latency 0.05 --speed 80e6

It prints its address, and answers GET and HEAD, with ranges, for the files below the directory, as S3 does for objects
that everybody may read; the first part of a path is the bucket. GET /requests returns how often it was asked, by
method.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

PIECE = 1 << 18  # bytes sent at a time
FAILURES = {503: "Slow Down", 404: "Not Found", 416: "Range Not Satisfiable", 206: "Partial Content", 200: "OK"}


class Server:
    """Serves the files below a directory, each answer after `latency` seconds, at `speed` bytes/s a connection.

    Every `throttled`-th request is answered with 503, as S3 does to those who ask too much; 0 for none.
    """

    def __init__(self, root: Path, latency: float, speed: float, throttled: int = 0) -> None:
        self.root, self.latency, self.speed, self.throttled = root, latency, speed, throttled
        self.requests: Counter[str] = Counter()
        self.largest = self.at_once = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while line := await reader.readline():
                method, path, _ = line.decode().split()
                headers = {}
                while (field := (await reader.readline()).decode().strip()) != "":
                    name, _, value = field.partition(":")
                    headers[name.lower()] = value.strip()
                self.at_once += 1
                self.largest = max(self.largest, self.at_once)
                try:
                    await self._answer(writer, method, unquote(path.partition("?")[0]), headers.get("range"))
                finally:
                    self.at_once -= 1
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, method: str, path: str, ranged: str | None) -> None:
        if path == "/requests":
            body = json.dumps({**self.requests, "at once": self.largest}).encode()
            self.requests.clear()
            self.largest = 0
            await self._send(writer, 200, body)
            return
        self.requests[method] += 1
        refused = self.throttled and not self.requests.total() % self.throttled
        await asyncio.sleep(self.latency)
        file = self.root / path.lstrip("/")
        if refused:
            await self._send(writer, 503, b"<Error><Code>SlowDown</Code></Error>")
        elif not file.is_file():
            await self._send(writer, 404, b"" if method == "HEAD" else b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            await self._file(writer, method, file, ranged)

    async def _file(self, writer: asyncio.StreamWriter, method: str, file: Path, ranged: str | None) -> None:
        size = file.stat().st_size
        start, stop, status = 0, size, 200
        if ranged:
            low, _, high = ranged.removeprefix("bytes=").partition("-")
            start = int(low) if low else max(0, size - int(high))
            stop = min(size, int(high) + 1) if low and high else size
            status = 206 if start < size else 416
        with file.open("rb") as opened:
            opened.seek(start)
            part = memoryview(opened.read(stop - start) if status != 416 else b"")
        extra = f"Content-Range: bytes {start}-{stop - 1}/{size}\r\n" if status == 206 else ""
        await self._send(writer, status, part, extra, body=method != "HEAD")

    async def _send(
        self, writer: asyncio.StreamWriter, status: int, part: memoryview | bytes, extra: str = "", body: bool = True
    ) -> None:
        fields = 'Last-Modified: Wed, 01 Jan 2025 00:00:00 GMT\r\nETag: "1"\r\nAccept-Ranges: bytes\r\n'
        head = f"HTTP/1.1 {status} {FAILURES[status]}\r\nContent-Length: {len(part)}\r\n{fields}{extra}\r\n"
        writer.write(head.encode())
        for at in range(0, len(part) if body else 0, PIECE):
            writer.write(part[at : at + PIECE])
            await asyncio.gather(writer.drain(), asyncio.sleep(min(PIECE, len(part) - at) / self.speed))
        await writer.drain()


async def main() -> None:
    """Serve until somebody ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before an answer")
    parser.add_argument("--speed", type=float, default=80e6, help="bytes/s of a connection")
    parser.add_argument("--throttled", type=int, default=0, help="one request in this many is refused with 503")
    asked = parser.parse_args()
    server = Server(asked.directory, asked.latency, asked.speed, asked.throttled)
    opened = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=1 << 16)
    print(f"http://127.0.0.1:{opened.sockets[0].getsockname()[1]}", flush=True)
    await opened.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
