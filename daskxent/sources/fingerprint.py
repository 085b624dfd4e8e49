"""Whether arrays are the ones that were read before.

A fingerprint holds where an array is, its type, how it is stored, and a digest of a few of its bytes: enough to
notice a dump that was rewritten, without reading it. It is taken over the first steps of the lead axis, as many as
there were before, so that a dump to which rows were appended still matches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daskxent.sources.opening import is_dask
from daskxent.sources.source import between

if TYPE_CHECKING:
    from daskxent.sources.align import Inputs


def fingerprint(inputs: Inputs, steps: int) -> dict[str, Any]:
    """Return what identifies aligned inputs over their first `steps` along the lead axis, as plain Python objects."""
    lead = inputs.lead_axis
    predictions = _identity(inputs.predictions, lead, steps)
    found: dict[str, Any] = {
        "y_pred": predictions,
        "axis": inputs.axis,
        "positions": [steps if at == inputs.lead else n for at, n in enumerate(inputs.positions)],
        "class_blocks": _class_blocks(inputs, predictions),
        "sample_weight": None,
    }
    if inputs.dense:
        found["y_true"] = _identity(inputs.dense_labels, lead, steps)
    return found | {
        along.title: _identity(along.source, along.at(inputs.lead), steps) for along in inputs.along.values()
    }


def _class_blocks(inputs: Inputs, known: dict[str, Any]) -> int:
    """Return into how many blocks the classes are cut where predictions are stored, or joined."""
    if is_dask(inputs.predictions):
        return len(inputs.predictions.chunks[inputs.axis])
    known = known.get("sliced", known)
    joined = len(known["joined"]) if known.get("axis") == inputs.axis else 1
    cuts = inputs.predictions.stored(inputs.axis)
    return joined if cuts is None else int(cuts.count(0, inputs.classes))


def _identity(source: Any, lead: int | None, steps: int) -> Any:
    """Return the identity of a source; Dask gives a name of its own to what would give the same array."""
    if not is_dask(source):
        return source.identity(between(source.shape, lead, 0, steps), lead)
    return {"where": "dask", "shape": list(source.shape), "dtype": source.dtype.name, "sample": source.name}
