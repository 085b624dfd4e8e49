"""Tell whether arrays are the ones that were read before.

A fingerprint holds where an array is, its type, how it is stored, and a digest of a few of its bytes: enough to
notice a dump that was rewritten, without reading it. It is taken over the first steps of the lead axis, as many as
there were before, so that a dump to which rows were appended still matches.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.sources.arrays import Joined, Viewed, Zarr
from daskxent.sources.layout import address, layout

if TYPE_CHECKING:
    from daskxent.sources.align import Inputs

SAMPLES = 16
SAMPLE_BYTES = 4096


def fingerprint(inputs: Inputs, steps: int) -> dict[str, Any]:
    """Return what identifies aligned inputs over their first `steps` along the lead axis, as plain Python objects."""
    lead = inputs.lead + (inputs.lead >= inputs.axis)
    found: dict[str, Any] = {"y_pred": _of(inputs.predictions, lead, steps), "sample_weight": None}
    if inputs.dense:
        found["y_true"] = _of(inputs.dense_labels, lead, steps)
    return found | {along.title: _of(along.source, along.at(inputs.lead), steps) for along in inputs.along.values()}


def _of(source: Any, lead: int | None, steps: int) -> Any:
    if not source.shape:
        return source.read(()).item()  # a number
    if isinstance(source, Joined):
        return {"blocks": [_of(member, lead, steps) for member in source.members]}
    if isinstance(source, Viewed):
        return {**_of(source.source, lead, steps), "dtype": source.dtype.name}
    shape = [steps if axis == lead else length for axis, length in enumerate(source.shape)]
    found = {"shape": shape, "dtype": source.dtype.name, "sample": _sample(source, lead, shape)}
    if isinstance(source, Zarr):
        return {"where": address(source.array), "layout": layout(source.array), **found}
    return {"where": getattr(source, "path", "memory"), **found}


def _sample(source: Any, lead: int | None, shape: list[int]) -> str:
    """Digest a few chunks' first bytes, or a few steps; only of what is full, because the rest may grow."""
    steps = 1 if lead is None else shape[lead]
    full = steps // source.pieces[lead] if isinstance(source, Zarr) and lead is not None else 0
    if full:
        at = [tuple(int(i) if axis == lead else 0 for axis in range(len(shape))) for i in _spread(full)]
        return _digest(b"".join(source.chunks.first_bytes(index, SAMPLE_BYTES) for index in at))
    boxes = [
        tuple(slice(int(i), int(i) + 1) if axis == lead else slice(0, length) for axis, length in enumerate(shape))
        for i in _spread(steps)
    ]
    return _digest(b"".join(_bytes(source.read(box, []))[:SAMPLE_BYTES] for box in boxes))


def _bytes(values: Any) -> bytes:
    """Return the bytes of an array; of strings that lie elsewhere, the strings."""
    if values.dtype.kind in "OT":
        return repr(values.tolist()).encode()
    return np.ascontiguousarray(values).tobytes()


def _spread(length: int) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, length - 1, min(SAMPLES, length))})


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
