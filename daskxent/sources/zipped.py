"""zarr arrays inside a zip file: ``dump.zarr.zip/logits``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from daskxent.sources.paths import found
from daskxent.sources.stored import checked, members

if TYPE_CHECKING:
    from daskxent.sources.stored import Zarr


def split(path: str) -> tuple[str, str]:
    """Return the zip file that a path leads into, and the path inside it.

    Examples
    --------
    >>> split("out/dump.zarr.zip/eval/logits"), split("out/zipped/logits")
    (('out/dump.zarr.zip', 'eval/logits'), ('', ''))
    """
    file, end, inner = f"{path}/".partition(".zip/")
    return (file + ".zip", inner.rstrip("/")) if end else ("", "")


def takes(path: str) -> bool:
    """Tell whether a path leads into a zip file, and not into a directory that has such a name."""
    file = split(path)[0]
    return bool(file) and "://" not in path and not os.path.isdir(os.path.expanduser(file))


def open_zipped(path: str, name: str) -> Zarr:
    """Open the array at a path inside a zip file."""
    from zipfile import BadZipFile

    import zarr

    file, inner = split(path)
    file = found(file, name)
    try:
        opened = zarr.open(zarr.storage.ZipStore(file, mode="r"), path=inner, mode="r")
    except BadZipFile as error:
        raise ValueError(f"{name}: {file} is no zip file") from error
    except (FileNotFoundError, KeyError) as error:
        raise FileNotFoundError(f"{name}: there is no zarr array at {inner or 'the top'} inside {file}") from error
    if isinstance(opened, zarr.Group):
        raise ValueError(f"{name}: {members(opened, path)}")
    return checked(opened, name)
