"""A real prediction dump of any size: scikit-learn's handwritten digits, classified and written to zarr."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MARKER = "daskxent_demo"
VERSION = 1  # raised whenever the same size and seed would give other digits
CLASSES = 10
ROW_BYTES = CLASSES * 4 + 1 + 4  # logits, label, weight
BLOCK_ROWS = 2**13  # drawn from one random stream; small enough that its images stay in the cache
CHUNK_ROWS = 2**18
THREADS = min(4, os.cpu_count() or 1)  # each holds one chunk, so more would cost memory

MAX_NOISE = np.float32(3)  # grey levels of 16, at full strength
MAX_BRIGHTENING = np.float32(0.4)

Floats = npt.NDArray[np.float32]


class Digits(NamedTuple):
    """Handwritten digits: every image moved by at most one pixel in nine ways, and what it shows."""

    shifted: Floats  # (9, images, 64)
    labels: npt.NDArray[np.uint8]


class Rows(NamedTuple):
    """Consecutive rows of the dump."""

    labels: npt.NDArray[np.uint8]
    logits: Floats
    weights: Floats


class Network(NamedTuple):
    """The weights and biases of a trained classifier with one hidden layer."""

    coefs: list[Floats]
    intercepts: list[Floats]

    def logits(self, images: Floats) -> Floats:
        """Score images, one row of ten logits each."""
        hidden: Floats = images @ self.coefs[0]
        hidden += self.intercepts[0]
        np.maximum(hidden, 0, out=hidden)
        return hidden @ self.coefs[1] + self.intercepts[1]


def write_dump(
    path: str | os.PathLike[str],
    size_bytes: int = 10**9,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Write logits over augmented handwritten digits, or find the dump already written.

    The group holds ``labels`` (uint8), ``logits`` (float32, ten classes) and ``weights`` (float32, smaller
    for images that were disturbed more). Memory stays bounded whatever the size.

    Parameters
    ----------
    path : path
        Directory of the zarr group.
    size_bytes : int
        Size of the three arrays in memory; on disk they take a little less.
    seed : int
        Seed of the augmentation and the training.
    progress : bool
        Show a progress bar.

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
    _write_rows(group, source, wanted["rows"], progress)
    group.attrs[MARKER] = wanted  # last, so that a dump cut short is never taken for a whole one
    return path


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


def _write_rows(group: Any, source: "_RowSource", count: int, progress: bool) -> None:
    """Fill the group's arrays chunk by chunk, a chunk on each thread."""
    from threadpoolctl import threadpool_limits  # comes with scikit-learn
    from tqdm import tqdm

    arrays = (  # in the order of Rows
        _create(group, "labels", (count,), "uint8"),
        _create(group, "logits", (count, CLASSES), "float32"),
        _create(group, "weights", (count,), "float32"),
    )

    def write(start: int) -> int:
        stop = min(start + CHUNK_ROWS, count)
        for array, values in zip(arrays, source.read(start, stop), strict=True):
            array[start:stop] = values
        return stop - start

    bar = tqdm(total=count, unit="row", unit_scale=True, desc="writing", disable=not progress)
    # The threads of BLAS would spin and take half of the time away from ours.
    with bar, threadpool_limits(1), ThreadPoolExecutor(THREADS) as pool:
        for written in pool.map(write, range(0, count, CHUNK_ROWS)):
            bar.update(written)


def _create(group: Any, name: str, shape: tuple[int, ...], dtype: str) -> Any:
    chunks = (min(CHUNK_ROWS, shape[0]), *shape[1:])
    return group.create_array(name, shape=shape, chunks=chunks, dtype=dtype)


class _RowSource:
    """The endless dump of one seed, of which any range of rows can be made on its own."""

    def __init__(self, seed: int) -> None:
        train, self._test = _load_digits()
        self._seed = seed
        self._network = _train(train, seed)

    def read(self, start: int, stop: int) -> Rows:
        """Make the rows from start to stop; the same ones however the whole is cut."""
        return Rows(*map(np.concatenate, zip(*self._pieces(start, stop), strict=True)))

    def _pieces(self, start: int, stop: int) -> Iterator[Rows]:
        for block in range(start // BLOCK_ROWS, -(-stop // BLOCK_ROWS)):
            first = block * BLOCK_ROWS
            wanted = slice(max(start - first, 0), stop - first)
            rows = self._block(block)
            yield Rows(rows.labels[wanted], rows.logits[wanted], rows.weights[wanted])

    def _block(self, block: int) -> Rows:
        """Make a block, always a whole one: products of other shapes may round differently."""
        rng = np.random.default_rng([self._seed, block])
        images, labels, strength = _augment(self._test, rng, BLOCK_ROWS)
        return Rows(labels, self._network.logits(images), 1 - strength * np.float32(0.5))


def _load_digits() -> tuple[Digits, Digits]:
    """Load the digits, one half to train on and one, of other writers, to evaluate on."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the demo needs scikit-learn: pip install 'daskxent[demo]'") from error

    images, labels = load_digits(return_X_y=True)
    padded = np.pad(images.astype(np.float32).reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    shifted = np.stack([padded[:, y : y + 8, x : x + 8].reshape(-1, 64) for y in range(3) for x in range(3)])
    labels = labels.astype(np.uint8)
    half = len(labels) // 2
    return Digits(shifted[:, :half], labels[:half]), Digits(shifted[:, half:], labels[half:])


def _augment(digits: Digits, rng: np.random.Generator, rows: int) -> tuple[Floats, npt.NDArray[np.uint8], Floats]:
    """Draw images, their labels, and how strongly (0 to 1) each was brightened or darkened and made noisy."""
    which = rng.integers(len(digits.labels), size=rows)
    strength = rng.random((rows, 1), dtype=np.float32)
    images = digits.shifted[rng.integers(len(digits.shifted), size=rows), which]
    images *= 1 + strength * rng.uniform(-MAX_BRIGHTENING, MAX_BRIGHTENING, (rows, 1)).astype(np.float32)
    noise = rng.standard_normal(images.shape, dtype=np.float32)
    noise *= MAX_NOISE * strength
    images += noise
    return images, digits.labels[which], strength[:, 0]


def _train(digits: Digits, seed: int) -> Network:
    """Train a small network on augmented digits; it gets some 84 % of other writers' right."""
    from sklearn.neural_network import MLPClassifier

    images, labels, _ = _augment(digits, np.random.default_rng(seed), BLOCK_ROWS)
    # Good enough within half a second; and it must stop before the limit of iterations, which would warn.
    model = MLPClassifier(32, learning_rate_init=0.003, tol=0.01, n_iter_no_change=2, random_state=seed)
    model.fit(images, labels)
    return Network(model.coefs_, model.intercepts_)
