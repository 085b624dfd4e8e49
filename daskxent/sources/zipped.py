"""zarr arrays inside a zip file: ``dump.zarr.zip/logits``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daskxent.sources.local import split
from daskxent.sources.paths import found
from daskxent.sources.zarr_arrays import checked, members

if TYPE_CHECKING:
    from daskxent.sources.source import Source


def open_zipped(path: str, name: str) -> Source:
    """Open the array at a path inside a zip file."""
    from zipfile import BadZipFile

    import zarr

    file, inner = split(path, ".zip")
    file = found(file, name)
    try:
        opened = zarr.open(zarr.storage.ZipStore(file, mode="r"), path=inner, mode="r")
    except BadZipFile as error:
        raise ValueError(f"{name}: {file} is not a zip file") from error
    except (FileNotFoundError, KeyError) as error:
        raise FileNotFoundError(f"{name}: there is no zarr array at {inner or 'the top'} inside {file}") from error
    if isinstance(opened, zarr.Group):
        raise ValueError(f"{name}: {members(opened, path)}")
    return checked(opened, name)
