import copy
import json
import pickle

import dask.array as da
import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras_cases import Case, cases, chunked, dense_losses, mean_metric, result, sparse_losses, stored
from strategies import draws

from daskxent import evaluate, losses, metrics

few, many = draws(25), draws(60)
# Keras computes means in float32: pairwise sums of at most 125 terms of one sign err by less than ten roundings.
MEAN = {"rtol": 10 * 2.0**-24, "atol": 1e-6}

ALL = [
    metrics.SparseCategoricalCrossentropy,
    metrics.CategoricalCrossentropy,
    metrics.SparseCategoricalAccuracy,
    metrics.CategoricalAccuracy,
    metrics.SparseTopKCategoricalAccuracy,
    metrics.TopKCategoricalAccuracy,
]
LABELS, PREDICTIONS = [1, 2, 0], [[0.05, 0.95, 0], [0.1, 0.8, 0.1], [0.5, 0.2, 0.3]]


def labels_for(kind):
    return LABELS if kind.__name__.startswith("Sparse") else np.eye(3)[LABELS]


def crossentropy(case, dtype="float64"):
    return metrics.SparseCategoricalCrossentropy(
        dtype=dtype, from_logits=case.from_logits, ignore_class=case.ignore_class, axis=case.axis
    )


def exact(metric):
    return [variable.exact for variable in metric.variables]


@many
@given(cases())
def test_sparse_crossentropy_is_that_of_keras(case):
    # Keras 3 counts ignored rows where there are no weights; Keras 2 does not, and neither do its own losses.
    kept = case.labels != case.ignore_class
    weights = None if case.weights is None else case.full_weights[kept]
    expected = mean_metric(sparse_losses(case)[kept], weights)
    found = crossentropy(case)(case.labels, case.predictions, sample_weight=case.weights)
    assert isinstance(found, np.float64)
    np.testing.assert_allclose(found, expected, **MEAN)


@many
@given(cases(dense=True), st.sampled_from([0, 0.1]))
def test_dense_crossentropy_is_that_of_keras(case, smoothing):
    metric = metrics.CategoricalCrossentropy(from_logits=case.from_logits, label_smoothing=smoothing, axis=case.axis)
    found = metric(case.labels, case.predictions, sample_weight=case.weights)
    np.testing.assert_allclose(found, mean_metric(dense_losses(case, smoothing), case.full_weights), **MEAN)


@many
@given(cases(ties=True, ignore=False), st.integers(1, 6))
def test_accuracies_are_those_of_keras(case, k):
    predictions = case.wide.astype(np.float32)  # the classes last: accuracies know no axis
    k = min(k, predictions.shape[-1])  # Keras on NumPy takes no more
    one_hot = np.eye(predictions.shape[-1], dtype=np.float32)[case.labels.astype(int)]
    for name, labels, options in (
        ("SparseCategoricalAccuracy", case.labels.astype(np.int64), {}),
        ("CategoricalAccuracy", one_hot, {}),
        ("SparseTopKCategoricalAccuracy", case.labels.astype(np.int64), {"k": k}),
        ("TopKCategoricalAccuracy", one_hot, {"k": k}),
    ):
        reference = getattr(keras.metrics, name)(**options)
        reference.update_state(labels, predictions, sample_weight=case.full_weights)
        found = getattr(metrics, name)(**options)(labels, predictions, sample_weight=case.weights)
        # Keras's mean weights per row, then of rows, in float32.
        np.testing.assert_allclose(found, result(reference), rtol=10 * 2.0**-24, err_msg=name)


def test_keras_in_its_own_words():
    options = {"from_logits": True, "dtype": "float64"}
    reference = keras.metrics.SparseCategoricalCrossentropy(**options)
    ours = metrics.SparseCategoricalCrossentropy(**options)
    random = np.random.default_rng(0)
    for weighted in (False, True):
        labels, logits = random.integers(0, 5, 20), random.normal(size=(20, 5)).astype(np.float32)
        weights = random.random(20) if weighted else None
        for metric in (reference, ours):
            metric.update_state(labels, logits, sample_weight=weights)
        np.testing.assert_allclose(ours.result(), reference.result(), **MEAN)
        for mine, theirs in zip(ours.variables, reference.variables, strict=True):
            np.testing.assert_allclose(mine.numpy(), np.asarray(theirs.value), **MEAN)
            assert (mine.name, mine.shape) == (theirs.name, theirs.shape)


@pytest.mark.parametrize("shift", [0, 5, -5])
def test_accuracy_of_many_rows_of_any_numbers(shift):
    random = np.random.default_rng(3)
    labels, predictions = random.integers(0, 20, 5000), random.normal(size=(5000, 20)).astype(np.float32) + shift
    expected = np.mean(predictions.argmax(axis=1) == labels)
    assert metrics.SparseCategoricalAccuracy(dtype="float64")(labels, predictions) == expected
    assert metrics.SparseTopKCategoricalAccuracy(k=1, dtype="float64")(labels, predictions) == expected
    assert evaluate(labels, predictions, metrics="accuracy")["accuracy"] == expected


def test_k_beyond_the_classes_makes_every_row_a_hit():
    assert metrics.SparseTopKCategoricalAccuracy()(LABELS, PREDICTIONS) == 1
    assert metrics.TopKCategoricalAccuracy(k=7)(np.eye(3)[LABELS], PREDICTIONS) == 1


def test_ties():
    assert metrics.SparseCategoricalAccuracy()([0, 1], [[0.5, 0.5], [0.5, 0.5]]) == 0.5  # the first of the largest
    assert metrics.SparseTopKCategoricalAccuracy(k=1)([0, 1], [[0.5, 0.5], [0.5, 0.5]]) == 1  # all of the largest


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_k_must_be_a_count(k):
    with pytest.raises(ValueError, match="k: expected a whole number of at least 1"):
        metrics.TopKCategoricalAccuracy(k=k)


@many
@given(cases(), st.data())
def test_pieces_are_the_whole_bit_for_bit(case, data):
    whole, pieces, merged = (crossentropy(case) for _ in range(3))
    parts = [crossentropy(case) for _ in range(2)]
    whole.update_state(case.labels, case.predictions, sample_weight=case.weights)
    batch = case.axis % case.predictions.ndim == 0
    order = data.draw(st.permutations(range(case.positions[0])))
    for turn, row in enumerate(order):
        some = slice(row, row + 1)
        rows = (slice(None), some) if batch else some
        weights = case.weights
        if isinstance(weights, np.ndarray) and len(weights) > 1:
            weights = weights[some]
        for metric in (pieces, parts[turn % 2]):
            metric.update_state(case.labels[some], case.predictions[rows], sample_weight=weights)
    merged.merge_state(parts)
    assert exact(whole) == exact(pieces) == exact(merged)
    assert whole.result() == pieces.result() == merged.result()


@few
@given(cases(ties=True, weighted=False, ignore=False, dtypes=(np.float64,)), st.sampled_from([0, 1, 2, 4]))
def test_a_weight_is_a_repetition(case, k):
    # Powers of two: their products with losses are not rounded.
    labels, predictions = case.labels.reshape(-1), case.wide.reshape(-1, case.wide.shape[-1])
    random = np.random.default_rng(k)
    weights = random.integers(0, 2, len(labels)) * k
    for kind in (metrics.SparseCategoricalCrossentropy, metrics.SparseCategoricalAccuracy):
        options = {"from_logits": True} if "Cross" in kind.__name__ else {}
        weighted, repeated = kind(**options), kind(**options)
        weighted.update_state(labels, predictions, sample_weight=weights)
        repeated.update_state(np.repeat(labels, weights), np.repeat(predictions, weights, axis=0))
        assert exact(weighted) == exact(repeated)


@pytest.mark.parametrize("kind", ALL)
def test_a_number_as_weight_is_that_of_each_row(kind):
    plain, number, rows = kind(), kind(), kind()
    plain.update_state(labels_for(kind), PREDICTIONS)
    number.update_state(labels_for(kind), PREDICTIONS, sample_weight=2)
    rows.update_state(labels_for(kind), PREDICTIONS, sample_weight=[2, 2, 2])
    assert exact(number) == exact(rows)
    assert number.result() == plain.result()
    assert number.count == 6


def test_negative_weights_are_taken_as_keras_takes_them():
    metric = metrics.SparseCategoricalAccuracy()
    assert metric([1, 1], [[0, 1.0], [1.0, 0]], sample_weight=[-1, 3]) == -0.5


def test_counts_go_on_beyond_the_whole_numbers_of_float32():
    metric = metrics.SparseCategoricalAccuracy()
    metric.update_state([0], [[1.0, 0.0]], sample_weight=2**24)
    for _ in range(2):
        metric.update_state([0], [[1.0, 0.0]])
    assert metric.count == 2**24 + 2


def test_ignored_rows_are_not_counted():
    metric = metrics.SparseCategoricalCrossentropy(ignore_class=0)
    metric.update_state([0, 1, 2], [[float("nan")] * 3, *PREDICTIONS[:2]])
    assert str(metric.result()) == "1.1769392"  # that of the two others, as the documentation prints it
    assert metric.count == 2


def test_rows_of_weight_zero_may_hold_anything():
    for kind in (metrics.SparseCategoricalCrossentropy, metrics.SparseCategoricalAccuracy):
        metric = kind()
        expected = metric([1], [PREDICTIONS[0]])
        metric.reset_state()
        assert metric([1, 99], [PREDICTIONS[0], [float("nan")] * 3], sample_weight=[1, 0]) == expected


def test_nan_stays_until_a_reset():
    metric = metrics.SparseCategoricalCrossentropy()
    metric.update_state([0], [[float("nan"), 1.0]])
    metric.update_state([0], [[0.5, 0.5]])
    assert np.isnan(metric.result())
    metric.reset_state()
    assert metric([0], [[0.5, 0.5]]) > 0


def test_a_row_with_nan_is_wrong():
    metric = metrics.SparseCategoricalAccuracy()
    assert metric([0, 0], [[float("nan"), 1.0], [1.0, 0.0]]) == 0.5


@pytest.mark.parametrize("kind", ALL)
def test_nothing_seen_is_zero(kind):
    metric = kind()
    assert metric.result() == 0
    labels = labels_for(kind)[:0] if isinstance(labels_for(kind), np.ndarray) else np.zeros(0, int)
    assert metric(labels, np.zeros((0, 3), np.float32), sample_weight=2) == 0
    assert metric.count == 0
    assert metric(labels_for(kind), PREDICTIONS, sample_weight=[0, 0, 0]) == 0


@pytest.mark.parametrize("kind", [each for each in ALL if each.__name__.startswith("Sparse")])
@pytest.mark.parametrize("label", [3, -1])
def test_an_impossible_label_is_named_and_changes_nothing(kind, label):
    metric = kind()
    metric.update_state(LABELS, PREDICTIONS)
    before = exact(metric)
    with pytest.raises(ValueError, match=rf"y_true: label {label} at row 1 is outside \[0, 3\)"):
        metric.update_state([0, label, 0], PREDICTIONS)
    assert exact(metric) == before


def test_labels_beyond_what_float16_can_tell_apart():
    predictions = np.zeros((2, 3000), np.float16)
    predictions[:, 2049] = 1
    metric = metrics.SparseCategoricalAccuracy()
    assert metric([2048, 2049], predictions) == 0.5
    metric.reset_state()
    assert metric([2048.0, 2049.0], predictions) == 0.5  # whole numbers may be floats


def test_float_labels_must_be_whole():
    with pytest.raises(ValueError, match=r"y_true: label 1.5 at position \(1,\) is not a whole number"):
        metrics.SparseCategoricalAccuracy().update_state([1.0, 1.5], np.eye(2))


def test_weights_that_are_not_finite_are_named():
    with pytest.raises(ValueError, match="sample_weight: nan at row 1"):
        metrics.SparseCategoricalAccuracy().update_state([0, 1], np.eye(2), sample_weight=[1, float("nan")])


@pytest.mark.slow
@few
@given(cases(), st.data())
def test_any_container_in_any_chunks_gives_the_same_bits(case, data):
    metric = crossentropy(case)
    metric.update_state(case.labels, case.predictions, sample_weight=case.weights)
    lazy = da.from_array(case.predictions, chunks=data.draw(chunked(case.predictions.shape)))
    labels = da.from_array(case.labels, chunks=data.draw(chunked(case.labels.shape)))
    kept = stored(data.draw, case.predictions)
    for given_labels, predictions in ((case.labels, lazy), (labels, lazy), (case.labels, kept), (labels, kept)):
        other = crossentropy(case)
        other.update_state(given_labels, predictions, sample_weight=case.weights)
        assert exact(other) == exact(metric)


def test_dask_predictions_are_never_whole():
    largest = []

    def produce(block_info=None):
        place = block_info[None]["array-location"]
        largest.append(place[0][1] - place[0][0])
        return np.zeros([stop - start for start, stop in place], np.float32)

    predictions = da.map_blocks(produce, chunks=((3, 4, 2), (5,)), dtype=np.float32, meta=np.empty((0, 0), "f4"))
    metric = metrics.SparseCategoricalAccuracy()
    assert metric(np.zeros(9, int), predictions) == 1
    assert sorted(largest) == [2, 3, 4]


def test_lists_take_the_floatx_of_the_metric():
    # 0.1 is not the same number in float32.
    for dtype, digits in (("float32", np.float32), ("float64", np.float64), ("float16", np.float32)):
        metric = metrics.SparseCategoricalCrossentropy(dtype=dtype)
        twin = metrics.SparseCategoricalCrossentropy(dtype=dtype)
        assert metric(LABELS, PREDICTIONS) == twin(LABELS, np.array(PREDICTIONS, digits))
        assert metric.result().dtype == dtype


@pytest.mark.parametrize("kind", ALL)
def test_calls_updates_and_resets(kind):
    metric = kind(name="mine")
    assert metric.update_state(labels_for(kind), PREDICTIONS) is None
    once = metric.result()
    assert metric(labels_for(kind), PREDICTIONS) == once  # the mean over both is the same
    assert metric.count == 6
    for reset in (metric.reset_state, metric.reset_states):
        assert reset() is None
        assert [float(variable) for variable in metric.variables] == [0, 0]
        metric.update_state(labels_for(kind), PREDICTIONS)
        assert metric.result() == once
    assert (repr(metric), metric.name) == (f"<{kind.__name__} name=mine>", "mine")
    assert [variable.path for variable in metric.variables] == ["mine/total", "mine/count"]


def test_a_call_returns_the_result_over_all_rows():
    metric = metrics.SparseCategoricalAccuracy()
    assert metric([0], [[1.0, 0.0]]) == 1
    assert metric([1], [[1.0, 0.0]]) == 0.5


@pytest.mark.parametrize("kind", ALL)
def test_configuration_round_trip(kind):
    made = kind(name="mine", dtype="float64", **({"k": 2} if "TopK" in kind.__name__ else {}))
    config = json.loads(json.dumps(made.get_config()))
    again = kind.from_config(config)
    assert again.get_config() == config
    for metric in (made, again):
        metric.update_state(labels_for(kind), PREDICTIONS)
    assert exact(made) == exact(again)
    reference = getattr(keras.metrics, kind.__name__).from_config(config)
    assert reference.get_config() == config


@pytest.mark.parametrize("kind", ALL)
def test_pickles_and_copies_keep_what_was_seen(kind):
    metric = kind()
    metric.update_state(labels_for(kind), PREDICTIONS, sample_weight=[0.1, 0.2, 0.3])
    for again in (pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric)):
        assert exact(again) == exact(metric)
        again.update_state(labels_for(kind), PREDICTIONS)
        assert again.count > metric.count


@pytest.mark.parametrize("kind", ALL)
def test_stateless_methods_leave_the_metric_alone(kind):
    metric, twin = kind(), kind()
    twin.update_state(labels_for(kind), PREDICTIONS)
    metric.update_state(labels_for(kind)[:1], PREDICTIONS[:1])
    before = exact(metric)
    state = metric.stateless_reset_state()
    assert [float(variable) for variable in state] == [0, 0]
    for labels, predictions in zip(labels_for(kind), PREDICTIONS, strict=True):
        state = metric.stateless_update_state(state, np.array([labels]), [predictions])
    assert exact(metric) == before
    assert [variable.exact for variable in state] == exact(twin)
    assert metric.stateless_result(state) == twin.result()
    np.testing.assert_array_equal(np.asarray(state[1]), np.float32(3), strict=True)


def test_stateless_methods_take_plain_numbers():
    metric = metrics.SparseCategoricalAccuracy()
    state = metric.stateless_update_state([1, 2], [0], [[1.0, 0.0]])
    assert [float(value) for value in state] == [2, 3]
    assert metric.stateless_result([1.0, np.float32(4)]) == 0.25
    with pytest.raises(ValueError, match="Received list with length 1, but expected 2 variables"):
        metric.stateless_result([1])


def test_merging_needs_metrics_of_one_kind():
    metric = metrics.SparseTopKCategoricalAccuracy(k=2)
    others = [
        metrics.SparseTopKCategoricalAccuracy(k=3),
        metrics.SparseCategoricalAccuracy(),
        metrics.CategoricalAccuracy(),
        0.5,
    ]
    same = metrics.SparseTopKCategoricalAccuracy(k=2, name="another", dtype="float64")
    same.update_state(LABELS, PREDICTIONS)
    for other in others:
        with pytest.raises(ValueError, match="is not compatible with"):
            metric.merge_state([same, other])
        assert metric.count == 0
    metric.merge_state([same, metric])
    assert metric.result() == np.float32(same.result())
    metric.merge_state(iter([same]))
    assert metric.count == 6


def test_merging_a_metric_with_itself_doubles_it():
    metric = metrics.SparseCategoricalAccuracy()
    metric.update_state(LABELS, PREDICTIONS)
    metric.merge_state([metric])
    assert metric.count == 6


class TestVariables:
    def test_assigning(self):
        metric = metrics.SparseCategoricalAccuracy(dtype="float64")
        metric.total.assign(1)
        metric.count.assign(3)
        metric.count.assign_add(np.float32(1))
        assert metric.result() == 0.25
        metric.update_state([0], [[1.0, 0.0]])
        assert metric.result() == 0.4

    def test_assigning_a_variable_keeps_what_its_dtype_cannot_show(self):
        metric, other = metrics.SparseCategoricalAccuracy(), metrics.SparseCategoricalAccuracy()
        for _ in range(2):
            metric.update_state([0], [[1.0, 0.0]], sample_weight=0.1)
        for mine, theirs in zip(metric.variables, other.variables, strict=True):
            theirs.assign(mine)
        assert exact(other) == exact(metric)

    def test_shapes_stay(self):
        metric = metrics.SparseCategoricalAccuracy()
        with pytest.raises(ValueError, match=r"sparse_categorical_accuracy/total: expected shape \(\), got \(2,\)"):
            metric.total.assign([1, 2])

    def test_read_only(self):
        metric = metrics.SparseCategoricalAccuracy()
        for name in ("dtype", "name", "variables"):
            with pytest.raises(AttributeError):
                setattr(metric, name, None)

    def test_value_and_arithmetic(self):
        metric = metrics.SparseCategoricalAccuracy(dtype="float16")
        metric.count.assign(3)
        assert metric.count.dtype == metric.dtype == "float16"
        np.testing.assert_array_equal(metric.count.value, np.float16(3), strict=True)
        np.testing.assert_array_equal(metric.count.numpy(), metric.count.value, strict=True)
        assert (metric.count + 1, 1 - metric.count, metric.count * metric.count) == (4, -2, 9)
        assert metric.count == 3
        assert (metric.count > metric.total).dtype == bool


class PerClass(keras.metrics.Metric):
    """The hits of each class, as Keras's guide writes metrics."""

    def __init__(self, **options):
        super().__init__(**options)
        self.hits = self.add_variable((3,), "zeros", name="hits")
        self.calls = self.add_weight(initializer="ones", name="calls")

    def update_state(self, y_true, y_pred, sample_weight=None):
        hits = np.bincount(y_true[np.argmax(y_pred, axis=1) == y_true], minlength=3)
        self.hits.assign_add(hits)
        self.calls.assign(self.calls + 1)

    def result(self):
        return np.asarray(self.hits.value) / np.asarray(self.calls.value)


class OurPerClass(metrics.Metric):
    def __init__(self, **options):
        super().__init__(**options)
        self.hits = self.add_variable((3,), "zeros", name="hits")
        self.calls = self.add_weight(initializer="ones", name="calls")

    update_state = PerClass.update_state
    result = PerClass.result


def test_metrics_of_your_own_work_as_in_keras():
    reference, ours = PerClass(name="mine/own"), OurPerClass(name="mine/own")
    for _ in range(2):
        for metric in (reference, ours):
            metric.update_state(np.array(LABELS), np.array(PREDICTIONS))
        np.testing.assert_array_equal(ours.result(), reference.result())
    for mine, theirs in zip(ours.variables, reference.variables, strict=True):
        assert (mine.name, mine.path, mine.shape, mine.dtype) == (theirs.name, theirs.path, theirs.shape, theirs.dtype)
        np.testing.assert_array_equal(mine.numpy(), np.asarray(theirs.value))
    state = ours.stateless_update_state([[1, 1, 1], 1], np.array(LABELS), np.array(PREDICTIONS))
    assert [variable.value.tolist() for variable in state] == [[2, 2, 1], 2]
    other = pickle.loads(pickle.dumps(ours))
    ours.merge_state([other])
    assert [variable.value.tolist() for variable in ours.variables] == [[4, 4, 0], 6]
    ours.reset_state()
    assert [variable.value.tolist() for variable in ours.variables] == [[0, 0, 0], 1]


def test_metrics_among_attributes_are_tracked():
    class Both(metrics.Metric):
        def __init__(self):
            super().__init__()
            self.accuracy = metrics.SparseCategoricalAccuracy()
            self.loss = metrics.SparseCategoricalCrossentropy()

        def update_state(self, y_true, y_pred, sample_weight=None):
            for metric in (self.accuracy, self.loss):
                metric.update_state(y_true, y_pred, sample_weight)

        def result(self):
            return {"accuracy": self.accuracy.result(), "loss": self.loss.result()}

    both = Both()
    assert both.name == "both"
    both.update_state(LABELS, PREDICTIONS)
    assert len(both.variables) == 4
    assert both.result()["accuracy"] == np.float32(2 / 3)
    both.reset_state()
    assert both.result() == {"accuracy": 0, "loss": 0}


def test_initialisers():
    metric = metrics.Metric()
    assert metric.add_weight((2,), keras.initializers.Constant(3), name="three").value.tolist() == [3, 3]
    assert metric.add_weight((2,), [4, 5]).numpy().tolist() == [4, 5]
    assert metric.add_weight(dtype="int64").dtype == "int64"
    with pytest.raises(ValueError, match="initializer: expected 'zeros', 'ones'"):
        metric.add_weight((), "glorot")


def test_what_is_not_defined_is_named():
    with pytest.raises(NotImplementedError, match="does not define update_state"):
        metrics.Metric()(LABELS, PREDICTIONS)

    class Forgetful(metrics.Metric):
        def __init__(self):
            self.count = self.add_weight()

    with pytest.raises(RuntimeError, match="You forgot to call"):
        Forgetful()


def test_the_metric_is_the_loss_with_weights_in_the_divisor():
    case = Case(np.array(LABELS), np.array(PREDICTIONS), [0.3, 0.7, 0.2], -1, False, None)
    loss = losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight", dtype="float64")
    assert crossentropy(case)(LABELS, PREDICTIONS, case.weights) == loss(LABELS, PREDICTIONS, case.weights)


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_classes_that_come_sorted(k):
    """Keras 3.15: a row counts if its label is among the first k of its classes."""
    rng = np.random.default_rng(k)
    x, y = rng.normal(size=(60, 12)), rng.integers(0, 12, 60)
    ids = np.argsort(-x, axis=1)[:, :4]
    metric = metrics.SparseTopKCategoricalAccuracy(k=k, from_sorted_ids=True, dtype="float64")
    metric.update_state(y, ids)
    assert metric.result() == (ids[:, :k] == y[:, None]).any(axis=1).mean()
    assert metric.get_config() == {"name": metric.name, "dtype": "float64", "k": k, "from_sorted_ids": True}
    again = type(metric).from_config(metric.get_config())
    again.update_state(y[:25, None], ids[:25].tolist(), sample_weight=None)
    again.update_state(da.from_array(y[25:], chunks=9), da.from_array(ids[25:], chunks=(9, 4)))
    assert again.result() == metric.result()
    assert "from_sorted_ids" not in metrics.SparseTopKCategoricalAccuracy().get_config()


def test_sorted_classes_are_integers():
    with pytest.raises(TypeError, match="ids: expected integers, got dtype float64"):
        metrics.SparseTopKCategoricalAccuracy(from_sorted_ids=True)([1], np.array([[0.5, 0.1]]))
