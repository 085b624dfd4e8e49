import asyncio
import itertools
import json
import math
import pickle
import shutil
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce

import dask.array as da
import numpy as np
import pytest
import reference
import running
import sized
import zarr
from hypothesis import given
from hypothesis import strategies as st
from strategies import MANY, SOME, partitions, questions
from zarr.storage import MemoryStore, WrapperStore

import daskxent as dx
from daskxent.numbers.state import State, merge_all
from daskxent.report import Report
from daskxent.run import parts, planning
from daskxent.run.driver import drive
from daskxent.run.parts import Work
from daskxent.run.threads import Caller
from daskxent.sources.align import align
from daskxent.sources.chunks import Chunks
from daskxent.sources.cuts import Even
from daskxent.sources.npy import Npy
from daskxent.sources.opening import open_array
from daskxent.sources.sizes import Sizes
from daskxent.sources.source import Base
from daskxent.sources.zarr_arrays import Zarr

METRICS = ("crossentropy", "accuracy", "top_3_accuracy", "perplexity", "bits")


def ask(y_true, y_pred, **options):
    with warnings.catch_warnings():  # what is drawn may leave no weight
        warnings.filterwarnings("ignore", "(no row was counted|the weights sum to zero): the metrics are NaN")
        return dx.evaluate(y_true, y_pred, **{"threads": 2, **options})


def test_sizes_go_with_the_work():
    inputs, _ = running.prepared([0, 1], np.eye(2), from_logits=True)
    inputs = replace(inputs, sizes=Sizes(few=3, run_rows=5))
    assert pickle.loads(pickle.dumps(inputs.window(0, 1))).sizes == Sizes(few=3, run_rows=5)
    assert len(pickle.dumps(Sizes())) < 120  # for every part


@contextmanager
def tiny(part=1, rows=1 << 22, run=1 << 20, piece=16 << 20, few=1 << 14):
    """Make parts of `part` bytes or `rows` rows, runs of `run` rows, pieces of `piece` bytes."""
    with pytest.MonkeyPatch.context() as patch:
        sized.give(
            patch,
            part_bytes=part,
            smallest_part_bytes=part,
            part_rows=rows,
            run_rows=run,
            piece_bytes=piece,
            few=few,
            row_bytes=1,
        )
        yield


def stored(values, chunks, shards=None, store=None):
    z = zarr.create_array(
        {} if store is None else store, shape=values.shape, dtype=values.dtype, chunks=chunks, shards=shards,
        compressors=None, config={"write_empty_chunks": True},
    )  # fmt: skip
    z[...] = values
    return z


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(4)
    y_true, w = rng.integers(0, 11, 101), rng.random(101).round(2)
    y_true[::7] = -1
    y_pred = rng.normal(0, 3, (101, 11)).astype("float32")
    y_pred[::5, 3] = np.nan
    return y_true, y_pred, w


OPTIONS = {"metrics": METRICS, "from_logits": True, "on_invalid": "skip"}


@MANY
@given(questions())
def test_metrics_are_those_of_the_reference(question):
    y_true, y_pred, options = question
    got, wanted = ask(y_true, y_pred, **options), reference.evaluate(y_true, y_pred, **options)
    wide, classes = y_pred.dtype == np.float64, y_pred.shape[options["axis"]]
    # The promise for one loss, the resolution of the slices, and for dense probabilities a rounding of q near 1 (all
    # as in test_rows). Accuracies are ratios of exact sums: one rounding here, and 2**-64 per row there.
    relative, absolute = (1e-14, classes * 2.0**-50) if wide else (2e-6, classes * (2.0**-48 + 2.0**-50))
    nats = abs(float(wanted["crossentropy"]))
    for name, value in wanted.items():
        within = {"bits": 2 * relative, "crossentropy": relative}.get(name, 2.0**-52)
        if name == "perplexity":  # exp turns an absolute error into a relative one
            within = relative * (nats if math.isfinite(nats) else 1) + absolute + 2.0**-50
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(got[name], float(value), within, 2 * absolute, err_msg=name)


@MANY
@given(questions(), st.data())
def test_any_chunking_and_any_cut_give_the_same_report(question, data):
    y_true, y_pred, options = question
    if y_pred.dtype.name == "bfloat16":
        y_pred, options["view"] = y_pred.view("uint16"), "bfloat16"
    wanted = ask(y_true, y_pred, **options, threads=1)
    sizes = {name: data.draw(st.integers(1, 60), name) for name in ("rows", "run")}
    byte = {name: data.draw(st.sampled_from([1, 50, 300, 1 << 20]), name) for name in ("part", "piece")}
    threads = data.draw(st.sampled_from([1, 2, 5]))
    kind = data.draw(st.sampled_from(["NumPy", "zarr", "dask", "blocks"]))
    held = y_pred
    if kind == "zarr":
        chunks = tuple(data.draw(st.integers(1, n)) for n in y_pred.shape)
        held = stored(y_pred, chunks, data.draw(st.sampled_from([None, tuple(2 * c for c in chunks)])))
    elif kind == "dask":
        held = da.from_array(y_pred, chunks=tuple(data.draw(partitions(n)) for n in y_pred.shape))
    elif kind == "blocks":
        axis = options["axis"]
        held = dx.concat(np.split(y_pred, np.cumsum(data.draw(partitions(y_pred.shape[axis])))[:-1], axis=axis), axis)
    with tiny(**sizes, **byte):
        assert ask(y_true, held, **options, threads=threads) == wanted
        assert list(dx.stream(y_true, held, **options, threads=threads))[-1] == wanted


@pytest.mark.slow
@pytest.mark.parametrize("few", [0, 1 << 14], ids=["compiled", "NumPy"])
@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("part", [1, 1000, 1 << 20])
def test_any_number_of_threads_gives_the_same_report(data, part, threads, few):
    y_true, y_pred, w = data
    wanted = ask(y_true, y_pred, sample_weight=w, **OPTIONS)
    assert wanted.audit["nan"]["count"] == len([row for row in range(0, 101, 5) if w[row]])
    with tiny(part, few=few):
        joined = dx.concat([y_pred[:, :5], y_pred[:, 5:]], axis=-1)
        for held in (y_pred, stored(y_pred, (4, 11)), stored(y_pred, (4, 3), (8, 6)), joined):
            assert ask(y_true, held, sample_weight=w, threads=threads, **OPTIONS) == wanted


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_completion_does_not_matter(data, monkeypatch, seed):
    y_true, y_pred, w = data
    wanted = ask(y_true, y_pred, sample_weight=w, **OPTIONS)
    evaluate, rng, order = parts.evaluate_part, np.random.default_rng(seed), []

    def late(inputs, question, start, stop, *more):
        time.sleep(rng.random() / 200)
        order.append(start)
        return evaluate(inputs, question, start, stop, *more)

    monkeypatch.setattr(parts, "evaluate_part", late)
    with tiny():
        reports = list(dx.stream(y_true, y_pred, sample_weight=w, threads=8, **OPTIONS))
    assert order != sorted(order)
    assert len(reports) == 101
    assert reports[-1] == wanted


def test_a_stream_counts_up_and_only_its_last_report_is_complete(data):
    y_true, y_pred, w = data
    with tiny(300):
        reports = list(dx.stream(y_true, y_pred, sample_weight=w, threads=2, **OPTIONS))
        plan = dx.plan(y_true, y_pred, threads=2, **OPTIONS)
    assert len(reports) == len(plan) > 10
    rows = [report.rows for report in reports]
    assert rows == sorted(set(rows))
    assert [report.complete for report in reports] == [False] * (len(plan) - 1) + [True]
    assert rows[-1] == reports[0].expected == 101
    for report in reports[:-1]:  # each is the report of the rows it covers
        some = [ask(y_true, y_pred, sample_weight=w, steps=span, **OPTIONS).state for span in report.state.covered]
        assert reduce(State.merge, some) == report.state


class Dropping(WrapperStore):
    """Let go of a stream in zarr's own thread, while a part of it waits for a chunk from there."""

    first, reports, dropped = True, None, threading.Event()

    async def get(self, key, prototype, byte_range=None):
        if byte_range is not None:  # samples of chunks, by which to know the array
            return await super().get(key, prototype, byte_range)
        if "/c/" in f"/{key}" and not self.first:
            while self.reports is None:
                await asyncio.sleep(0.001)
            self.reports.close()
            self.dropped.set()
        self.first = self.first and "/c/" not in f"/{key}"
        return await super().get(key, prototype)


def test_a_stream_may_be_dropped_in_a_thread_that_its_parts_wait_for(data):
    """As the garbage collector does, which runs in any thread."""
    y_true, y_pred, w = data
    store = Dropping(MemoryStore())
    held = stored(y_pred, (4, 11), store=store)
    with tiny():
        reports = dx.stream(y_true, held, sample_weight=w, threads=1, **OPTIONS)
        next(reports)
        store.reports = reports
        assert store.dropped.wait(20)


@SOME
@given(questions(), st.data())
def test_pieces_merged_from_json_are_the_whole(question, data):
    y_true, y_pred, options = question
    if options["axis"] % y_pred.ndim == 0 or y_pred.shape[0] == 1:
        y_true, y_pred = np.zeros(5, int), np.eye(5, 3)
        options = {"axis": -1, "metrics": options["metrics"]}
    wanted = ask(y_true, y_pred, **options)
    edges = np.cumsum([0, *data.draw(partitions(y_pred.shape[0]))]).tolist()
    reported = [ask(y_true, y_pred, **options, steps=span).to_json() for span in itertools.pairwise(edges)]
    for text in reported:
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    states = [Report.from_json(text).state for text in data.draw(st.permutations(reported))]
    assert reduce(State.merge, states) == wanted.state
    whole = Report.from_json(wanted.to_json())
    assert whole == wanted
    assert np.array_equal(list(whole.metrics.values()), list(wanted.metrics.values()), equal_nan=True)


def test_rows_covered_twice_are_an_error(data, monkeypatch):
    y_true, y_pred, _ = data
    spans = planning.Plan.__iter__
    monkeypatch.setattr(planning.Plan, "__iter__", lambda plan: itertools.chain(spans(plan), [(3, 5)]))
    with tiny(300), pytest.raises(ValueError, match="rows 3 to 4 are covered twice"):
        ask(y_true, y_pred, **OPTIONS)


def test_rows_not_covered_are_an_incomplete_result(data, monkeypatch):
    y_true, y_pred, _ = data
    rest = ask(y_true, y_pred, **OPTIONS, steps=(5, 101))
    spans = planning.Plan.__iter__
    monkeypatch.setattr(planning.Plan, "__iter__", lambda plan: itertools.islice(spans(plan), 1, None))
    with tiny(5 * 44), pytest.raises(dx.IncompleteResult, match="5 of 101 rows were not evaluated") as caught:
        ask(y_true, y_pred, **OPTIONS)
    report = caught.value.report
    assert (report.rows, report.expected, report.complete) == (96, 101, False)
    assert report.state == rest.state
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.report) == (str(caught.value), report)


def test_one_pass_gives_any_number_of_metrics(data):
    y_true, y_pred, w = data
    every = ask(y_true, y_pred, sample_weight=w, **OPTIONS)
    for name in METRICS:
        one = ask(y_true, y_pred, sample_weight=w, **{**OPTIONS, "metrics": name})
        assert one.metrics == {name: every[name]}
        assert one.weight == every.weight
    assert list(ask(y_true, y_pred, **{**OPTIONS, "metrics": METRICS[::-1]})) == list(METRICS[::-1])


LAYOUTS = {
    "rows": ((6, 11), None),
    "classes too": ((6, 4), None),
    "shards": ((3, 11), (12, 11)),
    "both": ((3, 4), (9, 8)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("part", [1, 1 << 20])
@pytest.mark.parametrize("labels", [(5,), (101,)], ids="labels in chunks of {0[0]}".format)
@pytest.mark.parametrize("rows", [None, (17, 95)])
def test_every_chunk_of_predictions_is_read_once(data, monkeypatch, layout, part, labels, rows):
    y_true, y_pred, w = data
    read, seen = Chunks.read, []

    def counting(chunks, index, *rest):
        seen.append((chunks.name, index))
        return read(chunks, index, *rest)

    monkeypatch.setattr(Chunks, "read", counting)
    chunks, shards = LAYOUTS[layout]
    with tiny(part, run=24):
        held = stored(y_true, labels), stored(y_pred, chunks, shards)
        ask(*held, sample_weight=stored(w, (7,)), steps=rows, **OPTIONS)
    start, stop = rows or (0, 101)
    grid = range(start // chunks[0], math.ceil(stop / chunks[0])), range(math.ceil(11 / chunks[1]))
    assert sorted(index for name, index in seen if name == "y_pred") == list(itertools.product(*grid))


def refuse(*_):
    raise AssertionError("something was read")


@pytest.fixture
def unreadable(tmp_path, monkeypatch):
    """Labels and predictions, as zarr, npy and dask, that raise when they are read."""
    np.save(tmp_path / "p.npy", np.zeros((50, 7), "float32"))
    held = {
        "zarr": stored(np.zeros((50, 7), "float32"), (4, 7)),
        "npy": str(tmp_path / "p.npy"),
        "dask": da.from_array(np.zeros((50, 7), "float32"), chunks=(4, 3)).map_blocks(refuse, dtype="float32"),
    }
    held["labels"] = stored(np.zeros(50, int), (9,))
    monkeypatch.setattr(Zarr, "read", refuse)
    monkeypatch.setattr(Chunks, "read", refuse)
    monkeypatch.setattr(Npy, "read", refuse)
    return held


@pytest.mark.parametrize("kind", ["zarr", "npy", "dask"])
def test_planning_reads_nothing(unreadable, kind):
    plan = dx.plan(unreadable["labels"], unreadable[kind], sample_weight=unreadable["labels"], threads=2)
    assert (plan.rows, plan.nbytes) == (50, 50 * 7 * 4)
    assert "50" in repr(plan)
    assert "<table>" in plan._repr_html_()
    assert pickle.loads(pickle.dumps(plan)) == plan
    stream = dx.stream(unreadable["labels"], unreadable[kind], threads=2)
    with pytest.raises(AssertionError, match="something was read"):
        next(stream)


@SOME
@given(st.data())
def test_the_parts_of_a_plan_cover_every_row_once(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 30), min_size=2, max_size=4)))
    axis = data.draw(st.integers(0, len(shape) - 1))
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    z = zarr.create_array({}, shape=shape, dtype="float32", chunks=chunks)
    positions = shape[:axis] + shape[axis + 1 :]
    with tiny(data.draw(st.sampled_from([1, 100, 1000])), data.draw(st.integers(1, 50))):
        plan = dx.plan(np.zeros(positions, int), z, axis=axis, threads=data.draw(st.integers(1, 4)))
    spans = list(plan)
    assert len(plan) == len(spans)
    assert [step for span in spans for step in range(*span)] == list(range(plan.start, plan.stop))
    assert sum(b - a for a, b in spans) * plan.rows_per_step == plan.rows == math.prod(positions)
    assert plan.chunks == math.prod(math.ceil(n / c) for n, c in zip(shape, chunks, strict=True))
    lead = next((i for i, n in enumerate(positions) if n > 1), 0)
    grid = (chunks[:axis] + chunks[axis + 1 :])[lead]
    assert all(start % grid == 0 for start, _ in spans)  # no chunk belongs to two parts


@pytest.mark.parametrize("rows", [102_400, 99_991, 100_003])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_an_array_in_memory_is_cut_into_equal_parts(rows, threads, monkeypatch):
    sized.give(monkeypatch, smallest_part_bytes=rows * 40 // 7, row_bytes=1)
    plan = dx.plan(np.zeros(rows, int), np.zeros((rows, 10), "f4"), threads=threads)
    sizes = [stop - start for start, stop in plan]
    assert len(sizes) == {1: 7, 2: 6, 3: 6}[threads]
    assert max(sizes) - min(sizes) < len(sizes)


def test_short_rows_are_cut_by_their_number():
    rows, number = 3 << 20, np.zeros(1, "f4")
    plans = [
        dx.plan(np.broadcast_to(0, n), np.broadcast_to(number, (n, classes)), threads=2)
        for n, classes in ((rows, 2), (rows // 8, 16))
    ]
    assert plans[0].nbytes == plans[1].nbytes
    assert [len(plan) for plan in plans] == [2, 1]


def test_a_plan_of_a_million_chunks_is_a_handful_of_integers():
    z = zarr.create_array({}, shape=(10**9, 10), dtype="float32", chunks=(1000, 10))
    labels = zarr.create_array({}, shape=(10**9,), dtype="uint8", chunks=(10**6,))
    plan = dx.plan(labels, z, threads=2)
    assert plan.chunks == 10**6
    assert len(pickle.dumps(plan)) < 1000
    assert len(plan) < 1000
    assert plan.memory < 200e6


@pytest.mark.parametrize("start", [None, 0, 17, -30, 200, -200])
@pytest.mark.parametrize("stop", [None, 0, 40, 101, -1, 300, -300])
def test_steps_are_clipped_like_a_slice(data, start, stop):
    y_true, y_pred, w = data
    edges, options = (start, stop), {"metrics": ["accuracy"], "from_logits": True, "on_invalid": "skip", "threads": 1}
    wanted = tuple(slice(*edges).indices(101)[:2])
    some = wanted[0] < wanted[1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for steps in (edges, slice(*edges), list(edges)):
            report = dx.evaluate(y_true, y_pred, sample_weight=w, steps=steps, **options)
            assert report.complete
            assert report.state.covered == ((wanted,) if some else ())
    assert {str(each.message) for each in caught} == (set() if some else {"no row was counted: the metrics are NaN"})
    *_, streamed = dx.stream(y_true, y_pred, sample_weight=w, steps=edges, **options)
    assert streamed == report
    parts = dx.plan(y_true, y_pred, steps=edges, threads=1)
    assert sum(last - first for first, last in parts) == report.rows


def test_the_plan_of_dask_arrays_has_their_chunks_as_parts():
    x = da.zeros((100, 3, 4), chunks=((30, 50, 20), 2, 4), dtype="f4")
    plan = dx.plan(np.zeros((100, 3), int), x)
    assert list(plan) == [(0, 30), (30, 80), (80, 100)]
    assert (len(plan), plan.rows, plan.chunks) == (3, 300, 6)
    assert "3 of up to 150 rows" in repr(plan)


def test_steps_are_those_of_the_first_axis_even_if_it_has_only_one():
    y, x = np.zeros((1, 9), int), np.eye(9)[None]
    assert dx.evaluate(y, x, steps=(0, 5)).rows == 9
    with pytest.warns(UserWarning, match="no row was counted"):
        assert dx.evaluate(y, x, steps=(1, 5)).rows == 0


class Slow(Base):
    """Logits in chunks of ten rows, each of which takes a while to read."""

    name, shape, dtype = "y_pred", (100, 11), np.dtype("float32")

    def __init__(self, values, seconds):
        self.values, self.seconds = values, seconds

    def stored(self, axis):
        return Even(self.shape[axis], (10, 11)[axis])

    def read(self, box, missing=None):
        time.sleep(self.seconds)
        return self.values[box]


@pytest.mark.slow
def test_large_parts_report_meanwhile(data, monkeypatch):
    y_true, y_pred, w = (array[:100] for array in data)
    _, question = running.prepared(y_true, y_pred, sample_weight=w, **OPTIONS)
    slow, inputs = (
        align(open_array(y_true, "y_true"), Slow(y_pred, seconds), open_array(w, "sample_weight"))
        for seconds in (0.15, 0.01)
    )
    wanted = dx.evaluate(y_true, y_pred, sample_weight=w, **OPTIONS)
    for seconds, most in ((math.inf, 100), (0, 10), (0.015, 40)):
        state, reached = parts.evaluate_part(inputs, question, 0, 100, patience=seconds)
        assert state.covered == ((0, reached),)
        assert 10 <= reached <= most
        assert reached == most or seconds == 0.015
    moments, reports = [], []
    for report in running.running(slow, question, threads=2):
        moments.append(time.monotonic())
        reports.append(report)
    assert reports[-1] == wanted
    assert len(reports) >= 2  # one part takes 1.5 s
    for work in (Work(inputs, question, patience=0), Work(inputs, question, patience=math.inf)):
        found = list(drive(Caller(work), [(0, 50), (50, 100)]))
        assert merge_all(done.state for done in found) == wanted.state
        assert len(found) == (10 if work.patience == 0 else 2)


def test_an_event_loop_is_not_blocked_by_threads(data):
    y_true, y_pred, w = data
    given = {"sample_weight": w, **OPTIONS, "threads": 2}

    async def evaluate():
        streamed = [report async for report in dx.astream(y_true, y_pred, **given)]
        with pytest.raises(ValueError, match="threads: expected at least 1"):
            await dx.aevaluate(y_true, y_pred, **{**given, "threads": 0})
        return await dx.aevaluate(y_true, y_pred, **given), streamed[-1]

    assert asyncio.run(evaluate()) == (dx.evaluate(y_true, y_pred, **given),) * 2


@pytest.mark.parametrize("rows", [(0, 1), (17, 101), (100, 101), (6, 12)])
def test_some_rows_are_evaluated_alone(data, rows):
    y_true, y_pred, w = data
    part = slice(*rows)
    wanted = ask(y_true[part], y_pred[part], sample_weight=w[part], **OPTIONS)
    for held in (y_pred, stored(y_pred, (6, 11)), stored(y_pred, (5, 4))):
        with tiny(200):
            got = ask(y_true, held, sample_weight=w, steps=rows, **OPTIONS)
        assert got.state.total.totals == wanted.state.total.totals
        assert got.state.covered == (rows,)
        assert {kind: [row - rows[0] for row in found["rows"]] for kind, found in got.audit.items()} == {
            kind: found["rows"] for kind, found in wanted.audit.items()
        }


def test_a_bad_label_is_named_by_its_row_whoever_holds_it(tmp_path):
    y_true, y_pred = np.zeros((9, 10), int), np.zeros((9, 3, 10), "float32")
    y_true[7, 4] = 5
    np.save(tmp_path / "p.npy", y_pred)
    for held in (y_pred, stored(y_pred, (2, 2, 3)), da.from_array(y_pred, chunks=(2, 2, 3)), str(tmp_path / "p.npy")):
        for labels in (y_true, stored(y_true, (4, 4)), da.from_array(y_true, chunks=4)):
            with (
                tiny(64),
                pytest.raises(ValueError, match=r"label 5 at row 74 \(position \(7, 4\)\) is outside \[0, 3\)"),
            ):
                ask(labels, held, axis=1)


def test_reports_pickle(data):
    y_true, y_pred, w = data
    report = ask(y_true, y_pred, sample_weight=w, **OPTIONS)
    again = pickle.loads(pickle.dumps(report))
    assert again == report
    assert again.to_dict() == report.to_dict()


MEASURE = """
import sys, threading, time
import numpy as np, psutil
import daskxent as dx

labels, *dumps = sys.argv[1:]
for dump in dumps:  # imports, and compiles
    dx.evaluate(labels, dump, from_logits=True, steps=(0, 1000))
process, done = psutil.Process(), threading.Event()
before = peak = process.memory_info().rss

def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, process.memory_info().rss)

thread = threading.Thread(target=watch)
thread.start()
for dump in dumps:
    report = dx.evaluate(labels, dump, from_logits=True, threads=2)
    print(peak - before, report.rows, report["accuracy"])
done.set()
thread.join()
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_dump(tmp_path):
    # 300 MB of logits in chunks of 4 MB: as they are, compressed and split by classes, and as one file. What may be
    # held at a time is a chunk and a record per row of it for each of two threads; half the dump is far more than that.
    chunk = np.random.default_rng(0).integers(-8, 8, (1000, 1000)).astype("float32")
    raw = zarr.create_array(
        tmp_path / "raw", shape=(75_000, 1000), dtype="float32", chunks=(1000, 1000), compressors=None
    )
    split = zarr.create_array(tmp_path / "split", shape=(75_000, 1000), dtype="float32", chunks=(4000, 250))
    one = np.lib.format.open_memmap(tmp_path / "one.npy", "w+", "float32", raw.shape)
    for at in range(0, 75_000, 4000):
        rows = slice(at, min(at + 4000, 75_000))
        raw[rows] = split[rows] = one[rows] = np.tile(chunk, (4, 1))[: rows.stop - at]
    zarr.save_array(tmp_path / "labels", np.tile(chunk.argmax(axis=1), 75))
    paths = [str(tmp_path / name) for name in ("labels", "raw", "split", "one.npy")]
    run = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True)
    for name in ("raw", "split"):  # pytest keeps what three runs left behind
        shutil.rmtree(tmp_path / name)
    (tmp_path / "one.npy").unlink()
    lines = [line.split() for line in run.stdout.splitlines()]
    assert [(int(rows), float(accuracy)) for _, rows, accuracy in lines] == [(75_000, 1.0)] * 3
    assert max(int(grown) for grown, _, _ in lines) < 150e6


def test_tiny_local_chunks_are_read_by_one_thread(tmp_path, monkeypatch):
    sized.give(monkeypatch, tiny_bytes=1 << 17)
    labels = np.zeros(1 << 16, int)
    for rows, store, threads in ((1 << 12, tmp_path / "tiny", 1), (1 << 14, tmp_path / "fair", 3), (1 << 12, {}, 3)):
        x = zarr.create_array(store, shape=(1 << 16, 4), chunks=(rows, 4), dtype="f4", fill_value=1)
        assert dx.plan(labels, x, from_logits=True, threads=3).threads == threads
        assert dx.plan(labels, dx.concat([x, x], axis=-1), from_logits=True, threads=3).threads == threads
        shown = "at a time    1 thread, " if threads == 1 else "at a time    3 threads, "
        assert shown in repr(dx.plan(labels, x, from_logits=True, threads=3))
