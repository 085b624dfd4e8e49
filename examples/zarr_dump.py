"""Write a dump in pieces, look at the plan, evaluate it, and watch the result while it grows.

The cells (# %%) run in Jupyter, VS Code or as a plain script.
"""

# %% What inference does: predictions are appended piece by piece and never held whole.
import tempfile
from pathlib import Path

import numpy as np
import zarr

import daskxent as dx

ROWS, CLASSES, PIECE = 600_000, 50, 50_000

directory = tempfile.TemporaryDirectory()
path = Path(directory.name) / "dump.zarr"
dump = zarr.create_group(path)
dump.create_array("labels", shape=ROWS, chunks=ROWS, dtype="uint8")
dump.create_array("logits", shape=(ROWS, CLASSES), chunks=(PIECE, CLASSES), dtype="float16")
dump.create_array("weights", shape=ROWS, chunks=ROWS, dtype="float32")

rng = np.random.default_rng(0)
for start in range(0, ROWS, PIECE):
    piece = slice(start, start + PIECE)
    labels = rng.integers(CLASSES, size=PIECE)
    logits = rng.normal(size=(PIECE, CLASSES))
    logits[np.arange(PIECE), labels] += 3
    dump["labels"][piece] = labels
    dump["logits"][piece] = logits
    dump["weights"][piece] = rng.random(PIECE)

# %% What would be read, in which parts, with how much memory. Nothing is read yet.
plan = dx.plan(path / "labels", path / "logits", from_logits=True)
print(plan)

# %% Evaluate: one pass for all metrics. In Jupyter the report shows as a table.
report = dx.evaluate(
    path / "labels",
    path / "logits",
    sample_weight=path / "weights",
    from_logits=True,
    metrics=["crossentropy", "accuracy", "top_5_accuracy", "perplexity"],
)
print(report)

# %% The same with a running result, one report a part; the last one is complete.
for running in dx.stream(path / "labels", path / "logits", sample_weight=path / "weights", from_logits=True):
    print(f"{running.rows:>7,} of {running.expected:,} rows: crossentropy {running['crossentropy']:.4f}")

# %% However the rows are cut, the sums are exact: the two ways agree to the last bit.
assert running.complete
assert running["crossentropy"] == report["crossentropy"]
directory.cleanup()
