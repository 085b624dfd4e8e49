"""Train the network of the demo and print its weights, the numbers in daskxent/demo_weights.txt.

What comes out differs a little between machines, as sums of floating point numbers do. This is why the package has a
table and trains nothing.
"""

import sys

import numpy as np

from daskxent import demo

STEPS = 600
ROWS = 1024  # of each step
RATE = 0.003  # falls to nothing in the second half of the steps
SHAPES = (64, 32), (32, 10)  # no biases, so that the network minds contrast only
IMAGES = 2.0**-7  # makes numbers around one of what the images hold
WEIGHTS = 2.0**6, 2.0**5  # what weights are multiplied by before they are rounded to two digits


def gradients(images, labels, weights):
    """Return those of the mean crossentropy."""
    hidden = np.maximum(images @ weights[0], 0)
    scores = hidden @ weights[1]
    errors = np.exp(scores - scores.max(axis=1, keepdims=True))
    errors /= errors.sum(axis=1, keepdims=True)
    errors[np.arange(len(labels)), labels] -= 1
    errors /= len(labels)
    return images.T @ ((errors @ weights[1].T) * (hidden > 0)), hidden.T @ errors


def train(steps: int):
    """Return the weights that Adam (Kingma and Ba, 2015) finds."""
    rng = np.random.default_rng(0)
    digits = demo.load_digits(demo.TRAINING)
    weights = [rng.normal(size=shape) * shape[0] ** -0.5 for shape in SHAPES]
    means, squares = ([np.zeros(shape) for shape in SHAPES] for _ in range(2))
    for step in range(1, steps + 1):
        images, labels, _ = demo.augment(digits, rng, ROWS)
        rate = RATE * min(1, 2 - 2 * step / steps)
        for each, mean, square, gradient in zip(
            weights, means, squares, gradients(images * IMAGES, labels, weights), strict=True
        ):
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            each -= rate * mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return weights


if __name__ == "__main__":
    hidden, scores = train(int(sys.argv[1]) if sys.argv[1:] else STEPS)
    for line in [*hidden * WEIGHTS[0], *scores.T * WEIGHTS[1]]:
        print(*np.rint(line).astype(int))
