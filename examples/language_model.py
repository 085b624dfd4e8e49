"""A real language model, small enough for a minute: trained here, dumped, and evaluated as large ones are.

Its text is Python's own documentation of its topics, which every Python has. Its tokens are bytes and frequent pairs of
bytes, in a vocabulary that is padded; the topics are sequences of different lengths. The cells (# %%) run in Jupyter,
VS Code or as a plain script.
"""

# %% The text, cut into tokens: the 256 bytes, and the 200 pairs of them that are most frequent.
import tempfile
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import zarr

import daskxent as dx

VOCABULARY, WIDTH, LENGTH, PADDING = 456, 512, 512, -100

texts = [topics[name].encode() for name in sorted(topics)]
pairs = [pair for pair, _ in Counter(text[i : i + 2] for text in texts for i in range(len(text) - 1)).most_common(200)]
number = {pair: 256 + i for i, pair in enumerate(pairs)}


def tokens_of(text: bytes) -> list[int]:
    """Cut a text into pairs that have a token, and else bytes."""
    found, at = [], 0
    while at < len(text):
        pair = text[at : at + 2]
        found.append(number.get(pair, text[at]))
        at += 2 if pair in number else 1
    return found


def padded(sequences: list[list[int]]) -> np.ndarray:
    """Put sequences into an array, cut or padded to one length."""
    rows = np.full((len(sequences), LENGTH), PADDING)
    for row, tokens in zip(rows, sequences, strict=True):
        row[: min(len(tokens), LENGTH)] = tokens[:LENGTH]
    return rows


every = padded([tokens_of(text) for text in texts])
bytes_of_token = np.array([1] * 256 + [2] * len(pairs))

# %% The model: logits that are a table of the last token plus a table of the one before, trained by gradient descent.
train, test = every[::2], every[1::2]
last, before = np.zeros((2, VOCABULARY, VOCABULARY), "float32")


def logits_of(tokens: np.ndarray) -> np.ndarray:
    """Return the logits of the token after each one."""
    known = np.maximum(tokens, 0)
    earlier = np.concatenate([known[:, :1], known[:, :-1]], axis=1)
    return last[known] + before[earlier]


for _ in range(25):
    inputs, targets = train[:, :-1], train[:, 1:]
    logits = logits_of(inputs)
    slopes = np.exp(logits - logits.max(axis=-1, keepdims=True))
    slopes /= slopes.sum(axis=-1, keepdims=True)
    kept = targets >= 0
    slopes[(*np.nonzero(kept), targets[kept])] -= 1
    known = np.maximum(inputs, 0)
    earlier = np.concatenate([known[:, :1], known[:, :-1]], axis=1)
    for table, seen in ((last, known), (before, earlier)):
        steps = np.zeros_like(table)
        np.add.at(steps, seen[kept], slopes[kept])
        table -= 2.0 * steps / np.maximum(np.bincount(seen[kept], minlength=VOCABULARY), 1)[:, None]

# %% The dump, as a model writes it: the logits after each token, over the padded vocabulary, one batch after the other.
scratch = tempfile.TemporaryDirectory()
dump = Path(scratch.name) / "dump.zarr"
group = zarr.open_group(dump, mode="w")
group.create_array("tokens", data=test, chunks=(16, LENGTH))
group.create_array("bytes", data=bytes_of_token)
array = group.create_array("logits", shape=(*test.shape, WIDTH), chunks=(8, LENGTH, WIDTH), dtype="float32")
for at in range(0, len(test), 8):
    some = logits_of(test[at : at + 8])
    array[at : at + 8] = np.pad(some, ((0, 0), (0, 0), (0, WIDTH - VOCABULARY)), constant_values=-1e4)
print(f"{array.nbytes / 1e6:.0f} MB of logits of {len(test)} sequences")

# %% One call: each token's logits against the token after it, the padding of neither read nor counted.
dumped = dump / "tokens", dump / "logits"
asked = {
    "from_logits": True,
    "shift": 1,
    "classes": VOCABULARY,
    "ignore_class": PADDING,
    "clusters": dx.axis(0),  # the tokens of a sequence depend on one another
}
report = dx.evaluate(
    *dumped,
    **asked,
    bytes=dump / "bytes",
    metrics=["crossentropy", "perplexity", "bits_per_byte", "accuracy", "entropy", "ece", "temperature"],
    by={"uncertainty": dx.bins("entropy", [0, 1, 2, 4, 7])},
    histograms=["crossentropy"],
    ranks=True,
    worst=3,
)
print(report)
print(report.reliability())
print("median and 99 % of the losses:", report.quantile("crossentropy", [0.5, 0.99]))
print("the label among the 1, 5, 50 likeliest:", [report.top_k_curve()[k - 1]["accuracy"] for k in (1, 5, 50)])

# %% The same numbers without daskxent, all in memory.
logits = logits_of(test[:, :-1]).astype("float64")
kept = test[:, 1:] >= 0
labels = test[:, 1:][kept]
logs = (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))[kept]
losses = -logs[np.arange(len(labels)), labels]
assert np.isclose(report["crossentropy"], losses.mean(), rtol=1e-6)
assert np.isclose(report["bits_per_byte"], losses.sum() / np.log(2) / bytes_of_token[labels].sum(), rtol=1e-6)
assert np.isclose(report["entropy"], -(np.exp(logs) * logs).sum(axis=-1).mean(), rtol=1e-6)
assert report["accuracy"] == (logs.argmax(axis=-1) == labels).mean()

# %% The mean over sequences instead of tokens, and the curve along them.
curve = dx.evaluate(*dumped, **asked, average="cluster", by={"position": dx.axis(1)})
print("per sequence", curve["crossentropy"], "±", curve.se["crossentropy"])
print("first and last places", [curve.by("position").rows[k]["crossentropy"] for k in (0, -1)])
scratch.cleanup()
