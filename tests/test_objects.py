"""Dumps in a bucket: the same numbers, and a journal that knows what was written since."""

import functools
import http.server
import json
import sys
import threading

import fsspec
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from moto.server import ThreadedMotoServer
from zarr.storage import FsspecStore

import daskxent as dx
from daskxent import cli
from daskxent.sources.objects import open_bytes

ROWS, CLASSES = 90, 5
RNG = np.random.default_rng(4)
Y, X = RNG.integers(0, CLASSES, ROWS), RNG.normal(0, 3, (ROWS, CLASSES)).astype("float32")


@pytest.fixture(scope="module")
def s3():
    """Return the storage options of a server of buckets, with one that is called dumps."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "someone", "secret": "tell nobody", "client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
    fsspec.filesystem("s3", **options).mkdir("dumps")
    yield options
    server.stop()


@pytest.fixture(params=["s3", "memory"])
def store(request, tmp_path):
    options = request.getfixturevalue("s3") if request.param == "s3" else {}
    name = tmp_path.name.replace("_", "-")
    return FsspecStore.from_url(f"{request.param}://dumps/{name}", storage_options=options)


def written(store, shards=None):
    labels = zarr.create_array(store, name="labels", data=Y, chunks=(30,), overwrite=True)
    logits = zarr.create_array(
        store, name="logits", data=X, chunks=(10, CLASSES), shards=shards and (shards, CLASSES), overwrite=True
    )
    return labels, logits


@pytest.mark.slow
@pytest.mark.parametrize("shards", [None, 30])
def test_a_bucket_gives_the_same_bits(store, shards):
    labels, logits = written(store, shards)
    assert dx.evaluate(labels, logits, from_logits=True).state == dx.evaluate(Y, X, from_logits=True).state


@pytest.mark.slow
@pytest.mark.parametrize("what", ["labels", "logits"])
@pytest.mark.parametrize("shards", [None, 30])
def test_a_journal_evaluates_again_what_was_written_since(store, what, shards, tmp_path):
    written(store, shards)
    journal, options = (
        tmp_path / "run.journal",
        {"from_logits": True, "threads": 1, "journal": tmp_path / "run.journal"},
    )
    arrays = [zarr.open_array(store, path=path, mode="r") for path in ("labels", "logits")]
    first = dx.evaluate(*arrays, steps=(0, 60), **options)
    assert first.notes == ()
    size = journal.stat().st_size
    again = dx.evaluate(*arrays, steps=(0, 60), **options)
    assert again.notes == ("60 rows were in the journal already",)
    assert journal.stat().st_size == size
    y, x = Y.copy(), X.copy()
    if what == "labels":
        y[40] = (y[40] + 1) % CLASSES
    else:
        x[40] = -x[40]
    zarr.open_array(store, path=what, mode="r+")[30:60] = (y if what == "labels" else x)[30:60]
    mended = dx.evaluate(*(zarr.open_array(store, path=path, mode="r") for path in ("labels", "logits")),
                         steps=(0, 60), **options)  # fmt: skip
    assert mended.state == dx.evaluate(y, x, steps=(0, 60), from_logits=True).state
    assert mended.notes[-1].endswith("rows were written anew since")


def test_objects_are_listed_once_for_each_opening(s3, monkeypatch):
    store = FsspecStore.from_url("s3://dumps/listed", storage_options=s3)
    _, logits = written(store)
    listed, find = [], type(store.fs)._find
    monkeypatch.setattr(type(store.fs), "_find", lambda self, *a, **k: listed.append(a) or find(self, *a, **k))
    found = open_bytes(logits)
    versions = [found.written(f"c/{i}/0", b"one") for i in range(9)]
    assert len(set(versions)) == 9
    assert all(len(version) == 2 for version in versions)
    assert found.written("c/9/0", b"one") == ()
    assert len(listed) == 1
    found.written("c/0/0", b"two")
    assert len(listed) == 2


@pytest.fixture
def served(tmp_path):
    """Serve a directory over HTTP and return its address."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.func.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.slow
def test_a_web_server_gives_the_same_bits_and_knows_no_versions(served, tmp_path):
    written(str(tmp_path / "dump.zarr"))
    paths = [f"{served}/dump.zarr/{name}" for name in ("labels", "logits")]
    options = {"from_logits": True, "threads": 1, "journal": tmp_path / "run.journal"}
    assert dx.evaluate(*paths, **options).state == dx.evaluate(Y, X, from_logits=True).state
    assert dx.evaluate(*paths, **options).notes == ("90 rows were in the journal already",)


@pytest.mark.slow
def test_storage_options_reach_the_server(s3, tmp_path):
    store = FsspecStore.from_url("s3://dumps/options", storage_options=s3)
    written(store)
    urls = ["s3://dumps/options/labels", "s3://dumps/options/logits"]
    wanted = dx.evaluate(Y, X, from_logits=True, by={"id": Y}).state
    options = {"from_logits": True, "storage_options": s3}
    assert dx.evaluate(*urls, by={"id": urls[0]}, **options).state == wanted
    assert dx.evaluate(Y, dx.open(urls[1], storage_options=s3), from_logits=True, by={"id": Y}).state == wanted
    assert dx.evaluate([f"{urls[0]}[:40]", f"{urls[0]}[40:]"], urls[1], by={"id": Y}, **options).state == wanted
    dx.evaluate(*urls, journal=tmp_path / "j", **options)
    assert not {"someone", "tell nobody"} & set((tmp_path / "j").read_text().split('"'))
    line = ["evaluate", *urls, "--from-logits", "--json", "--by", f"id={urls[0]}"]
    for name, value in s3.items():
        line += ["--storage-option", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    done = CliRunner().invoke(cli.main, line)
    assert dx.Report.from_json(done.stdout).state == wanted
    done = CliRunner().invoke(cli.main, ["evaluate", "s3://dumps/options", *line[3:]])
    assert dx.Report.from_json(done.stdout).state == wanted
    columns = {"columns": ["loss"], "out": "s3://dumps/rows"}
    assert np.array_equal(dx.rows(*urls, **options, **columns)["loss"][...], dx.rows(Y, X, from_logits=True)["loss"])
    refused = CliRunner().invoke(cli.main, [*line[:4], "--storage-option", "anon"])
    assert "'anon' is not KEY=VALUE" in refused.stderr


@pytest.mark.slow
def test_workers_read_with_storage_options(s3, client):
    written(FsspecStore.from_url("s3://dumps/workers", storage_options=s3))
    urls = ["s3://dumps/workers/labels", "s3://dumps/workers/logits"]
    report = dx.evaluate(*urls, from_logits=True, storage_options=s3, client=client)
    assert report.state == dx.evaluate(Y, X, from_logits=True).state


def test_a_package_that_is_missing_is_said_with_the_array(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ImportError, match=r"^y_pred: gs://nowhere/dump.zarr/logits needs another package: .*gcsfs"):
        dx.evaluate(Y, "gs://nowhere/dump.zarr/logits")


def test_storage_options_are_a_mapping():
    with pytest.raises(TypeError, match=r"storage_options: expected a mapping of names to values, got \['anon'\]"):
        dx.evaluate(Y, X, storage_options=["anon"])
