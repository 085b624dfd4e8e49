import itertools
from typing import Any

import numpy as np
import pytest

from daskxent.kernels import Tally
from daskxent.kernels.blocks import LONG, plain
from daskxent.numbers import records as rows
from daskxent.numbers.state import Question, State, tally
from tests.test_kernels import DTYPES, predictions

pytestmark = pytest.mark.filterwarnings("ignore:.*(overflow|invalid value):RuntimeWarning")

SHAPES = [(1000, 10, 1), (300, 3, 1), (150, 16, 1), (260, 37, 1), (140, 200, 1), (130, 1000, 1)]
SHAPES += [(3, 21, 70), (1, 300, 140)]
METRICS = {
    "loss": ("crossentropy", "accuracy"),
    "hits": ("accuracy",),
    "top": ("crossentropy", "top_5_accuracy", "top_2_accuracy"),
}


def judged(question: Question, values: Any, labels: Any, weights: Any) -> State:
    """Judge rows by the general rules alone."""
    flat = np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])
    unit = not question.from_logits
    records = rows.scan(flat, labels, probabilities=unit, mass=question.needs_loss, top=question.top)
    losses = rows.losses(records, probabilities=unit) if question.needs_loss else None
    return tally(question, records, labels, weights, losses)


def assert_tallied(question: Question, values: Any, labels: Any, weights: Any, most_odd: float = 1.0) -> None:
    sums = Tally(question)
    audit, odd = sums.add(values, labels, weights)
    flat = np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])
    rest = judged(question, flat[odd][:, :, None], labels[odd], None if weights is None else weights[odd])
    got = State(audit=audit).merge(sums.state()).merge(rest.placed(lambda row: int(odd[row]), ()))
    assert got == judged(question, values, labels, weights)
    assert len(odd) <= most_odd * len(labels)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_tally_and_the_rows_left_out_are_the_whole(dtype: Any, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    values = predictions(rng, shape, dtype, shape[0] // 4)
    labels = rng.integers(-1, shape[1] + 1, shape[0] * shape[2])
    weights = rng.choice([0.0, 1.0, 0.3, np.inf, -1.0], labels.size, p=[0.2, 0.4, 0.3, 0.05, 0.05])
    for (name, logits), given in itertools.product(itertools.product(METRICS, (True, False)), (None, weights)):
        question = Question(METRICS[name], shape[1], from_logits=logits, ignore_class=1, on_invalid="count")
        assert_tallied(question, values, labels, given)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("logits", [True, False])
def test_plain_rows_are_all_tallied(logits: bool, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    values = (rng.normal(size=shape) * 30).astype(np.float32)
    if not logits:
        values = np.exp(values - values.max(axis=1, keepdims=True)) + np.float32(1e-4)
        values /= values.sum(axis=1, keepdims=True)
    best = np.moveaxis(values, 1, -1).reshape(-1, shape[1]).argmax(axis=1)
    labels = np.where(rng.random(best.size) < 0.5, best, 0)
    for name in METRICS:
        assert_tallied(Question(METRICS[name], shape[1], from_logits=logits), values, labels, None, 0.0)


@pytest.mark.parametrize("classes", [LONG - 1, LONG])
def test_rows_of_any_layout(classes: int) -> None:
    rng = np.random.default_rng(5)
    values = predictions(rng, (300, 2 * classes, 1), np.float32, 9)
    question = Question(METRICS["loss"], classes, from_logits=True)
    for view in (values[:, ::2], values[:, classes:], np.asfortranarray(values[:, :classes]), values[::-1, classes:]):
        assert_tallied(question, view, rng.integers(0, classes, 300), None)


def test_what_is_handed_to_the_kernels_is_held():
    # The arrays are copies that nobody else holds; their memory, given back too soon, would be filled with 7.
    for _ in range(20):
        terms = np.arange(400_000.0)[::2]
        borrowed = plain(np.ascontiguousarray(terms))
        crowd = [np.full(borrowed.size, 7.0) for _ in range(4)]
        assert (borrowed == terms).all()
        del crowd
