"""Chunks that several boxes need are decoded once, on every engine, and what is kept of them is bounded."""

import gc
import math
import threading
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import dask.array as da
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import running
import sized
import zarr
from numpy.testing import assert_array_equal
from zarr.storage import LocalStore, MemoryStore

import daskxent as dx
from daskxent.numbers.question import Question
from daskxent.sources.align import align
from daskxent.sources.boxes import boxes
from daskxent.sources.cache import ENTRY_BYTES, KEPT, Kept
from daskxent.sources.chunks import Chunks, TornChunk
from daskxent.sources.opening import open_array
from daskxent.sources.sizes import Sizes

CLASSES = 4


def count(seen):
    """Note every chunk that is read in this process; return what takes the note-taking away."""
    read = Chunks._read

    def noted(self, index, *rest):
        seen.append((self.name, index))
        return read(self, index, *rest)

    Chunks._read = noted
    return lambda: setattr(Chunks, "_read", read)


@pytest.fixture
def decoded():
    """The chunks that this process reads, by name and index, as often as it does."""
    seen = []
    stop = count(seen)
    yield seen
    stop()


@pytest.fixture(autouse=True)
def many_parts(monkeypatch):
    sized.give(monkeypatch, smallest_part_bytes=1000, run_rows=1)  # each box its own reading


def chunks_of(z):
    return math.prod(-(-n // c) for n, c in zip(z.shape, z.chunks, strict=True))


def write(store, name, values, chunks):
    with warnings.catch_warnings(action="ignore"):  # zarr's specification has no strings of fixed length
        z = zarr.create_array(
            store,
            name=name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=chunks,
            config={"write_empty_chunks": True},
        )
        z[...] = values
    return z


def maps(store, rng):
    """Segmentation maps, 12 of 16 x 16, in chunks of one."""
    logits = rng.normal(size=(12, CLASSES, 16, 16)).astype("float32")
    return rng.integers(0, CLASSES, (12, 16, 16)), write(store, "logits", logits, (1, CLASSES, 16, 16)), {"axis": 1}


MAPS = {
    "one": (12, 16, 16),
    "two": (12, 8, 16),
    "sixteen": (12, 4, 4),
    "of some maps": (5, 8, 16),
    "matching": (1, 16, 16),
}


def cases(store, what):
    """Labels, predictions and options of `evaluate`, of which some stored array reaches over many boxes."""
    rng = np.random.default_rng(3)
    kind, _, form = what.partition(": ")
    if kind == "dense":
        hot = np.eye(CLASSES, dtype="float32")[rng.integers(0, CLASSES, 200)]
        logits = write(store, "logits", rng.normal(size=(200, CLASSES)).astype("float32"), (20, CLASSES))
        return write(store, "hot", hot, (50, 2)), logits, {}
    if kind == "blocks":
        few, many = rng.normal(size=(200, 3)), rng.normal(size=(200, 6))
        blocks = [write(store, "few", few, (20, 3)), write(store, "many", many, (50, 3) if form else (50, 6))]
        return rng.integers(0, 9, 200), blocks, {}
    labels, logits, options = maps(store, rng)
    if kind == "labels":
        return write(store, "labels", labels, MAPS[form]), logits, options
    along = {"w": rng.random(labels.shape), "g": rng.choice(["de", "en", "日本"], labels.shape), "n": labels * 3}
    along = {name: write(store, name, values, MAPS["sixteen"]) for name, values in along.items()}
    options |= {"sample_weight": along.pop("w"), "by": along if kind == "further" else None}
    return write(store, "labels", labels, MAPS["two"]), logits, options


CASES = [*(f"labels: {form}" for form in MAPS), "weights", "further", "dense", "blocks", "blocks: two"]


def arrays_of(y_true, y_pred, options):
    several = [y_true, *(y_pred if isinstance(y_pred, list) else [y_pred])]
    several += [options["sample_weight"]] if "sample_weight" in options else []
    return [array for array in [*several, *(options.get("by") or {}).values()] if isinstance(array, zarr.Array)]


def last(y_true, y_pred, **options):
    joined = dx.concat(y_pred, axis=-1) if isinstance(y_pred, list) else y_pred
    return running.last(y_true, joined, from_logits=True, **options)


def in_memory(y_true, y_pred, options):
    """The report of the same values in NumPy arrays."""
    plain = [array[...] for array in y_pred] if isinstance(y_pred, list) else y_pred[...]
    weights, by = options.get("sample_weight"), options.get("by")
    options = {**options, "sample_weight": None if weights is None else weights[...]}
    options["by"] = by and {name: array[...] for name, array in by.items()}
    return last(np.asarray(y_true), plain, threads=1, **options)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("what", CASES)
def test_every_chunk_is_decoded_once_on_threads(tmp_path, decoded, what, threads):
    y_true, y_pred, options = cases(tmp_path, what)
    report = last(y_true, y_pred, threads=threads, **options)
    assert report.state == in_memory(y_true, y_pred, options).state
    assert set(Counter(decoded).values()) == {1}
    assert len(decoded) == sum(map(chunks_of, arrays_of(y_true, y_pred, options)))


def in_dask(y_pred):
    """Predictions as a dask array that reads no stored chunk; a list is put together."""
    whole = np.concatenate([a[...] for a in y_pred], axis=1) if isinstance(y_pred, list) else y_pred[...]
    return da.from_array(whole, chunks=(1, *whole.shape[1:]) if whole.ndim > 2 else (10, *whole.shape[1:]))


@pytest.mark.parametrize("where", ["files", "memory"])
@pytest.mark.parametrize("what", [what for what in CASES if not what.startswith("blocks")])
def test_every_chunk_is_decoded_once_next_to_dask_predictions(tmp_path, decoded, what, where):
    y_true, y_pred, options = cases(MemoryStore() if where == "memory" else tmp_path, what)
    report = last(y_true, in_dask(y_pred), threads=3, **options)
    assert report.state == in_memory(y_true, y_pred, options).state
    assert set(Counter(decoded).values()) == {1}
    assert len(decoded) == sum(map(chunks_of, arrays_of(y_true, [], options)))


@pytest.mark.parametrize("what", ["weights", "split"])
def test_chunks_that_tasks_side_by_side_take_whole_are_decoded_once(tmp_path, decoded, what):
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(size=(12, 6, CLASSES)), rng.integers(0, CLASSES, (12, 6))
    z, w = write(tmp_path, "labels", labels, (4, 6)), write(tmp_path, "w", rng.random(12), (4,))
    split = {"weights": (4, 2, CLASSES), "split": (4, 6, 1)}[what]
    lazily = dx.delayed(z, da.from_array(logits, chunks=split), sample_weight=w, from_logits=True)
    state = lazily.compute(scheduler="threads", num_workers=1).state  # its tasks remember nothing of one another
    once = dict.fromkeys(decoded, 1)
    assert Counter(decoded) == once
    assert len(once) == 6
    assert state == last(labels, logits, sample_weight=w[...], threads=1).state


def start_counting(dask_worker):
    dask_worker.decoded = []
    dask_worker.stop_counting = count(dask_worker.decoded)


def stop_counting(dask_worker):
    dask_worker.stop_counting()
    return dask_worker.decoded


@pytest.mark.slow
@pytest.mark.parametrize("predictions", ["stored", "dask"])
@pytest.mark.parametrize("what", ["labels: one", "labels: two", "further", "dense", "blocks: two"])
def test_every_chunk_is_decoded_once_in_each_process_of_a_cluster(client, tmp_path, what, predictions):
    import cloudpickle

    y_true, y_pred, options = cases(tmp_path, what)
    given = y_pred if predictions == "stored" else in_dask(y_pred)
    cloudpickle.register_pickle_by_value(__import__(__name__))
    try:
        client.run(start_counting)
        report = last(y_true, given, client=client, **options)
        found = client.run(stop_counting)
    finally:
        cloudpickle.unregister_pickle_by_value(__import__(__name__))
    assert report.state == in_memory(y_true, y_pred, options).state
    assert all(set(Counter(decoded).values()) <= {1} for decoded in found.values())
    read = {chunk for decoded in found.values() for chunk in decoded}
    assert len(read) == sum(map(chunks_of, arrays_of(y_true, y_pred if predictions == "stored" else [], options)))


def test_threads_that_ask_at_once_wait_for_one(monkeypatch):
    store, gate = Kept(), threading.Barrier(8)
    calls = []

    def read():
        calls.append(1)
        time.sleep(0.05)
        return np.arange(3)

    def ask():
        gate.wait()
        return store.get((b"a", 0), read)

    with ThreadPoolExecutor(8) as pool:
        found = [future.result() for future in [pool.submit(ask) for _ in range(8)]]
    assert len(calls) == 1
    assert len(set(map(id, found))) == 1


def test_a_read_that_fails_is_tried_by_those_who_waited():
    store, gate, calls = Kept(), threading.Barrier(4), []

    def read():
        calls.append(1)
        time.sleep(0.02)
        if len(calls) < 3:
            raise OSError("no luck")
        return np.arange(3)

    def ask():
        gate.wait()
        try:
            return store.get((b"a", 0), read) is not None
        except OSError:
            return False

    with ThreadPoolExecutor(4) as pool:
        found = [future.result() for future in [pool.submit(ask) for _ in range(4)]]
    assert sorted(found) == [False, False, True, True]
    assert len(calls) == 3


def test_what_is_not_there_is_asked_for_again():
    store, calls = Kept(), []
    for _ in range(2):
        assert store.get((b"a", 0), lambda: calls.append(1)) is None
    assert len(calls) == 2
    assert store.nbytes == 0


def test_what_was_used_last_is_kept_up_to_a_bound():
    store, calls = Kept(thread_bytes=3_000), []  # for two threads: 6,000, three chunks to the byte

    def get(number):
        return store.get((b"a", number), lambda: calls.append(number) or np.empty(2000, np.uint8))

    for number in (0, 1, 2, 0, 3, 0, 1):  # the third but last pushes 1 out, the last 2
        get(number)
    assert calls == [0, 1, 2, 3, 1]
    assert store.nbytes == 6000


def test_tiny_chunks_count_with_what_keeping_them_takes():
    store = Kept(thread_bytes=100 * ENTRY_BYTES)
    for number in range(1000):
        store.get((b"a", number), lambda: np.zeros(1, np.uint8))
    assert len(store._chunks) == 200


def test_a_chunk_beyond_the_bound_is_kept_until_the_next():
    store, calls = Kept(thread_bytes=10), []
    for number in (0, 0, 1, 1, 0):
        store.get((b"a", number), lambda number=number: calls.append(number) or np.empty(10**6, np.uint8))
    assert calls == [0, 1, 0]


@pytest.mark.parametrize("dtype", [object, np.dtypes.StringDType()])
def test_strings_count_with_their_text(dtype):
    store = Kept()
    store.get((b"a", 0), lambda: np.array(["x" * 1000] * 50, dtype))
    assert store.nbytes > 50_000


def test_strings_that_are_null_are_kept(tmp_path):
    path = tmp_path / "lang.parquet"
    pq.write_table(pa.table({"lang": ["en", None, "de"] * 4}), path)
    predictions = da.from_array(np.eye(12)[:, :2] + 0.5, chunks=(5, 2))
    report = dx.evaluate(np.arange(12) % 2, predictions, from_logits=True, by={"lang": path})
    assert sorted(report.by("lang")) == [("",), ("de",), ("en",)]


def test_those_who_wait_go_on_whatever_cannot_be_kept():
    store, begun = Kept(), threading.Event()

    def read():
        begun.set()
        time.sleep(0.1)
        return [1]  # of which nobody knows the size

    def ask():
        with pytest.raises(AttributeError):
            store.get((b"a", 0), read)
        return True

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask)
        begun.wait()
        assert pool.submit(ask).result(10)
        assert first.result(10)


def test_a_chunk_cut_off_at_the_bounds_counts_in_full(tmp_path):
    z = write(tmp_path, "z", np.arange(10), (1000,))
    source = open_array(z, "y")
    before = KEPT.nbytes
    assert source.read((slice(2, 4),)).tolist() == [2, 3]
    assert KEPT.nbytes - before >= 8000


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 300, 10**6])
@pytest.mark.parametrize("compressors", ["auto", None], ids=["zstd", "none"])
def test_many_threads_read_boxes_in_any_order_with_any_bound(tmp_path, monkeypatch, size, compressors):
    monkeypatch.setattr(KEPT, "thread_bytes", size)
    monkeypatch.setattr(KEPT, "entry_bytes", 0)
    values = np.arange(60 * 50).reshape(60, 50)
    z = zarr.create_array(tmp_path / "z", data=values, chunks=(7, 9), compressors=compressors)
    source = open_array(z, "y")

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(150):
            box = tuple(slice(*sorted(rng.choice(n + 1, 2, replace=False))) for n in z.shape)
            assert_array_equal(source.read(box), values[box])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))


def test_a_view_of_what_is_kept_outlives_the_reads_after_it(tmp_path):
    values = np.arange(40)
    source = open_array(zarr.create_array(tmp_path / "z", data=values, chunks=10, compressors=None), "y")
    views = [source.read((slice(at + 1, at + 5),)) for at in (0, 10, 20, 30)]
    for at, view in zip((0, 10, 20, 30), views, strict=True):
        assert_array_equal(view, values[at + 1 : at + 5])
        assert not view.flags.writeable


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_is_kept_of_arrays_that_are_dropped(tmp_path, threads):
    gc.collect()
    before = KEPT.nbytes
    y_true, y_pred, options = cases(tmp_path, "labels: two")
    stream = dx.stream(y_true, y_pred, from_logits=True, threads=threads, **options)
    next(stream)
    assert KEPT.nbytes > before
    list(stream)
    del stream
    gc.collect()
    assert KEPT.nbytes == before


def test_a_chunk_that_is_torn_is_an_error_each_time(tmp_path):
    z = write(tmp_path, "z", np.arange(10), (10,))
    (path,) = (tmp_path / "z" / "c").iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    source = open_array(z, "y_true")
    for _ in range(2):
        with pytest.raises(TornChunk, match=r"^y_true: chunk c/0 of .* cannot be decoded"):
            source.read((slice(0, 5),))


@pytest.mark.parametrize("predictions", ["stored", "dask"])
@pytest.mark.parametrize(
    ("chunks", "wanted"),
    [
        ((10**6, 64), 512_000_000),  # a chunk that reaches over all rows: once, however large
        ((10**6, 1), 256 << 20),  # the same in 64 chunks, of which a box touches all: as much as is kept
        ((1000, 64), 4 * 512_000),  # two for each thread: one ends in a box, the next begins in it
    ],
)
def test_a_plan_tells_what_is_kept(chunks, wanted, predictions):
    labels = zarr.create_array({}, shape=(10**6, 64), dtype="int64", chunks=chunks)
    x = zarr.create_array({}, shape=(10**6, 64, CLASSES), dtype="f4", chunks=(100, 64, CLASSES))
    x = x if predictions == "stored" else da.zeros(x.shape, dtype="f4", chunks=(10**4, 64, CLASSES))
    held = labels, np.broadcast_to(np.int64(0), labels.shape)
    stored, in_memory = (dx.plan(y_true, x, from_logits=True, threads=2).memory for y_true in held)
    assert stored - in_memory == wanted


@pytest.mark.parametrize("predictions", ["stored", "dask"])
@pytest.mark.parametrize(
    ("chunks", "wanted"),
    [
        ((1000, CLASSES), 4 * 32_000),  # chunks are kept; a box of predictions is a view of one
        ((100, CLASSES), 4 * 3_200 + 2 * 32_000),  # each thread puts one together
        ((1000, 1), 4 * 32_000 + 2 * 32_000),
    ],
)
def test_a_plan_tells_what_dense_labels_are_put_together_in(chunks, wanted, predictions):
    labels = zarr.create_array({}, shape=(10**5, CLASSES), dtype="f8", chunks=chunks)
    x = zarr.create_array({}, shape=(10**5, CLASSES), dtype="f4", chunks=(1000, CLASSES))
    x = x if predictions == "stored" else da.zeros(x.shape, dtype="f4", chunks=(1000, CLASSES))
    held = labels, np.broadcast_to(np.float64(0), labels.shape)
    stored, in_memory = (dx.plan(y_true, x, from_logits=True, threads=2).memory for y_true in held)
    assert stored - in_memory == wanted


@pytest.mark.parametrize(("labels", "rows"), [("stored", 1000), ("memory", 5000)])
def test_dense_labels_are_read_in_pieces_next_to_predictions_in_memory(labels, rows):
    dense = zarr.create_array({}, data=np.eye(8)[np.arange(5000) % 8], chunks=(100, 8))
    given = dense if labels == "stored" else dense[:]
    inputs = align(open_array(given, "y_true"), open_array(np.zeros((5000, 8), "f4"), "y_pred"), None)
    inputs = replace(inputs, sizes=Sizes(piece_bytes=1000 * 32))
    question = Question(("crossentropy",), 8, from_logits=True, dense=True)
    assert {each.box[0].stop - each.box[0].start for each in boxes(inputs, question, 0, 5000)} == {rows}


@pytest.mark.parametrize("where", ["files", "memory", "shards"])
@pytest.mark.parametrize("chunk", [5, 20])
def test_a_graph_that_is_computed_again_reads_what_was_rewritten(tmp_path, where, chunk):
    rng = np.random.default_rng(5)
    labels, logits = rng.integers(1, CLASSES, 20), rng.normal(size=(20, CLASSES))
    store = MemoryStore() if where == "memory" else LocalStore(tmp_path)
    shards = {"shards": (20,)} if where == "shards" else {}
    z = zarr.create_array(store, name="z", data=labels, chunks=(chunk,), **shards)
    x = da.from_array(logits, chunks=(4, CLASSES))
    each = dx.losses.sparse_categorical_crossentropy(z, x, from_logits=True)
    whole = dx.delayed(z, x, from_logits=True)
    for _ in range(3):
        labels = np.roll(labels, 1)
        z[...] = labels
        wanted = dx.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        assert_array_equal(each.compute(scheduler="threads", num_workers=1), wanted)
        got = whole.compute(scheduler="threads", num_workers=1)
        assert got.state == dx.evaluate(labels, logits, from_logits=True, threads=1).state


def test_a_graph_reads_stored_predictions_that_were_rewritten(tmp_path):
    rng = np.random.default_rng(6)
    few, many = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    blocks = [write(tmp_path, "few", few, (5, 3)), write(tmp_path, "many", many, (20, 1))]
    labels = rng.integers(0, 5, 40)
    lazily = dx.delayed(labels, dx.concat(blocks, axis=-1), from_logits=True)
    for _ in range(2):
        many = np.roll(many, 1, axis=0)
        blocks[1][...] = many
        wanted = dx.evaluate(labels, np.concatenate([few, many], axis=1), from_logits=True, threads=1)
        assert lazily.compute(scheduler="threads", num_workers=1).state == wanted.state


def test_a_graph_of_files_decodes_a_chunk_once_for_all_its_tasks(tmp_path, decoded):
    rng = np.random.default_rng(7)
    labels, logits = rng.integers(0, CLASSES, 40), rng.normal(size=(40, CLASSES))
    z = write(tmp_path, "z", labels, (40,))
    dx.losses.sparse_categorical_crossentropy(z, da.from_array(logits, chunks=(4, CLASSES)), from_logits=True).compute(
        scheduler="threads", num_workers=2
    )
    assert decoded == [("y_true", (0,))]


@pytest.mark.slow
def test_runs_on_workers_read_what_was_rewritten_between_them(client, tmp_path):
    rng = np.random.default_rng(8)
    labels, logits = rng.integers(1, CLASSES, 40), rng.normal(size=(40, CLASSES))
    z = write(tmp_path, "z", labels, (40,))
    for x in (da.from_array(logits, chunks=(4, CLASSES)), logits):
        for _ in range(2):
            labels = np.roll(labels, 1)
            z[...] = labels
            assert last(z, x, client=client).state == last(labels, logits, threads=1).state
