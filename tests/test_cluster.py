import pickle
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import sized
import zarr
from running import prepared, running

import daskxent as dx
from daskxent.numbers.audit import AUDIT, FIRST, Finding
from daskxent.numbers.exact import ExactSum
from daskxent.numbers.keys import Group
from daskxent.numbers.state import State
from daskxent.numbers.sums import Sums
from daskxent.run import cluster
from daskxent.run.engines import engine_for

pytestmark = pytest.mark.slow

METRICS = ("crossentropy", "accuracy", "top_3_accuracy", "perplexity", "bits")
OPTIONS = {"from_logits": True, "metrics": METRICS, "on_invalid": "skip"}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(9)
    y_true, y_pred = rng.integers(0, 11, 400), rng.normal(0, 3, (400, 11)).astype("float32")
    y_true[::31], y_pred[::29, 2], y_pred[::37] = 11, np.nan, -np.inf
    return y_true, y_pred, rng.random(400)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    sized.give(monkeypatch, smallest_part_bytes=1000)


@pytest.fixture
def wanted(data):
    y_true, y_pred, w = data
    return dx.evaluate(y_true, y_pred, sample_weight=w, threads=1, **OPTIONS)


def write(root, name, values, chunks, **options):
    z = zarr.create_array(
        root / "dump.zarr", name=name, shape=values.shape, dtype=values.dtype, chunks=chunks, **options
    )
    z[...] = values
    return z


@pytest.fixture
def held(tmp_path, data):
    """The arrays in every kind of keeping."""
    y_true, y_pred, w = data
    for name, values in zip("lpw", data, strict=True):
        np.save(tmp_path / name, values)
    zarrs = [write(tmp_path, n, values, c) for n, values, c in zip("lpw", data, ((90,), (37, 11), (53,)), strict=True)]
    split = write(tmp_path, "split", y_pred, (24, 4), shards=(48, 8))
    return {
        "zarr": zarrs,
        "zarr by path": [f"{tmp_path}/dump.zarr/{name}" for name in "lpw"],
        "zarr split by classes": [y_true, split, w],
        "blocks of classes": [y_true, dx.concat([y_pred[:, :4], y_pred[:, 4:]], axis=-1), w],
        "npy": [f"{tmp_path}/{name}.npy" for name in "lpw"],
        "NumPy": [y_true, y_pred, w],
        "lists": [y_true.tolist(), y_pred, w.tolist()],
        "dask": [da.from_array(values, chunks=37) for values in data],
        "dask split by classes": [y_true, da.from_array(y_pred, chunks=(50, 3)), w],
        "dask of zarr": [y_true, da.from_zarr(zarrs[1]) * 1, zarrs[2]],
        "zarr with dask labels": [da.from_array(y_true, chunks=50), zarrs[1], w],
    }


KINDS = [
    "zarr", "zarr by path", "zarr split by classes", "blocks of classes", "npy", "NumPy", "lists", "dask",
    "dask split by classes", "dask of zarr", "zarr with dask labels",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_give_the_report_of_one_thread(client, held, wanted, kind):
    y_true, y_pred, w = held[kind]
    got = dx.evaluate(y_true, y_pred, sample_weight=w, client=client, **OPTIONS)
    assert got == wanted
    assert got == dx.evaluate(y_true, y_pred, sample_weight=w, threads=2, **OPTIONS)


@pytest.mark.parametrize("kind", ["zarr", "NumPy", "dask"])
def test_a_stream_from_a_cluster_ends_with_the_whole(client, held, wanted, kind):
    y_true, y_pred, w = held[kind]
    reports = list(dx.stream(y_true, y_pred, sample_weight=w, client=client, **OPTIONS))
    assert len(reports) > 1
    assert [report.complete for report in reports] == [False] * (len(reports) - 1) + [True]
    assert reports[-1] == wanted


def transitions(client):
    return client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter)


@pytest.mark.parametrize("kind", ["zarr", "NumPy", "dask"])
def test_the_current_client_is_used_unless_threads_are_asked_for(client, held, wanted, kind):
    y_true, y_pred, w = held[kind]
    with client.as_current():
        before = transitions(client)
        assert dx.evaluate(y_true, y_pred, sample_weight=w, threads=2, **OPTIONS) == wanted
        assert transitions(client) == before
        assert dx.evaluate(y_true, y_pred, sample_weight=w, **OPTIONS) == wanted
        assert transitions(client) > before


def test_a_client_that_is_not_current_is_not_used(client, held, wanted):
    y_true, y_pred, w = held["zarr"]
    before = transitions(client)
    assert dx.evaluate(y_true, y_pred, sample_weight=w, **OPTIONS) == wanted
    assert transitions(client) == before


def test_planning_for_a_cluster_sends_nothing(client, held):
    before = transitions(client)
    for y_true, y_pred, w in held.values():
        plan = dx.plan(y_true, y_pred, sample_weight=w, client=client, **OPTIONS)
        assert (plan.rows, plan.threads) == (400, 4)
    assert transitions(client) == before


def test_halves_from_different_places_are_the_whole(client, held, wanted):
    there = dx.evaluate(*held["zarr"][:2], sample_weight=held["zarr"][2], steps=(0, 185), client=client, **OPTIONS)
    here = dx.evaluate(*held["npy"][:2], sample_weight=held["npy"][2], steps=(185, 400), threads=2, **OPTIONS)
    there, here = (State.from_json(report.state.to_json()) for report in (there, here))
    assert there.merge(here) == here.merge(there) == wanted.state


def test_reports_come_back_from_a_worker(client, data, wanted):
    y_true, y_pred, w = data
    again = client.submit(dx.evaluate, y_true, y_pred, sample_weight=w, threads=1, pure=False, **OPTIONS).result()
    assert again == wanted
    assert pickle.loads(pickle.dumps(again)) == wanted


def test_the_state_of_a_part_is_small_however_exceptional_its_rows_are():
    exceptional = Finding(10**12, tuple((10**12 + row, 0.1 * row) for row in range(FIRST)))
    total = ExactSum.of(np.array([1e300, 1e-300]))
    totals = {f"statistic {i}": total for i in range(5)}
    sums = Sums(totals, total, 10**12, total)
    state = State(sums, {}, dict.fromkeys(AUDIT, exceptional), ((10**12, 2 * 10**12),))
    apart = pickle.loads(pickle.dumps(state.placed(lambda row: row + 1, state.covered)))  # findings of its own each
    assert len(pickle.dumps(apart)) < 5000


def test_chunks_in_many_axes_are_merged_before_they_travel(client, monkeypatch):
    rng = np.random.default_rng(4)
    labels, logits = rng.integers(0, 3, (24, 30, 20)), rng.normal(size=(24, 30, 20, 3)).astype("float32")
    x, sizes, window = da.from_array(logits, chunks=(6, 5, 7, 3)), [], cluster.Window.results

    def weighed(self):
        for found in window(self):
            sizes.append(len(pickle.dumps(found)))
            yield found

    monkeypatch.setattr(cluster.Window, "results", weighed)
    got = dx.evaluate(labels, x, client=client, from_logits=True)
    assert got == dx.evaluate(labels, logits, threads=1, from_logits=True)
    assert len(sizes) == 4  # chunks along the first axis, of 18 each, whose rows are 30 ranges and more
    assert max(sizes) < 2000


def test_states_with_many_keys_are_merged_on_the_workers(client, data, tmp_path, monkeypatch):
    y_true, y_pred, w = data
    held = write(tmp_path, "p", y_pred, (10, 11)), write(tmp_path, "g", np.arange(400) % 150, (400,))
    inputs, question = prepared(y_true, held[0], {"group": held[1]}, sample_weight=w, **OPTIONS)
    question = replace(question, by=((Group("group", "group"),),))
    sized.give(monkeypatch, part_bytes=1, smallest_part_bytes=1)
    inputs, _ = prepared(y_true, held[0], {"group": held[1]}, sample_weight=w, **OPTIONS)
    arrived, window = [], cluster.Window.results

    def noted(self):
        for found in window(self):
            arrived.append(found)
            yield found

    monkeypatch.setattr(cluster.Window, "results", noted)
    *_, report = running(inputs, question, client)
    *_, here = running(inputs, question, threads=1)
    assert report == here
    assert len(report.state.tables["group"]) > 140
    assert len(engine_for(inputs, client).plan(inputs, question, None)) == 40
    assert len(arrived) == 40 / cluster.KEYED
    arrived.clear()
    *_, report = running(inputs, replace(question, by=()), client)  # where states are small, each part is reported
    assert len(arrived) == 40
    with pytest.raises(ValueError, match=r"y_true: label 11 at row \d+ is outside \[0, 11\)"):
        list(running(inputs, replace(question, on_invalid="raise"), client))


@pytest.mark.parametrize("kind", ["zarr", "NumPy", "dask"])
def test_a_bad_label_is_named_by_its_row(client, held, kind):
    y_true, y_pred, w = held[kind]
    with pytest.raises(ValueError, match=r"y_true: label 11 at row \d+ is outside \[0, 11\)"):
        dx.evaluate(y_true, y_pred, sample_weight=w, client=client, **{**OPTIONS, "on_invalid": "raise"})


def test_a_missing_chunk_is_named(client, held, tmp_path):
    (tmp_path / "dump.zarr" / "p" / "c" / "4" / "0").unlink()
    with pytest.raises(ValueError, match=r"y_pred: chunk c/4/0 of .*/dump.zarr/p is missing"):
        dx.evaluate(held["zarr"][0], held["zarr"][1], client=client, **OPTIONS)
    got = dx.evaluate(held["zarr"][0], held["zarr"][1], client=client, on_missing="fill", **OPTIONS)
    assert got == dx.evaluate(held["zarr"][0], held["zarr"][1], threads=2, on_missing="fill", **OPTIONS)
    assert got.audit["prediction_missing"]["rows"] == list(range(148, 158))


def test_data_that_are_rewritten_are_read_anew(client, held, data, wanted):
    y_true, y_pred, w = held["zarr by path"]
    assert dx.evaluate(y_true, y_pred, sample_weight=w, client=client, **OPTIONS) == wanted
    z = zarr.open_array(y_pred)
    z[...] = -data[1]
    changed = dx.evaluate(data[0], -data[1], sample_weight=data[2], threads=1, **OPTIONS)
    assert dx.evaluate(y_true, y_pred, sample_weight=w, client=client, **OPTIONS) == changed
    assert changed != wanted


def test_lazy_results_are_persisted_and_computed_with_others(client, data, wanted):
    y_true, y_pred, w = data
    x = da.from_array(y_pred, chunks=(37, 11))
    report = dx.delayed(y_true, x, sample_weight=w, **OPTIONS)
    loss = dx.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")(np.clip(y_true, 0, 10), x)
    each = dx.losses.sparse_categorical_crossentropy(np.clip(y_true, 0, 10), x, from_logits=True)
    lazy = [report, loss, each]
    kept = client.persist(lazy)
    assert list(map(type, kept)) == list(map(type, lazy))
    for these in (kept, lazy):
        got, total, rows, biggest = client.gather(client.compute([*these, np.isnan(x).sum()]))
        assert got == wanted
        assert np.array_equal(total, loss.compute(scheduler="threads"), equal_nan=True)
        assert np.array_equal(rows, each.compute(scheduler="threads"), equal_nan=True)
        assert biggest == np.isnan(y_pred).sum()


def test_lazy_losses_run_on_the_cluster(client, data):
    y_true, y_pred, w = np.clip(data[0], 0, 10), data[1], data[2]
    x = da.from_array(y_pred, chunks=(37, 4))
    for loss in (dx.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=r) for r in ("sum", "none")):
        got = client.compute(loss(y_true, x, sample_weight=w)).result()
        assert np.array_equal(got, loss(y_true, y_pred, sample_weight=w), equal_nan=True)
