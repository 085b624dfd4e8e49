"""Every example of the Keras documentation this package follows, against the digits printed there.

The pages: metrics SparseCategoricalCrossentropy (r2.4), CategoricalCrossentropy (2.0), SparseCategoricalAccuracy
(2.16); losses SparseCategoricalCrossentropy (2.5) and R's loss_sparse_categorical_crossentropy. ``tf.constant`` and
R's vectors are lists here, ``op_array`` a float32 array; what is printed with three digits is compared with three.
"""

import inspect

import numpy as np
import pytest

from daskxent import losses, metrics

LABELS = [1, 2]
ONE_HOT = [[0, 1, 0], [0, 0, 1]]
PREDICTIONS = [[0.05, 0.95, 0], [0.1, 0.8, 0.1]]
FLOAT32 = np.array(PREDICTIONS, np.float32)
WEIGHTS = [0.3, 0.7]


def test_sparse_crossentropy_metric():
    m = metrics.SparseCategoricalCrossentropy()
    m.update_state(LABELS, PREDICTIONS)
    assert str(m.result()) == "1.1769392"
    m.reset_states()
    m.update_state(LABELS, PREDICTIONS, sample_weight=WEIGHTS)
    assert str(m.result()) == "1.6271976"
    assert m.result().dtype == np.float32


def test_sparse_crossentropy_metric_of_softmax_logits():
    # The page's comment: logits = log(y_pred), which needs EPSILON instead of 0.
    logits = np.log(np.maximum(PREDICTIONS, 1e-7))
    m = metrics.SparseCategoricalCrossentropy(from_logits=True)
    assert str(m(LABELS, logits)) == "1.1769392"


@pytest.mark.parametrize("predictions", [PREDICTIONS, FLOAT32], ids=["list", "float32"])
@pytest.mark.parametrize(
    "labels", [LABELS, [1.0, 2.0], np.array(LABELS, np.float32)], ids=["list", "floats", "float32"]
)
class TestSparseCrossentropyLoss:
    def test_sum_over_batch_size(self, labels, predictions):
        loss = losses.SparseCategoricalCrossentropy()(labels, predictions)
        assert (str(loss), f"{loss:.3f}", loss.dtype) == ("1.1769392", "1.177", np.float32)

    def test_sample_weight(self, labels, predictions):
        loss = losses.SparseCategoricalCrossentropy()(labels, predictions, sample_weight=WEIGHTS)
        assert (str(loss), f"{loss:.3f}", loss.dtype) == ("0.8135988", "0.814", np.float32)

    @pytest.mark.parametrize("reduction", [losses.Reduction.SUM, "sum"])
    def test_sum(self, labels, predictions, reduction):
        loss = losses.SparseCategoricalCrossentropy(reduction=reduction)(labels, predictions)
        assert (str(loss), f"{loss:.3f}", loss.dtype) == ("2.3538785", "2.354", np.float32)

    @pytest.mark.parametrize("reduction", [losses.Reduction.NONE, "none", None])
    def test_none(self, labels, predictions, reduction):
        loss = losses.SparseCategoricalCrossentropy(reduction=reduction)(labels, predictions)
        assert (str(loss), loss.dtype) == ("[0.05129344 2.3025851 ]", np.float32)
        assert [f"{value:.4g}" for value in loss] == ["0.05129", "2.303"]


def test_the_function_prints_float64_digits_for_doubles():
    loss = losses.sparse_categorical_crossentropy(LABELS, PREDICTIONS)
    assert (str(loss), loss.shape, loss.dtype) == ("[0.05129339 2.30258509]", (2,), np.float64)


def test_the_function_prints_float32_digits_for_float32():
    loss = losses.sparse_categorical_crossentropy(LABELS, FLOAT32)
    assert (str(loss), loss.dtype) == ("[0.05129344 2.3025851 ]", np.float32)


def test_dense_crossentropy_metric():
    m = metrics.CategoricalCrossentropy()
    m.update_state(ONE_HOT, PREDICTIONS)
    # The page prints 1.176, having added 0.051 and 2.302: the digits are cut off, not rounded (1.17693...).
    assert str(m.result()).startswith("1.176")
    m.reset_states()
    assert m.result() == 0


def test_label_smoothing_of_two_classes():
    # "label_smoothing=0.2 means that we will use a value of 0.1 for label 0 and 0.9 for label 1"
    smoothed = metrics.CategoricalCrossentropy(label_smoothing=0.2, dtype="float64")
    spelled_out = metrics.CategoricalCrossentropy(dtype="float64")
    predictions = np.array([[0.25, 0.75]])
    # 0.9 - 0.1 and the like are rounded in other places: a few units in the last place.
    assert smoothed([[0, 1]], predictions) == pytest.approx(spelled_out([[0.1, 0.9]], predictions), rel=1e-15)


def test_sparse_accuracy():
    m = metrics.SparseCategoricalAccuracy()
    m.update_state([[2], [1]], [[0.1, 0.6, 0.3], [0.05, 0.95, 0]])
    assert str(m.result()) == "0.5"
    m.reset_state()
    m.update_state([[2], [1]], [[0.1, 0.6, 0.3], [0.05, 0.95, 0]], sample_weight=[0.7, 0.3])
    assert str(m.result()) == "0.3"
    assert m.dtype == "float32"
    assert [variable.name for variable in m.variables] == ["total", "count"]


def test_a_weight_of_zero_masks():
    m = metrics.SparseCategoricalAccuracy()
    assert m([2, 1], [[0.1, 0.6, 0.3], [0.05, 0.95, 0]], sample_weight=[0, 1]) == 1


METRIC_METHODS = {
    "__call__", "add_variable", "add_weight", "dtype", "from_config", "get_config", "merge_state", "name",
    "reset_state", "reset_states", "result", "stateless_reset_state", "stateless_result", "stateless_update_state",
    "update_state", "variables",
}  # fmt: skip
LOSS_METHODS = {"__call__", "call", "dtype", "from_config", "get_config"}
ARGUMENTS = {
    metrics.SparseCategoricalCrossentropy: {
        "name": "sparse_categorical_crossentropy",
        "dtype": None,
        "from_logits": False,
        "ignore_class": None,
        "axis": -1,
    },
    metrics.CategoricalCrossentropy: {
        "name": "categorical_crossentropy",
        "dtype": None,
        "from_logits": False,
        "label_smoothing": 0,
        "axis": -1,
    },
    metrics.SparseCategoricalAccuracy: {"name": "sparse_categorical_accuracy", "dtype": None},
    metrics.CategoricalAccuracy: {"name": "categorical_accuracy", "dtype": None},
    metrics.SparseTopKCategoricalAccuracy: {
        "k": 5,
        "name": "sparse_top_k_categorical_accuracy",
        "dtype": None,
        "from_sorted_ids": False,
    },
    metrics.TopKCategoricalAccuracy: {"k": 5, "name": "top_k_categorical_accuracy", "dtype": None},
    losses.SparseCategoricalCrossentropy: {
        "from_logits": False,
        "ignore_class": None,
        "reduction": "sum_over_batch_size",
        "axis": -1,
        "name": "sparse_categorical_crossentropy",
        "dtype": None,
    },
    losses.CategoricalCrossentropy: {
        "from_logits": False,
        "label_smoothing": 0.0,
        "axis": -1,
        "reduction": "sum_over_batch_size",
        "name": "categorical_crossentropy",
        "dtype": None,
    },
    losses.sparse_categorical_crossentropy: {"from_logits": False, "ignore_class": None, "axis": -1},
    losses.categorical_crossentropy: {"from_logits": False, "label_smoothing": 0.0, "axis": -1},
}


@pytest.mark.parametrize("thing", ARGUMENTS, ids=lambda thing: f"{thing.__module__}.{thing.__name__}")
def test_arguments_come_in_the_documented_order_with_their_defaults(thing):
    given = inspect.signature(thing).parameters.values()
    defaults = {each.name: each.default for each in given if each.default is not each.empty}
    assert list(defaults.items()) == list(ARGUMENTS[thing].items())


@pytest.mark.parametrize("thing", [each for each in ARGUMENTS if inspect.isclass(each)], ids=lambda each: each.__name__)
def test_every_documented_method_is_there(thing):
    methods = METRIC_METHODS if thing.__module__ == "daskxent.metrics" else LOSS_METHODS
    assert methods - set(dir(thing())) == set()


def test_the_order_of_update_arguments():
    for thing in ARGUMENTS:
        if inspect.isclass(thing):
            method = thing.update_state if thing.__module__ == "daskxent.metrics" else thing.__call__
            names = list(inspect.signature(method).parameters)
            assert names == ["self", "y_true", "y_pred", "sample_weight"]


def test_reductions_have_the_documented_values():
    kinds = losses.Reduction
    assert (kinds.AUTO, kinds.NONE, kinds.SUM) == ("auto", "none", "sum")
    assert kinds.SUM_OVER_BATCH_SIZE == "sum_over_batch_size"
    auto = losses.SparseCategoricalCrossentropy(reduction=kinds.AUTO)
    assert auto(LABELS, PREDICTIONS) == losses.SparseCategoricalCrossentropy()(LABELS, PREDICTIONS)


def test_what_the_pages_say_cannot_be_is_an_error():
    loss = losses.SparseCategoricalCrossentropy()
    with pytest.raises(ValueError, match="sample_weight: shape"):  # "If the shape of sample_weight is invalid."
        loss(LABELS, PREDICTIONS, sample_weight=[1, 2, 3])
    with pytest.raises(ValueError, match="Invalid value for argument `reduction`"):
        losses.SparseCategoricalCrossentropy(reduction="average")
