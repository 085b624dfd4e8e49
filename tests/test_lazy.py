import math
import threading
import warnings

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from dask.callbacks import Callback
from hypothesis import given
from hypothesis import strategies as st
from strategies import MANY, partitions, questions

import daskxent as dx

METRICS = ("crossentropy", "accuracy", "top_3_accuracy")


def ask(y_true, y_pred, **options):
    with warnings.catch_warnings():  # what is drawn may leave no weight
        warnings.filterwarnings("ignore", "(no row was counted|the weights sum to zero): the metrics are NaN")
        return dx.evaluate(y_true, y_pred, **{"threads": 2, **options})


class Counted:
    """An array that counts how often each of its chunks is read."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.ndim = values, values.shape, values.dtype, values.ndim
        self.seen, self.lock = [], threading.Lock()

    def __getitem__(self, box):
        with self.lock:
            self.seen.append(tuple((s.start, s.stop) for s in box))
        return self.values[box]

    def chunked(self, chunks):
        return da.from_array(
            self, chunks=chunks, name=False, inline_array=True, meta=np.empty((0,) * self.ndim, self.dtype)
        )


class Tasks(Callback):
    """Counts the tasks that run, but for the names of others, and for putting together what `compute` returns."""

    def __init__(self):
        super().__init__(pretask=self._count)
        self.count = 0

    def _count(self, key, graph, state):
        alias = type(graph[key]).__name__ == "Alias"
        self.count += not alias and not str(key).startswith("finalize")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(6)
    return rng.integers(0, 13, 60), rng.normal(0, 3, (60, 13)).astype("float32"), rng.random(60)


@pytest.mark.slow
@MANY
@given(questions(), st.data())
def test_any_chunks_of_anything_give_the_report_of_numpy(question, data):
    y_true, y_pred, options = question
    if y_pred.dtype.name == "bfloat16":
        y_pred, options["view"] = y_pred.view("uint16"), "bfloat16"
    wanted = ask(y_true, y_pred, **options)
    held = {"y_true": y_true, "y_pred": y_pred, "sample_weight": options.pop("sample_weight", None)}
    kinds = {name: data.draw(st.sampled_from(["NumPy", "dask", "zarr"]), name) for name in held}
    kinds[data.draw(st.sampled_from(["y_true", "y_pred"]))] = "dask"  # one of them at least
    for name, values in held.items():
        if values is None or kinds[name] == "NumPy":
            continue
        if kinds[name] == "dask":
            held[name] = da.from_array(values, chunks=tuple(data.draw(partitions(n)) for n in values.shape))
        else:
            chunks = tuple(data.draw(st.integers(1, n)) for n in values.shape)
            held[name] = zarr.create_array(
                {}, shape=values.shape, dtype=values.dtype, chunks=chunks, config={"write_empty_chunks": True}
            )
            held[name][...] = values
    assert ask(**held, **options) == wanted


@pytest.mark.parametrize("rows", [60, 20, 7, (1, 30, 29)], ids=str)
@pytest.mark.parametrize("form", ["labels", "one-hot", "weights"])
def test_a_chunk_of_predictions_is_one_task_with_its_reading_and_preprocessing(data, rows, form):
    y_true, y_pred, w = data
    source = Counted(y_pred)
    x = (source.chunked((rows, 13)) * 2 + 1).astype("float64").clip(-20, 20)
    w = w if form == "weights" else None
    labels = np.eye(13)[y_true] if form == "one-hot" else y_true
    with Tasks() as tasks:
        got = ask(labels, x, sample_weight=w, from_logits=True, metrics=METRICS)
    assert tasks.count == x.npartitions
    assert len(source.seen) == len(set(source.seen)) == x.npartitions
    same = ((y_pred * 2 + 1).astype("float64")).clip(-20, 20)
    assert got == ask(labels, same, sample_weight=w, from_logits=True, metrics=METRICS)


def test_split_classes_take_one_task_more_for_each_chunk_of_rows(data):
    y_true, y_pred, _ = data
    source = Counted(y_pred)
    x = source.chunked((20, 4)) * 2
    with Tasks() as tasks:
        got = ask(y_true, x, from_logits=True, metrics=METRICS)
    assert tasks.count == 3 * 4 + 3
    assert len(source.seen) == len(set(source.seen)) == 12
    assert got == ask(y_true, y_pred * 2, from_logits=True, metrics=METRICS)


def test_losses_take_one_task_for_each_chunk_of_predictions(data):
    y_true, y_pred, _ = data
    source = Counted(y_pred)
    lazy = dx.losses.sparse_categorical_crossentropy(y_true, source.chunked((20, 13)) + 1, from_logits=True)
    assert isinstance(lazy, da.Array)
    assert lazy.chunks == ((20, 20, 20),)
    assert not source.seen
    with Tasks() as tasks:
        each = lazy.compute(scheduler="threads")
    assert tasks.count == 3
    assert len(source.seen) == 3
    plain = dx.losses.sparse_categorical_crossentropy(y_true, y_pred + 1, from_logits=True)
    assert each.dtype == plain.dtype
    assert each.tolist() == plain.tolist()


def test_a_reduction_is_a_number_through_a_tree(data):
    y_true, y_pred, w = data
    loss = dx.losses.SparseCategoricalCrossentropy(from_logits=True)
    source = Counted(y_pred)
    lazy = loss(y_true, source.chunked((1, 13)), sample_weight=w)
    assert (lazy.shape, lazy.npartitions) == ((), 1)
    assert not source.seen
    with Tasks() as tasks, dask.config.set(split_every=4):
        got = loss(y_true, source.chunked((1, 13)), sample_weight=w).compute(scheduler="threads")
    assert tasks.count == 60 + 15 + 4 + 1  # chunks, and the merges of four
    assert len(source.seen) == 60
    assert float(got) == float(loss(y_true, y_pred, sample_weight=w)) == float(lazy.compute())


def test_a_deferred_evaluation_reads_nothing_until_it_is_computed(data):
    y_true, y_pred, w = data
    source = Counted(y_pred)
    lazy = dx.delayed(y_true, source.chunked((20, 13)), sample_weight=w, from_logits=True)
    assert not source.seen
    (got,) = dask.compute(lazy, scheduler="threads")
    assert got == ask(y_true, y_pred, sample_weight=w, from_logits=True)


@pytest.mark.parametrize(("weight", "why"), [(0.0, "no row was counted"), ([1.0, -1.0], "the weights sum to zero")])
def test_a_deferred_evaluation_over_no_weight_warns_as_any_other(weight, why):
    options = {"sample_weight": weight, "allow_negative_weights": True}
    lazy = dx.delayed([0, 1], np.full((2, 2), 0.5), **options)
    with pytest.warns(UserWarning, match=f"^{why}: the metrics are NaN$"):
        (got,) = dask.compute(lazy, scheduler="threads")
    assert math.isnan(got["accuracy"])


@pytest.mark.parametrize(("split_every", "merges"), [(None, 15 + 4 + 1), (4, 15 + 4 + 1), (8, 8 + 1), (60, 1)])
def test_a_deferred_evaluation_is_a_task_per_chunk_and_a_tree_of_merges(data, split_every, merges):
    y_true, y_pred, w = data
    source = Counted(y_pred)
    x = source.chunked((1, 13)) * 2
    lazy = dx.delayed(y_true, x, sample_weight=w, from_logits=True, split_every=split_every)
    with Tasks() as tasks:
        (got,) = dask.compute(lazy, scheduler="threads")
    assert got == ask(y_true, y_pred * 2, sample_weight=w, from_logits=True)
    assert tasks.count == 60 + merges + 1  # which makes the report
    assert len(source.seen) == 60


def test_nothing_is_computed_while_planning_and_composing(data):
    def refuse(block):
        raise AssertionError("computed")

    y_true, y_pred, w = (da.from_array(values).map_blocks(refuse, dtype=values.dtype) for values in data)
    with Tasks() as tasks:
        plan = dx.plan(y_true, y_pred.rechunk((7, 4)), sample_weight=w, threads=2, from_logits=True)
        assert (plan.rows, plan.chunks) == (60, 9 * 4)
        dx.stream(y_true, y_pred, sample_weight=w, from_logits=True)
        dx.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        dx.losses.SparseCategoricalCrossentropy(from_logits=True)(y_true, y_pred, w)
    assert tasks.count == 0


def test_labels_and_predictions_of_one_graph_are_computed_once(data):
    _y_true, y_pred, _ = data
    source = Counted(y_pred)
    x = source.chunked((20, 13))
    labels = (x * 0 + 1).sum(axis=1).astype("int64") % 13  # from the same chunks
    got = ask(labels, x, from_logits=True)
    assert got == ask(np.zeros(60, int), y_pred, from_logits=True)


def test_chunks_without_rows_are_nothing(data):
    y_true, y_pred, w = data
    wanted = ask(y_true, y_pred, sample_weight=w, from_logits=True)
    for chunks in (((0, 20, 0, 40, 0), (13,)), ((60,), (0, 5, 8, 0)), ((0, 60), (0, 13))):
        assert ask(y_true, da.from_array(y_pred, chunks=chunks), sample_weight=w, from_logits=True) == wanted


def test_a_stream_over_dask_arrays_ends_with_the_whole(data):
    y_true, y_pred, w = data
    x = da.from_array(y_pred, chunks=(1, 5))
    reports = list(dx.stream(da.from_array(y_true, chunks=7), x, sample_weight=w, from_logits=True, threads=1))
    assert len(reports) == math.ceil(60 / 3)
    assert reports[-1] == ask(y_true, y_pred, sample_weight=w, from_logits=True)
