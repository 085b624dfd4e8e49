"""zarr arrays inside a zip file: ``dump.zarr.zip/logits``."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from daskxent.sources.local import split
from daskxent.sources.paths import found
from daskxent.sources.zarr_arrays import checked, members, opened_despite

if TYPE_CHECKING:
    from zipfile import ZipFile

    from daskxent.sources.source import Source


def open_zipped(path: str, name: str) -> Source:
    """Open the array at a path inside a zip file."""
    from zipfile import BadZipFile

    import zarr

    file, inner = split(path, ".zip")
    file = found(file, name)
    store = zarr.storage.ZipStore(file, mode="r")
    try:
        opened = zarr.open(store, path=inner, mode="r")
    except BadZipFile as error:
        raise ValueError(f"{name}: {file} is not a zip file") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: there is no zarr array at {inner or 'the top'} inside {file}") from error
    except OSError:
        raise
    except Exception as error:
        return opened_despite(error, store, path, name, inner)
    if isinstance(opened, zarr.Group):
        raise ValueError(f"{name}: {members(opened, path)}")
    return checked(opened, name)


def names_in(path: str) -> list[str]:
    """Return the paths of the zarr arrays in a zip file, in order."""
    from zipfile import ZipFile

    with ZipFile(path) as archive:
        return sorted(os.path.dirname(file) for file in archive.namelist() if _describes_array(archive, file))


def _describes_array(archive: ZipFile, file: str) -> bool:
    """Return whether a file is the metadata of a zarr array, of either format, that is not the whole archive."""
    directory, name = os.path.split(file)
    described = name == ".zarray" or (name == "zarr.json" and json.loads(archive.read(file))["node_type"] == "array")
    return described and directory != ""
