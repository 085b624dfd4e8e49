"""The names of Keras, without Keras: metrics that are updated batch by batch, and losses that may be lazy."""

import dask
import dask.array as da
import numpy as np

import daskxent as dx

rng = np.random.default_rng(0)
labels = rng.integers(10, size=1_000)
logits = rng.normal(size=(1_000, 10)).astype("float32")

# A metric takes batches, whatever their sizes.
metric = dx.metrics.SparseCategoricalCrossentropy(from_logits=True)
for start in range(0, 1_000, 300):
    metric.update_state(labels[start : start + 300], logits[start : start + 300])
print("metric, in batches of 300:", float(metric.result()))

# Metrics of different shards merge.
even, odd = (dx.metrics.SparseCategoricalCrossentropy(from_logits=True) for _ in range(2))
even.update_state(labels[::2], logits[::2])
odd.update_state(labels[1::2], logits[1::2])
even.merge_state([odd])
print("metric, of two shards:    ", float(even.result()))
assert even.result() == metric.result()

# A loss of NumPy arrays is a number, and of dask arrays a lazy one that computes together with the user's graph.
loss = dx.losses.SparseCategoricalCrossentropy(from_logits=True)
lazy_logits = da.from_array(logits, chunks=(300, 4))  # the class axis may be split as well
lazy = loss(labels, lazy_logits)
mean, largest = dask.compute(lazy, abs(lazy_logits).max())
print("loss, lazy:               ", float(mean), "with the largest logit", largest)
assert mean == loss(labels, logits)

# One loss per row, to find the worst ones.
losses = dx.losses.sparse_categorical_crossentropy(labels, lazy_logits, from_logits=True)
worst = losses.compute().argsort()[-3:][::-1]
print("worst rows:               ", worst.tolist())
