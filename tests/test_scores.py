"""The compiled scan fills the columns of whole rows with the bits of their definition, and sums them likewise."""

import gc
import itertools
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from test_kernels import DTYPES, predictions

from daskxent import kernels
from daskxent.kernels.slabs import LONG, plain
from daskxent.numbers import records
from daskxent.numbers.exact import ExactSum
from daskxent.numbers.grouping import Totals
from daskxent.numbers.question import Question
from daskxent.numbers.scores import COLUMNS, SHAPED, Scores, finish
from daskxent.numbers.status import COUNTED, HIDDEN, Scored
from daskxent.run.scoring import compiled_for
from daskxent.sources.sizes import Sizes

pytestmark = pytest.mark.filterwarnings("ignore:.*(overflow|invalid value):RuntimeWarning")

SHAPES = [(1000, 10, 1), (300, 3, 1), (150, 16, 1), (260, 37, 1), (140, 200, 1), (130, 1000, 1)]
SHAPES += [(3, 21, 70), (1, 300, 140)]
EVERYTHING = tuple(name for name in Scores._fields if name in COLUMNS - SHAPED)
METRICS = {
    "loss": ("crossentropy", "accuracy"),
    "hits": ("accuracy",),
    "top": ("crossentropy", "top_5_accuracy", "top_2_accuracy"),
}


def defined(question: Question, values: Any, labels: Any, weights: Any) -> Scored:
    """Score rows by the definition."""
    flat = np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])
    unit = not question.from_logits
    depth = min(question.depth, flat.shape[1])  # all of them, where any rank is asked for
    found = records.scan(flat, labels, probabilities=unit, mass=question.summed, top=depth)
    logs = question.log_probabilities
    scores = finish(found, labels, question.classes, question.needs, log_probabilities=logs)
    return Scored.of(question, scores, labels, weights)


def added_up(question: Question, rows: Scored) -> Totals:
    """Add rows up by the definition."""
    totals = Totals(question)
    totals.add(rows)
    return totals


def assert_columns(got: Scored, wanted: Scored, some: slice) -> None:
    shown = (got.status & HIDDEN) == 0
    np.testing.assert_array_equal(got.status, wanted.status[some])
    for name in Scores._fields:
        column, expected = getattr(got.scores, name), getattr(wanted.scores, name)
        assert (column is None) == (expected is None), name
        if expected is not None:
            assert column.dtype == expected.dtype, name
            np.testing.assert_array_equal(column[shown], expected[some][shown], err_msg=name)


def assert_scored(question: Question, values: Any, labels: Any, weights: Any, slab_rows: int = 200) -> int:
    """Compare columns, statuses and sums with the definition; return how many rows are exceptional."""
    wanted, scorer = defined(question, values, labels, weights), kernels.Scorer(question, slab_rows)
    totals, exceptional = Totals(question, kernels.COMPILED), 0
    for some, got in scorer.slabs(values, labels, weights):
        assert_columns(got, wanted, some)
        np.testing.assert_array_equal(got.exceptional, np.flatnonzero(got.status != COUNTED))
        totals.add(got)
        exceptional += got.exceptional.size
    assert totals.sums() == added_up(question, wanted).sums()
    assert exceptional == np.count_nonzero(wanted.status != 1)
    return exceptional


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_compiled_columns_and_sums_have_the_bits_of_their_definition(dtype: Any, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    values = predictions(rng, shape, dtype, shape[0] // 4)
    labels = rng.integers(-1, shape[1] + 1, shape[0] * shape[2])
    weights = rng.choice([0.0, 1.0, 0.3, np.inf, -1.0], labels.size, p=[0.2, 0.4, 0.3, 0.05, 0.05])
    for logits, given in itertools.product((True, False), (None, weights)):
        question = Question(
            METRICS["top"], shape[1], from_logits=logits, ignore_class=(1,), on_invalid="count", columns=EVERYTHING
        )
        assert assert_scored(question, values, labels, given)
    for name, rule in itertools.product(METRICS, ("raise", "skip")):
        assert_scored(Question(METRICS[name], shape[1], from_logits=True, on_invalid=rule), values, labels, None)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiled_flags_of_log_probabilities_are_those_of_their_definition(dtype: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(8)
    values = -rng.random(shape)
    values[rng.random(shape) < 0.3 / shape[1]] = np.inf
    values[rng.random(shape) < 0.3 / shape[1]] = 0.5
    values[rng.random(shape) < 0.2 / shape[1]] = np.nan
    labels = rng.integers(-1, shape[1] + 1, shape[0] * shape[2])
    for rule in ("count", "skip"):
        question = Question(METRICS["top"], shape[1], from_logits=True, log_probabilities=True, on_invalid=rule)
        assert assert_scored(question, values.astype(dtype), labels, None)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("logits", [True, False])
def test_usual_rows_are_not_exceptional(logits: bool, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    values = (rng.normal(size=shape) * 30).astype(np.float32)
    if not logits:
        values = np.exp(values - values.max(axis=1, keepdims=True)) + np.float32(1e-4)
        values /= values.sum(axis=1, keepdims=True)
    best = np.moveaxis(values, 1, -1).reshape(-1, shape[1]).argmax(axis=1)
    labels = np.where(rng.random(best.size) < 0.5, best, 0)
    for name in METRICS:
        assert assert_scored(Question(METRICS[name], shape[1], from_logits=logits), values, labels, None) == 0


@pytest.mark.parametrize("weight", [np.inf, -np.inf, np.nan])
def test_a_loss_of_0_adds_nothing_whatever_the_weight(weight: float) -> None:
    values, labels, weights = np.array([[[9.0], [-np.inf]]] * 3), np.zeros(3, np.int64), np.array([1.0, weight, 2.0])
    question = Question(METRICS["loss"], 2, from_logits=True)
    assert_scored(question, values, labels, weights)
    wanted = added_up(question, defined(question, values, labels, weights))
    assert wanted.sums().totals["crossentropy"] == ExactSum()


@pytest.mark.parametrize("classes", [LONG - 1, LONG])
def test_rows_of_any_layout(classes: int) -> None:
    rng = np.random.default_rng(5)
    values = predictions(rng, (300, 2 * classes, 1), np.float32, 9)
    question = Question(METRICS["loss"], classes, from_logits=True)
    for view in (values[:, ::2], values[:, classes:], np.asfortranarray(values[:, :classes]), values[::-1, classes:]):
        assert_scored(question, view, rng.integers(0, classes, 300), None)


@pytest.mark.parametrize("slab_rows", [1, 128, 1000])
def test_columns_do_not_depend_on_the_slabs(slab_rows: int) -> None:
    rng = np.random.default_rng(6)
    values = predictions(rng, (700, 12, 1), np.float32, 30)
    question = Question(METRICS["top"], 12, from_logits=True, columns=EVERYTHING)
    assert_scored(question, values, rng.integers(0, 12, 700), rng.random(700), slab_rows)


@pytest.mark.parametrize("dtypes", [("f4", "f4"), ("f4", "f8"), ("f8", "f2")])
def test_a_scorer_takes_blocks_of_any_layout_and_dtype(dtypes: tuple[str, str]) -> None:
    # One row lies along itself, whatever axis its classes are on; several may not.
    rng, question = np.random.default_rng(7), Question(METRICS["loss"], LONG + 8, from_logits=True)
    scorer = kernels.Scorer(question, 300)
    for rows, dtype in ((1, dtypes[0]), (300, dtypes[1]), (1, dtypes[0])):
        values = rng.normal(0, 3, (1, LONG + 8, rows)).astype(dtype)
        labels = rng.integers(0, LONG + 8, rows)
        [(some, got)] = scorer.slabs(values, labels, None)
        assert_columns(got, defined(question, values, labels, None), some)


def test_a_thread_keeps_what_it_scored_with_for_the_same_question() -> None:
    questions = [Question(METRICS["loss"], 3, from_logits=True) for _ in range(2)]
    first, _ = compiled_for(questions[0], 1000, Sizes(few=0))
    assert first is compiled_for(questions[0], 900, Sizes(few=0))[0]
    assert first is not compiled_for(questions[0], 2000, Sizes(few=0))[0]
    assert first is not compiled_for(questions[1], 1000, Sizes(few=0))[0]
    with ThreadPoolExecutor(1) as other:
        assert first is not other.submit(compiled_for, questions[0], 1000, Sizes(few=0)).result()[0]


@pytest.mark.parametrize("name", ["labels", "weights"])
def test_shapes_that_do_not_fit_never_reach_compiled_code(name: str) -> None:
    values, along = np.zeros((4, 3, 2), np.float32), {"labels": np.zeros(8, np.int64), "weights": np.ones(8)}
    scorer = kernels.Scorer(Question(METRICS["loss"], 3, from_logits=True))
    assert len(list(scorer.slabs(values, **along))) == 1
    for wrong in (np.zeros(7, along[name].dtype), np.zeros((8, 1), along[name].dtype)):
        with pytest.raises(ValueError, match=rf"{name}: expected shape \(8,\) for as many rows"):
            list(scorer.slabs(values, **{**along, name: wrong}))
    with pytest.raises(ValueError, match=r"labels: expected shape \(8,\)"):
        kernels.scan(values, np.zeros(9, np.int64))
    with pytest.raises(ValueError, match=r"expected 3 classes, got shape \(4, 2, 2\)"):
        list(scorer.slabs(values[:, :2], **along))


def test_memory_that_is_handed_to_the_kernels_is_held() -> None:
    class Owner(np.ndarray):
        """An array that can be watched."""

    array = np.arange(8.0).view(Owner)
    array.flags.writeable = False
    watched, view = weakref.ref(array), plain(array)
    del array
    gc.collect()
    assert watched() is not None
    assert view.flags.writeable
    del view
    gc.collect()
    assert watched() is None
