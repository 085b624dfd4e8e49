"""Paths and URLs, as users type them."""

from __future__ import annotations

import glob
import os
import re
from typing import Any


def place(path: str | os.PathLike[str]) -> str:
    """Return a path or URL as it reads from any directory: a worker may run in another one.

    Examples
    --------
    >>> place("s3://dumps/a.zarr"), place("/dumps/../b.npy")
    ('s3://dumps/a.zarr', '/b.npy')
    """
    path = os.fspath(path)
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def exists(path: str) -> bool:
    """Tell whether there is something at a local path."""
    return "://" not in path and os.path.exists(os.path.expanduser(path))


def found(path: str, name: str) -> str:
    """Return the place of a path or URL; an error calls the array by `name` where a local path leads nowhere."""
    try:
        if "://" not in path:
            os.stat(os.path.expanduser(path))
    except PermissionError as error:
        raise PermissionError(f"{name}: {path} may not be read: {error.strerror}") from error
    except (OSError, ValueError) as error:  # the latter of what can be no path
        raise FileNotFoundError(f"{name}: there is nothing at {path}") from error
    return place(path)


def matching(pattern: str, name: str) -> list[str]:
    """Return the paths that a pattern with ``*`` stands for; numbers in them are in order: rank 2 before rank 10."""
    paths = sorted(glob.glob(os.path.expanduser(pattern)), key=_natural)
    if not paths:
        raise FileNotFoundError(f"{name}: there is nothing like {pattern}")
    return paths


def _natural(path: str) -> list[tuple[bool, Any]]:
    return [(each.isdigit(), int(each) if each.isdigit() else each) for each in re.split(r"(\d+)", path)]
