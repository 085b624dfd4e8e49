"""Tell whether arrays are the ones that were read before.

A fingerprint holds where an array is, its type, how it is stored, and a digest of a few of its bytes: enough to
notice a dump that was rewritten, without reading it. It is taken over the first steps of the lead axis, as many as
there were before, so that a dump to which rows were appended still matches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daskxent.sources.align import Inputs


def fingerprint(inputs: Inputs, steps: int) -> dict[str, Any]:
    """Return what identifies aligned inputs over their first `steps` along the lead axis, as plain Python objects."""
    lead = inputs.lead_axis
    found: dict[str, Any] = {"y_pred": inputs.predictions.identity(lead, steps), "sample_weight": None}
    if inputs.dense:
        found["y_true"] = inputs.dense_labels.identity(lead, steps)
    at = inputs.lead
    return found | {along.title: along.source.identity(along.at(at), steps) for along in inputs.along.values()}
