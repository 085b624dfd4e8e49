import itertools
import pickle
import warnings

import dask.array as da
import ml_dtypes
import numcodecs
import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given
from hypothesis import strategies as st
from strategies import LABEL_DTYPES, SOME, partitions, questions
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec
from zarr.storage import MemoryStore, ZipStore

import daskxent as dx
from daskxent.numbers.question import Question
from daskxent.sources import zarr_arrays
from daskxent.sources.opening import open_array
from daskxent.sources.sliced import Sliced
from daskxent.sources.source import SAMPLE_BYTES, Base, digest, spread
from daskxent.sources.zarr_arrays import Zarr

METRICS = ("crossentropy", "accuracy", "top_3_accuracy", "perplexity", "bits")
V2 = {"none": None, "zstd": numcodecs.Zstd(), "blosc": numcodecs.Blosc(), "gzip": numcodecs.GZip()}
V3 = {"none": [], "zstd": [ZstdCodec()], "blosc": [BloscCodec()], "gzip": [GzipCodec()]}
STORED = [("v2", codec) for codec in V2] + [(layout, codec) for layout in ("v3", "sharded") for codec in V3]
V3["crc32c"] = [Crc32cCodec()]


def ask(y_true, y_pred, **options):
    with warnings.catch_warnings():  # what is drawn may leave no weight
        warnings.filterwarnings("ignore", "(no row was counted|the weights sum to zero): the metrics are NaN")
        return dx.evaluate(y_true, y_pred, **{"metrics": METRICS, "from_logits": True, "threads": 2, **options})


@pytest.fixture(scope="module")
def data():
    """61 rows of 23 classes: labels, logits, weights; primes, so that no grid fits."""
    rng = np.random.default_rng(2)
    y_pred = rng.normal(0, 3, (61, 23)).astype("float32")
    return rng.integers(0, 23, 61), y_pred, rng.random(61).round(3)


@pytest.fixture(scope="module")
def wanted(data):
    y_true, y_pred, w = data
    return ask(y_true, y_pred, sample_weight=w)


def write(where, name, values, chunks, layout="v3", codec="zstd"):
    """Write an array into the group at `where`; shards are of two chunks along every axis."""
    options = {"v2": {"zarr_format": 2}, "v3": {}, "sharded": {"shards": tuple(2 * c for c in chunks)}}[layout]
    compressors = V2[codec] if layout == "v2" else V3[codec]
    z = zarr.create_array(
        where,
        name=name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=chunks,
        compressors=compressors,
        config={"write_empty_chunks": True},
        **options,
    )
    z[...] = values
    return z


@pytest.mark.parametrize("by", ["object", "path"])
@pytest.mark.parametrize(("layout", "codec"), STORED)
def test_zarr_gives_the_report_of_numpy(tmp_path, data, wanted, layout, codec, by):
    root = tmp_path / "dump.zarr"
    y_true, y_pred, w = (
        write(root, name, values, chunks, layout, codec)
        for name, values, chunks in zip(("labels", "logits", "weights"), data, ((7,), (5, 23), (11,)), strict=True)
    )
    if by == "path":
        y_true, y_pred, w = root / "labels", f"{root}/logits", str(root / "weights")
    assert ask(y_true, y_pred, sample_weight=w) == wanted


@pytest.mark.parametrize("store", [dict, MemoryStore, "zip"])
def test_zarr_in_other_stores_gives_the_report_of_numpy(tmp_path, data, wanted, store):
    where = ZipStore(tmp_path / "dump.zip", mode="w") if store == "zip" else MemoryStore() if store is dict else store()
    arrays = [write(where, name, values, (8,) * values.ndim) for name, values in zip("lpw", data, strict=True)]
    assert ask(arrays[0], arrays[1], sample_weight=arrays[2]) == wanted


@pytest.mark.parametrize("grids", list(itertools.permutations([2, 5, 13])), ids=str)
@pytest.mark.parametrize("classes", [4, 23])
def test_the_grids_of_labels_predictions_and_weights_need_not_match(tmp_path, data, wanted, grids, classes):
    chunks = (grids[0],), (grids[1], classes), (grids[2],)
    arrays = [write(tmp_path, n, values, c) for n, values, c in zip("lpw", data, chunks, strict=True)]
    assert ask(arrays[0], arrays[1], sample_weight=arrays[2]) == wanted


def npy(tmp_path, name, values):
    np.save(tmp_path / name, values)
    return str(tmp_path / f"{name}.npy")


def kinds(tmp_path, name, values):
    """The same array, held in every way there is."""
    chunks = (5, 7)[: values.ndim]
    yield values
    yield values.tolist() if values.dtype != np.float32 else values
    yield np.asfortranarray(values)
    yield np.repeat(values, 2, axis=0)[::2]
    yield npy(tmp_path, name, values)
    yield np.load(npy(tmp_path, name, values), mmap_mode="r")
    yield write(tmp_path, name, values, chunks)
    yield da.from_array(values, chunks=chunks)
    yield xarray.DataArray(values)
    yield xarray.DataArray(values).chunk(4)


KINDS = ["NumPy", "lists", "Fortran", "strided", "npy path", "memmap", "zarr", "dask", "xarray", "xarray of dask"]


@pytest.fixture(scope="module")
def held(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("kinds")
    return [list(kinds(path, name, values)) for name, values in zip("lpw", data, strict=True)]


@pytest.mark.parametrize("labels", range(len(KINDS)), ids=KINDS)
@pytest.mark.parametrize("predictions", range(len(KINDS)), ids=KINDS)
def test_any_two_kinds_of_input_give_the_report_of_numpy(held, wanted, labels, predictions):
    y_true, y_pred, w = held
    weight = w[(labels + predictions) % len(KINDS)]
    assert ask(y_true[labels], y_pred[predictions], sample_weight=weight) == wanted


def test_float64_lists_give_the_report_of_numpy(data):
    y_true, y_pred, w = data[0], data[1].astype(float), data[2]
    wanted = ask(y_true, y_pred, sample_weight=w)
    assert ask(y_true.tolist(), y_pred.tolist(), sample_weight=w.tolist()) == wanted


def test_an_npy_file_is_never_unpickled(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    with pytest.raises(ValueError, match=r"y_true: .*objects\.npy cannot be read as a \.npy array"):
        ask(str(tmp_path / "objects.npy"), np.zeros((1, 2)))


@pytest.mark.parametrize("dtype", [*LABEL_DTYPES, ">i4", ">u2"])
def test_labels_of_any_integer_dtype_give_the_same_report(tmp_path, data, wanted, dtype):
    y_true, y_pred, w = data
    for held in (
        y_true.astype(dtype),
        write(tmp_path, "l", y_true.astype(dtype), (6,)),
        y_true[:, None].astype(dtype),
    ):
        assert ask(held, y_pred, sample_weight=w) == wanted


def test_labels_beyond_int64_are_out_of_range():
    with pytest.raises(ValueError, match="row 1 is outside"):
        ask(np.array([0, 2**64 - 1], np.uint64), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="row 1 is outside"):
        ask(np.array([0, 2**64 - 1], np.uint64), np.zeros((2, 3)), ignore_class=2)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "float16", "float32", "float64"])
def test_one_hot_labels_give_the_sums_of_integers(tmp_path, data, wanted, dtype):
    y_true, y_pred, w = data
    hot = np.eye(23)[y_true].astype(dtype)
    for held in (hot, write(tmp_path, "l", hot, (4, 5)), da.from_array(hot, chunks=(9, 6))):
        assert ask(held, y_pred, sample_weight=w).state == wanted.state


@SOME
@given(questions(), st.data())
def test_the_class_axis_may_be_anywhere(question, data):
    y_true, y_pred, options = question
    wanted = ask(y_true, y_pred, **options)
    axis = options["axis"] % y_pred.ndim
    if y_true.shape == y_pred.shape and y_pred.shape[axis] > 1:
        y_true = np.moveaxis(y_true, axis, -1)
    elif y_true.ndim == y_pred.ndim:
        y_true = y_true.reshape(y_pred.shape[:axis] + y_pred.shape[axis + 1 :])
    moved = ask(y_true, np.moveaxis(y_pred, axis, -1), **{**options, "axis": -1})
    assert moved.state == wanted.state
    first = np.moveaxis(y_pred, axis, 0)
    chunked = da.from_array(first, chunks=tuple(data.draw(partitions(n)) for n in first.shape))
    y_true = np.moveaxis(y_true, -1, 0) if y_true.shape == np.moveaxis(y_pred, axis, -1).shape else y_true
    assert ask(y_true, chunked, **{**options, "axis": 0}).state == wanted.state


@SOME
@given(questions(), st.data())
def test_any_grid_of_a_stored_dump_gives_the_report_of_numpy(question, data):
    y_true, y_pred, options = question
    if y_pred.dtype == ml_dtypes.bfloat16:
        options["view"] = "bfloat16"
        y_pred = y_pred.view("uint16")
    wanted = ask(y_true, y_pred, **options)
    held = {"y_true": y_true, "y_pred": y_pred}
    if "sample_weight" in options:
        held["sample_weight"] = options.pop("sample_weight")
    for name, values in held.items():
        chunks = tuple(data.draw(st.integers(1, n)) for n in values.shape)
        shards = tuple(c * data.draw(st.integers(1, 3)) for c in chunks) if data.draw(st.booleans()) else None
        z = zarr.create_array(
            {},
            shape=values.shape,
            dtype=values.dtype,
            chunks=chunks,
            shards=shards,
            compressors=None,
            config={"write_empty_chunks": True},
        )
        z[...] = values
        held[name] = z
    assert ask(**held, **options) == wanted


@pytest.mark.parametrize("layout", ["v2", "v3", "sharded"])
@pytest.mark.parametrize("width", [1, 3, 8, 22])
def test_the_class_axis_may_be_split_by_the_grid(tmp_path, data, wanted, layout, width):
    y_true, y_pred, w = data
    assert ask(y_true, write(tmp_path, "p", y_pred, (9, width), layout), sample_weight=w) == wanted


@pytest.mark.parametrize("given", ["NumPy", "zarr", "npy", "dask", "NumPy, then zarr", "paths"])
@pytest.mark.parametrize("sizes", [(23,), (1, 22), (8, 8, 7), (3, 5, 2, 13)], ids=str)
def test_predictions_may_be_joined_blocks_of_classes(tmp_path, data, wanted, given, sizes):
    y_true, y_pred, w = data
    blocks = np.split(y_pred, np.cumsum(sizes)[:-1], axis=1)
    held = []
    for i, block in enumerate(blocks):
        kind = "zarr" if given == "NumPy, then zarr" and i else given
        z = write(tmp_path, f"p{i}", block, (4 + i, 3)) if kind in ("zarr", "paths") else None
        chunked = da.from_array(block, chunks=(6, 4)) if kind == "dask" else None
        path = npy(tmp_path, f"p{i}", block) if kind == "npy" else f"{tmp_path}/p{i}" if kind == "paths" else None
        held.append(next((x for x in (z if kind == "zarr" else None, chunked, path) if x is not None), block))
    held = dx.concat(held, axis=-1)
    assert ask(y_true, held, sample_weight=w) == wanted
    assert ask(np.eye(23)[y_true], held, sample_weight=w).state == wanted.state


def test_blocks_of_classes_follow_any_axis(data, wanted):
    y_true, y_pred, w = data
    blocks = [block.T for block in np.split(y_pred, [4, 9], axis=1)]
    assert ask(y_true, dx.concat(blocks, axis=0), sample_weight=w, axis=0) == wanted


def test_bfloat16_may_be_stored_as_uint16(tmp_path, data):
    y_true, y_pred, w = data
    y_pred = y_pred.astype(ml_dtypes.bfloat16)
    wanted = ask(y_true, y_pred, sample_weight=w)
    bits = y_pred.view("uint16")
    for held in (
        bits,
        write(tmp_path, "p", bits, (8, 7)),
        npy(tmp_path, "p", bits),
        da.from_array(bits, chunks=(9, 5)),
        dx.concat([bits[:, :9], bits[:, 9:]], axis=-1),
    ):
        assert ask(y_true, held, sample_weight=w, view="bfloat16") == wanted
    assert ask(y_true, y_pred.astype("float32"), sample_weight=w).state == wanted.state


def test_bfloat16_saved_by_numpy_is_read_with_a_view(tmp_path, data):
    y_true, y_pred, _ = data
    y_pred = y_pred.astype(ml_dtypes.bfloat16)
    assert ask(y_true, npy(tmp_path, "p", y_pred), view="bfloat16") == ask(y_true, y_pred)


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8"])
@pytest.mark.parametrize("copies", [1, 20], ids=["few", "many"])  # by NumPy, by compiled scans
def test_predictions_have_any_byte_order(tmp_path, data, dtype, copies):
    y_true, y_pred = (np.concatenate([x] * copies) for x in data[:2])
    swapped, native = y_pred.astype(dtype), y_pred.astype(dtype[1:])
    wanted = ask(y_true, native)
    for held in (
        swapped,
        npy(tmp_path, "p", swapped),
        da.from_array(swapped, chunks=(50, 23)),
        da.from_array(swapped, chunks=(50, 5)),
        dx.concat([swapped[:, :9], swapped[:, 9:]], axis=-1),
    ):
        assert ask(y_true, held) == wanted
    bits = native.astype(ml_dtypes.bfloat16).view("uint16")
    for held in (bits.astype(">u2"), da.from_array(bits.astype(">u2"))):
        assert ask(y_true, held, view="bfloat16") == ask(y_true, bits, view="bfloat16")


@pytest.mark.parametrize("rows", [2_000, 20_000])
def test_labels_have_any_strides(tmp_path, rows):
    rng = np.random.default_rng(4)
    y_true, y_pred = rng.integers(0, 100, rows), rng.normal(0, 3, (rows, 100)).astype("float32")
    fields = np.zeros(rows, [("other", "u1"), ("label", "i8")])
    fields["label"] = y_true
    wanted = ask(y_true, y_pred)
    losses = dx.losses.sparse_categorical_crossentropy(y_true, y_pred, True)
    for held in (np.repeat(y_true, 2)[::2], y_true[::-1].copy()[::-1], fields["label"]):
        assert ask(held, y_pred) == wanted
        assert (dx.losses.sparse_categorical_crossentropy(held, y_pred, True) == losses).all()
    stored = write(tmp_path, "y", y_true, (300,))
    assert ask(stored, da.from_array(y_pred, chunks=(500, 100))) == wanted
    assert dx.delayed(stored, y_pred, from_logits=True, metrics=METRICS).compute() == wanted


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_matrices_are_arrays(data, wanted):
    y_true, y_pred, w = data
    assert ask(np.matrix(y_true).T, np.matrix(y_pred), sample_weight=np.matrix(w).T) == wanted


def test_a_block_of_no_classes_is_nothing(data):
    y_true, y_pred, _ = data
    assert ask(y_true, dx.concat([y_pred[:, :9], y_pred[:, :0], y_pred[:, 9:]], axis=-1)) == ask(y_true, y_pred)


def test_float16_and_float64_dumps_give_the_report_of_numpy(tmp_path, data):
    y_true, y_pred, w = data
    for dtype in ("float16", "float64"):
        x = y_pred.astype(dtype)
        for held in (write(tmp_path, f"z{dtype}", x, (8, 7)), npy(tmp_path, "p", x), da.from_array(x, chunks=(9, 5))):
            assert ask(y_true, held, sample_weight=w) == ask(y_true, x, sample_weight=w)


WEIGHTS = [(), (1,), (6,), (6, 1), (6, 5), (6, 1, 1), (1, 5), (1, 1, 4), (6, 5, 4), (6, 5, 4, 1), (1, 1, 1), (6, 1, 4)]


@pytest.mark.parametrize("shape", WEIGHTS, ids=str)
@pytest.mark.parametrize("axis", [0, 1, 3])
def test_weights_lie_along_the_leading_axes(tmp_path, shape, axis):
    rng = np.random.default_rng(1)
    y_pred, y_true = np.moveaxis(rng.normal(0, 1, (6, 5, 4, 3)), -1, axis), rng.integers(0, 3, (6, 5, 4))
    w = rng.random(shape)
    own = w.reshape(shape[:3] + (1,) * (3 - len(shape[:3])))
    chunked = da.from_array(y_pred, chunks=tuple(2 if at == axis else 4 for at in range(4)))
    wanted = ask(y_true, y_pred, axis=axis, sample_weight=np.broadcast_to(own, (6, 5, 4)).copy())
    assert wanted.state.total.weight.units
    z = zarr.create_array({}, shape=shape, dtype=float, chunks=tuple(min(n, 2) for n in shape)) if shape else None
    if shape:
        z[...] = w
    for held in (
        w,
        *([z, w.tolist(), da.from_array(w, chunks=tuple(min(n, 3) for n in shape))] if shape else [float(w)]),
    ):
        assert ask(y_true, y_pred, axis=axis, sample_weight=held) == wanted
        assert ask(y_true, chunked, axis=axis, sample_weight=held) == wanted


def test_a_scalar_weight_counts_each_row_that_often(data):
    y_true, y_pred, _ = data
    got = ask(y_true, y_pred, sample_weight=2.0)
    assert got.metrics == ask(y_true, y_pred).metrics
    assert got.weight == 2.0 * len(y_true)


@pytest.mark.parametrize("kind", ["zarr", "npy", "NumPy", "dask"])
def test_nothing_given_is_written_to(tmp_path, data, kind):
    y_true, y_pred, w = (values.copy() for values in data)
    as_kind = {"zarr": lambda n, v: write(tmp_path, n, v, (9,) * v.ndim), "npy": lambda n, v: npy(tmp_path, n, v)}
    as_kind |= {"NumPy": lambda n, v: v, "dask": lambda n, v: da.from_array(v, chunks=9)}
    arrays = [as_kind[kind](n, v) for n, v in zip("lpw", (y_true, y_pred, w), strict=True)]
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    ask(arrays[0], arrays[1], sample_weight=arrays[2])
    for values, before in zip((y_true, y_pred, w), data, strict=True):
        assert values.tobytes() == before.tobytes()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_a_question_is_the_same_whoever_holds_the_arrays(tmp_path, data):
    y_true, y_pred, _ = data
    wanted = Question(METRICS, 23, from_logits=True)
    for held in (y_pred, write(tmp_path, "p", y_pred, (9, 9)), da.from_array(y_pred)):
        assert ask(y_true, held).question == wanted


@pytest.mark.skipif(not hasattr(zarr.Array, "read_chunk_sizes"), reason="this zarr has regular grids only")
def test_grids_of_unequal_chunks(tmp_path):
    rng = np.random.default_rng(3)
    x, labels = rng.normal(0, 3, (900, 37)).astype("float32"), rng.integers(0, 37, 900)
    with zarr.config.set({"array.rectilinear_chunks": True}):
        z = zarr.create_array(
            tmp_path / "r.zarr", shape=x.shape, chunks=[[100, 50, 300, 200, 250], [20, 17]], dtype="float32"
        )
        z[:] = x
    wanted = dx.evaluate(labels, x, from_logits=True).state
    report = dx.evaluate(labels, tmp_path / "r.zarr", from_logits=True)
    assert report.state == wanted
    assert dx.plan(labels, tmp_path / "r.zarr", from_logits=True).chunks == 10
    assert np.array_equal(dx.open(tmp_path / "r.zarr")[90:460, 10:30], x[90:460, 10:30])
    assert pickle.loads(pickle.dumps(open_array(tmp_path / "r.zarr", "y"))).shape == x.shape
    (tmp_path / "r.zarr/c/2/1").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"y_pred: chunk c/2/1 of .* cannot be decoded"):
        dx.evaluate(labels, tmp_path / "r.zarr", from_logits=True)
    (tmp_path / "r.zarr/c/2/1").unlink()
    with pytest.raises(ValueError, match=r"y_pred: chunk c/2/1 of .* is missing; .*on_missing='fill'"):
        dx.evaluate(labels, tmp_path / "r.zarr", from_logits=True)
    filled = dx.evaluate(labels, tmp_path / "r.zarr", from_logits=True, on_missing="fill")
    assert filled.audit["prediction_missing"]["count"] == 300


@pytest.mark.parametrize(("layout", "codec"), [*STORED, ("v3", "crc32c")])
def test_small_chunks_are_read_together(tmp_path, data, layout, codec):
    values, chunk = data[1], 5
    z = write(tmp_path, "x", values, (chunk, 23), layout, codec)
    source, whole = Zarr(z, "x", together=4 * chunk * values[:1].nbytes), (slice(0, 23),)
    assert source.together(0).largest == 4 * chunk
    for start in range(0, 61, chunk):
        for stop in (*range(start + chunk, 61, chunk), 61):
            found = source.read((slice(start, stop), *whole))
            assert found.dtype == values.dtype
            np.testing.assert_array_equal(found, values[start:stop])
    for box in ((slice(3, 22), *whole), (slice(0, 20), slice(1, 23)), (slice(5, 24), *whole)):
        np.testing.assert_array_equal(source.read(box), values[box])
    part = Sliced(source, (slice(3, 60), slice(0, 23)))
    for start, stop in part.together(0).ranges(0, 57):
        np.testing.assert_array_equal(part.read((slice(start, stop), *whole)), values[3 + start : 3 + stop])
    assert list(part.together(0).ranges(0, 57)) == [(0, 17), (17, 37), (37, 57)]


@pytest.mark.parametrize("fill", [False, True])
def test_a_missing_chunk_among_some_that_are_read_together(tmp_path, data, fill):
    z = zarr.create_array(tmp_path / "x", shape=(61, 23), chunks=(5, 23), dtype="f4", fill_value=7)
    z[...] = data[1]
    for number in (2, 12):
        (tmp_path / "x" / "c" / str(number) / "0").unlink()
    source, gaps = open_array(z, "x"), [] if fill else None
    if not fill:
        with pytest.raises(ValueError, match=r"x: chunk c/2/0 of .* is missing"):
            source.read((slice(0, 61), slice(0, 23)), gaps)
        return
    expected = data[1].copy()
    expected[10:15] = expected[60:61] = 7
    np.testing.assert_array_equal(source.read((slice(0, 61), slice(0, 23)), gaps), expected)
    assert gaps == [(slice(10, 15), slice(0, 23)), (slice(60, 61), slice(0, 23))]


def test_files_of_one_array_share_the_memory_of_small_chunks(tmp_path, data, wanted):
    y_true, y_pred, w = data
    parts = [write(tmp_path, f"x{at}", y_pred[at : at + 20], (3, 23)) for at in range(0, 61, 20)]
    assert ask(y_true, dx.concat(parts), sample_weight=w) == wanted
    assert ask(y_true, dx.concat([dx.concat(parts[:2]), dx.concat(parts[2:])]), sample_weight=w) == wanted
    before = set(zarr_arrays._THREAD.__dict__)
    for at, z in enumerate(parts):
        open_array(z, f"many[{at}]").read((slice(0, z.shape[0]), slice(0, 23)))
    assert set(zarr_arrays._THREAD.__dict__) - before == {"many"}


class Counted(Base):
    """An array that counts the numbers that are read of it."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.numbers = array, array.shape, array.dtype, 0

    def read(self, box, missing=None):
        part = self.array[box]
        self.numbers += part.size
        return part


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8"])
@pytest.mark.parametrize("lead", [0, 1, 2, None])
@pytest.mark.parametrize("shape", [(3, 21, 90, 70), (40, 3, 5000), (2, 1, 1), (7, 300_000), (20, 1, 30_000, 1)])
def test_an_array_is_known_by_the_first_bytes_of_some_steps_and_no_more_is_read(shape, lead, dtype):
    if lead is not None and lead >= len(shape):
        pytest.skip("no such axis")
    array = np.random.default_rng(1).integers(0, 200, shape).astype(dtype)
    steps = [array] if lead is None else np.moveaxis(array, lead, 0)[spread(shape[lead])]
    source = Counted(array)
    found = source.sample(tuple(map(slice, [0] * len(shape), shape)), lead)
    assert found == digest(b"".join(step.tobytes()[:SAMPLE_BYTES] for step in steps))
    assert source.numbers <= 2 * len(steps) * (SAMPLE_BYTES // array.itemsize)  # whole lines of the last axes
