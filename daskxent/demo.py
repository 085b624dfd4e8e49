"""A real prediction dump of any size: scikit-learn's handwritten digits, classified and written to zarr."""

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MARKER = "daskxent_demo"
VERSION = 2  # raised whenever the same size and seed would give other digits
CLASSES = 10
ROW_BYTES = CLASSES * 4 + 1 + 4  # logits, label, weight
BLOCK_ROWS = 2**13  # drawn from one random stream; small enough that its images stay in the cache
CHUNK_ROWS = 2**18
THREADS = min(4, os.cpu_count() or 1)  # each holds one chunk, so more would cost memory

# Images and all that is done to them are integers, of 16 bits, so that they are the same on every machine.
STRENGTHS = 128
GREY = 256  # units of a grey level, of which there are 16
MOST_BRIGHTENING = 102  # units, for every grey level of a pixel: 0.4
NOISE_SHIFT = 4  # differences of two bytes, times less than 128, become noise of 3 grey levels at full strength
IMAGE_SHIFT = 4  # the network takes images in sixteenths of a grey level

# The network has one hidden layer; its weights are whole numbers, found by benchmarks/train_demo.py: a line for each of
# 64 pixels, what it adds to 32 hidden units, then a line for each digit, what the hidden units add to its logit.
WEIGHTS = Path(__file__).with_name("demo_weights.txt")
PIXELS = 64
SCALE = 2.0**-18

# The digits of some writers trained the network, those of others fill the dump.
TRAINING, OTHERS = slice(898), slice(898, None)

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int16]


class Digits(NamedTuple):
    """Handwritten digits: every image moved by at most one pixel in nine ways, and what it shows."""

    shifted: Integers  # (9, images, 64), grey levels
    labels: npt.NDArray[np.uint8]


class Rows(NamedTuple):
    """Consecutive rows of the dump."""

    labels: npt.NDArray[np.uint8]
    logits: Floats
    weights: Floats


def write_dump(
    path: str | os.PathLike[str],
    size_bytes: int = 10**9,
    seed: int = 0,
    progress: bool = False,
    chunk_rows: int = CHUNK_ROWS,
) -> Path:
    """Write logits over augmented handwritten digits, or find the dump already written.

    The group holds ``labels`` (uint8), ``logits`` (float32, ten classes) and ``weights`` (float32, smaller
    for images that were disturbed more). Every machine writes the same rows. Memory stays bounded whatever the size.

    Parameters
    ----------
    path : path
        Directory of the zarr group.
    size_bytes : int
        Size of the three arrays in memory; on disk they take a little less.
    seed : int
        Seed of the augmentation.
    progress : bool
        Show a progress bar.
    chunk_rows : int
        Rows of a chunk.

    Returns
    -------
    Path
        The path of the finished dump; arguments other than those it was written with rewrite it.

    Raises
    ------
    FileExistsError
        If the path holds something that is not a dump of this function.
    ValueError
        If the size is less than one row.
    """
    import zarr

    path = Path(path)
    wanted = {"version": VERSION, "seed": seed, "rows": _row_count(size_bytes), "complete": True}
    found = _read_marker(path)
    if found == wanted:
        return path
    if found is None and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not a demo dump; remove it or choose another path")
    source = _RowSource(seed)  # before anything is removed, since scikit-learn may be missing
    group = zarr.create_group(path, zarr_format=3, overwrite=True, attributes={MARKER: wanted | {"complete": False}})
    _write_rows(group, source, wanted["rows"], chunk_rows, progress)
    group.attrs[MARKER] = wanted  # last, so that a dump cut short is never taken for a whole one
    return path


def pictures(rows: Iterable[Mapping[str, Any]], seed: int = 0) -> str:
    """Return what some rows of the dump look like, as HTML with pictures in SVG.

    Parameters
    ----------
    rows : iterable of mapping
        As in `Report.worst`.
    seed : int
        Seed of the dump.
    """
    source, found = _RowSource(seed), []
    for row in rows:
        grey = np.clip(source.image(row["row"]) / (16.0 * 16.0), 0, 1)
        cells = "".join(
            f'<rect x="{x}" y="{y}" width="1" height="1" fill="rgb({shade},{shade},{shade})"/>'
            for (y, x), value in np.ndenumerate(grey)
            for shade in [round(255 * (1 - value))]
        )
        text = f"{row['label']}, taken for {row['prediction']}"
        picture = f'<svg viewBox="0 0 8 8" style="width:90px" role="img" aria-label="{text}">{cells}</svg>'
        found.append(f'<figure style="margin:0;width:130px">{picture}<figcaption>{text}</figcaption></figure>')
    return f'<div style="display:flex;flex-wrap:wrap;gap:14px">{"".join(found)}</div>'


def parse_size(text: str) -> int:
    """Read a size such as ``1GB``, ``2GiB``, ``100 MB`` or a plain number of bytes.

    Examples
    --------
    >>> parse_size("1GB"), parse_size("2GiB"), parse_size("4096")
    (1000000000, 2147483648, 4096)
    """
    from dask.utils import parse_bytes

    try:
        size: int = parse_bytes(text)
    except (ValueError, OverflowError):
        size = 0
    if size <= 0 or not any(map(str.isdigit, text)):  # parse_bytes takes a bare unit for one of it
        raise ValueError(f"not a size: {text!r}; write it as 100MB, 1GB, 2GiB or a number of bytes")
    return size


def _row_count(size_bytes: int) -> int:
    if size_bytes < ROW_BYTES:
        raise ValueError(f"a dump of {size_bytes} bytes is too small: one row takes {ROW_BYTES}")
    return size_bytes // ROW_BYTES


def _read_marker(path: Path) -> object:
    """Return what an earlier run said about its dump, or None where there is no such dump."""
    import zarr

    try:
        return zarr.open_group(path, mode="r").attrs.get(MARKER)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _write_rows(group: Any, source: "_RowSource", count: int, chunk_rows: int, progress: bool) -> None:
    """Fill the group's arrays chunk by chunk, a chunk on each thread."""
    from tqdm.auto import tqdm

    arrays = (  # in the order of Rows
        _create(group, "labels", (count,), "uint8", chunk_rows),
        _create(group, "logits", (count, CLASSES), "float32", chunk_rows),
        _create(group, "weights", (count,), "float32", chunk_rows),
    )

    def write(start: int) -> int:
        stop = min(start + chunk_rows, count)
        for array, values in zip(arrays, source.read(start, stop), strict=True):
            array[start:stop] = values
        return stop - start

    bar = tqdm(total=count, unit="row", unit_scale=True, desc="writing", disable=not progress)
    with bar, ThreadPoolExecutor(THREADS) as pool:
        for written in pool.map(write, range(0, count, chunk_rows)):
            bar.update(written)


def _create(group: Any, name: str, shape: tuple[int, ...], dtype: str, chunk_rows: int) -> Any:
    chunks = (min(chunk_rows, shape[0]), *shape[1:])
    return group.create_array(name, shape=shape, chunks=chunks, dtype=dtype)


class _RowSource:
    """The endless dump of one seed, of which any range of rows can be made on its own."""

    def __init__(self, seed: int) -> None:
        self._digits = load_digits(OTHERS)
        self._seed = seed

    def read(self, start: int, stop: int) -> Rows:
        """Make the rows from start to stop; the same ones however the whole is cut."""
        return Rows(*map(np.concatenate, zip(*self._pieces(start, stop), strict=True)))

    def _pieces(self, start: int, stop: int) -> Iterator[Rows]:
        for block in range(start // BLOCK_ROWS, -(-stop // BLOCK_ROWS)):
            first = block * BLOCK_ROWS
            wanted = slice(max(start - first, 0), stop - first)
            rows = self._block(block)
            yield Rows(rows.labels[wanted], rows.logits[wanted], rows.weights[wanted])

    def image(self, row: int) -> Integers:
        """Make the image of a row: (8, 8), in sixteenths of a grey level of which 16 are black."""
        images, _, _ = self._drawn(row // BLOCK_ROWS)
        return np.asarray(images[row % BLOCK_ROWS].reshape(8, 8), np.int16)

    def _drawn(self, block: int) -> tuple[Integers, npt.NDArray[np.uint8], Integers]:
        """Draw the images of a block."""
        return augment(self._digits, np.random.default_rng([self._seed, block]), BLOCK_ROWS)

    def _block(self, block: int) -> Rows:
        """Make a block, always a whole one, since its rows are drawn together."""
        images, labels, strength = self._drawn(block)
        weights = 1 - strength.astype(np.float32) * np.float32(0.5 / STRENGTHS)
        return Rows(labels, classified(images), weights)


@cache
def network() -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return the weights of the hidden units, a row a pixel, and those of the logits, a row a digit."""
    weights = np.loadtxt(WEIGHTS, np.int32)
    return weights[:PIXELS], weights[PIXELS:]


def classified(images: Integers) -> Floats:
    """Score images, in sixteenths of a grey level, one row of ten logits each.

    Floating point sums would not do: those of BLAS differ in the last bits between processors and with the number of
    rows. Here all sums are integers, below 2**29.
    """
    pixels, (hidden, digits) = images.T.astype(np.int32, order="C"), network()  # einsum is fastest along rows
    active = np.maximum(np.einsum("pr,ph->hr", pixels, hidden), 0)
    scores: npt.NDArray[np.int32] = np.einsum("hr,dh->dr", active, digits)
    return scores.T.astype(np.float32, order="C") * np.float32(SCALE)


def load_digits(chosen: slice) -> Digits:
    """Load some of scikit-learn's handwritten digits."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError("the demo needs scikit-learn: pip install 'daskxent[demo]'") from error

    images, labels = datasets.load_digits(return_X_y=True)
    padded = np.pad(images[chosen].astype(np.int16).reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    shifted = np.stack([padded[:, y : y + 8, x : x + 8].reshape(-1, 64) for y in range(3) for x in range(3)])
    return Digits(shifted, labels[chosen].astype(np.uint8))


def augment(digits: Digits, rng: np.random.Generator, rows: int) -> tuple[Integers, npt.NDArray[np.uint8], Integers]:
    """Draw images, their labels, and how strongly each was brightened or darkened and made noisy."""
    which = rng.integers(len(digits.labels), size=rows)
    strength = rng.integers(STRENGTHS, size=(rows, 1), dtype=np.int16)
    brightening = rng.integers(-MOST_BRIGHTENING, MOST_BRIGHTENING + 1, (rows, 1), np.int16)
    images = digits.shifted[rng.integers(len(digits.shifted), size=rows), which]
    images *= GREY + strength * brightening // STRENGTHS
    more, less = rng.integers(256, size=(2, *images.shape), dtype=np.uint8).astype(np.int16)
    images += (more - less) * strength >> NOISE_SHIFT
    images >>= IMAGE_SHIFT
    return images, digits.labels[which], strength[:, 0]
