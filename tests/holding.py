"""Arrays whose chunks tests read one by one."""

import numpy as np
import zarr

from daskxent.sources.chunks import Chunks


def numbers(shape, dtype="<f4"):
    values = np.random.default_rng(3).integers(1, 100, shape)  # never the fill value
    return values.astype(dtype)


def held_as(tmp_path, codec, data, nbytes):
    """Return the chunks of an array of this many bytes in one chunk, which is stored as some data."""
    z = zarr.create_array(
        tmp_path,
        shape=nbytes,
        chunks=nbytes,
        dtype="u1",
        zarr_format=2,
        compressors=codec,
        fill_value=1,
        overwrite=True,
    )
    (tmp_path / "0").write_bytes(data)
    return Chunks(z, "y")
