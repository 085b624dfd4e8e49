"""``daskxent`` and ``python -m daskxent``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; an interrupt ends it quietly from the first import on."""
    try:
        from daskxent import cli

        cli.main()
    except KeyboardInterrupt:
        print("Interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
