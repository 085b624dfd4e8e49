"""Write a dump in pieces, look at the plan, evaluate it, and watch the result while it grows.

The cells (# %%) run in Jupyter, VS Code or as a plain script.
"""

# %% What inference does: predictions are appended batch by batch and never held whole.
import tempfile
from pathlib import Path

import numpy as np

import daskxent as dx

ROWS, CLASSES, BATCH = 600_000, 50, 50_000

directory = tempfile.TemporaryDirectory()
path = Path(directory.name) / "dump.zarr"
rng = np.random.default_rng(0)
with dx.create(path, classes=CLASSES, dtype="float16") as dump:
    for _ in range(0, ROWS, BATCH):
        labels = rng.integers(CLASSES, size=BATCH)
        logits = rng.normal(size=(BATCH, CLASSES))
        logits[np.arange(BATCH), labels] += 3
        dump.append(logits, labels, weights=rng.random(BATCH))

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
