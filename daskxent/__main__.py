"""``daskxent`` and ``python -m daskxent``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED = 130
THREADS = "daskxent"  # what the names of those that evaluate begin with


def main() -> None:
    """Run the command line; an interrupt ends it quietly from the first import on."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not in what runs in the background
        signal.signal(signal.SIGINT, _interrupt)
    try:
        from daskxent import cli

        cli.main()
    except KeyboardInterrupt:
        _leave("Interrupted\n")
    except SystemExit as end:
        # Python would wait for threads that compile, or read from far away: nothing can interrupt them.
        if end.code == INTERRUPTED and any(each.name.startswith(THREADS) for each in threading.enumerate()):
            _leave()
        raise


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Raise the interrupt; or end at once where what is imported might swallow it, and when it comes once more."""
    signal.signal(signal.SIGINT, lambda *_: _leave("Interrupted\n"))
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib."):
            _leave("Interrupted\n")
        frame = frame.f_back
    raise KeyboardInterrupt


def _leave(message: str = "") -> NoReturn:
    """End without waiting for anything: journals may be cut anywhere, and workers end with their client."""
    with suppress(OSError, ValueError, AttributeError, RuntimeError):  # nobody reads, or it is being written to
        sys.stderr.write(message)
        sys.stderr.flush()
    with suppress(OSError, ValueError, AttributeError, RuntimeError):
        sys.stdout.flush()
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
