"""What dumps of language models need: a shift of labels, fewer classes, a mask, bytes and words."""

from __future__ import annotations

import hashlib
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.numbers.statistics import UNITS, depth_of
from daskxent.run.failures import DoubtfulResult, warn_caller
from daskxent.run.slicing import BINNED, LABEL, PREDICTION, Binned
from daskxent.sources.align import Further
from daskxent.sources.converted import Viewed
from daskxent.sources.dump_marks import check_finished
from daskxent.sources.opening import is_dask, open_array, part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from daskxent.options import Asked
    from daskxent.sources.source import Box


def arrays_of(asked: Asked) -> dict[str, Any]:
    """Return the arrays that were given: classes of predictions, the mask, and the bytes and words of labels."""
    given = {name: getattr(asked, name) for name in ("ids", "mask", *UNITS)}
    totals = totals_of(asked)
    return {name: each for name, each in given.items() if each is not None and name not in totals}


def totals_of(asked: Asked) -> dict[str, int]:
    """Return the bytes and words of the whole text that were given as numbers."""
    given = {name: getattr(asked, name) for name in UNITS}
    return {name: int(each) for name, each in given.items() if isinstance(each, Integral)}


def along(array: Any, axis: int, start: int, stop: int) -> Any:
    """Return a part of a source or a dask array along an axis."""
    index = tuple(slice(start, stop) if at == axis else slice(0, n) for at, n in enumerate(array.shape))
    check_finished([array])  # which parts are not asked for
    return array[index] if is_dask(array) else part(array, index)


def with_classes(predictions: Any, labels: Any, axis: int, classes: int | None) -> Any:
    """Return the first `classes` classes of predictions: the others, as of a padded vocabulary, are not read.

    Raises
    ------
    ValueError
        There are fewer; labels are numbers of all of them.
    """
    if classes is None or not -len(predictions.shape) <= axis < len(predictions.shape):  # which `align` refuses
        return predictions
    width = predictions.shape[axis]
    if classes > width:
        raise ValueError(f"classes: y_pred has only {width:,} classes, got {classes:,}")
    if classes < width and len(labels.shape) == len(predictions.shape) and labels.shape[axis] == width:
        raise ValueError(
            f"y_true: one-hot or soft labels of {width} classes; classes={classes} needs those of the first {classes}"
        )
    return predictions if classes == width else along(predictions, axis % len(predictions.shape), 0, classes)


def check_ids(asked: Asked, ids: Any) -> None:
    """Refuse what dumps of only some classes cannot answer.

    Raises
    ------
    ValueError
        It is asked for; the predictions are not log-probabilities, or the class axis is not the last; the classes are
        one number.
    """
    if not ids.shape:
        raise ValueError("ids: expected the classes of each row along the last axis, got one number")
    slots = ids.shape[-1]
    if asked.predictions != "log_probabilities" or asked.axis != -1:
        raise ValueError("ids: needs predictions='log_probabilities', with the classes along the last axis")
    for name in asked.metrics:
        if not (name in OF_SOME or 0 < depth_of(name) <= slots):
            raise ValueError(f"metrics: {name!r} takes all classes; these are {slots} of each row")
    further = {name: getattr(asked, name) for name in ("per_class", "confusions", "class_weight", "classes", "worst")}
    further |= {"sample": asked.sample, "ranks": asked.ranks, "histograms": set(asked.histograms) - OF_SOME}
    grouped = [given for by in asked.slicings for given in by.values()]
    further["by"] = {given for given in grouped if isinstance(given, str)} & {LABEL, PREDICTION}
    binned = {given.of for given in grouped if isinstance(given, Binned) and isinstance(given.of, str)}
    further["by"] |= (binned & BINNED) - OF_SOME - ROWS_OF_SOME
    further["columns"] = set(getattr(asked, "columns", ())) - ROWS_OF_SOME
    for name, wanted in further.items():
        if wanted:
            which = f"{min(wanted)!r} " if name in ("by", "columns") else ""
            raise ValueError(f"{name}: {which}takes all classes; these are {slots} of each row")


ROWS_OF_SOME = {"loss", "hit", "label_probability", "target", "peak", "second", "margin", "weight", "counted", "flags"}
OF_SOME = {"crossentropy", "accuracy", "perplexity", "bits", "bits_per_byte", "byte_perplexity", "word_perplexity"}
OF_SOME |= {"bytes", "words", "label_probability"}


class Shift:
    """By how much labels are ahead of the predictions, along the last axis of the positions.

    Parameters
    ----------
    by : int
    positions : tuple of int
        Of the predictions, before they are shifted.
    axis : int
        The class axis of the predictions.

    Raises
    ------
    ValueError
        The axis is not longer than the shift.
    """

    def __init__(self, by: int, positions: tuple[int, ...], axis: int) -> None:
        self.by, self.axis = by, len(positions) - 1
        self._with_classes = len(positions) - (axis % (len(positions) + 1) == len(positions))  # the same of predictions
        self.length = positions[-1] if positions else 0
        if by and self.length <= by:
            raise ValueError(f"shift: {by} leaves nothing of an axis of length {self.length}")

    def predictions(self, array: Any) -> Any:
        """Return the predictions that have a label."""
        return along(array, self._with_classes, 0, self.length - self.by) if self.by else array

    def labels(self, array: Any) -> Any:
        """Return the labels that have a prediction; they may have the axes of the predictions."""
        lies = len(array.shape) == self.axis + 2 and array.shape[self._with_classes] == self.length
        return self._ahead(array, self._with_classes) if lies else self.along(array)

    def along(self, array: Any) -> Any:
        """Return what lies along the labels that have a prediction."""
        return self._ahead(array, self.axis)

    def _ahead(self, array: Any, axis: int) -> Any:
        if not self.by or len(array.shape) <= axis or array.shape[axis] != self.length:
            return array
        return along(array, axis, self.by, self.length)


class Lookup:
    """The numbers that a table has for labels; 0 for negative labels, and another one for labels beyond it."""

    def __init__(self, table: NDArray[np.float64], beyond: float) -> None:
        self.table, self.beyond = table, beyond
        self.identity = hashlib.sha256(table.tobytes()).hexdigest()[:16]

    def __call__(self, labels: NDArray[Any], origin: tuple[int, ...] = ()) -> NDArray[np.float64]:
        """Look labels up."""
        known = (labels >= 0) & (labels < len(self.table))
        other = np.where(labels < 0, 0.0, self.beyond)
        return np.where(known, self.table[np.where(known, labels, 0).astype(np.int64)], other)


class Looked(Viewed):
    """What a table has for labels; those that are not stored are reported as labels, not once more."""

    def like(self, source: Any) -> Looked:
        """Return the same of other labels."""
        return Looked(source, self.convert, self.dtype)

    def read(self, box: Box, missing: list[Box] | None = None) -> NDArray[Any]:
        """Read a box of labels and look them up."""
        return super().read(box, None if missing is None else [])


class Divided:
    """Logits divided by a temperature, in float64."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, logits: NDArray[Any], origin: tuple[int, ...] = ()) -> NDArray[np.float64]:
        """Divide logits."""
        return logits.astype(np.float64) / self.temperature


def at_temperature(predictions: Any, temperature: float) -> Any:
    """Return logits divided by a temperature."""
    return predictions if temperature == 1 else _mapped(predictions, Divided(temperature))


def unit_of(given: Any, name: str, labels: Any, widths: tuple[int, ...], shift: Shift, fill: bool) -> Further:
    """Return how many bytes or words each label stands for: an array along the labels, or a table looked up by them.

    A table is as long as one of `widths`. Where these are not known it is whatever has one axis and not the shape of
    the labels, and NaN, an error, stands for labels beyond it: those beyond all classes are errors themselves.

    Raises
    ------
    ValueError
        What was given lies along the labels, and is as long as there are classes; it is one stored number.
    """
    array = open_array(given, name)
    shape, lying = tuple(array.shape), shift.along(array)
    lies = tuple(labels.shape) in (tuple(lying.shape), (*lying.shape, 1))
    table = len(shape) == 1 and (shape[0] in widths if widths else not lies)
    if not shape:
        raise ValueError(f"{name}: {given} is one number; give the number itself, that of the whole text")
    if not table:
        return Further(lying, name, "weights")
    if lies:
        raise ValueError(
            f"{name}: shape {shape} is that of the labels, and as long as there are classes: either may be meant"
        )
    values = np.asarray(array.compute() if is_dask(array) else _table(array, name, fill), np.float64)
    return Further(_mapped(labels, Lookup(values, 0.0 if widths else np.nan), Looked), name, "weights")


def _table(array: Any, name: str, fill: bool) -> NDArray[Any]:
    """Read a table; a warning says which of it is not stored, as where zarr leaves out what is the fill value."""
    gaps: list[Box] | None = [] if fill else None
    values: NDArray[Any] = array.read((slice(0, array.shape[0]),), gaps)
    if gaps:
        where = ", ".join(f"{gap[0].start} to {gap[0].stop - 1}" for gap in gaps[:3]) + ", ..." * (len(gaps) > 3)
        what = f"{name}: entries {where} of the table are not stored and were read as the fill value"
        warn_caller(what, DoubtfulResult)
    return values


def _mapped(array: Any, convert: Any, kind: type[Viewed] = Viewed) -> Any:
    if is_dask(array):
        return array.map_blocks(convert, dtype=np.float64, meta=np.empty((0,) * array.ndim))
    return kind(array, convert, np.float64)


def to_call(asked: Asked, call_of: Any) -> Mapping[str, Any] | None:
    """Return how to give ids, mask, bytes and words again, as JSON; None if one of them is not stored."""
    found = {name: call_of(each) for name, each in arrays_of(asked).items()} | totals_of(asked)
    return None if None in found.values() else found
