"""``python -m daskxent``."""

from daskxent.cli import main

main()
