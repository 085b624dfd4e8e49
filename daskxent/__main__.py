"""``daskxent`` and ``python -m daskxent``."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

INTERRUPTED = 130


def main() -> None:
    """Run the command line; an interrupt ends it quietly from the first import on."""
    try:
        from daskxent import cli

        cli.main()
    except KeyboardInterrupt:
        print("Interrupted", file=sys.stderr)
        _leave()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _leave()
        raise


def _leave() -> None:
    """End without waiting for threads that compile, or read from far away: nothing can interrupt them."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, AttributeError):  # where nobody reads, or there is none
            stream.flush()
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
