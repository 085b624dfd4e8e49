"""Arrays in files of other formats, each written by its own library, give the bits of NumPy."""

import functools
import gc
import http.server
import multiprocessing
import os
import pickle
import re
import shutil
import struct
import threading
import warnings

import h5py
import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorstore as ts
import zarr
from click.testing import CliRunner

import daskxent as dx
from daskxent import cli
from daskxent.sources import hdf5 as hdf5_files
from daskxent.sources.opening import open_array

ROWS, CLASSES = 900, 37
RNG = np.random.default_rng(0)
X = RNG.normal(0, 3, (ROWS, CLASSES)).astype("float32")
Y = RNG.integers(0, CLASSES, ROWS)
W = RNG.random(ROWS)
KIND = np.array(["code", "prose", "other"])[Y % 3]


def table():
    flat = pa.array(X.reshape(-1))
    return pa.table(
        {
            "labels": Y,
            "logits": pa.FixedSizeListArray.from_arrays(flat, CLASSES),
            "lists": pa.array(list(X)),
            "weights": W,
            "kind": KIND,
            "categories": pa.array(KIND).dictionary_encode(),
        }
    )


def hdf5(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("eval/logits", data=X, chunks=(100, 10), compression="gzip", shuffle=True)
        file.create_dataset("lists", data=X.astype(">f4"))  # without chunks, in the other byte order
        file.create_dataset("labels", data=Y, chunks=(250,))
        file.create_dataset("weights", data=W, chunks=(7,))
        file["kind"] = KIND.astype(object)
        file["categories"] = KIND.astype("S5")


def parquet(path):
    pq.write_table(table(), path, row_group_size=200)


def arrow(path, compression=None):
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table().schema, options=options) as writer:
        writer.write_table(table(), max_chunksize=190)


FORMATS = {
    "dump.h5": hdf5,
    "dump.parquet": parquet,
    "dump.arrow": arrow,
    "dump.feather": functools.partial(arrow, compression="lz4"),
}


@pytest.fixture(params=FORMATS)
def file(request, tmp_path):
    path = tmp_path / request.param
    FORMATS[request.param](path)
    return path


@functools.cache
def expected():
    return dx.evaluate(Y, X, from_logits=True, sample_weight=W, by={"kind": KIND}).state


@pytest.mark.parametrize(("logits", "kind"), [("logits", "kind"), ("lists", "categories")])
def test_the_bits_are_those_of_numpy(file, logits, kind, tmp_path):
    logits = f"eval/{logits}" if (file.suffix, logits) == (".h5", "logits") else logits
    arrays = f"{file}/labels", f"{file}/{logits}"
    options = {"from_logits": True, "sample_weight": f"{file}/weights", "by": {"kind": f"{file}/{kind}"}}
    for threads in (1, 2):
        report = dx.evaluate(*arrays, **options, threads=threads)
        assert report.state == expected()
    assert all(repr(path) in str(report.inputs) for path in arrays)
    kept = dx.evaluate(*arrays, **options, journal=tmp_path / "run.journal")
    assert dx.verify(kept) >= 1
    assert dx.evaluate(*arrays, **options, journal=tmp_path / "run.journal").notes == (
        f"{ROWS} rows were in the journal already",
    )
    assert np.array_equal(dx.open(f"{arrays[1]}[100:321, 2:-1]"), X[100:321, 2:-1])


@pytest.mark.slow
def test_processes_open_them_for_themselves(client, tmp_path):
    for name, write in FORMATS.items():
        path = tmp_path / name
        write(path)
        by, options = {"kind": f"{path}/kind"}, {"from_logits": True, "sample_weight": W, "client": client}
        assert dx.evaluate(f"{path}/labels", f"{path}/lists", by=by, **options).state == expected(), name


def test_an_open_dataset_is_read_like_its_path(tmp_path):
    hdf5(tmp_path / "dump.h5")
    with h5py.File(tmp_path / "dump.h5") as opened:
        report = dx.evaluate(opened["labels"], opened["eval/logits"], from_logits=True)
        plan = dx.plan(opened["labels"], opened["eval/logits"], from_logits=True)
    assert report.state == dx.evaluate(Y, X, from_logits=True).state
    assert f"{tmp_path}/dump.h5/eval/logits" in str(report.inputs)
    assert plan.chunks == 9 * 4
    with h5py.File("held", "w", driver="core", backing_store=False) as held:  # no process could open it
        held["x"] = X
        assert dx.evaluate(Y, held["x"], from_logits=True).state == report.state


def test_a_chunk_is_decoded_once(file, monkeypatch):
    """Of labels whose pieces reach over several boxes, too."""
    read = []
    source = type(open_array(f"{file}/labels", "y_true"))
    piece = source.piece
    monkeypatch.setattr(source, "piece", lambda self, box: read.append((self.path, box)) or piece(self, box))
    z = zarr.create_array({}, data=X, chunks=(50, CLASSES))
    assert dx.evaluate(f"{file}/labels", z, from_logits=True, threads=1).state
    read.clear()
    dx.evaluate(f"{file}/labels", f"{file}/lists", from_logits=True, threads=1, journal=None)
    again = [each for each in read if read.count(each) > 1 and each[1][0].start > 0]
    assert len(again) <= 16  # what the arrays are known by: a few steps of each


def test_a_dataset_without_elements_is_one_line(tmp_path):
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["x"] = h5py.Empty("f4")
    with pytest.raises(ValueError, match=r"y_pred: .*d.h5/x is a dataset without any elements"):
        dx.evaluate([0], tmp_path / "d.h5/x")
    with h5py.File(tmp_path / "d.h5") as file, pytest.raises(ValueError, match=r"y_pred: .* without any elements"):
        dx.evaluate([0], file["x"])


def test_a_chunk_that_nobody_wrote_is_missing(tmp_path):
    with h5py.File(tmp_path / "d.h5", "w") as file:
        half = file.create_dataset("x", X.shape, "f4", chunks=(100, CLASSES), fillvalue=2)
        half[:600] = X[:600]
        file.create_dataset("never", X.shape, "f4")
    with pytest.raises(
        ValueError, match=r"y_pred: .*d\.h5/x\[600:700, 0:37\] is missing: nobody wrote it; .*value 2.0"
    ):
        dx.evaluate(Y, tmp_path / "d.h5/x", from_logits=True, threads=1)
    filled = dx.evaluate(Y, tmp_path / "d.h5/x", from_logits=True, on_missing="fill")
    assert filled.audit["prediction_missing"]["count"] == 300
    with pytest.raises(ValueError, match=r"never.* is missing"):
        dx.evaluate(Y, tmp_path / "d.h5/never", from_logits=True)
    assert dx.evaluate(Y[:600], f"{tmp_path}/d.h5/x[:600]", from_logits=True).rows == 600


@pytest.mark.parametrize("driver", [{}, {"driver": "core", "backing_store": False}])
def test_a_chunk_that_nobody_wrote_is_missing_while_others_are_written(driver, tmp_path):
    options = {"from_logits": True}
    with h5py.File(tmp_path / "d.h5", "w", **driver) as file:
        half = file.create_dataset("x", X.shape, "f4", chunks=(100, 20), fillvalue=2)
        half[:600], half[600:, :20] = X[:600], X[600:, :20]
        labels = file.create_dataset("y", (ROWS,), "i8", chunks=(400,))
        labels[:800] = Y[:800]
        never, whole = file.create_dataset("never", X.shape, "f4"), file.create_dataset("whole", data=X)
        with pytest.raises(ValueError, match=r"^y_pred: .*d\.h5/x\[6\d\d:700, 20:37\] is missing: .*value 2\.0$"):
            dx.evaluate(Y, half, threads=1, **options)
        with pytest.raises(ValueError, match=r"^y_pred: .*d\.h5/never\[.*\] is missing: nobody wrote it"):
            dx.evaluate(Y, never, **options)
        with pytest.raises(ValueError, match=r"^y_true: .*d\.h5/y\[800:900\] is missing: nobody wrote it"):
            dx.evaluate(labels, X, on_missing="raise", **options)
        assert dx.evaluate(Y, half, on_missing="fill", **options).audit["prediction_missing"]["count"] == 300
        part = dx.evaluate(dx.open(labels)[:600], dx.open(half)[:600], **options)
        assert part.state == dx.evaluate(Y[:600], X[:600], **options).state
        labels[800:], half[600:, 20:] = Y[800:], X[600:, 20:]
        for each in (half, whole):
            assert dx.evaluate(labels, each, **options).state == dx.evaluate(Y, X, **options).state
        file["none"] = h5py.Empty("f4")
        with pytest.raises(ValueError, match=r"^y_pred: .*d\.h5/none is a dataset without any elements$"):
            dx.evaluate(Y, file["none"], **options)


def test_what_is_not_there_or_damaged_is_one_line(file):
    with pytest.raises(FileNotFoundError, match=rf"y_pred: there is no logit in it; {file} holds .*labels"):
        dx.evaluate(f"{file}/labels", f"{file}/logit", from_logits=True)
    with pytest.raises(FileNotFoundError, match=r"y_pred: there is no name of an array in it"):
        dx.evaluate(f"{file}/labels", file, from_logits=True)
    lazy = dx.open(f"{file}/lists")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=rf"y_pred: {file} cannot be read as "):
        dx.evaluate(Y, f"{file}/logits", from_logits=True)
    with pytest.raises(ValueError, match="was rewritten since it was opened"):
        np.asarray(lazy)
    with pytest.raises(ValueError, match="was rewritten since it was opened"):
        pickle.loads(pickle.dumps(lazy._source)).read((slice(0, 9), slice(0, 2)))


def test_attributes_of_hdf5_that_change_numbers_are_refused(tmp_path):
    with h5py.File(tmp_path / "d.nc", "w") as file:
        file["x"] = X
        file["x"].attrs["scale_factor"] = 0.5
    with pytest.raises(ValueError, match=r"y_pred: its attribute scale_factor=0.5 changes what its numbers mean"):
        dx.evaluate(Y, tmp_path / "d.nc/x", from_logits=True)


def test_attributes_of_a_dataset_that_is_open_for_writing_are_obeyed(tmp_path):
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["x"] = X
        file["x"].attrs["scale_factor"] = 0.5
        with pytest.raises(ValueError, match=r"y_pred: its attribute scale_factor=0.5 changes what its numbers mean"):
            dx.evaluate(Y, file["x"], from_logits=True)


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_group_of_hdf5_is_no_array(mode, tmp_path):
    hdf5(tmp_path / "d.h5")
    with h5py.File(tmp_path / "d.h5", mode) as file, pytest.raises(TypeError, match=r"y_pred: expected a path.* Group"):
        dx.evaluate(Y, file["eval"], from_logits=True)


def virtual(path):
    """Write two files of rows, and a third that is made of them."""
    layout = h5py.VirtualLayout((ROWS, CLASSES), "f4")
    for name, rows in (("a.h5", slice(0, 400)), ("b.h5", slice(400, ROWS))):
        with h5py.File(path / name, "w") as file:
            file["x"] = X[rows]
        layout[rows] = h5py.VirtualSource(name, "x", X[rows].shape, "f4")
    with h5py.File(path / "v.h5", "w") as file:
        file.create_virtual_dataset("x", layout)


@pytest.mark.parametrize("how", ["path", "r", "r+"])
def test_a_virtual_dataset_needs_all_of_its_files(how, tmp_path):
    virtual(tmp_path)
    if how == "path":
        assert dx.evaluate(Y, tmp_path / "v.h5/x", from_logits=True) == dx.evaluate(Y, X, from_logits=True)
    (tmp_path / "b.h5").unlink()
    with h5py.File(tmp_path / "v.h5", "r" if how == "path" else how) as file:
        held = f"{tmp_path}/v.h5/x" if how == "path" else file["x"]
        with pytest.raises(FileNotFoundError, match=rf"y_pred: {tmp_path}/v.h5/x is made of b.h5, which is not there"):
            dx.evaluate(Y, held, from_logits=True)


def made_of(path, file, inner):
    """Write a dataset that is made of another one, which need not be there."""
    layout = h5py.VirtualLayout((ROWS, CLASSES), "f4")
    layout[:] = h5py.VirtualSource(file, inner, (ROWS, CLASSES))
    with h5py.File(path, "w") as opened:
        opened.create_virtual_dataset("x", layout)


@pytest.mark.parametrize("how", ["path", "r", "r+"])
@pytest.mark.parametrize(
    ("file", "inner", "message"),
    [
        ("a.h5", "nope", "made of a.h5, which has no dataset nope"),
        ("a.h5", "group", "made of a.h5, which has no dataset group"),
        (".", "nope", "made of ., which has no dataset nope"),
        (".", "x", "a virtual dataset that is made of itself"),
        ("w.h5", "x", "w.h5/x is a virtual dataset that is made of itself"),
        ("no.h5", "x", "made of no.h5, which cannot be read as an HDF5 file: "),
        ("inner.h5", "x", "inner.h5/x is made of a.h5, which has no dataset lost"),
    ],
)
def test_a_virtual_dataset_needs_all_of_its_datasets(file, inner, message, how, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        opened.create_group("group")
    if file == "w.h5":
        made_of(tmp_path / "a.h5", "w.h5", "x")
        made_of(tmp_path / "w.h5", "a.h5", "x")
    made_of(tmp_path / "inner.h5", "a.h5", "lost")
    (tmp_path / "no.h5").write_bytes(b"anything")
    made_of(tmp_path / "v.h5", file, inner)
    with h5py.File(tmp_path / "v.h5", "r" if how == "path" else how) as opened:
        held = f"{tmp_path}/v.h5/x" if how == "path" else opened["x"]
        with pytest.raises(ValueError, match=rf"^y_pred: {tmp_path}/.*{re.escape(message)}.*$"):
            dx.evaluate(Y, held, from_logits=True)


@pytest.mark.parametrize("link", ["virtual", "external"])
def test_files_that_a_dataset_takes_its_numbers_from_are_known(link, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        opened["x"] = X
    if link == "virtual":
        made_of(tmp_path / "v.h5", "a.h5", "x")
    else:
        with h5py.File(tmp_path / "v.h5", "w") as opened:
            opened["x"] = h5py.ExternalLink("a.h5", "x")
    options = {"from_logits": True, "journal": tmp_path / "j"}
    dx.evaluate(Y, tmp_path / "v.h5/x", **options)
    lazy = open_array(tmp_path / "v.h5/x", "y_pred")
    with h5py.File(tmp_path / "b.h5", "w") as opened:
        opened["x"] = np.roll(X, 1, axis=0)
    os.replace(tmp_path / "b.h5", tmp_path / "a.h5")
    with pytest.raises(ValueError, match=rf"^y_pred: {tmp_path}/a.h5 was rewritten since it was opened$"):
        lazy.read((slice(0, 1), slice(0, 1)))
    del lazy
    report = dx.evaluate(Y, tmp_path / "v.h5/x", **options)
    assert report.state == dx.evaluate(Y, np.roll(X, 1, axis=0), from_logits=True).state


@pytest.fixture
def with_gaps(tmp_path):
    """Write virtual datasets that no source fills in rows 300 to 499, nor in the last 7 classes from row 500 on."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["w"] = X, W
    layout, x = h5py.VirtualLayout((ROWS, CLASSES), "f4"), h5py.VirtualSource(tmp_path / "a.h5", "x", X.shape)
    layout[:200], layout[200:300], layout[500:, :30] = x[:200], x[200:300], x[500:, :30]
    weights, w = h5py.VirtualLayout((ROWS,), "f8"), h5py.VirtualSource(tmp_path / "a.h5", "w", W.shape)
    weights[100:] = w[100:]
    odd = h5py.VirtualLayout((ROWS, CLASSES), "f4")
    odd[::2], odd[1::2] = x[::2], x[1::2]
    with h5py.File(tmp_path / "v.h5", "w") as file:
        for name, each in (("x", layout), ("w", weights), ("odd", odd)):
            file.create_virtual_dataset(name, each)
    return tmp_path / "v.h5"


def test_what_no_source_of_a_virtual_dataset_fills_is_missing(with_gaps):
    options = {"from_logits": True}
    with pytest.raises(ValueError, match=rf"^y_pred: {with_gaps}/x\[300:500, 0:30\] is missing: nobody wrote it"):
        dx.evaluate(Y, with_gaps / "x", **options)
    labels = np.minimum(Y, 29)
    for rows, classes in ((slice(0, 300), slice(0, 37)), (slice(500, 900), slice(0, 30)), (slice(7, 8), slice(0, 37))):
        path = f"{with_gaps}/x[{rows.start}:{rows.stop}, :{classes.stop}]"
        wanted = dx.evaluate(labels[rows], X[rows, classes], **options)
        assert dx.evaluate(labels[rows], path, **options).state == wanted.state
    with pytest.warns(dx.DoubtfulResult, match="rows 300 to 499"):
        report = dx.evaluate(Y, with_gaps / "x", on_missing="fill", **options)
    assert report.audit["prediction_missing"]["count"] == 600
    shown = dx.evaluate(Y[100:], X[100:], sample_weight=f"{with_gaps}/w[100:]", **options)
    assert shown.state == dx.evaluate(Y[100:], X[100:], sample_weight=W[100:], **options).state
    with pytest.raises(ValueError, match=rf"sample_weight: .*{with_gaps}/w\[0:100\] is missing"):
        dx.evaluate(Y, X, sample_weight=with_gaps / "w", on_missing="raise", **options)
    assert dx.evaluate(Y, with_gaps / "odd", **options).state == dx.evaluate(Y, X, **options).state


def test_links_that_lead_in_circles_or_nowhere_are_not_followed(tmp_path):
    with h5py.File(tmp_path / "d.h5", "w") as opened:
        opened["eval/logits"] = X
        opened["eval/self"] = opened["eval"]
        opened["eval/up"] = h5py.SoftLink("/")
        opened["eval/loop"] = h5py.SoftLink("/eval/loop")
        opened["eval/gone"] = h5py.ExternalLink("nothing.h5", "/x")
        opened["eval/other"] = h5py.ExternalLink("e.h5", "/")
    with h5py.File(tmp_path / "e.h5", "w") as opened:
        opened["back"] = h5py.ExternalLink("d.h5", "/")
    wanted = dx.evaluate(Y, X, from_logits=True)
    assert dx.evaluate(Y, tmp_path / "d.h5", from_logits=True) == wanted  # the only dataset
    assert dx.evaluate(Y, tmp_path / "d.h5/eval/logits", from_logits=True) == wanted
    for name in ("loop", "gone", "self", "nothing"):
        with pytest.raises(FileNotFoundError, match=rf"there is no eval/{name} in it; .*d.h5 holds eval/logits: "):
            dx.evaluate(Y, tmp_path / f"d.h5/eval/{name}", from_logits=True)


def test_a_dataset_of_a_file_that_was_closed_is_one_line(tmp_path):
    hdf5(tmp_path / "d.h5")
    with h5py.File(tmp_path / "d.h5") as opened:
        held = opened["eval/logits"]
    with pytest.raises(ValueError, match=r"^y_pred: its HDF5 file was closed$"):
        dx.evaluate(Y, held, from_logits=True)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_columns_that_are_no_arrays(form, tmp_path):
    ragged = [[1.0, 2.0], [3.0, 4.0], [5.0]]
    columns = pa.table({"ragged": ragged, "null": [0, None, 1], "hole": [[1.0, 2.0], [None, 1.0], [0.0, 1.0]],
                        "struct": [{"a": 1}] * 3, "none": [[1.0, 2.0], None, [2.0, 1.0]]})  # fmt: skip
    path = tmp_path / f"d.{form}"
    if form == "parquet":
        pq.write_table(columns, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, columns.schema) as writer:
            writer.write_table(columns)
    x = np.zeros((3, 2), "f4")
    for name, message in {
        "ragged": r"y_pred: .*ragged has no list of 2 numbers at row 2, as before it",
        "hole": r"y_pred: .*hole is null at row 1",
        "none": r"y_pred: .*none has no list of 2 numbers at row 1",
        "struct": r"y_pred: .*struct is of type struct<.*>, which is not an array of numbers or strings",
    }.items():
        with pytest.raises(ValueError, match=message):
            dx.evaluate([0, 1, 0], f"{path}/{name}", from_logits=True)
    with pytest.raises(ValueError, match=r"y_true: .*null is null at row 1"):
        dx.evaluate(f"{path}/null", x, from_logits=True)


@pytest.mark.parametrize("end", ["parquet", "arrow"])
@pytest.mark.parametrize("lengths", [(0, 900), (400, 0, 0, 500), (900, 0)])
def test_groups_of_no_rows(end, lengths, tmp_path):
    path, starts = tmp_path / f"x.{end}", np.cumsum([0, *lengths])
    parts = [table().slice(start, rows).combine_chunks() for start, rows in zip(starts, lengths, strict=False)]
    if end == "parquet":
        with pq.ParquetWriter(path, parts[0].schema) as file:
            for each in parts:
                file.write_table(each)
    else:
        with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, parts[0].schema) as file:
            for each in parts:
                file.write_batch(
                    pa.RecordBatch.from_arrays([c.combine_chunks() for c in each.columns], each.schema.names)
                )
    for name in ("logits", "lists"):
        assert dx.evaluate(f"{path}/labels", f"{path}/{name}", from_logits=True) == dx.evaluate(Y, X, from_logits=True)


@pytest.mark.parametrize("end", ["parquet", "arrow"])
def test_columns_of_tensors(end, tmp_path):
    path = tmp_path / f"x.{end}"
    tensors = pa.table({"logits": pa.FixedShapeTensorArray.from_numpy_ndarray(X)})
    if end == "parquet":
        pq.write_table(tensors, path, row_group_size=200)
    else:
        with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, tensors.schema) as file:
            file.write_table(tensors)
    assert dx.evaluate(Y, path, from_logits=True) == dx.evaluate(Y, X, from_logits=True)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "<f8", ">f4"])
def test_bare_numbers(dtype, tmp_path):
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    x = X.astype(kind)
    (tmp_path / "x.bin").write_bytes(b"header" + x.tobytes())
    Y.astype("<i4").tofile(tmp_path / "y.bin")
    wanted = dx.evaluate(Y, x, from_logits=True).state
    labels, logits = f"{tmp_path}/y.bin?dtype=int32", f"{tmp_path}/x.bin?dtype={dtype}&shape=-1,{CLASSES}&offset=6"
    assert dx.evaluate(labels, logits, from_logits=True).state == wanted
    lazy = dx.open(tmp_path / "x.bin", dtype=dtype, shape=(ROWS, -1), offset=6)
    assert lazy.shape == X.shape
    assert dx.evaluate(labels, lazy, from_logits=True).state == wanted
    lazy = dx.open(tmp_path / "x.bin", dtype=kind, shape=(ROWS, -1), offset=6)
    assert dx.evaluate(labels, lazy, from_logits=True).state == wanted
    assert dx.evaluate(f"{labels}[:10]", lazy[:10], from_logits=True).rows == 10


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("dtype=float33", "dtype=float33 is not known"),
        ("dtype=U3", "expected a dtype of numbers, got U3"),
        ("dtype=float32&shape=-1,7", "has 36 bytes of numbers, which do not make an array of"),
        ("dtype=float32&shape=-1,-1", "at most one -1"),
        ("dtype=float32&shape=a", "expected integers in shape and offset"),
        ("dtype=float32&offset=99", r"an offset in \[0, 36\]"),
        ("dtype=float32&shap=9", "'shap' is not one of dtype, shape, offset"),
        ("dtype=float32&shape=-1,0", "do not make an array of"),
    ],
)
def test_bare_numbers_that_do_not_fit(query, message, tmp_path):
    (tmp_path / "x.bin").write_bytes(bytes(36))
    with pytest.raises(ValueError, match=message):
        dx.open(f"{tmp_path}/x.bin?{query}")


def write_kld(path, window=8, classes=11, windows=5, seed=0):
    """Write a file as llama-perplexity does, and return its tokens and log-probabilities in float64."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, classes, (windows, window)).astype("<i4")
    rows, found = [], []
    for _ in range(windows * (window - 1 - window // 2)):
        x = rng.normal(0, 4, classes).astype("f4")
        low = max(x.min(), x.max() - 16)
        scale = np.float32((x.max() - low) / 65535)
        codes = np.where(x > low, np.rint((x - low) / scale), 0).astype("<u2")
        minimum = np.float32(low - x.max() - np.log(np.exp((x - x.max()).astype("f8")).sum()))
        rows.append(struct.pack("<ff", scale, minimum) + codes.tobytes() + bytes(2 * (classes % 2)))
        found.append(np.float64(scale) * codes + np.float64(minimum))
    head = b"_logits_" + struct.pack("<iii", window, classes, windows)
    path.write_bytes(head + tokens.tobytes() + b"".join(rows))
    return tokens, np.reshape(found, (windows, -1, classes))


@pytest.mark.parametrize(("window", "classes"), [(8, 11), (9, 12), (512, 5)])
def test_files_of_llama_cpp(window, classes, tmp_path):
    path = tmp_path / "base.kld"
    tokens, wanted = write_kld(path, window, classes)
    first = window // 2
    right = np.array([[row[t] for row, t in zip(block, text[first + 1 :], strict=True)]
                      for block, text in zip(wanted, tokens, strict=True)])  # fmt: skip
    arrays = f"{path}/tokens", f"{path}/log_probabilities"
    report = dx.evaluate(*arrays, predictions="log_probabilities", metrics=["crossentropy", "perplexity", "accuracy"])
    assert report.rows == right.size
    assert report["crossentropy"] == pytest.approx(-right.mean(), rel=1e-6)
    assert report["perplexity"] == pytest.approx(np.exp(-right.mean()), rel=1e-5)
    best = wanted.argmax(axis=-1)
    assert report["accuracy"] == (best == tokens[:, first + 1 :]).mean()
    lazy = dx.open(arrays[1])
    assert np.allclose(lazy[1:3, 1:, 2:4], wanted[1:3, 1:, 2:4], atol=1e-5)
    again = pickle.loads(pickle.dumps(lazy._source))
    assert again.shape == wanted.shape
    assert open_array(arrays[0], "y").identity((slice(0, 2),) * 2, 0)["where"] == arrays[0]


def test_damaged_files_of_llama_cpp(tmp_path):
    path = tmp_path / "base.kld"
    write_kld(path)
    data = path.read_bytes()
    for changed, message in (
        (data[:-3], "instead of .* bytes|was its run cut short"),
        (b"_logitz_" + data[8:], "is not a file of llama-perplexity"),
        (data[:10], "is not a file of llama-perplexity"),
        (data[:8] + struct.pack("<i", -8) + data[12:], "is damaged: 5 windows of -8 tokens"),
    ):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=message):
            dx.open(path / "tokens")
    with pytest.raises(FileNotFoundError, match=r"holds log_probabilities, tokens"):
        dx.open(path)


@pytest.mark.parametrize("driver", ["zarr", "zarr3"])
def test_bfloat16_of_tensorstore(driver, tmp_path):
    x = X.astype(ml_dtypes.bfloat16)
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(tmp_path / "x")}}
    layout = ts.ChunkLayout(chunk_shape=[100, CLASSES])
    ts.open(spec, create=True, dtype=ts.bfloat16, shape=x.shape, chunk_layout=layout).result()[...] = x
    wanted = dx.evaluate(Y, x, from_logits=True).state
    report = dx.evaluate(Y, tmp_path / "x", from_logits=True)
    assert report.state == wanted
    assert "'bfloat16'" in str(report.inputs)
    assert dx.evaluate(Y, tmp_path / "x", from_logits=True, view="bfloat16").state == wanted  # it is that already
    source = open_array(tmp_path / "x", "y_pred")
    again = pickle.loads(pickle.dumps(source)).read((slice(0, 300), slice(0, CLASSES)))
    assert np.array_equal(again, x[:300])
    zipped = shutil.make_archive(str(tmp_path / "dump"), "zip", tmp_path, "x")
    assert dx.evaluate(Y, f"{zipped}/x", from_logits=True).state == wanted
    again = pickle.loads(pickle.dumps(open_array(f"{zipped}/x", "y_pred"))).read((slice(0, 300), slice(0, CLASSES)))
    assert np.array_equal(again, x[:300])
    chunk = next(tmp_path.glob("x/c/3/0" if driver == "zarr3" else "x/3.0"))
    chunk.unlink()
    with pytest.raises(ValueError, match=r"y_pred: chunk .* is missing"):
        dx.evaluate(Y, tmp_path / "x", from_logits=True)


def test_a_group_with_bfloat16_is_named(tmp_path):
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "g/x")}}
    ts.open(spec, create=True, dtype=ts.bfloat16, shape=X.shape).result()
    zarr.open_group(tmp_path / "g", mode="a")
    with pytest.raises(ValueError, match=r"y_pred: .*/g is a zarr group, not an array; it holds some that zarr alone"):
        dx.evaluate(Y, tmp_path / "g", from_logits=True)


@pytest.fixture
def served(tmp_path):
    """Serve a directory over HTTP, ranges too, and return its address and what was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.do_GET(body=False)

        def do_GET(self, body=True):
            file = tmp_path / self.path.lstrip("/")
            asked.append((self.command, self.path, self.headers.get("Range")))
            if not file.is_file():
                self.send_error(404)
                return
            data, ranged = file.read_bytes(), self.headers.get("Range")
            if ranged:
                start, stop = ranged.removeprefix("bytes=").split("-")
                part = data[int(start) : int(stop or len(data)) + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}")
            else:
                part = data
                self.send_response(200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            if body:
                self.wfile.write(part)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


@pytest.mark.slow
def test_npy_files_of_a_web_server_are_read_in_ranges(served, tmp_path, monkeypatch):
    address, asked = served
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    monkeypatch.setattr("daskxent.sources.remote.RANGE", 10_000)
    report = dx.evaluate(f"{address}/y.npy", f"{address}/x.npy", from_logits=True)
    assert report.state == dx.evaluate(Y, X, from_logits=True).state
    assert all(ranged for method, _, ranged in asked if method == "GET")
    asked.clear()
    assert np.array_equal(dx.open(f"{address}/x.npy")[10:12], X[10:12])
    assert [ranged for _, path, ranged in asked if path == "/x.npy"][
        -1
    ] == f"bytes={128 + 10 * 148}-{128 + 12 * 148 - 1}"
    with pytest.raises(FileNotFoundError, match=rf"y_pred: there is nothing at {address}/none.npy"):
        dx.evaluate(Y, f"{address}/none.npy", from_logits=True)
    os.truncate(tmp_path / "x.npy", 5000)
    with pytest.raises(ValueError, match=r"x\.npy ends after .* bytes; was it cut short|cannot be read"):
        dx.evaluate(Y, f"{address}/x.npy", from_logits=True)


@pytest.mark.parametrize("end", ["npz", "h5", "safetensors", "parquet", "arrow", "zip"])
@pytest.mark.parametrize("content", [b"", b"x", b"PK\3\4 no more", bytes(range(256)) * 8])
def test_a_damaged_file_is_named_where_its_arrays_would_be_listed(tmp_path, end, content):
    path = tmp_path / f"bad.{end}"
    path.write_bytes(content)
    done = CliRunner().invoke(cli.main, ["evaluate", str(path)])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: the arrays in {path} cannot be listed: ")
    assert done.stderr.count("\n") == 1


def test_a_dump_in_one_file_needs_one_path(file, tmp_path):
    if file.suffix == ".h5":
        with h5py.File(file, "a") as opened:
            opened["logits"] = X
    done = CliRunner().invoke(cli.main, ["evaluate", str(file), "--from-logits", "--json"])
    assert dx.Report.from_json(done.stdout).state == dx.evaluate(Y, X, from_logits=True, sample_weight=W).state
    assert f"Taking labels {file}/labels, predictions {file}/logits, weights {file}/weights" in done.stderr
    write_kld(tmp_path / "base.kld")
    done = CliRunner().invoke(cli.main, ["evaluate", str(tmp_path / "base.kld")])
    assert "crossentropy" in done.stdout
    np.savez(tmp_path / "d.npz", labels=Y, logit=X)
    done = CliRunner().invoke(cli.main, ["evaluate", str(tmp_path / "d.npz")])
    assert "holds labels, logit; expected predictions called 'logits', " in done.stderr


@pytest.mark.slow
def test_a_file_of_hdf5_can_be_written_again_after_an_evaluation(tmp_path):
    file = tmp_path / "dump.h5"
    with h5py.File(file, "w") as opened:
        opened["logits"], opened["labels"] = np.eye(5, dtype="f4"), np.arange(5)
    for threads in (1, 2):
        assert dx.evaluate(file / "labels", file / "logits", from_logits=True, threads=threads)["accuracy"] == 1
        gc.collect()
        with h5py.File(file, "a") as opened:
            opened["labels"][0] = 0


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork")
def test_a_process_forked_while_a_file_of_hdf5_is_opened_opens_its_own(tmp_path):
    file = tmp_path / "dump.h5"
    with h5py.File(file, "w") as opened:
        opened["logits"], opened["labels"] = np.eye(5, dtype="f4"), np.arange(5)
    child = multiprocessing.get_context("fork").Process(
        target=hdf5_files.open_hdf5, args=(f"{file}/labels", "y_true"), daemon=True
    )
    with hdf5_files._LOCK, warnings.catch_warnings(action="ignore"):  # of threads that the child does not have
        child.start()
    child.join(20)
    assert child.exitcode == 0


@pytest.mark.slow
def test_many_files_of_hdf5_are_not_all_open_at_once(tmp_path):
    for i in range(80):
        with h5py.File(tmp_path / f"rank{i}.h5", "w") as file:
            file["logits"], file["labels"] = X[i * 10 : i * 10 + 10], Y[i * 10 : i * 10 + 10]
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    for _ in range(2):
        report = dx.evaluate(
            [f"{tmp_path}/rank{i}.h5/labels" for i in range(80)],
            [f"{tmp_path}/rank{i}.h5/logits" for i in range(80)],
            from_logits=True,
        )
        assert report.state == dx.evaluate(Y[:800], X[:800], from_logits=True).state
    assert len(hdf5_files._OPEN) <= hdf5_files.MOST_OPEN
    if before:
        assert len(os.listdir("/proc/self/fd")) - before < 80
