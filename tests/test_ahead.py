"""Stores far away: chunks are asked for ahead, each once, within bounds, to the same bits."""

import asyncio
import json
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore, WrapperStore

import daskxent as dx
from daskxent.sources import chunks as sources_chunks
from daskxent.sources import prefetch
from daskxent.sources.buckets import stores
from daskxent.sources.objects import waited
from daskxent.sources.prefetch import Window

SERVER = Path(__file__).parents[1] / "benchmarks/objects.py"
ROWS, CLASSES = 6000, 50
RNG = np.random.default_rng(0)
X, Y = RNG.normal(0, 3, (ROWS, CLASSES)).astype("float32"), RNG.integers(0, CLASSES, ROWS)
ARRAYS = {
    "chunks": {"chunks": (100, CLASSES)},
    "shards": {"chunks": (50, CLASSES), "shards": (1000, CLASSES)},
    "split": {"chunks": (500, 20)},
}
OBJECTS = {"chunks": 60, "shards": 2 * 6, "split": 12 * 3}  # a shard is its index and a range


class Server:
    """A bucket `b` that is 10 ms away; `options` are those of storage, and `requests` says what was asked."""

    def __init__(self, directory, *arguments):
        line = [sys.executable, SERVER, directory, "--latency", "0.01", *arguments]
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        self.options = {"anon": True, "client_kwargs": {"endpoint_url": self.url}}

    def requests(self):
        with urllib.request.urlopen(f"{self.url}/requests") as answer:
            return json.load(answer)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    root = tmp_path_factory.mktemp("objects")
    for name, layout in ARRAYS.items():
        zarr.create_array(root / "b", name=name, data=X, **layout)
    zarr.create_array(root / "b", name="labels", data=Y, chunks=(700,))
    return root


@pytest.fixture(scope="module")
def server(directory):
    found = Server(directory)
    yield found
    found.close()


@pytest.fixture(params=["obstore", "s3fs", "http"])
def base(request, server, monkeypatch):
    """Return where the bucket is, and what opens it, as one of three libraries serves it."""
    if request.param == "http":
        return f"{server.url}/b", None
    if request.param == "s3fs":
        monkeypatch.setattr("daskxent.sources.buckets.find_spec", lambda name: None)
    return "s3://b", server.options


def expected(**options):
    return dx.evaluate(Y, X, from_logits=True, **options).state


@pytest.mark.parametrize("name", ARRAYS)
def test_every_object_is_asked_for_once(base, name, server):
    where, options = base
    server.requests()
    report = dx.evaluate(f"{where}/labels", f"{where}/{name}", from_logits=True, storage_options=options)
    asked = server.requests()
    assert report.state == expected()
    labels, metadata, samples = 9, 2, 4
    assert asked["GET"] <= OBJECTS[name] + labels + metadata + samples
    assert asked["at once"] > 2 * 2  # what two threads ask for without a window
    assert not prefetch.WINDOW._parts
    assert prefetch.WINDOW._nbytes == 0


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
def test_slices_joins_and_other_questions_are_read_ahead_too(server, threads):
    options = {"from_logits": True, "storage_options": server.options, "threads": threads}
    x, y = dx.open("s3://b/chunks", storage_options=server.options), "s3://b/labels"
    server.requests()
    assert dx.evaluate(f"{y}[200:900]", x[200:900, 3:], ignore_class=-1, on_invalid="skip", **options).rows == 700
    assert server.requests()["GET"] <= 7 + 2 + 2 + 4  # 7 chunks of predictions
    halves = dx.concat([x[:2050], x[2050:]])
    assert dx.evaluate(y, halves, **options).state == expected()
    by = {"label": "s3://b/labels"}
    assert dx.evaluate(y, x, by=by, **options).state == expected(by={"label": Y})
    top = dx.evaluate(y, x, metrics=["top_3_accuracy", "entropy"], **options)
    assert top.state == expected(metrics=["top_3_accuracy", "entropy"])


@pytest.mark.parametrize("kind", ["largest", "binary"])
def test_predictions_with_a_class_of_ours_are_read_ahead_too(kind, server):
    """What a plan announces happens: several objects of predictions are requested at once."""
    x = dx.open("s3://b/chunks", storage_options=server.options)
    if kind == "largest":
        options = {
            "predictions": "log_probabilities",
            "ids": np.tile(np.arange(CLASSES), (ROWS, 1)),
            "metrics": ["accuracy"],
        }
        y, hits = Y, X.argmax(axis=1) == Y
    else:
        options, y = {"from_logits": True, "binary": True}, (Y[:, None] + np.arange(CLASSES)) % 2
        hits = (X > 0) == y
    assert any("asked for ahead" in note for note in dx.plan(y, x, **options).notes)
    server.requests()
    report = dx.evaluate(y, x, threads=1, **options)
    assert report["accuracy"] == hits.mean()
    assert server.requests()["at once"] > 2


def test_classes_of_the_largest_are_read_ahead_too(server, directory):
    zarr.create_array(directory / "b", name="ids", data=np.tile(np.arange(CLASSES), (ROWS, 1)), chunks=(100, CLASSES))
    ids = dx.open("s3://b/ids", storage_options=server.options)
    server.requests()
    report = dx.evaluate(Y, X, ids=ids, predictions="log_probabilities", metrics=["accuracy"], threads=1)
    assert report["accuracy"] == (X.argmax(axis=1) == Y).mean()
    assert server.requests()["at once"] > 2


def test_a_request_that_fails_is_made_again_and_counted(directory):
    throttling = Server(directory, "--throttled", "7")
    try:
        where = "s3://b"
        options = {"from_logits": True, "storage_options": throttling.options}
        report = dx.evaluate(f"{where}/labels", f"{where}/chunks", **options)
    finally:
        throttling.close()
    assert report.state == expected()
    assert report.retries > 3


def test_opening_is_tried_again_where_a_store_asks_for_patience(directory):
    pytest.importorskip("obstore")
    throttling = Server(directory, "--throttled", "2")
    try:
        opened = [dx.open("s3://b/chunks", storage_options=throttling.options) for _ in range(4)]
    finally:
        throttling.close()
    assert {type(x._source.array.store).__name__ for x in opened} == {"ObjectStore"}  # s3fs, the next one, is slower


@pytest.mark.slow
def test_a_store_that_fails_is_one_line(directory):
    failing = Server(directory)
    x = zarr.open_array(next(stores("s3://b/chunks", failing.options)), mode="r")
    failing.close()
    with pytest.raises(dx.Unreadable, match=r"reading failed 5 times, last with: s3://b/chunks: "):
        dx.evaluate(Y, x, from_logits=True)
    assert not prefetch.WINDOW._parts


def test_what_is_missing_or_torn_is_named(directory, tmp_path):
    for name, broken in (("chunks", "missing"), ("chunks", "torn"), ("shards", "torn")):
        root = tmp_path / name / broken
        zarr.create_array(root / "b", name=name, data=X, **ARRAYS[name])
        file = root / "b" / name / ("c/31/0" if name == "chunks" else "c/3/0")
        if broken == "torn":
            file.write_bytes(b"\1" * file.stat().st_size)
        else:
            file.unlink()
        found = Server(root)
        try:
            what = "is missing" if broken == "missing" else "cannot be decoded"
            with pytest.raises(ValueError, match=rf"y_pred: chunk .*c/3.* of .*b.*/{name} {what}"):
                dx.evaluate(Y, f"s3://b/{name}", from_logits=True, storage_options=found.options)
        finally:
            found.close()


@pytest.mark.slow
def test_workers_ask_ahead_too(server, client):
    options = {"from_logits": True, "storage_options": server.options}
    server.requests()
    report = dx.evaluate("s3://b/labels", "s3://b/shards", client=client, **options)
    assert report.state == expected()
    assert server.requests()["at once"] > 4


class Chunks:
    """Chunks whose bytes come when the test says so."""

    nbytes = 100

    def __init__(self):
        self.asked, self.may = [], threading.Semaphore(0)

    def in_one_object(self, one, other):
        return False

    async def encoded(self, several, expected):
        self.asked += several
        while not self.may.acquire(blocking=False):
            await prefetch.asyncio.sleep(0.001)
        return [np.zeros(60, np.uint8) for _ in several]


def waits_for(true):
    done = threading.Event()
    for _ in range(2000):
        if true():
            return
        done.wait(0.002)
    raise AssertionError("it did not come to that")


def test_the_window_is_bounded_and_moves_on():
    chunks, window = Chunks(), Window(most_bytes=300, most_requests=8)
    window.announce("a", [(chunks, (i,)) for i in range(6)])
    window.announce("b", [(chunks, (i,)) for i in range(6, 12)])
    waits_for(lambda: len(chunks.asked) == 3)  # 3 of 100 bytes, as long as nothing is known of them
    window.begin("b")
    assert window.take(chunks, (9,)) is None  # before its turn: the reader gets it
    chunks.may.release(20)
    first = window.take(chunks, (0,))
    assert isinstance(first, Future)
    assert first.result(5).size == 60
    waits_for(lambda: window._nbytes >= 240)
    assert window._nbytes <= 300 + 100
    assert chunks.asked[3] == (6,)  # of the part that has begun
    for i in (6, 7, 8, 10, 11):
        waits_for(lambda i=i: (i,) in chunks.asked)
        assert window.take(chunks, (i,)).result(5).size == 60
    window.end("b")
    assert (9,) not in chunks.asked
    window.forget(["a"])
    waits_for(lambda: window._requests == 0)
    assert window._nbytes == 0
    assert window.take(chunks, (1,)) is None


def test_the_rest_of_a_part_keeps_what_was_asked_for():
    chunks, window = Chunks(), Window()
    chunks.may.release(20)
    with prefetch.reading(window, "part", [(chunks, (i,)) for i in range(4)]) as rest:
        assert window.take(chunks, (0,)).result(5).size == 60
        rest.append("rest")
    window.announce("rest", [(chunks, (i,)) for i in range(1, 4)])
    assert window.take(chunks, (1,)).result(5).size == 60
    waits_for(lambda: sorted(chunks.asked) == [(i,) for i in range(4)])
    window.end("rest")
    assert window._nbytes == 0


@pytest.mark.parametrize(
    ("error", "message"),
    [(OSError("no route to host"), "no route to host"), (asyncio.CancelledError(), "was given up: CancelledError")],
)
def test_an_error_reaches_the_reader(error, message):
    chunks, window = Chunks(), Window()

    async def fails(several, expected):
        raise error

    chunks.encoded = fails
    window.announce("part", [(chunks, (0,))])
    with pytest.raises(OSError, match=message):
        window.take(chunks, (0,)).result(5)
    window.end("part")


class Shut(WrapperStore):
    """A store that does not answer the first request for a shard."""

    shut = True

    async def get(self, key, prototype, byte_range=None):
        if self.shut and "c/" in key:
            self.shut = False
            raise PermissionError("not now")
        return await super().get(key, prototype, byte_range)


def test_the_index_of_a_shard_is_asked_for_again_after_a_failure():
    memory = MemoryStore()
    zarr.create_array(memory, data=X[:200], chunks=(50, CLASSES), shards=(100, CLASSES))
    chunks = sources_chunks.Chunks(zarr.open_array(Shut(memory), mode="r"), "y_pred")
    with pytest.raises(PermissionError, match="not now"):
        waited(chunks.encoded([(0, 0)], 1))
    found = waited(chunks.encoded([(0, 0), (1, 0)], 1))
    assert [each.size > 1000 for each in found] == [True, True]


def test_a_plan_says_what_is_asked_for_ahead(server):
    far = dx.plan(Y, dx.open("s3://b/chunks", storage_options=server.options), from_logits=True)
    assert "chunks are asked for ahead: up to 64 requests, 134.22 MB encoded" in far.notes
