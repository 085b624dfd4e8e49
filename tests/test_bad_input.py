"""Bad input gives one clear error, before anything is read where shapes and dtypes show it."""

import asyncio
import json
import pickle

import dask.array as da
import numpy as np
import pytest
import xarray
import zarr
from distributed import Client, LocalCluster

import daskxent as dx

ROWS, CLASSES = 6, 3
LABELS = np.arange(ROWS) % CLASSES
PREDICTIONS = np.full((ROWS, CLASSES), 1 / CLASSES, np.float32)
MAPS = np.full((2, CLASSES, 4), 1 / CLASSES)  # two maps of four positions, classes in the middle


class WasRead(BaseException):
    """The data were touched."""


class Untouchable(zarr.storage.MemoryStore):
    """A store that hands out metadata and nothing else."""

    async def get(self, key, prototype, byte_range=None):
        if not key.endswith(("zarr.json", ".zarray", ".zattrs", ".zgroup")):
            raise WasRead(key)
        return await super().get(key, prototype, byte_range)


def in_zarr(array):
    version = 2 if array.dtype.kind == "U" else 3  # format 3 has no strings in its specification
    stored = zarr.create_array(Untouchable(), shape=array.shape, dtype=array.dtype, zarr_format=version)
    stored[...] = 1  # a chunk that is there to be read
    return stored


def in_dask(array):
    def read(block):
        raise WasRead

    return da.from_array(array).map_blocks(read, dtype=array.dtype, meta=array[:0] if array.ndim else array)


HOLDERS = pytest.mark.parametrize("hold", [np.asarray, in_zarr, in_dask], ids=["numpy", "zarr", "dask"])
RUNS = pytest.mark.parametrize("run", [dx.evaluate, dx.stream, dx.plan], ids=["evaluate", "stream", "plan"])


def refused(error, message, *args, run=dx.evaluate, **options):
    """Check that there is this very error, all of its message on one line."""
    with pytest.raises(error) as caught:
        run(*args, **options)
    assert type(caught.value) is error
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def mismatch(labels, predictions):
    return (
        f"y_true of shape {labels} does not fit y_pred of shape {predictions}; expected y_pred's shape "
        "without the class axis (integer labels) or y_pred's shape (one-hot or soft labels)"
    )


def test_the_holders_raise_when_they_are_read():
    for hold in (in_zarr, in_dask):
        with pytest.raises(WasRead):
            dx.evaluate(hold(LABELS), hold(PREDICTIONS))


@HOLDERS
@RUNS
@pytest.mark.parametrize(
    ("labels", "predictions"),
    [
        ((5,), (6, 3)),
        ((6, 2), (6, 3)),
        ((6, 3), (6, 4)),
        ((3, 6), (6, 3)),
        ((1, 6), (6, 3)),
        ((), (6, 3)),
        ((2, 4), (2, 4, 3, 1)),
        ((2, 3), (2, 4, 3)),
        ((2,), (2, 4, 3)),
    ],
)
def test_mismatched_shapes_are_both_named(hold, run, labels, predictions):
    labels, predictions = np.ones(labels, np.int64), np.ones(predictions, np.float32)
    refused(ValueError, mismatch(labels.shape, predictions.shape), hold(labels), hold(predictions), run=run)


@HOLDERS
@RUNS
def test_predictions_without_an_axis_of_rows(hold, run):
    refused(ValueError, "y_pred: expected rows of predictions, got shape (3,)", [0], hold(PREDICTIONS[0]), run=run)
    refused(ValueError, "y_pred: expected rows of predictions, got shape ()", [0], hold(PREDICTIONS[0, 0]), run=run)


@HOLDERS
@RUNS
@pytest.mark.parametrize("axis", [2, -3])
def test_axis_out_of_range(hold, run, axis):
    message = f"axis: {axis} is out of range for y_pred of shape (6, 3)"
    refused(ValueError, message, hold(LABELS), hold(PREDICTIONS), axis=axis, run=run)


@pytest.mark.parametrize("axis", [True, 1.0, "1", None])
def test_axis_of_another_type(axis):
    refused(TypeError, f"axis: expected an integer, got {axis!r}", LABELS, PREDICTIONS, axis=axis)


@HOLDERS
@RUNS
@pytest.mark.parametrize("shape", [(5,), (6, 3), (1, 6), (6, 1, 1), (0,)])
def test_weights_that_cannot_be_aligned(hold, run, shape):
    message = f"sample_weight: shape {shape} does not lie along y_true of shape (6,); expected a number or"
    weights = hold(np.ones(shape))
    refused(ValueError, message, hold(LABELS), hold(PREDICTIONS), sample_weight=weights, run=run)


def test_weights_of_maps_lie_along_the_leading_axes():
    message = "sample_weight: shape (4,) does not lie along y_true of shape (2, 4)"
    refused(ValueError, message, np.zeros((2, 4), int), MAPS, axis=1, sample_weight=np.ones(4))


@HOLDERS
@RUNS
def test_labels_that_are_no_integers(hold, run):
    message = "y_true: expected integer labels, got dtype complex128"
    refused(TypeError, message, hold(LABELS.astype(complex)), hold(PREDICTIONS), run=run)


@pytest.mark.parametrize(
    ("dtype", "shown"), [("O", "object"), ("U1", "<U1"), ("S1", "|S1"), ("c16", "complex128"), ("M8[s]", "datetime64")]
)
def test_dtypes_that_are_no_numbers(dtype, shown):
    def cast(array):
        return array.astype(dtype)

    for array, message in (
        (LABELS, "y_true: expected integer labels, got dtype "),
        (np.eye(CLASSES, dtype=int)[LABELS], "y_true: expected numbers as dense labels, got dtype "),
    ):
        refused(TypeError, message + shown, cast(array), PREDICTIONS)
    refused(TypeError, f"y_pred: expected floating point predictions, got dtype {shown}", LABELS, cast(PREDICTIONS > 0))
    weights = cast(np.ones(ROWS, int))
    refused(
        TypeError,
        f"sample_weight: expected real numbers, got dtype {shown}",
        LABELS,
        PREDICTIONS,
        sample_weight=weights,
    )


@RUNS
@pytest.mark.parametrize("name", ["y_true", "y_pred", "sample_weight"])
def test_complex_and_strings_in_zarr_are_not_read(run, name):
    given = {"y_true": LABELS, "y_pred": PREDICTIONS, "sample_weight": np.ones(ROWS)}
    for dtype in ("complex64", "U2"):
        arrays = {**given, name: in_zarr(given[name].astype(dtype))}
        refused(TypeError, f"{name}: expected ", *arrays.values(), run=lambda t, p, w: run(t, p, sample_weight=w))


def test_integers_are_no_predictions():
    message = "y_pred: expected floating point predictions, got dtype int64"
    refused(TypeError, message, LABELS, np.ones((ROWS, CLASSES), int))


@HOLDERS
@RUNS
def test_swapped_inputs_by_dtype(hold, run):
    message = "y_pred: expected floating point predictions, got dtype int64 (are y_true and y_pred swapped?)"
    refused(TypeError, message, hold(PREDICTIONS), hold(LABELS), run=run)
    refused(TypeError, message, hold(PREDICTIONS), hold(np.eye(CLASSES, dtype=int)[LABELS]), run=run)


@HOLDERS
@RUNS
def test_swapped_inputs_by_shape(hold, run):
    message = mismatch((6, 3), (6,)) + "; are y_true and y_pred swapped?"
    refused(ValueError, message, hold(PREDICTIONS), hold(LABELS.astype(float)), run=run)


@HOLDERS
@RUNS
@pytest.mark.parametrize(("labels", "predictions"), [((0,), (0, 3)), ((4,), (4, 0)), ((2, 0), (2, 0, 3))])
def test_empty_input(hold, run, labels, predictions):
    message = f"y_pred: there is nothing to evaluate in shape {predictions}"
    refused(ValueError, message, hold(np.ones(labels, int)), hold(np.ones(predictions)), run=run)


@pytest.mark.slow
@HOLDERS
@RUNS
def test_more_classes_than_can_be_added_up(hold, run):
    message = "y_pred: 524289 classes; crossentropy adds up at most 524288"
    labels, predictions = np.zeros(1, int), np.ones((1, (1 << 19) + 1), np.float32)
    refused(ValueError, message, hold(labels), hold(predictions), run=run, from_logits=True)
    assert dx.evaluate(labels, predictions, from_logits=True, metrics=["accuracy"])["accuracy"] == 1


def test_empty_lists():
    refused(ValueError, "y_pred: expected rows of predictions, got shape (0,)", [], [])
    refused(ValueError, "y_pred: there is nothing to evaluate in shape (0, 3)", [], np.ones((0, 3)))


# Values show it only when they are read; the first bad one ends the run.


@pytest.mark.parametrize("wrong", [3, -1, 99, -(2**40)])
@pytest.mark.parametrize("rows", [None, (2, 6)])
def test_label_out_of_range(tmp_path, wrong, rows):
    labels = LABELS.copy()
    labels[[4, 5]] = wrong  # the first is named, by its row in the whole array
    message = f"y_true: label {wrong} at row 4 is outside [0, 3)"
    np.save(tmp_path / "labels.npy", labels)
    stored = zarr.create_array({}, data=labels, chunks=4)
    for given in (labels, stored, tmp_path / "labels.npy"):
        refused(ValueError, message, given, zarr.create_array({}, data=PREDICTIONS, chunks=(1, 2)), steps=rows)
    refused(ValueError, message, da.from_array(labels, chunks=5), da.from_array(PREDICTIONS, chunks=(2, 3)))


def test_label_out_of_range_in_accuracy_alone_and_in_maps():
    labels = np.zeros((2, 4), int)
    labels[1, 2] = 3
    for metrics in (["accuracy"], ["crossentropy"]):
        message = "y_true: label 3 at row 6 (position (1, 2)) is outside [0, 3)"
        refused(ValueError, message, labels, MAPS, axis=1, metrics=metrics)


def test_small_unsigned_labels_do_not_wrap():
    refused(ValueError, "y_true: label 255 at row 1 is outside [0, 3)", np.array([0, 255], np.uint8), PREDICTIONS[:2])


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.nan, "sample_weight: nan at row 3; weights must be finite"),
        (-np.inf, "sample_weight: -inf at row 3; weights must be finite"),
        (-0.5, "sample_weight: -0.5 at row 3 is negative; allow_negative_weights=True takes it"),
    ],
)
def test_weights_that_are_no_weights(weight, message):
    weights = np.ones(ROWS)
    weights[3] = weight
    refused(ValueError, message, LABELS, PREDICTIONS, sample_weight=weights)


# Paths.


def test_missing_paths(tmp_path):
    zarr.create_group(tmp_path / "dump.zarr").create_array("labels", data=LABELS)
    for path in (tmp_path / "none.zarr", tmp_path / "none.npy", tmp_path / "dump.zarr" / "lables"):
        for given in (path, str(path)):
            refused(FileNotFoundError, f"y_true: there is nothing at {path}", given, PREDICTIONS)
    nowhere = str(tmp_path / "none.zarr")
    refused(FileNotFoundError, f"y_pred: there is nothing at {nowhere}", LABELS, nowhere)
    refused(
        FileNotFoundError, f"sample_weight: there is nothing at {nowhere}", LABELS, PREDICTIONS, sample_weight=nowhere
    )


def test_missing_url():
    refused(FileNotFoundError, "y_pred: there is no zarr array at memory://none", LABELS, "memory://none")


def test_a_path_that_is_a_group(tmp_path):
    group = zarr.create_group(tmp_path / "dump.zarr")
    refused(
        ValueError,
        f"y_pred: {tmp_path}/dump.zarr is a zarr group, not an array; it holds no arrays",
        LABELS,
        group.store.root,
    )
    group.create_array("logits", data=PREDICTIONS)
    group.create_array("labels", data=LABELS)
    message = "dump.zarr is a zarr group, not an array; it holds labels, logits"
    refused(ValueError, message, LABELS, tmp_path / "dump.zarr")
    refused(ValueError, message, LABELS, group)


def test_a_path_that_is_something_else(tmp_path):
    (tmp_path / "directory").mkdir()
    (tmp_path / "table.csv").write_text("1,2")
    for name in ("directory", "table.csv"):
        refused(ValueError, f"y_pred: {tmp_path}/{name} is not a zarr array", LABELS, tmp_path / name)


GOOD = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [6],
    "data_type": "int64",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [6]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "fill_value": 0,
    "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
}


def write_metadata(directory, text, name="zarr.json"):
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(text)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": "x"},
        {"shape": [-1]},
        {"data_type": "number"},
        {"codecs": []},
        {"codecs": [{"name": "magic"}]},
        {"chunk_grid": {"name": "spiral"}},
        {"zarr_format": 9},
    ],
    ids=str,
)
def test_corrupt_metadata(tmp_path, change):
    write_metadata(tmp_path / "labels", json.dumps(GOOD))
    assert dx.plan(tmp_path / "labels", PREDICTIONS).rows == ROWS
    write_metadata(tmp_path / "labels", json.dumps(GOOD | change))
    refused(
        ValueError,
        f"y_true: zarr does not know the dtype of {tmp_path}/labels"
        if "data_type" in change
        else f"y_true: the zarr metadata at {tmp_path}/labels cannot be understood: ",
        tmp_path / "labels",
        PREDICTIONS,
    )


@pytest.mark.parametrize("name", ["zarr.json", ".zarray"])
@pytest.mark.parametrize("text", ["", "{", '{"zarr_format": 3, "node', "[]", "null", "\x00\x01", "nonsense"])
def test_metadata_that_are_torn(tmp_path, name, text):
    write_metadata(tmp_path / "labels", text, name)
    refused(
        ValueError,
        f"y_true: the zarr metadata at {tmp_path}/labels cannot be understood: ",
        tmp_path / "labels",
        PREDICTIONS,
    )


class Trap:
    """Fails the test when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def test_pickled_objects_in_npy_are_never_loaded(tmp_path):
    path = tmp_path / "labels.npy"
    np.save(path, np.array([Trap()] * ROWS), allow_pickle=True)
    message = f"y_true: {path} cannot be read as a .npy array: Array can't be memory-mapped: Python objects in dtype."
    refused(ValueError, message, path, PREDICTIONS)
    path.write_bytes(pickle.dumps(Trap()))
    refused(
        ValueError, f"y_true: {path} cannot be read as a .npy array: the magic string is not correct", path, PREDICTIONS
    )


def test_npy_files_that_are_torn(tmp_path):
    path = tmp_path / "labels.npy"
    np.save(path, LABELS)
    whole = path.read_bytes()
    for length in (0, 4, 9, 40, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(ValueError, f"y_true: {path} cannot be read as a .npy array: ", path, PREDICTIONS)


def test_an_npz_archive_is_no_npy(tmp_path):
    path = tmp_path / "labels.npy"
    with path.open("wb") as file:
        np.savez(file, LABELS)
    refused(
        ValueError, f"y_true: {path} cannot be read as a .npy array: the magic string is not correct", path, PREDICTIONS
    )


# Other things that are not arrays.


@RUNS
@pytest.mark.parametrize("name", ["y_true", "y_pred", "sample_weight"])
def test_unknown_dask_chunk_lengths(run, name):
    given = {"y_true": LABELS, "y_pred": PREDICTIONS, "sample_weight": np.ones(ROWS)}
    lazy = in_dask(given[name])
    given[name] = lazy[in_dask(np.ones(ROWS)) > 0]
    message = f"{name}: its dask chunks have unknown lengths; call compute_chunk_sizes() on it first"
    refused(ValueError, message, *given.values(), run=lambda t, p, w: run(t, p, sample_weight=w))


@pytest.mark.parametrize("given", [None, {}, object(), {1, 2}, range])
def test_what_is_no_array(given):
    message = "y_true: expected a path, a zarr, NumPy, dask or xarray array, or lists of numbers; got "
    refused(TypeError, message + type(given).__name__, given, PREDICTIONS)


def test_ragged_lists():
    refused(ValueError, "y_pred: the nested lists do not form an array: ", LABELS, [[0.1, 0.9], [1.0]])


# Arrays that are not what they seem.


@pytest.mark.parametrize("hold", [np.ma.asarray, da.from_array], ids=["numpy", "dask"])
@pytest.mark.parametrize("classes", [CLASSES, 2], ids=["whole", "split"])
@pytest.mark.parametrize("name", ["y_true", "y_pred", "sample_weight"])
def test_masks_are_not_lost(hold, classes, name):
    given = {"y_true": LABELS, "y_pred": PREDICTIONS, "sample_weight": np.ones(ROWS)}
    given["y_pred"] = da.from_array(PREDICTIONS, chunks=(4, classes))
    masked = np.ma.masked_array(np.asarray(given[name]), mask=False)
    refused_for = f"{name}: masked elements are not taken; fill them, and hide their rows with weights of 0"
    dx.evaluate(**given | {name: hold(masked)})
    masked[3] = np.ma.masked
    refused(ValueError, refused_for, **given | {name: hold(masked)})


def test_masks_in_lists_are_not_lost():
    labels = [np.ma.masked_equal(label, 1) for label in LABELS]
    refused(ValueError, "y_true: masked elements are not taken", labels, PREDICTIONS)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("y_pred", lambda x: x[:, :1], "y_pred: a chunk of the dask array has shape (3, 1) where (3, 3) was promised"),
        ("y_pred", lambda x: x[:1], "y_pred: a chunk of the dask array has shape (1, 3) where (3, 3) was promised"),
        ("y_true", lambda x: x[:1], "y_true: a chunk of the dask array has shape (1,) where (3,) was promised"),
        ("sample_weight", lambda x: x[:1], "sample_weight: a chunk of the dask array has shape (1,) where (3,)"),
        ("y_true", lambda x: x + 1j, "y_true: expected integer labels, got a chunk of dtype complex128"),
    ],
)
def test_chunks_that_are_not_what_dask_promised(name, change, message):
    given = {"y_true": LABELS, "y_pred": PREDICTIONS, "sample_weight": np.ones(ROWS)}
    given = {key: da.from_array(value, chunks=(3, 3)[: value.ndim]) for key, value in given.items()}
    given[name] = given[name].map_blocks(change, dtype=given[name].dtype, meta=given[name]._meta)
    with pytest.raises((TypeError, ValueError)) as caught:
        dx.evaluate(**given)
    assert message in str(caught.value)


def test_split_classes_that_are_not_what_dask_promised():
    x = da.from_array(PREDICTIONS, chunks=(3, 2))
    narrow = x.map_blocks(lambda block: block[:, :1], dtype=x.dtype, meta=x._meta)
    refused(ValueError, "y_pred: a chunk of the dask array has shape (3, 1) where (3, 2) was promised", LABELS, narrow)
    short = x.map_blocks(lambda block: block[:1], dtype=x.dtype, meta=x._meta)
    refused(ValueError, "y_pred: a chunk of the dask array has shape (1, ", LABELS, short)


def test_labels_and_predictions_that_are_both_too_short():
    """Each fits the other: the chunks' shapes alone show nothing."""
    given = [da.from_array(each, chunks=(3, 3)[: each.ndim]) for each in (LABELS, PREDICTIONS)]
    short = [x.map_blocks(lambda block: block[:1], dtype=x.dtype, meta=x._meta) for x in given]
    refused(ValueError, "y_pred: a chunk of the dask array has shape (1, 3) where (3, 3) was promised", *short)


def test_a_dataset_is_no_array():
    with pytest.raises(TypeError, match=r"create an xarray\.DataArray first"):
        dx.evaluate(LABELS, xarray.Dataset({"p": (("row", "class"), PREDICTIONS)}))


def test_what_a_url_fails_of_is_named_with_the_url(monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("Unable to locate credentials")  # the error of a client library

    monkeypatch.setattr(zarr, "open", fail)
    refused(OSError, "y_pred: s3://dump/p cannot be opened: Unable to locate credentials", LABELS, "s3://dump/p")


def test_a_view_without_its_package(monkeypatch):
    monkeypatch.setattr("daskxent.sources.converted.find_spec", lambda name: None)
    message = "view: bfloat16 needs ml_dtypes: pip install 'daskxent[bfloat16]'"
    refused(ImportError, message, LABELS, PREDICTIONS.astype("uint16"), view="bfloat16")


def test_an_asynchronous_client_that_is_not_connected():
    async def asked(message, client):
        with pytest.raises(ValueError, match=message):
            await dx.aevaluate(LABELS, PREDICTIONS, client=client)

    async def both():
        async with LocalCluster(processes=False, n_workers=1, dashboard_address=":0", asynchronous=True) as cluster:
            client = Client(cluster, asynchronous=True, set_as_default=False)
            await asked("client: .* is not connected: await it first", client)
            await client
            await client.close()
            await asked("client: .* is closed", client)

    asyncio.run(both())


@RUNS
def test_a_closed_client(run):
    with Client(processes=False, n_workers=1, dashboard_address=":0") as client:
        pass
    refused(ValueError, "is closed", LABELS, PREDICTIONS, client=client, run=run)


@RUNS
def test_a_client_is_not_an_address(run):
    message = "client: expected a distributed.Client, got 'tcp://127.0.0.1:1'"
    refused(TypeError, message, LABELS, PREDICTIONS, client="tcp://127.0.0.1:1", run=run)


SIGNALLING = {
    "float16": ("uint16", 0x7C01),
    "float32": ("uint32", 0x7F800001),
    "float64": ("uint64", 0x7FF0000000000001),
}


@pytest.mark.parametrize("dtype", SIGNALLING)
@pytest.mark.parametrize("rows", [5, 9000])
@pytest.mark.parametrize("what", ["y_true", "dense", "y_pred", "joined", "sample_weight"])
@pytest.mark.parametrize("options", [{}, {"from_logits": True}, {"from_logits": True, "label_smoothing": 0.1}], ids=str)
def test_signalling_nan_is_nan_like_any_other(dtype, rows, what, options):
    def given(value):
        x, y, w = rng.normal(size=(rows, 5)).astype(dtype), np.ones(rows, dtype), np.ones(rows, dtype)
        dense = np.eye(5, dtype=dtype)[np.ones(rows, int)]
        at = {"y_true": y, "dense": dense[:, 0], "y_pred": x[:, 1], "joined": x[:, 4], "sample_weight": w}[what]
        at[2] = np.array(value, bits).view(dtype)
        return {
            "y_true": dense if what == "dense" else y,
            "y_pred": dx.concat([x[:, :2], x[:, 2:]], axis=-1) if what == "joined" else x,
            "sample_weight": w,
        }

    (bits, signalling), results = SIGNALLING[dtype], []
    for value in (signalling, np.array(np.nan, dtype).view(bits)):
        rng = np.random.default_rng(0)
        try:
            results.append(dx.evaluate(**given(value), on_invalid="skip", **options).state)
        except ValueError as error:
            results.append(str(error))
    assert results[0] == results[1]
