"""Files of llama.cpp: what ``llama-perplexity --kl-divergence-base base.kld`` writes of a model.

After 8 bytes, ``_logits_``, come three int32: the length of a window, the classes, the number of windows; then the
tokens of all windows, int32. Of each window there are the predictions of its second half, a row of uint16 for each: a
float32 scale, a float32 minimum, a code for each class, and one more where there would be an uneven number. The
log-probability of a class is ``scale * code + minimum``, in float32 (tools/perplexity/perplexity.cpp).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.local import LocalFile, chosen, entered

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskxent.sources.source import Box, Source

MAGIC, HEADER = b"_logits_", 20  # bytes
NAMES = "log_probabilities", "tokens"
CODES = 4  # uint16 before the codes of a row: scale and minimum


class LogProbabilities(LocalFile):
    """The log-probabilities of all classes: (windows, positions, classes), float32.

    Parameters
    ----------
    file : str
    name : str
    nbytes : int
    window : int
        Tokens of a window.
    classes, windows : int
    """

    def __init__(self, file: str, name: str, nbytes: int, window: int, classes: int, windows: int) -> None:
        super().__init__(file, name, nbytes)
        self.tokens, self.path, self.dtype = window, f"{file}/log_probabilities", np.dtype("float32")
        self.shape = windows, predicted(window), classes
        self._offset = HEADER + 4 * windows * window

    def __reduce__(self) -> tuple[Any, ...]:
        windows, _, classes = self.shape
        return LogProbabilities, (self.file, self.name, self.nbytes, self.tokens, classes, windows)

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Decode the rows of a box."""
        windows, positions, classes = self.shape
        rows = self.mapped("<u2", self._offset, (windows, positions, row_codes(classes)))
        scale, minimum = np.moveaxis(rows[box[0], box[1], :CODES].copy().view("<f4"), -1, 0)
        codes = rows[box[0], box[1], CODES + box[2].start : CODES + box[2].stop].astype(np.float32)
        codes *= scale[..., None]
        codes += minimum[..., None]
        return codes


class Tokens(LocalFile):
    """The token that each prediction is about: (windows, positions), int32."""

    def __init__(self, file: str, name: str, nbytes: int, window: int, windows: int) -> None:
        super().__init__(file, name, nbytes)
        self.tokens, self.path, self.dtype = window, f"{file}/tokens", np.dtype("int32")
        self.shape = windows, predicted(window)

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokens, (self.file, self.name, self.nbytes, self.tokens, self.shape[0])

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Read the tokens that follow the positions of a box."""
        tokens = self.mapped("<i4", HEADER, (self.shape[0], self.tokens))
        first = self.tokens // 2 + 1
        return tokens[box[0], first + box[1].start : first + box[1].stop]


def predicted(window: int) -> int:
    """Return how many tokens of a window are predicted.

    Examples
    --------
    >>> predicted(512)
    255
    """
    return window - 1 - window // 2


def row_codes(classes: int) -> int:
    """Return how many uint16 a row has."""
    return 2 * ((classes + 1) // 2) + CODES


def open_kld(path: str, name: str) -> Source:
    """Open ``base.kld/log_probabilities`` or ``base.kld/tokens``."""
    file, inner = entered(path, name, ".kld")
    inner = chosen(inner, NAMES, file, name)
    size = os.stat(file).st_size
    with open(file, "rb") as opened:
        header = opened.read(HEADER)
    if len(header) < HEADER or not header.startswith(MAGIC):
        raise ValueError(f"{name}: {file} is not a file of llama-perplexity --kl-divergence-base")
    window, classes, windows = np.frombuffer(header, "<i4", offset=len(MAGIC)).tolist()
    if min(window, classes, windows) < 1:
        raise ValueError(f"{name}: {file} is damaged: {windows} windows of {window} tokens, {classes} classes")
    expected = HEADER + windows * (4 * window + 2 * predicted(window) * row_codes(classes))
    if size != expected:
        raise ValueError(f"{name}: {file} has {size:,} bytes instead of {expected:,}: was its run cut short?")
    if inner == "tokens":
        return Tokens(file, name, size, window, windows)
    return LogProbabilities(file, name, size, window, classes, windows)
