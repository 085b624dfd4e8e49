"""Error bars, slices, classes and worst rows of three kinds of dumps, each from one call.

The cells (# %%) run in Jupyter, VS Code or as a plain script.
"""

# %% A classifier of a thousand classes: which classes are worst, what they are taken for, and in which rows.
import numpy as np

import daskxent as dx

rng = np.random.default_rng(0)
classes, images = 1_000, 20_000
labels = rng.integers(classes, size=images)
logits = rng.normal(size=(images, classes)).astype("float32")
logits[np.arange(images), labels] += rng.normal(4, 1, images)
logits[labels == 7, 8] += 3  # a class that is often taken for the next one

report = dx.evaluate(
    labels,
    logits,
    from_logits=True,
    metrics=["crossentropy", "accuracy", "top_5_accuracy", "balanced_accuracy", "macro_f1"],
    by={"confidence": dx.bins("confidence", [0, 0.5, 0.9, 1])},
    per_class=True,
    confusions=True,
    worst=5,
)
print(report)
print(report.per_class().worst("accuracy", count=3))
print(report.top_confusions(3))
low, high = report.interval("accuracy")
assert low < report["accuracy"] < high
assert report.top_confusions(1)[0][:2] == (7, 8)

# %% Segmentation maps: void pixels are ignored, and the pixels of an image depend on one another.
maps = rng.integers(21, size=(12, 64, 64))
scores = rng.normal(size=(12, 21, 64, 64)).astype("float32")
np.put_along_axis(scores, maps[:, None], np.float32(2), axis=1)
maps[:, :4] = 255

report = dx.evaluate(
    maps,
    scores,
    axis=1,
    from_logits=True,
    ignore_class=255,
    metrics=["crossentropy", "accuracy", "mean_iou", "mean_dice"],
    clusters=dx.axis(0),
)
print(report)
print("design effect", report.design_effect["accuracy"])

# %% A language model: per document, by position and by language; the mean over documents next to that over tokens.
sequences, length, vocabulary = 200, 32, 500
tokens = rng.integers(vocabulary, size=(sequences, length))
next_logits = rng.normal(size=(sequences, length, vocabulary)).astype("float16")
np.put_along_axis(next_logits, tokens[..., None], np.float16(3), axis=2)
documents = np.sort(rng.integers(60, size=sequences))
language = rng.choice(["de", "en", "fr"], sequences)

options = {
    "from_logits": True,
    "metrics": ["crossentropy", "perplexity", "accuracy"],
    "clusters": documents,
    "by": [{"language": language}, {"position": dx.bins(np.arange(length)[None, :], [0, 8, 16, 32])}],
}
report = dx.evaluate(tokens, next_logits, **options)
print(report)
averaged = dx.evaluate(tokens, next_logits, average="cluster", **options)
print("per token", report["perplexity"], "per document", averaged["perplexity"])
print(report.by("language").to_csv())
