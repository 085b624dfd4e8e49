"""From what users give to aligned inputs and a question; and how to do the same again."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from daskxent.numbers.question import Question
from daskxent.options import Asked
from daskxent.run import graph, slicing
from daskxent.sources import (
    Inputs,
    align,
    aligned_by_name,
    as_binary,
    as_view,
    call_of,
    check_ignored,
    open_array,
    positions_of,
    with_storage,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

# What the options and the question share, by the same names.
SHARED = (
    "metrics", "worst", "worst_by", "sample", "seed", "per_class", "confusions", "average", "ignore_class",
    "label_smoothing", "on_invalid", "allow_negative_weights", "on_missing",
)  # fmt: skip


APART = "sample_weight", "by", "clusters", "storage_options"  # what may hold arrays, or secrets


def prepare(y_true: Any, y_pred: Any, asked: Asked, along: Mapping[str, Any] | None = None) -> tuple[Inputs, Question]:
    """Open, check and align labels, predictions, weights, and further arrays `along` the rows, by name."""
    along, weights = along or {}, asked.sample_weight
    sliced = {name: (array, floats) for name, array, floats in slicing.arrays_of(asked.slicings, asked.clusters)}
    arrays = {name: array for name, (array, _) in sliced.items()}
    named = {"y_true": y_true, "y_pred": y_pred, "sample_weight": weights, **along, **arrays}
    if asked.storage_options:
        named = {name: with_storage(each, asked.storage_options) for name, each in named.items()}
    given = aligned_by_name(named, asked.axis, asked.join)
    y_true, y_pred, weights = (given.pop(name) for name in ("y_true", "y_pred", "sample_weight"))
    opened = None if weights is None else open_array(weights, "sample_weight")
    labels = open_array(y_true, "y_true")
    predictions = as_view(open_array(y_pred, "y_pred"), asked.view, "y_pred")
    if asked.binary and asked.predictions == "log_probabilities":
        raise ValueError("predictions: binary ones are logits or probabilities")
    if asked.binary:
        predictions = as_binary(predictions, kind_of(asked)["from_logits"], asked.axis)
    positions = positions_of(predictions.shape, asked.axis)
    further = {
        name: slicing.opened(array, name, name in sliced and sliced[name][1], positions)
        for name, array in given.items()
    }
    inputs = align(labels, predictions, opened, asked.axis, further=further)
    inputs = graph.met(inputs, fill=asked.on_missing == "fill")
    shared = {name: getattr(asked, name) for name in SHARED} | kind_of(asked)
    shared["ignore_class"] = asked.ignore_class or ()
    check_ignored(shared["ignore_class"], inputs)
    by = slicing.slicings_of(asked.slicings)
    clusters = slicing.clusters_of(asked.clusters)
    shared["class_weight"] = class_weight_of(asked.class_weight, inputs.classes)
    return inputs, Question(classes=inputs.classes, dense=inputs.dense, by=by, clusters=clusters, **shared)


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
    """Return what the predictions are, as the question has it."""
    if asked.predictions is None:
        return {"from_logits": asked.from_logits}
    if asked.from_logits and asked.predictions == "probabilities":
        raise ValueError("predictions: probabilities are no logits, as from_logits=True says")
    return {
        "from_logits": asked.predictions != "probabilities",
        "log_probabilities": asked.predictions == "log_probabilities",
    }


def repeatable(y_true: Any, y_pred: Any, asked: Asked, along: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Return the arguments of a call whose arrays are all paths, as JSON has them; None for other calls."""
    weights = {} if asked.sample_weight is None else {"sample_weight": asked.sample_weight}
    arrays = {name: call_of(given) for name, given in {"y_true": y_true, "y_pred": y_pred, **weights}.items()}
    further = {name: call_of(given) for name, given in (along or {}).items()}
    if asked.storage_options:
        return None
    by = slicing.to_call(asked.slicings)
    clusters = None if asked.clusters is None else slicing.one_to_call(asked.clusters)
    if by is None or (clusters is None) != (asked.clusters is None) or None in (*arrays.values(), *further.values()):
        return None
    given = {each.name: getattr(asked, each.name) for each in fields(Asked) if each.name not in APART}
    call = {"arrays": {**arrays, "along": further}, "asked": given | {"by": by, "clusters": clusters}}
    made: dict[str, Any] = json.loads(json.dumps(call, default=lambda value: value.item()))
    return made
