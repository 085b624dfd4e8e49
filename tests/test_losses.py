import json
import math
import pickle

import dask
import dask.array as da
import numpy as np
import pytest
import sized
import zarr
from dask.callbacks import Callback
from hypothesis import given
from hypothesis import strategies as st
from keras_cases import Case, cases, chunked, dense_losses, reduced, sparse_losses, stored
from strategies import draws

from daskxent import losses

few, many = draws(15), draws(40)
REDUCTIONS = ["sum_over_batch_size", "mean", "auto", "sum", "mean_with_sample_weight"]
# A loss is a sum of a few terms, each a few ulp off, whose size is that of the largest logits (below 200); the
# exponentials of float32 logits are good to one part in 10**7 ("elementary"). For float32 the reference takes the same
# float32 predictions as float64, so what remains is our last rounding and the rounded normaliser of probabilities.
TOLERANCE = {
    np.dtype(np.float64): {"rtol": 1e-12, "atol": 1e-13},
    np.dtype(np.float32): {"rtol": 5e-7, "atol": 3e-7},
}


# Keras reduces in float32: pairwise sums of at most 125 terms of one sign err by less than ten roundings.
REDUCED = {"rtol": 10 * 2.0**-24, "atol": 1e-6}


def sparse_function(case, labels=None, predictions=None):
    return losses.sparse_categorical_crossentropy(
        case.labels if labels is None else labels,
        case.predictions if predictions is None else predictions,
        from_logits=case.from_logits,
        ignore_class=case.ignore_class,
        axis=case.axis,
    )


def sparse_loss(case, reduction, dtype="float64"):
    options = {"from_logits": case.from_logits, "ignore_class": case.ignore_class, "axis": case.axis}
    return losses.SparseCategoricalCrossentropy(reduction=reduction, dtype=dtype, **options)


def dense_loss(case, reduction, smoothing=0.0):
    options = {"from_logits": case.from_logits, "axis": case.axis, "label_smoothing": smoothing}
    return losses.CategoricalCrossentropy(reduction=reduction, dtype="float64", **options)


@many
@given(cases())
def test_sparse_rows_are_those_of_keras(case):
    found = sparse_function(case)
    assert (found.shape, found.dtype) == (case.positions, case.predictions.dtype)
    np.testing.assert_allclose(found, sparse_losses(case), **TOLERANCE[case.predictions.dtype])


@many
@given(cases(dense=True), st.sampled_from([0.0, 0.1, 1.0]))
def test_dense_rows_are_those_of_keras(case, smoothing):
    found = losses.categorical_crossentropy(
        case.labels, case.predictions, from_logits=case.from_logits, label_smoothing=smoothing, axis=case.axis
    )
    assert (found.shape, found.dtype) == (case.positions, case.predictions.dtype)
    np.testing.assert_allclose(found, dense_losses(case, smoothing), **TOLERANCE[case.predictions.dtype])


@many
@given(cases(), st.sampled_from(REDUCTIONS))
def test_sparse_reductions_are_those_of_keras(case, reduction):
    found = sparse_loss(case, reduction)(case.labels, case.predictions, sample_weight=case.weights)
    expected = reduced(case, sparse_losses(case), "mean" if reduction == "auto" else reduction)
    assert isinstance(found, np.float64)
    np.testing.assert_allclose(found, expected, **REDUCED)


@many
@given(cases(dense=True), st.sampled_from(REDUCTIONS), st.sampled_from([0.0, 0.2]))
def test_dense_reductions_are_those_of_keras(case, reduction, smoothing):
    found = dense_loss(case, reduction, smoothing)(case.labels, case.predictions, sample_weight=case.weights)
    expected = reduced(case, dense_losses(case, smoothing), "mean" if reduction == "auto" else reduction)
    np.testing.assert_allclose(found, expected, **REDUCED)


@many
@given(cases())
def test_no_reduction_multiplies_rows_by_weights(case):
    found = sparse_loss(case, None)(case.labels, case.predictions, sample_weight=case.weights)
    weights = 1.0 if case.weights is None else case.full_weights
    assert found.shape == case.positions
    # Weights are multiples of 1/4 up to 2: they scale the error of a row.
    tolerance = {key: 2 * value for key, value in TOLERANCE[case.predictions.dtype].items()}
    np.testing.assert_allclose(found, sparse_losses(case) * weights, **tolerance)


@few
@given(cases(dtypes=(np.float64,), weighted=False, ignore=False))
def test_one_hot_and_integer_labels_agree_on_logits(case):
    one_hot = np.moveaxis(np.eye(case.wide.shape[-1])[case.labels.astype(int)], -1, case.axis)
    sparse = losses.sparse_categorical_crossentropy(case.labels, case.predictions, from_logits=True, axis=case.axis)
    dense = losses.categorical_crossentropy(one_hot, case.predictions, from_logits=True, axis=case.axis)
    np.testing.assert_allclose(sparse, dense, **TOLERANCE[np.dtype(np.float64)])


def test_keras_own_ignore_class_and_weights():
    import keras

    labels, weights = np.array([0, 1, 2, 0]), np.array([0.5, 1.5, 2.0, 9.0])
    logits = np.array([[1.0, 9.0, 0.0], [1.0, 8.0, 1.0], [0.0, 0.5, 2.0], [3.0, 2.0, 1.0]])
    for reduction in ("sum_over_batch_size", "sum", "mean_with_sample_weight", "none"):
        options = {"from_logits": True, "ignore_class": 0, "reduction": reduction, "dtype": "float64"}
        reference = keras.losses.SparseCategoricalCrossentropy(**options)
        ours = losses.SparseCategoricalCrossentropy(**options)
        for given_weights in (None, weights):
            expected = reference(labels, logits, sample_weight=given_weights)
            np.testing.assert_allclose(ours(labels, logits, given_weights), expected, **REDUCED)


def test_label_smoothing_is_that_of_keras():
    import keras

    labels, predictions = np.eye(3, dtype=np.float32)[[1, 2]], np.array([[0.05, 0.95, 0], [0.1, 0.8, 0.1]], np.float32)
    expected = keras.losses.categorical_crossentropy(labels, predictions, label_smoothing=0.1)
    found = losses.categorical_crossentropy(labels, predictions, label_smoothing=0.1)
    np.testing.assert_allclose(found, expected, rtol=4 * 2.0**-24)  # Keras computes in float32


@few
@given(cases(dtypes=(np.float64,), weighted=False))
def test_the_sum_is_the_exact_sum_of_the_rows(case):
    assert sparse_loss(case, "sum")(case.labels, case.predictions) == math.fsum(sparse_function(case).ravel())


def test_half_precision_is_widened():
    import ml_dtypes

    random = np.random.default_rng(1)
    labels = random.integers(0, 7, 50)
    for dtype, digits in ((np.float16, 2**-11), (ml_dtypes.bfloat16, 2**-8)):
        logits = random.normal(size=(50, 7)).astype(dtype)
        case = Case(labels, logits, None, -1, True, None)
        found = sparse_function(case)
        assert found.dtype == dtype
        # Rounded once, at the end.
        np.testing.assert_allclose(found.astype(float), sparse_losses(case), rtol=digits)


def test_mean_of_a_number_as_weight_is_the_plain_mean():
    # Keras 3 divides by the number itself, not by its sum over the rows.
    labels, predictions = [1, 2], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]]
    loss = losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")
    assert loss(labels, predictions, sample_weight=2.0) == loss(labels, predictions)


def test_nothing_to_average_is_zero():
    for reduction in REDUCTIONS:
        loss = losses.SparseCategoricalCrossentropy(reduction=reduction, ignore_class=1)
        assert loss(np.zeros(0, int), np.zeros((0, 3), np.float32)) == 0
        assert loss([1, 1], [[0.5, 0.5], [0.1, 0.9]]) == 0
        assert loss([0, 0], [[0.5, 0.5], [0.1, 0.9]], sample_weight=[0, 0]) == 0
    rows = losses.sparse_categorical_crossentropy(np.zeros((0, 4), int), np.zeros((0, 3, 4), np.float32), axis=1)
    assert (rows.shape, rows.dtype) == ((0, 4), np.float32)


def test_ignored_and_masked_rows_may_hold_anything():
    nan = float("nan")
    loss = losses.SparseCategoricalCrossentropy(ignore_class=-1, reduction="sum")
    clean = losses.SparseCategoricalCrossentropy(reduction="sum")
    expected = clean([1], [[0.25, 0.75]])
    assert loss([1, -1], [[0.25, 0.75], [nan, nan]]) == expected
    assert clean([1, 7], [[0.25, 0.75], [nan, nan]], sample_weight=[1, 0]) == expected
    rows = losses.SparseCategoricalCrossentropy(reduction=None)
    assert rows([1, 7], [[0.25, 0.75], [nan, nan]], sample_weight=[1, 0])[1] == 0


def test_rows_of_weight_zero_are_part_of_the_batch():
    labels, predictions, weights = [0, 1], [[0.5, 0.5], [0.5, 0.5]], [0, 1]
    mean = losses.SparseCategoricalCrossentropy()(labels, predictions, sample_weight=weights)
    assert mean == np.float32(np.log(2) / 2)
    over_weights = losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")
    assert over_weights(labels, predictions, sample_weight=weights) == np.float32(np.log(2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_with_nan_has_loss_nan(dtype):
    predictions = np.array([[0.25, 0.75], [np.nan, 0.5]], dtype)
    assert np.isnan(losses.sparse_categorical_crossentropy([1, 1], predictions)).tolist() == [False, True]
    assert np.isnan(losses.SparseCategoricalCrossentropy()([1, 1], predictions))


@pytest.mark.parametrize("label", [3, -1, 2**40])
def test_an_impossible_label_is_named(label):
    labels, predictions = np.array([[0, 1], [2, label]]), np.full((2, 2, 3), 1 / 3)
    message = rf"y_true: label {label} at row 3 \(position \(1, 1\)\) is outside \[0, 3\)"
    for loss in (losses.SparseCategoricalCrossentropy(), losses.SparseCategoricalCrossentropy(reduction=None)):
        with pytest.raises(ValueError, match=message):
            loss(labels, predictions)
        lazy = loss(labels, da.from_array(predictions, chunks=(1, 1, 2)))
        with pytest.raises(ValueError, match=message):
            lazy.compute(scheduler="sync")


@pytest.mark.parametrize("wrong", [1.9, float("nan"), 1e30])
def test_float_labels_must_be_whole(wrong, tmp_path):
    labels, predictions = np.array([[0, 1], [1, wrong]]), np.full((2, 2, 2), 0.5)
    kept = zarr.create_array(tmp_path / "labels", data=labels, chunks=(1, 2))
    for held in (labels, labels.tolist(), kept, da.from_array(labels, chunks=1)):
        with pytest.raises(ValueError, match=r"y_true: label .* at position \(1, 1\) is not a whole number"):
            np.asarray(losses.sparse_categorical_crossentropy(held, predictions))


def test_stored_float_labels_are_named_by_their_place_in_the_whole(tmp_path, monkeypatch):
    sized.give(monkeypatch, run_rows=2)
    kept = zarr.create_array(tmp_path / "labels", data=np.array([0, 1, 0, 1, 0.5]), chunks=(2,))
    with pytest.raises(ValueError, match=r"y_true: label 0.5 at position \(4,\) is not a whole number"):
        losses.sparse_categorical_crossentropy(kept, np.full((5, 2), 0.5))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"y_true of shape \(3,\) does not fit y_pred of shape \(2, 3\)"):
        losses.sparse_categorical_crossentropy([0, 1, 2], [[0.5, 0.5, 0]] * 2)
    with pytest.raises(ValueError, match=r"expected y_pred's shape without the class axis"):
        losses.sparse_categorical_crossentropy(np.eye(2), np.eye(2))
    with pytest.raises(ValueError, match=r"expected y_pred's shape \(one-hot or soft labels\)"):
        losses.categorical_crossentropy([0, 1], np.eye(2))
    with pytest.raises(ValueError, match="axis: 2 is out of range"):
        losses.sparse_categorical_crossentropy([0, 1], np.eye(2), axis=2)
    with pytest.raises(ValueError, match="y_pred: expected rows of predictions"):
        losses.sparse_categorical_crossentropy(1, [0.5, 0.5])
    with pytest.raises(TypeError, match="ignore_class"):
        losses.sparse_categorical_crossentropy([0, 1], np.eye(2), ignore_class=0.5)
    with pytest.raises(ValueError, match="sample_weight: nan at row 1"):
        losses.SparseCategoricalCrossentropy()([0, 1], np.eye(2), sample_weight=[1, float("nan")])


def test_one_class_with_dense_labels():
    assert losses.categorical_crossentropy([[1.0], [1.0]], np.ones((2, 1)), from_logits=True).tolist() == [0, 0]


def test_configuration_round_trip():
    for made in (
        losses.SparseCategoricalCrossentropy(True, 255, "sum", 1, "mine"),
        losses.CategoricalCrossentropy(True, 0.1, 1, None, "mine"),
        losses.SparseCategoricalCrossentropy(reduction=losses.Reduction.AUTO),
    ):
        config = json.loads(json.dumps(made.get_config()))
        again = type(made).from_config(config)
        assert again.get_config() == made.get_config()
        assert pickle.loads(pickle.dumps(made)).get_config() == config


def test_the_configuration_is_that_of_keras():
    import keras

    auto = losses.SparseCategoricalCrossentropy(reduction=losses.Reduction.AUTO)
    assert auto.get_config()["reduction"] == auto.reduction == "sum_over_batch_size"  # Keras 3 knows no "auto"

    for name in ("SparseCategoricalCrossentropy", "CategoricalCrossentropy"):
        config = getattr(losses, name)().get_config()
        reference = getattr(keras.losses, name)
        assert config == {"axis": -1} | reference().get_config()  # Keras 3.15 forgets the axis of the sparse one
        assert reference(**config).reduction == "sum_over_batch_size"


def test_dtype_shapes_the_result_alone():
    labels, predictions = [1, 2], np.array([[0.05, 0.95, 0], [0.1, 0.8, 0.1]])
    exact = losses.SparseCategoricalCrossentropy(dtype="float64")(labels, predictions)
    for dtype in ("float16", "float32"):
        loss = losses.SparseCategoricalCrossentropy(dtype=dtype)
        assert loss.dtype == dtype
        assert loss(labels, predictions) == exact.astype(dtype)
        assert loss.call(labels, predictions).dtype == dtype
    with pytest.raises(AttributeError):
        losses.SparseCategoricalCrossentropy().dtype = "float64"


def test_a_dtype_policy_stands_for_its_compute_dtype():
    import keras

    assert losses.SparseCategoricalCrossentropy(dtype=keras.DTypePolicy("mixed_float16")).dtype == "float16"


@many
@given(cases(dtypes=(np.float16, np.float32, np.float64)), st.data())
def test_any_chunks_give_the_same_rows(case, data):
    lazy = da.from_array(case.predictions, chunks=data.draw(chunked(case.predictions.shape)))
    labels = case.labels
    if data.draw(st.booleans()):
        labels = da.from_array(labels, chunks=data.draw(chunked(labels.shape)))
    found = sparse_function(case, labels, lazy)
    assert isinstance(found, da.Array)
    kept = tuple(axis for axis in range(lazy.ndim) if axis != case.axis % lazy.ndim)
    assert found.chunks == tuple(lazy.chunks[axis] for axis in kept)
    np.testing.assert_array_equal(found.compute(scheduler="sync"), sparse_function(case), strict=True)


@many
@given(cases(), st.data(), st.sampled_from([*REDUCTIONS, None]))
def test_any_chunks_give_the_same_loss(case, data, reduction):
    lazy = da.from_array(case.predictions, chunks=data.draw(chunked(case.predictions.shape)))
    weights = case.weights
    if isinstance(weights, np.ndarray) and data.draw(st.booleans()):
        weights = da.from_array(weights, chunks=data.draw(chunked(weights.shape)))
    loss = sparse_loss(case, reduction)
    found = loss(case.labels, lazy, sample_weight=weights)
    expected = loss(case.labels, case.predictions, sample_weight=case.weights)
    assert isinstance(found, da.Array)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(found.compute(scheduler="sync"), expected)


@few
@given(cases(dense=True), st.data(), st.sampled_from(["sum", None]))
def test_any_chunks_give_the_same_dense_loss(case, data, reduction):
    lazy = da.from_array(case.predictions, chunks=data.draw(chunked(case.predictions.shape)))
    loss = dense_loss(case, reduction, 0.1)
    found = loss(case.labels, lazy, sample_weight=case.weights)
    expected = loss(case.labels, case.predictions, sample_weight=case.weights)
    np.testing.assert_array_equal(found.compute(scheduler="sync"), expected)


@few
@given(cases(), st.data())
def test_zarr_gives_the_same_numbers(case, data):
    kept = stored(data.draw, case.predictions)
    np.testing.assert_array_equal(sparse_function(case, predictions=kept), sparse_function(case), strict=True)
    loss = sparse_loss(case, "mean")
    assert loss(case.labels, kept, case.weights) == loss(case.labels, case.predictions, case.weights)


def test_many_rows_in_pieces_are_the_rows_one_by_one(tmp_path):
    random = np.random.default_rng(0)
    predictions = random.normal(size=(30_000, 40)).astype(np.float32)
    labels = random.integers(0, 40, 30_000)
    kept = zarr.create_array(tmp_path / "predictions", data=predictions, chunks=(700, 40))
    whole = losses.sparse_categorical_crossentropy(labels, kept, from_logits=True)
    ends = slice(0, 50), slice(-50, None)
    for some in ends:
        few_rows = losses.sparse_categorical_crossentropy(labels[some], predictions[some], from_logits=True)
        np.testing.assert_array_equal(whole[some], few_rows)
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    assert loss(labels, kept) == loss(labels, da.from_array(predictions, chunks=(1_000, 30))).compute()


class Tasks(Callback):
    """The keys of the tasks that were run, without mere aliases of others."""

    def __init__(self):
        self.keys = []

    def _pretask(self, key, graph, state):
        if type(graph[key]).__name__ != "Alias":
            self.keys.append(key)


def produced(block_info=None):
    """Make a chunk of logits, as reading it would."""
    place = block_info[None]["array-location"]
    return np.full([stop - start for start, stop in place], 0.25, np.float32)


def tasks(array):
    with Tasks() as run, dask.config.set(scheduler="sync"):
        array.compute()
    return [key for key in run.keys if "finalize" not in str(key)]


def test_one_task_per_chunk_reads_prepares_and_evaluates():
    source = da.map_blocks(produced, chunks=((4, 3, 5), (6,), (2, 2)), dtype=np.float32, meta=np.empty((0,) * 3, "f4"))
    prepared = (source - 1) * 2
    labels = np.zeros((12, 4), np.uint8)
    rows = losses.sparse_categorical_crossentropy(labels, prepared, from_logits=True, axis=1)
    assert len(tasks(rows)) == 6
    assert len(tasks(rows * 2)) == 6  # what follows is fused too
    mean = losses.SparseCategoricalCrossentropy(from_logits=True, axis=1)(labels, prepared)
    assert len(tasks(mean)) <= 6 + 3  # and a tree of merges


def test_one_task_per_chunk_where_classes_are_split():
    source = da.map_blocks(produced, chunks=((4, 8), (2, 1, 3)), dtype=np.float32, meta=np.empty((0,) * 2, "f4"))
    rows = losses.sparse_categorical_crossentropy(np.zeros(12, int), source * 2, from_logits=True)
    assert len(tasks(rows)) == 6 + 2  # and a merge per chunk of rows


def never(block_info=None):
    raise AssertionError("computed while building")


def test_building_computes_nothing():
    def unread(shape, dtype):
        sizes = tuple((1,) * n for n in shape)
        return da.map_blocks(never, chunks=sizes, dtype=dtype, meta=np.empty((0,) * len(shape), dtype))

    predictions = unread((4, 3, 2), np.float32)
    number = unread((1,), np.float64).sum()
    for labels in (unread((4, 2), np.int64), unread((4, 2), np.float32)):
        losses.sparse_categorical_crossentropy(labels, predictions, axis=1, ignore_class=1)
        for weights in (None, 2.0, number, unread((4,), np.float64)):
            for reduction in (*REDUCTIONS, None):
                loss = losses.SparseCategoricalCrossentropy(reduction=reduction, axis=1)(labels, predictions, weights)
                assert isinstance(loss, da.Array)
    losses.categorical_crossentropy(unread((4, 3, 2), np.float32), predictions, axis=1)
    assert losses.CategoricalCrossentropy(axis=1)(predictions, predictions).shape == ()


def test_dask_labels_or_weights_make_the_loss_lazy():
    predictions, labels = np.full((6, 3), 0.25), da.from_array(np.zeros(6, int), chunks=4)
    rows = losses.sparse_categorical_crossentropy(labels, predictions)
    assert isinstance(rows, da.Array)
    # Three equal probabilities are normalised to 1/3.
    np.testing.assert_allclose(rows.compute(scheduler="sync"), np.log(3), rtol=1e-15)


def test_lazy_losses_compose():
    predictions = da.from_array(np.full((6, 3), 0.25), chunks=(2, 3))
    rows = losses.sparse_categorical_crossentropy([0, 1, 2, 0, 1, 2], predictions)
    worst = rows.max() + losses.SparseCategoricalCrossentropy(dtype="float64")([0] * 6, predictions)
    # log(3) twice, each rounded.
    assert worst.compute(scheduler="sync") == pytest.approx(2 * np.log(3), rel=1e-15)


def test_empty_chunks_and_batches_of_dask():
    predictions = da.concatenate([da.zeros((0, 3), chunks=(0, 3)), da.ones((2, 3), chunks=(2, 3))])
    rows = losses.sparse_categorical_crossentropy([0, 1], predictions, from_logits=True)
    np.testing.assert_allclose(rows.compute(scheduler="sync"), np.log(3), rtol=1e-15)
    nothing = losses.SparseCategoricalCrossentropy()(np.zeros(0, int), da.zeros((0, 3), chunks=(0, 3)))
    assert nothing == 0
