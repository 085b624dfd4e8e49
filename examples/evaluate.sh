#!/bin/sh
# Evaluate a dump from the shell: a table for people, JSON for programs.
set -eu

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"

# A model that is right three times in four, and twice as sure when it is right.
python - <<'PYTHON'
import numpy as np
import zarr

rng = np.random.default_rng(0)
labels = rng.integers(100, size=20_000)
logits = rng.normal(size=(20_000, 100)).astype("float32")
known = rng.random(20_000) < 0.75
logits[known, labels[known]] += 8

group = zarr.create_group("dump.zarr")
group.create_array("labels", data=labels.astype("uint8"))
group.create_array("logits", data=logits, chunks=(5_000, 100))
PYTHON

daskxent plan dump.zarr/labels dump.zarr/logits --from-logits
daskxent evaluate dump.zarr/labels dump.zarr/logits --from-logits --metric crossentropy --metric top_5_accuracy

# The exit status is 0 only with a complete result, so a pipeline can rely on it.
daskxent evaluate dump.zarr/labels dump.zarr/logits --from-logits --json |
    python -c 'import json, sys; print("accuracy from JSON:", json.load(sys.stdin)["accuracy"])'
