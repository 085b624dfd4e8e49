"""How often 95 % intervals hold the true value: samples of which the truth is known are evaluated again and again.

python benchmarks/intervals.py [--samples 2000]
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import daskxent as dx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLASSES, LEVEL = 4, 0.95


class Case(NamedTuple):
    """What is drawn: rows, or clusters of rows, and how logits are spread."""

    name: str
    metric: str
    rows: int
    clusters: int = 0
    weighted: bool = False
    sure: float = 1.0  # by how much the label's logit is higher


CASES = (
    Case("200 rows", "crossentropy", 200),
    Case("200 rows", "perplexity", 200),
    Case("200 rows", "accuracy", 200),
    Case("50 rows, accuracy near 1", "accuracy", 50, sure=4.0),
    Case("200 rows with weights", "crossentropy", 200, weighted=True),
    Case("200 rows with weights", "accuracy", 200, weighted=True),
    Case("100 clusters of 1 to 39 rows", "crossentropy", 0, clusters=100),
    Case("100 clusters of 1 to 39 rows", "accuracy", 0, clusters=100),
    Case("20 clusters of 1 to 39 rows", "crossentropy", 0, clusters=20),
)


def drawn(case: Case, rng: np.random.Generator) -> tuple[Any, Any, dict[str, Any]]:
    """Draw labels, logits and options."""
    options: dict[str, Any] = {"from_logits": True, "metrics": [case.metric], "threads": 1}
    if case.clusters:
        ids = np.repeat(np.arange(case.clusters), rng.integers(1, 40, case.clusters))
        shift = rng.normal(0, 1, case.clusters)[ids]  # what the rows of a cluster have in common
        options["clusters"] = ids
    else:
        ids, shift = np.arange(case.rows), 0.0
    if case.weighted:
        options["sample_weight"] = rng.exponential(1, len(ids))
    labels = rng.integers(0, CLASSES, len(ids))
    logits = rng.normal(0, 1, (len(ids), CLASSES))
    logits[np.arange(len(ids)), labels] += case.sure + shift
    return labels, logits, options


def covered(case: Case, samples: int, truth: float, seed: int = 0) -> tuple[float, float]:
    """Return in which share of samples the interval holds the truth, and that of rows taken as independent."""
    rng, inside, alone = np.random.default_rng(seed), 0, 0
    for _ in range(samples):
        labels, logits, options = drawn(case, rng)
        low, high = dx.evaluate(labels, logits, **options).interval(case.metric, LEVEL)
        inside += low <= truth <= high
        if options.pop("clusters", None) is not None:
            low, high = dx.evaluate(labels, logits, **options).interval(case.metric, LEVEL)
            alone += low <= truth <= high
    return inside / samples, alone / samples if case.clusters else math.nan


def truth_of(case: Case, seed: int = 1) -> float:
    """Return the metric over so many rows that its own error does not matter."""
    many = case._replace(rows=2_000_000 if not case.clusters else 0, clusters=100_000 if case.clusters else 0)
    labels, logits, options = drawn(many, np.random.default_rng(seed))
    return dx.evaluate(labels, logits, from_logits=True, metrics=options["metrics"], **_weights(options))[case.metric]


def _weights(options: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in options.items() if name == "sample_weight"}


def lines(samples: int, say: Callable[[str], Any] = print) -> Iterator[tuple[Case, float, float]]:
    """Yield the cases with their shares, and say each as a line of a table."""
    say("| what | metric | interval holds the truth | with rows taken as independent |\n|---|---|---|---|")
    for case in CASES:
        inside, alone = covered(case, samples, truth_of(case))
        say(f"| {case.name} | {case.metric} | {inside:.1%} | {'' if math.isnan(alone) else f'{alone:.1%}'} |")
        yield case, inside, alone


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=2000)
    for _ in lines(parser.parse_args().samples):
        pass
