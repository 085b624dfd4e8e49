"""Paths and URLs, as users type them."""

from __future__ import annotations

import glob
import json
import os
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_NAMES = 10  # in a message


def place(path: str | os.PathLike[str]) -> str:
    """Return a path or URL as it reads from any directory: a worker may run in another one.

    Examples
    --------
    >>> place("s3://dumps/a.zarr"), place("/dumps/../b.npy"), place("file:///b.npy")
    ('s3://dumps/a.zarr', '/b.npy', '/b.npy')
    """
    path = local(os.fspath(path))
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def local(path: str) -> str:
    """Return the path of a file:// URL of this machine, as fsspec reads it; anything else as it is."""
    return path.removeprefix("file://") if path.startswith("file:///") else path


def exists(path: str) -> bool:
    """Return whether there is something at a local path."""
    return "://" not in path and os.path.exists(os.path.expanduser(path))


def found(path: str, name: str) -> str:
    """Return the place of a path or URL; an error calls the array by `name` where a local path leads nowhere."""
    try:
        if "://" not in path:
            os.stat(os.path.expanduser(path))
    except PermissionError as error:
        raise PermissionError(f"{name}: {path} may not be read: {error.strerror}") from error
    except (OSError, ValueError) as error:  # the latter of what can be no path
        raise FileNotFoundError(f"{name}: there is nothing at {path}{_neighbours(path)}") from error
    return place(path)


def _neighbours(path: str) -> str:
    """Say what else is in the group, or the directory, where there is nothing at a path; nothing if that is unknown."""
    group = os.path.dirname(os.path.expanduser(path))
    there = arrays_in(group) if "\0" not in path else []
    return f"; {os.path.dirname(path)} holds {listed(there)}" if there else ""


def listed(names: Sequence[str]) -> str:
    """Return names as a message shows them: at most ten.

    Examples
    --------
    >>> listed(["labels", "logits"]), listed(list("abcdefghijklm"))
    ('labels, logits', 'a, b, c, d, e, f, g, h, i, j and 3 more')
    """
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def arrays_in(group: str) -> list[str]:
    """Return the names of the zarr arrays and .npy files in a directory, in order."""
    try:
        names = sorted(os.listdir(group)) if group else []
    except OSError:
        return []
    return [each for each in names if each.endswith(".npy") or is_zarr(os.path.join(group, each))]


def is_zarr(path: str) -> bool:
    """Return whether a directory is a zarr array, of either format, and no group."""
    if os.path.isfile(os.path.join(path, ".zarray")):
        return True
    try:
        with open(os.path.join(path, "zarr.json"), encoding="utf-8") as file:
            return bool(json.load(file).get("node_type") == "array")
    except (OSError, ValueError, AttributeError):  # nothing there, or no metadata of zarr
        return False


def matching(pattern: str, name: str) -> list[str]:
    """Return the paths that a pattern with ``*`` stands for; numbers in them are in order: rank 2 before rank 10.

    What is behind a file, as in ``rank*.npz/logits`` or ``*.bin?dtype=float32``, is appended to each.
    """
    files, numbers = numbers_of(os.path.expanduser(pattern))
    paths, inner = list[str](), ""
    while "*" in files:
        like = glob.escape(files).replace("[*]", "*")  # nothing else has a meaning
        alike = [files] if os.path.exists(files) else sorted(glob.glob(like), key=_natural)
        paths = [each for each in alike if not inner or os.path.isfile(each)]
        if paths or "*" in os.path.basename(files):
            break
        files, inner = os.path.dirname(files), f"/{os.path.basename(files)}{inner}"
    if not paths:
        raise FileNotFoundError(f"{name}: there is nothing like {pattern}")
    return [path + inner + numbers for path in paths]


def numbers_of(path: str) -> tuple[str, str]:
    """Split a path before what it says of bare numbers in the file.

    Examples
    --------
    >>> numbers_of("logits.bin?dtype=float32&shape=-1,10"), numbers_of("what?.npy")
    (('logits.bin', '?dtype=float32&shape=-1,10'), ('what?.npy', ''))
    """
    file, mark, query = path.rpartition("?")
    return (file, mark + query) if "dtype=" in query else (path, "")


def _natural(path: str) -> list[tuple[bool, Any]]:
    return [(each.isdigit(), int(each) if each.isdigit() else each) for each in re.split(r"(\d+)", path)]
