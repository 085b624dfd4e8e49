import shutil

import dask.array as da
import ml_dtypes
import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

import daskxent as dx
from daskxent.numbers.audit import AUDIT

ROWS, CLASSES = 48, 6
LAYOUTS = ("v2", "v3", "sharded")
STEP = {"v2": 6, "v3": 6, "sharded": 12}  # rows in what is stored as one
OPTIONS = {"from_logits": True, "threads": 2, "metrics": ("crossentropy", "accuracy", "top_2_accuracy")}


@pytest.fixture
def data():
    rng = np.random.default_rng(8)
    # Nothing is 0: zarr would leave out chunks of zeros.
    return rng.integers(1, CLASSES, ROWS), rng.normal(0, 3, (ROWS, CLASSES)).astype("float32"), rng.random(ROWS) + 1


def write(root, name, values, layout, checked=False):
    """Write an array in chunks of 6 rows and all, or 4, classes; shards hold two chunks of rows."""
    options = {"shape": values.shape, "dtype": values.dtype, "fill_value": 0}
    if layout == "v2":
        from numcodecs import Zstd

        options |= {"zarr_format": 2, "compressors": Zstd(checksum=checked)}
    else:
        options["compressors"] = [Crc32cCodec()] if checked else [ZstdCodec()]
    shards = {"shards": (12, *values.shape[1:])} if layout == "sharded" else {}
    z = zarr.create_array(root, name=name, chunks=(6, *values.shape[1:]), **options, **shards)
    z[...] = values
    return z


def dump(root, data, layout, **options):
    return [
        write(root, name, values, layout, **options)
        for name, values in zip(("labels", "logits", "weights"), data, strict=True)
    ]


def file(z, row):
    """The file that holds a row."""
    step = z.shards or z.chunks
    return z.store.root / z.path / z.metadata.encode_chunk_key((row // step[0],) + (0,) * (z.ndim - 1))


def ask(arrays, **options):
    return dx.evaluate(arrays[0], arrays[1], sample_weight=arrays[2], **{**OPTIONS, **options})


def with_gap(data, which, rows):
    filled = [values.copy() for values in data]
    filled[which][rows] = 0
    return filled


NAMES = ("y_true", "y_pred", "sample_weight")
KINDS = ("label_missing", "prediction_missing", "weight_missing")
# Whether a missing chunk is an error, by option and array.
STRICT = {None: (False, True, False), "raise": (True, True, True), "fill": (False, False, False)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("on_missing", STRICT, ids=str)
@pytest.mark.parametrize("which", range(3), ids=NAMES)
def test_missing_chunks_are_an_error_or_filled_and_reported(tmp_path, data, layout, on_missing, which):
    arrays = dump(tmp_path, data, layout)
    file(arrays[which], 25).unlink()
    start = 25 // STEP[layout] * STEP[layout]
    absent = range(start, start + STEP[layout])
    key = arrays[which].metadata.encode_chunk_key((25 // STEP[layout],) + (0,) * (arrays[which].ndim - 1))
    if STRICT[on_missing][which]:
        with pytest.raises(ValueError, match=rf"{NAMES[which]}: chunk .*{key} of {tmp_path}/\w+ is missing"):
            ask(arrays, on_missing=on_missing)
        return
    got, wanted = ask(arrays, on_missing=on_missing), ask(with_gap(data, which, absent), on_missing=on_missing)
    assert got.state.total.totals == wanted.state.total.totals
    assert got.weight == wanted.weight
    reported = {KINDS[which]: {"what": AUDIT[KINDS[which]], "count": len(absent), "rows": list(absent)[:10]}}
    assert got.audit == {**wanted.audit, **reported}
    assert f"{len(absent)} rows" in repr(got)


@pytest.mark.parametrize("kind", ["NumPy", "dask"])
@pytest.mark.parametrize("on_missing", STRICT, ids=str)
@pytest.mark.parametrize("which", [0, 2], ids=["y_true", "sample_weight"])
def test_missing_labels_and_weights_are_reported_along_any_predictions(tmp_path, data, kind, on_missing, which):
    arrays = dump(tmp_path, data, "v3")
    file(arrays[which], 0).unlink()
    file(arrays[which], 30).unlink()
    arrays[1] = data[1] if kind == "NumPy" else da.from_array(data[1], chunks=(7, 4))
    if on_missing == "raise":
        with pytest.raises(ValueError, match=f"{NAMES[which]}: .* is missing"):
            ask(arrays, on_missing=on_missing)
        return
    absent = [*range(6), *range(30, 36)]
    got, wanted = ask(arrays, on_missing=on_missing), ask(with_gap(data, which, absent))
    assert got.state.total.totals == wanted.state.total.totals
    assert got.audit[KINDS[which]] == {"what": AUDIT[KINDS[which]], "count": 12, "rows": absent[:10]}


FURTHER = {
    "mask": (lambda z: {"mask": z}, np.ones(ROWS, bool)),
    "by": (lambda z: {"by": {"g": z}}, np.arange(ROWS) // 6 + 7),
    "strings": (lambda z: {"by": {"g": z}}, np.array(["a", "bc"] * (ROWS // 2), np.dtypes.StringDType())),
    "bins": (lambda z: {"by": {"g": dx.bins(z, [1, 3, 10])}}, np.arange(ROWS) / 6 + 1),
    "clusters": (lambda z: {"clusters": z}, np.arange(ROWS) // 6 + 7),
    "bytes": (lambda z: {"bytes": z, "metrics": ["bits_per_byte"]}, np.arange(ROWS) % 4 + 1),
    "words": (lambda z: {"words": z, "metrics": ["word_perplexity"]}, np.arange(ROWS) % 4 + 1),
}


@pytest.mark.parametrize("kind", ["NumPy", "zarr", "blocks", "dask", "whole", "deferred"])
@pytest.mark.parametrize("which", FURTHER)
def test_whatever_else_lies_along_the_rows_is_reported_where_it_is_missing(tmp_path, data, kind, which):
    made, values = FURTHER[which]
    z = zarr.create_array(tmp_path, name="g", shape=ROWS, dtype=values.dtype, chunks=6)
    z[...] = values
    file(z, 13).unlink()
    held = {
        "NumPy": data[1],
        "zarr": write(tmp_path, "p", data[1], "v3"),
        "blocks": dx.concat([data[1][:, :2], data[1][:, 2:]], axis=-1),
        "dask": da.from_array(data[1], chunks=(7, 4)),
        "whole": da.from_array(data[1], chunks=(7, CLASSES)),
        "deferred": da.from_array(data[1], chunks=(7, 4)),
    }[kind]
    options = {"from_logits": True, **made(z)}
    if kind == "deferred":
        report = dx.delayed(data[0], held, **options).compute(scheduler="threads")
    else:
        report = dx.evaluate(data[0], held, threads=2, **options)
    filled = values.copy()
    filled[12:18] = np.zeros(1, values.dtype)[0]
    assert report.state.total == dx.evaluate(data[0], data[1], **options | made(filled)).state.total
    found = {"what": AUDIT["further_missing"], "count": 6, "rows": list(range(12, 18))}
    assert report.audit["further_missing"] == found
    if kind != "deferred":
        with pytest.raises(ValueError, match=r"(mask|by\['g'\]|clusters|bytes|words): chunk c/2 of .* is missing"):
            dx.evaluate(data[0], held, **options, on_missing="raise")


@pytest.mark.parametrize("dtype", ["S2", "U2", "i8", "f8"])
def test_arrays_of_format_2_without_a_fill_value_are_filled_as_zarr_does(tmp_path, data, dtype):
    values = (np.arange(ROWS) % 3 + 10).astype(dtype)
    z = zarr.create_array(tmp_path / "g", shape=ROWS, dtype=dtype, chunks=6, zarr_format=2, fill_value=None)
    z[...] = values
    (tmp_path / "g/2").unlink()
    name = "sample_weight" if dtype == "f8" else "by"
    given = z if dtype == "f8" else {"g": z}
    filled = zarr.open_array(tmp_path / "g")[:]
    wanted = dx.evaluate(data[0], data[1], **{name: filled if dtype == "f8" else {"g": filled}}, **OPTIONS)
    report = dx.evaluate(data[0], data[1], **{name: given}, **OPTIONS)
    assert (report.state.total, report.state.tables) == (wanted.state.total, wanted.state.tables)
    assert report.audit["weight_missing" if dtype == "f8" else "further_missing"]["count"] == 6


def test_rows_that_lack_several_arrays_are_counted_once(tmp_path, data):
    arrays = dump(tmp_path, data, "v3")
    several = {name: write(tmp_path, name, np.arange(ROWS) // 6 + 7, "v3") for name in "ab"}
    for z, row in ((several["a"], 0), (several["b"], 0), (several["b"], 40), (arrays[2], 8)):
        file(z, row).unlink()
    audit = ask(arrays, by=[{"a": several["a"]}, {"b": several["b"]}]).audit
    assert {kind: audit[kind]["count"] for kind in audit} == {"masked": 6, "weight_missing": 6, "further_missing": 12}


@pytest.mark.parametrize("kind", ["NumPy", "dask"])
def test_a_table_is_there_where_labels_are_missing(tmp_path, data, kind):
    arrays = dump(tmp_path, data, "v3")
    file(arrays[0], 13).unlink()
    arrays[1] = data[1] if kind == "NumPy" else da.from_array(data[1], chunks=(7, 4))
    report = ask(arrays, bytes=np.arange(CLASSES) + 1, metrics=["bits_per_byte"])
    assert report.audit.keys() == {"label_missing"}


@pytest.mark.parametrize("kind", ["NumPy", "dask", "whole"])
@pytest.mark.parametrize("option", ["sample_weight", "by"])
def test_a_number_that_is_not_stored_is_filled_and_reported(tmp_path, data, kind, option):
    z = zarr.create_array(tmp_path, name="one", shape=(), dtype="int64", fill_value=2)
    z[...] = 2  # which zarr leaves out
    chunks = {"NumPy": None, "dask": (7, 4), "whole": (7, CLASSES)}[kind]
    x = data[1] if chunks is None else da.from_array(data[1], chunks=chunks)
    given = (lambda value: {"by": {"g": value}}) if option == "by" else (lambda value: {option: value})
    report = dx.evaluate(data[0], x, **given(z), **OPTIONS)
    wanted = dx.evaluate(data[0], data[1], **given(np.array(2)), **OPTIONS)
    assert (report.state.total, report.state.tables) == (wanted.state.total, wanted.state.tables)
    found = "weight_missing" if option == "sample_weight" else "further_missing"
    assert (report.audit.keys(), report.audit[found]["count"]) == ({found}, ROWS)
    with pytest.raises(ValueError, match=r"chunk c of .* is missing"):
        dx.evaluate(data[0], x, **given(z), **OPTIONS, on_missing="raise")


@pytest.mark.parametrize("on_missing", [None, "fill", "raise"])
def test_a_table_that_is_not_stored_whole_is_filled_with_a_warning(tmp_path, data, on_missing):
    table = np.array([0, 0, 3, 4, 5, 6])
    z = zarr.create_array(tmp_path, name="t", data=table, chunks=2)
    options = {**OPTIONS, "metrics": ["bits_per_byte"], "on_missing": on_missing}
    if on_missing == "raise":
        with pytest.raises(ValueError, match=r"bytes: chunk c/0 of .* is missing"):
            dx.evaluate(data[0], data[1], bytes=z, **options)
        return
    with pytest.warns(dx.DoubtfulResult, match="bytes: entries 0 to 1 of the table are not stored"):
        report = dx.evaluate(data[0], data[1], bytes=z, **options)
    assert report.metrics == dx.evaluate(data[0], data[1], bytes=table, **options).metrics


@pytest.mark.parametrize("along", ["labels", "weights"])
def test_missing_predictions_are_an_error_along_dask_arrays(tmp_path, data, along):
    arrays = dump(tmp_path, data, "v3")
    file(arrays[1], 13).unlink()
    which = 0 if along == "labels" else 2
    arrays[which] = da.from_array(data[which], chunks=9)
    with pytest.raises(ValueError, match=r"y_pred: chunk c/2/0 of .* is missing"):
        ask(arrays)


@pytest.mark.parametrize("along", ["labels", "one-hot", "weights", "deferred"])
@pytest.mark.parametrize("layout", [*LAYOUTS, "split", "blocks", "bfloat16"])
def test_missing_predictions_are_filled_and_reported_along_dask_arrays(tmp_path, data, along, layout):
    labels, x, w = data
    options, filled = {"on_missing": "fill"}, x.copy()
    if layout == "split":
        z = held = zarr.create_array(tmp_path, name="p", shape=x.shape, dtype="float32", chunks=(6, 4))
        z[...] = x
        absent, filled[12:18, :4] = range(12, 18), 0
    elif layout == "bfloat16":
        z = held = write(tmp_path, "p", x.astype(ml_dtypes.bfloat16).view("uint16"), "v3")
        options["view"], filled = "bfloat16", x.astype(ml_dtypes.bfloat16)
        absent, filled[12:18] = range(12, 18), 0
    else:
        z = held = write(tmp_path, "p", x[:, 2:] if layout == "blocks" else x, layout if layout in LAYOUTS else "v3")
        absent = range(12, 12 + STEP.get(layout, 6))
        filled[absent, 2 * (layout == "blocks") :] = 0
        held = dx.concat([x[:, :2], z], axis=-1) if layout == "blocks" else z
    file(z, 13).unlink()
    wanted = ask([np.eye(CLASSES)[labels] if along == "one-hot" else labels, filled, w])
    if along == "weights":
        w = da.from_array(w, chunks=9)
    elif along != "deferred":
        labels = da.from_array(np.eye(CLASSES)[labels] if along == "one-hot" else labels, chunks=9)
    plan = dx.plan(labels, held, sample_weight=w, **OPTIONS, **options)
    assert (plan.dtype, plan.nbytes) == (str(filled.dtype), filled.nbytes)
    if along == "deferred":
        given = {name: value for name, value in OPTIONS.items() if name != "threads"} | options
        got = dx.delayed(labels, held, sample_weight=w, **given).compute(scheduler="threads")
    else:
        got = ask([labels, held, w], **options)
    assert (got.state.total.totals, got.state.total.weight) == (wanted.state.total.totals, wanted.state.total.weight)
    reported = {"what": AUDIT["prediction_missing"], "count": len(absent), "rows": list(absent)[:10]}
    assert got.audit == {**wanted.audit, "prediction_missing": reported}


def test_chunks_that_zarr_leaves_out_are_labels_of_class_0(tmp_path, data):
    labels = data[0].copy()
    labels[12:24] = 0
    z = write(tmp_path, "labels", labels, "v3")
    assert not file(z, 12).exists()
    got = dx.evaluate(z, data[1], **OPTIONS)
    assert got.metrics == dx.evaluate(labels, data[1], **OPTIONS).metrics
    assert got.audit["label_missing"]["count"] == 12


def test_inner_chunks_that_a_shard_does_not_hold_are_missing(tmp_path, data):
    z = zarr.create_array(tmp_path, name="p", shape=(ROWS, CLASSES), dtype="float32", chunks=(6, 6), shards=(24, 6))
    z[:30] = data[1][:30]
    with pytest.raises(ValueError, match=r"y_pred: chunk 5/0 in shard c/1/0 of .* is missing"):
        dx.evaluate(data[0], z, **{**OPTIONS, "threads": 1})
    got = dx.evaluate(data[0], z, **OPTIONS, on_missing="fill")
    assert got.audit["prediction_missing"]["rows"] == list(range(30, 40))
    assert got.audit["prediction_missing"]["count"] == 18
    assert got.metrics == dx.evaluate(data[0], with_gap(data, 1, slice(30, None))[1], **OPTIONS).metrics


def test_a_missing_block_of_classes_is_reported_by_row(tmp_path, data):
    z = zarr.create_array(tmp_path, name="p", shape=(ROWS, CLASSES), dtype="float32", chunks=(6, 2))
    z[...] = data[1]
    (tmp_path / "p" / "c" / "3" / "1").unlink()
    with pytest.raises(ValueError, match=r"y_pred: chunk c/3/1 of .* is missing"):
        dx.evaluate(data[0], z, **OPTIONS)
    filled = data[1].copy()
    filled[18:24, 2:4] = 0
    for labels in (data[0], np.eye(CLASSES)[data[0]]):
        got = dx.evaluate(labels, z, **OPTIONS, on_missing="fill")
        assert got.state.total.totals == dx.evaluate(labels, filled, **OPTIONS).state.total.totals
        assert got.audit["prediction_missing"]["rows"] == list(range(18, 24))


@pytest.mark.parametrize("kind", ["NumPy", "zarr", "blocks", "dask"])
def test_missing_dense_labels_are_reported_by_row(tmp_path, data, kind):
    hot = np.eye(CLASSES, dtype="float32")[data[0]] + np.float32(0.125)
    z = zarr.create_array(tmp_path, name="l", shape=hot.shape, dtype="float32", chunks=(5, 4))
    z[...] = hot
    (tmp_path / "l" / "c" / "2" / "1").unlink()
    hot[10:15, 4:] = 0
    held = {
        "NumPy": data[1],
        "zarr": write(tmp_path, "p", data[1], "v3"),
        "blocks": dx.concat([data[1][:, :2], data[1][:, 2:]], axis=-1),
        "dask": da.from_array(data[1], chunks=(7, 4)),
    }[kind]
    got = dx.evaluate(z, held, **OPTIONS)
    assert got.state.total.totals == dx.evaluate(hot, data[1], **OPTIONS).state.total.totals
    assert got.audit["label_missing"] == {"what": AUDIT["label_missing"], "count": 5, "rows": list(range(10, 15))}
    with pytest.raises(ValueError, match=r"y_true: chunk c/2/1 of .* is missing"):
        dx.evaluate(z, held, **OPTIONS, on_missing="raise")


def test_missing_predictions_in_one_of_many_blocks_are_reported_by_row(tmp_path, data):
    left = write(tmp_path, "left", data[1][:, :2], "v3")
    right = zarr.create_array(tmp_path, name="right", shape=(ROWS, 4), dtype="float32", chunks=(4, 4))
    right[...] = data[1][:, 2:]
    (tmp_path / "right" / "c" / "2" / "0").unlink()
    joined = dx.concat([left, right], axis=-1)
    with pytest.raises(ValueError, match=r"y_pred\[1\]: chunk c/2/0 of .* is missing"):
        dx.evaluate(data[0], joined, **OPTIONS)
    got = dx.evaluate(data[0], joined, **OPTIONS, on_missing="fill")
    assert got.audit["prediction_missing"]["rows"] == list(range(8, 12))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    """Flip one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("on_missing", STRICT, ids=str)
@pytest.mark.parametrize("tear", [truncate, empty, flip])
@pytest.mark.parametrize("which", range(3), ids=NAMES)
def test_torn_chunks_are_an_error_whatever_becomes_of_missing_ones(tmp_path, data, layout, on_missing, tear, which):
    arrays = dump(tmp_path, data, layout, checked=True)
    tear(file(arrays[which], 25))
    key = arrays[which].metadata.encode_chunk_key((25 // STEP[layout],) + (0,) * (arrays[which].ndim - 1))
    with pytest.raises(ValueError, match=rf"{NAMES[which]}: chunk .*{key} of {tmp_path}/\w+ cannot be decoded"):
        ask(arrays, on_missing=on_missing)


@pytest.mark.parametrize("codec", ["none", "zstd", "blosc", "gzip"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_truncated_predictions_are_an_error_with_any_codec(tmp_path, data, layout, codec):
    from test_sources import write as stored

    z = stored(tmp_path, "p", data[1], (6, CLASSES), layout, codec)
    truncate(next(p for p in sorted(z.store.root.glob("p/**/*")) if p.is_file() and p.name[0] in "0123456789"))
    with pytest.raises(ValueError, match=r"y_pred: chunk .* cannot be decoded"):
        dx.evaluate(data[0], z, **OPTIONS)


def test_a_shard_with_a_torn_index_is_an_error(tmp_path, data):
    inner = ShardingCodec(chunk_shape=(6, CLASSES), codecs=[BytesCodec()], index_codecs=[BytesCodec(), Crc32cCodec()])
    z = zarr.create(
        store=tmp_path / "p", shape=data[1].shape, dtype="float32", chunks=(24, CLASSES), codecs=[inner], zarr_format=3
    )
    z[...] = data[1]
    path = tmp_path / "p" / "c" / "0" / "0"
    content = bytearray(path.read_bytes())
    content[-10] ^= 1  # in the index, which is at the end
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"y_pred: .* cannot be decoded: the shard's index"):
        dx.evaluate(data[0], str(tmp_path / "p"), **OPTIONS)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("on_missing", STRICT, ids=str)
@pytest.mark.parametrize("which", range(3), ids=NAMES)
def test_a_directory_in_the_place_of_a_chunk_is_reported_with_array_and_chunk(
    tmp_path, data, layout, on_missing, which
):
    arrays = dump(tmp_path, data, layout)
    file(arrays[which], 25).unlink()
    file(arrays[which], 25).mkdir()
    key = file(arrays[which], 25).relative_to(tmp_path / arrays[which].path)
    message = rf"{NAMES[which]}: chunk .*{key} of {tmp_path}/\w+ cannot be read: Is a directory"
    with pytest.raises(IsADirectoryError, match=message):
        ask(arrays, on_missing=on_missing)


def test_an_array_whose_directory_is_missing_is_an_error(tmp_path, data):
    arrays = dump(tmp_path, data, "v3")
    shutil.rmtree(tmp_path / "labels")
    with pytest.raises(FileNotFoundError):
        ask(arrays, on_missing="fill")


def test_one_stored_weight_for_all_rows_along_dask_predictions(tmp_path, data):
    z = zarr.create_array(tmp_path, name="w", shape=(1,), dtype="float64", chunks=(1,))
    z[...] = 0.5
    dask = da.from_array(data[1], chunks=(7, CLASSES))
    assert ask([data[0], dask, z]).state == ask([data[0], data[1], np.array([0.5])]).state
    shutil.rmtree(tmp_path / "w" / "c")
    with pytest.warns(UserWarning, match="no row was counted"):
        got = ask([data[0], dask, z])
    assert (got.weight, got.audit["weight_missing"]["count"]) == (0, ROWS)
