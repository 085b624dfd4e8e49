"""From what users give to aligned inputs and a question; and how to do the same again."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from daskxent.numbers.question import Question
from daskxent.numbers.statistics import DERIVED, UNITS, metric
from daskxent.options import Asked
from daskxent.run import graph, slicing, text
from daskxent.sources.align import Inputs, align, check_ignored, positions_of
from daskxent.sources.binary import as_binary, is_column
from daskxent.sources.converted import as_view
from daskxent.sources.dump_marks import check_finished
from daskxent.sources.largest import as_slots
from daskxent.sources.meaning import aligned_by_name, is_labelled, labelled, positions_among
from daskxent.sources.opening import again, call_of, open_array, with_storage
from daskxent.sources.sliced import Sliced

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T", bound=Asked)

# What the options and the question share, by the same names.
SHARED = (
    "metrics", "worst", "worst_by", "worst_per_group",
    "sample", "seed", "per_class", "confusions", "average", "ignore_class",
    "label_smoothing", "on_invalid", "allow_negative_weights", "on_missing", "histograms", "ranks", "temperature",
)  # fmt: skip


# What may hold arrays, or secrets.
APART = "sample_weight", "by", "clusters", "storage_options", "ids", "mask", "bytes", "words"


def prepare(y_true: Any, y_pred: Any, asked: Asked) -> tuple[Inputs, Question]:
    """Open, check and align labels, predictions, weights, and what else lies along the rows."""
    asked = with_axis(asked, y_pred)
    kinds = {name: kind for name, _, kind in slicing.arrays_of(asked.slicings, asked.clusters)}
    inputs = _aligned(_named(y_true, y_pred, asked), kinds, asked)
    inputs = graph.met(inputs, fill=asked.on_missing == "fill")
    shared = {name: getattr(asked, name) for name in SHARED} | kind_of(asked) | text.totals_of(asked)
    shared["bins"] = asked.calibration_bins
    shared["zero_division"] = _plain_zero_division(asked)
    _check_units(asked, inputs)
    shared["ignore_class"] = asked.ignore_class or ()
    check_ignored(shared["ignore_class"], inputs)
    by = slicing.slicings_of(asked.slicings)
    clusters = slicing.clusters_of(asked.clusters)
    shared["class_weight"] = class_weight_of(asked.class_weight, inputs.classes)
    return inputs, Question(classes=inputs.classes, dense=inputs.dense, by=by, clusters=clusters, **shared)


def _named(y_true: Any, y_pred: Any, asked: Asked) -> dict[str, Any]:
    """Return all arrays that were given, by their names in messages, those of xarray brought in line."""
    sliced = {name: array for name, array, _ in slicing.arrays_of(asked.slicings, asked.clusters)}
    arrays = {"y_true": y_true, "y_pred": y_pred, "sample_weight": asked.sample_weight, **sliced}
    arrays |= text.arrays_of(asked)
    if asked.storage_options:
        arrays = {name: with_storage(each, asked.storage_options) for name, each in arrays.items()}
    return aligned_by_name(arrays, _class_axis(asked, y_pred), asked.join)


def _class_axis(asked: Asked, y_pred: Any) -> int | None:
    """Return the class axis of labelled predictions, which binary ones need not have."""
    return None if asked.binary and is_labelled(y_pred) and not is_column(y_pred) else asked.axis


def labelled_rows(y_true: Any, y_pred: Any, asked: Asked, columns: dict[str, Any]) -> dict[str, Any]:
    """Return columns of rows with the coordinates of xarray's predictions, those that are left of them."""
    if not is_labelled(y_pred):
        return columns
    found, axis = _named(y_true, y_pred, asked)["y_pred"], _class_axis(asked, y_pred)
    if asked.shift:
        found = found.isel({positions_among(found.dims, axis)[-1]: slice(0, -asked.shift)})
    return labelled(found, axis, columns)


def with_axis(asked: T, y_pred: Any) -> T:
    """Return options in which a class axis that was given by its name has its number.

    Raises
    ------
    ValueError
        The predictions have no such name, or an axis was given as well.
    """
    if asked.dim is None:
        return asked
    if asked.axis != -1:
        raise ValueError(f"dim: {asked.dim!r} is an axis already; axis={asked.axis} is another")
    names = tuple(getattr(y_pred, "dims", None) or dimension_names(y_pred, asked.storage_options))
    if asked.dim not in names:
        known = (
            f"is not one of those of y_pred, {', '.join(map(str, names))}" if names else "is unknown: y_pred names none"
        )
        raise ValueError(f"dim: dimension {asked.dim!r} {known}")
    return replace(asked, axis=names.index(asked.dim) - len(names))


def dimension_names(y_pred: Any, storage: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the names that a stored array gives to its axes; none of what has none."""
    return _names(open_array(with_storage(y_pred, storage) if storage else y_pred, "y_pred"))


def _names(source: Any) -> tuple[str, ...]:
    """Return the names of the axes of a source; of a part those of the axes that are left."""
    if isinstance(source, Sliced):
        named = zip(_names(source.source), source.index, strict=False)  # there may be no names
        return tuple(name for name, each in named if isinstance(each, slice))
    if hasattr(source, "source"):
        return _names(source.source)
    metadata = getattr(getattr(source, "array", None), "metadata", None)
    return tuple(name or "" for name in getattr(metadata, "dimension_names", None) or ())


def _aligned(given: dict[str, Any], kinds: Mapping[str, str], asked: Asked) -> Inputs:
    """Open what was given and line it up."""
    y_true, y_pred, weights = (given.pop(name) for name in ("y_true", "y_pred", "sample_weight"))
    opened = None if weights is None else open_array(weights, "sample_weight")
    labels = open_array(y_true, "y_true")
    predictions = as_view(open_array(y_pred, "y_pred"), asked.view, "y_pred")
    kind = kind_of(asked)
    if asked.binary and asked.predictions == "log_probabilities":
        raise ValueError("predictions: binary ones are logits or probabilities")
    if asked.binary:
        predictions = as_binary(predictions, kind["from_logits"], asked.axis)
    width = predictions.shape[asked.axis] if -len(predictions.shape) <= asked.axis < len(predictions.shape) else 0
    predictions = text.with_classes(predictions, labels, asked.axis, asked.classes)
    ids = open_array(given.pop("ids"), "ids") if "ids" in given else None
    if asked.temperature != 1 and (not kind["from_logits"] or asked.predictions == "log_probabilities"):
        raise ValueError("temperature: only logits are divided by one: from_logits=True")
    shift = text.Shift(asked.shift, positions_of(predictions.shape, asked.axis), asked.axis)
    predictions = shift.predictions(text.at_temperature(predictions, asked.temperature))
    labels, opened = shift.labels(labels), None if opened is None else shift.along(opened)
    positions = positions_of(predictions.shape, asked.axis)
    fill = asked.on_missing != "raise"
    further, widths = {}, () if ids is not None else (width, asked.classes or width)
    for name, array in given.items():
        if name in UNITS:
            further[name] = text.unit_of(array, name, labels, widths, shift, fill)
            continue
        found = slicing.opened(array, name, "mask" if name == "mask" else kinds.get(name, "keys"), positions)
        further[name] = found._replace(source=shift.along(found.source))
    if ids is not None:
        text.check_ids(asked, ids)
        check_finished([labels, ids])
        labels, predictions = as_slots(labels, shift.predictions(ids), predictions)
    return align(labels, predictions, opened, asked.axis, further=further, fill=fill)


def _check_units(asked: Asked, inputs: Inputs) -> None:
    """Refuse metrics of text without the bytes or words that they are per."""
    for name in asked.metrics:
        per = "" if name in DERIVED else metric(name).per or name
        if per in UNITS and getattr(asked, per) is None:
            raise ValueError(f"metrics: {name!r} needs {per}=: a table, an array along the labels, or their number")
        if per == name and per in UNITS and per not in inputs.along:
            raise ValueError(f"metrics: the mean of {name!r} needs a table, or an array along the labels")


def class_weight_of(given: Any, classes: int) -> tuple[float, ...]:
    """Return a weight for each class; none at all if none were given."""
    if given is None:
        return ()
    if given and isinstance(given[0], tuple):
        beyond = [each for each, _ in given if not 0 <= each < classes]
        if beyond:
            raise ValueError(f"class_weight: class {beyond[0]} is outside [0, {classes})")
        known = dict(given)
        return tuple(known.get(each, 1.0) for each in range(classes))
    if len(given) != classes:
        raise ValueError(f"class_weight: expected {classes} weights, one for each class, got {len(given)}")
    return tuple(given)


def kind_of(asked: Asked) -> dict[str, bool]:
    """Return what the predictions are, in the words of the question."""
    if asked.predictions is None:
        return {"from_logits": asked.from_logits}
    if asked.from_logits and asked.predictions == "probabilities":
        raise ValueError("predictions: 'probabilities' contradicts from_logits=True")
    return {
        "from_logits": asked.predictions != "probabilities",
        "log_probabilities": asked.predictions == "log_probabilities",
    }


def repeatable(y_true: Any, y_pred: Any, asked: Asked) -> dict[str, Any] | None:
    """Return the arguments of a call whose arrays are all paths, as JSON; None for other calls."""
    weights = {} if asked.sample_weight is None else {"sample_weight": asked.sample_weight}
    arrays = {name: call_of(given) for name, given in {"y_true": y_true, "y_pred": y_pred, **weights}.items()}
    if asked.storage_options:
        return None
    by, units = slicing.to_call(asked.slicings), text.to_call(asked, call_of)
    clusters = None if asked.clusters is None else slicing.one_to_call(asked.clusters)
    if units is None or by is None or (clusters is None) != (asked.clusters is None) or None in arrays.values():
        return None
    given = {each.name: getattr(asked, each.name) for each in fields(Asked) if each.name not in APART}
    given["zero_division"] = _plain_zero_division(asked)
    call = {"arrays": arrays, "asked": given | {"by": by, "clusters": clusters, "text": units}}
    made: dict[str, Any] = json.loads(json.dumps(call, default=lambda value: value.item()))
    return made


def prepare_again(call: Mapping[str, Any]) -> tuple[Inputs, Question]:
    """Open the arrays of a call as `repeatable` returned it, and ask the same of them."""
    arrays, asked = call["arrays"], dict(call["asked"])
    by, clusters = slicing.from_call(asked.pop("by")) or None, asked.pop("clusters")
    clusters = None if clusters is None else slicing.one_from_call(clusters)
    units: Any = {name: each if isinstance(each, int) else again(each) for name, each in asked.pop("text").items()}
    if asked["zero_division"] is None:
        asked["zero_division"] = math.nan
    given = Asked(**asked, **units, by=by, clusters=clusters, sample_weight=again(arrays.get("sample_weight")))
    return prepare(again(arrays["y_true"]), again(arrays["y_pred"]), given)


def _plain_zero_division(asked: Asked) -> float | None:
    """Return the option as JSON has it, which knows no NaN."""
    return None if math.isnan(asked.zero_division) else asked.zero_division
