import bz2
import gzip
import itertools
import lzma
import math
import mmap
import os
import pickle
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from holding import held_as, numbers
from numpy.testing import assert_array_equal
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec
from zarr.storage import FsspecStore, LocalStore, MemoryStore, WrapperStore, ZipStore

from daskxent.show.shell import peak_memory
from daskxent.sources import codecs, files, objects
from daskxent.sources.chunks import Chunks, MissingChunk, Scratch, TornChunk

with warnings.catch_warnings(action="ignore"):  # zarr warns that these are not in the v3 specification
    from zarr.codecs import numcodecs as outside

    ZLIB, LZ4, BZ2, LZMA = outside.Zlib(), outside.LZ4(), outside.BZ2(), outside.LZMA()

pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")

DTYPES = ["?", "i1", "u1", "<i2", "<u2", "<f2", "<i4", "<u4", "<f4", "<i8", "<u8", "<f8"]
V2 = {
    "none": None,
    "zstd": numcodecs.Zstd(),
    "zstd-checksum": numcodecs.Zstd(checksum=True),
    "blosc": numcodecs.Blosc(),
    "gzip": numcodecs.GZip(),
    "zlib": numcodecs.Zlib(),
    "lz4": numcodecs.LZ4(),
    "bz2": numcodecs.BZ2(),
    "lzma": numcodecs.LZMA(),
}
V3 = {
    "none": [],
    "zstd": [ZstdCodec()],
    "zstd-checksum": [ZstdCodec(checksum=True)],
    "blosc": [BloscCodec(cname="lz4", shuffle="shuffle", typesize=4)],
    "gzip": [GzipCodec()],
    "zlib": [ZLIB],
    "lz4": [LZ4],
    "bz2": [BZ2],
    "lzma": [LZMA],
    "crc32c": [Crc32cCodec()],
    "zstd-crc32c": [ZstdCodec(), Crc32cCodec()],
    "blosc-crc32c": [BloscCodec(cname="zstd", shuffle="bitshuffle", typesize=4), Crc32cCodec()],
}
LAYOUTS = {
    "v2": {"zarr_format": 2},
    "v2/": {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "v3": {},
    "v3.": {"chunk_key_encoding": {"name": "default", "separator": "."}},
    "v3-v2": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    "shards": {"shards": "end"},
    "shards-start": {"shards": "start"},
}
# How a key is spelt has nothing to do with how a chunk is packed: one codec is enough there.
PACKED = {"v2": V2, "v3": V3, "shards": V3, "shards-start": V3}
CASES = [(layout, codec) for layout in LAYOUTS for codec in PACKED.get(layout, ["zstd"])]
CHECKED = [c for c in CASES if c[1] in {"zstd-checksum", "gzip", "zlib", "crc32c", "zstd-crc32c", "blosc-crc32c"}]


def create(store, values, chunks, layout="v3", codec="zstd", **more):
    options = {**LAYOUTS[layout], **more}
    if location := options.pop("shards", None):
        options["shards"] = {"shape": tuple(2 * c for c in chunks), "index_location": location}
    v2 = options.get("zarr_format") == 2
    z = zarr.create_array(
        store, name="a/b", shape=values.shape, dtype=values.dtype, chunks=chunks,
        compressors=V2[codec] if v2 else V3[codec], **options,
    )  # fmt: skip
    z[...] = values
    return z


def indices(z):
    return itertools.product(*(range(math.ceil(s / c)) for s, c in zip(z.shape, z.chunks, strict=True)))


def region(z, index):
    return tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, z.chunks, strict=True))


def assert_same(z, fast, scratch=None, whole=None):
    chunks, scratch, whole = Chunks(z, "y"), scratch or Scratch(), np.asarray(z[...]) if whole is None else whole
    assert chunks.fast is fast
    for index in indices(z):
        got, want = chunks.read(index, scratch), whole[region(z, index)]
        assert (got.dtype, got.shape) == (want.dtype.newbyteorder("="), want.shape)
        assert_array_equal(got, want)
        assert got.flags.aligned
        assert not got.flags.writeable


def outcomes(z, scratch=None):
    """What every chunk of the array reads as: the truth, None, or an exception; a wrong number fails here."""
    truth, chunks, scratch = numbers(z.shape, z.dtype), Chunks(z, "y"), scratch or Scratch()
    for index in indices(z):
        try:
            chunk = chunks.read(index, scratch)
        except TornChunk as error:
            yield error
        else:
            if chunk is not None:
                assert_array_equal(chunk, truth[region(z, index)])
            yield chunk


def torn(z, scratch=None):
    return [outcome for outcome in outcomes(z, scratch) if isinstance(outcome, TornChunk)]


def stored(tmp_path):
    """The files of chunks; everything else in the directory of an array is metadata."""
    return sorted(p for p in tmp_path.rglob("*") if p.is_file() and p.name[:2] not in {".z", "za"})


def map_everything(monkeypatch):
    """Map files of any size, just written ones too."""
    monkeypatch.setattr(files, "MAPPED", 1)
    monkeypatch.setattr(files, "RECENT", 0.0)


@pytest.fixture(params=["memory", "local", "mapped"])
def store(request, tmp_path, monkeypatch):
    if request.param == "mapped":  # even the smallest file, at any offset
        map_everything(monkeypatch)
    return MemoryStore() if request.param == "memory" else LocalStore(tmp_path)


@pytest.mark.parametrize(("layout", "codec"), CASES)
def test_chunks_are_what_zarr_reads(store, layout, codec):
    # The type meets the store only in the alignment of what is mapped.
    for dtype in DTYPES if isinstance(store, MemoryStore) else ["?", "<f2", "<f8"]:
        z = create(store, numbers((7, 5), dtype), (3, 2), layout, codec, overwrite=True)
        assert_same(z, fast=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(7,), (6, 4), (7, 5, 3), (3, 4, 5, 3), (1, 1), (0, 4)])
def test_any_number_of_axes(store, layout, shape):
    assert_same(create(store, numbers(shape), (3, 2, 2, 2)[: len(shape)], layout), fast=True)


def test_no_axes_at_all(store):
    assert_same(create(store, numbers(()), ()), fast=True)


def test_an_array_at_the_root_of_its_store(tmp_path):
    z = zarr.create_array(tmp_path / "z.zarr", data=numbers((7, 5)), chunks=(3, 2))
    assert_same(z, fast=True)


def test_grid_and_blocks(tmp_path):
    plain = Chunks(create(tmp_path / "p", numbers((7, 5)), (3, 2)), "y")
    shards = Chunks(create(tmp_path / "s", numbers((7, 5)), (3, 2), "shards"), "y")
    assert (plain.shape, plain.chunks, plain.blocks) == ((7, 5), (3, 2), (3, 2))
    assert (shards.shape, shards.chunks, shards.blocks) == ((7, 5), (3, 2), (6, 4))


@pytest.mark.parametrize("index", [(3, 0), (0, -1), (0,), (0, 0, 0)])
def test_there_is_no_chunk_outside_the_grid(tmp_path, index):
    chunks = Chunks(create(tmp_path, numbers((7, 5)), (3, 2)), "y")
    with pytest.raises(IndexError, match="y: no chunk"):
        chunks.read(index, Scratch())


def other_stores(tmp_path):
    yield ZipStore(tmp_path / "z.zip", mode="w")
    yield WrapperStore(LocalStore(tmp_path / "wrapped"))
    yield type("MyStore", (LocalStore,), {})(tmp_path / "subclass")  # may do anything in get: not read as files


@pytest.mark.parametrize("layout", ["v2", "v3", "shards", "shards-start"])
@pytest.mark.parametrize("which", range(3))
def test_any_store(tmp_path, layout, which):
    store = list(other_stores(tmp_path))[which]
    z = create(store, numbers((7, 5)), (3, 2), layout)
    assert type(Chunks(z, "y")._bytes) is objects.Objects
    assert_same(z, fast=True)
    store.close()


@pytest.mark.parametrize("layout", ["v3", "shards", "shards-start"])
def test_an_fsspec_store(layout):
    store = FsspecStore.from_url("memory://chunks-" + layout)
    assert_same(create(store, numbers((7, 5)), (3, 2), layout), fast=True)


def test_without_zarrs_own_event_loop(monkeypatch):
    z = create(MemoryStore(), numbers((7, 5)), (3, 2))
    want = z[:3, :2]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "zarr.core.sync", None)
        assert_array_equal(Chunks(z, "y").read((0, 0), Scratch()), want)


SHARD = ShardingCodec(chunk_shape=(3, 2), codecs=[TransposeCodec(order=(1, 0)), BytesCodec()])
OTHERS = {
    "F order": {"zarr_format": 2, "order": "F", "chunks": (3, 2)},
    "v2 big-endian": {"zarr_format": 2, "dtype": ">i4", "chunks": (3, 2)},
    "filter": {"zarr_format": 2, "filters": [numcodecs.Delta("<f4")], "chunks": (3, 2)},
    "v2 raw lzma": {"zarr_format": 2, "compressors": numcodecs.LZMA(filters=[{"id": 33}], format=3), "chunks": (3, 2)},
    "transpose": {"filters": [TransposeCodec(order=(1, 0))], "compressors": GzipCodec(), "chunks": (3, 2)},
    "big-endian": {"serializer": BytesCodec(endian="big"), "chunks": (3, 2)},
    "two compressors": {"compressors": [ZstdCodec(), GzipCodec()], "chunks": (3, 2)},
    "checksum first": {"compressors": [Crc32cCodec(), ZstdCodec()], "chunks": (3, 2)},
    "complex": {"dtype": "c8", "chunks": (3, 2)},
    "shards, transpose": {"serializer": SHARD, "compressors": None, "chunks": (6, 4)},
    "shards in shards": {
        "serializer": ShardingCodec(chunk_shape=(6, 4), codecs=[ShardingCodec(chunk_shape=(3, 2))]),
        "compressors": None,
        "chunks": (12, 8),
    },
    "shards, other index": {
        "serializer": ShardingCodec(chunk_shape=(3, 2), index_codecs=[BytesCodec(endian="big"), Crc32cCodec()]),
        "compressors": None,
        "chunks": (6, 4),
    },
    "shards, compressed whole": {
        "serializer": ShardingCodec(chunk_shape=(3, 2)),
        "compressors": ZstdCodec(),
        "chunks": (6, 4),
    },
}


# zarr warns that what lies around a shard is slow, which is true
@pytest.fixture(params=OTHERS)
def other(request, store):
    options = {"dtype": "<f4", **OTHERS[request.param]}
    with warnings.catch_warnings(action="ignore"):
        z = zarr.create_array(store, name="a/b", shape=(13, 9), **options)
        z[...] = numbers(z.shape, z.dtype)
    return z


@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec")
def test_every_other_array_goes_through_zarr(other):
    assert_same(other, fast=False)


@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec")
def test_through_zarr_a_missing_chunk_is_seen(other):
    chunks, scratch = Chunks(other, "y"), Scratch()
    objects.waited(other.store.delete("a/b/" + chunks.missing((0, 0)).key))
    assert chunks.read((0, 0), scratch) is None
    assert chunks.read((2, 2), scratch) is not None


@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec")
@pytest.mark.parametrize("keep", [0, 0.5])
def test_through_zarr_a_torn_chunk_is_seen(other, keep):
    put = other.store_path / Chunks(other, "y").missing((0, 0)).key
    whole = objects.waited(put.get())
    objects.waited(put.set(whole[: int(len(whole) * keep)]))
    assert torn(other)


def test_through_zarr_bad_gzip_is_torn_although_it_is_an_oserror(tmp_path):
    z = zarr.create_array(tmp_path, data=numbers((3, 2)), **OTHERS["transpose"])
    stored(tmp_path)[0].write_bytes(b"not gzip")
    assert isinstance(torn(z)[0].__cause__, OSError)


@pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification")
def test_strings_go_through_zarr(tmp_path):
    z = zarr.create_array(tmp_path, shape=(3,), chunks=(2,), dtype="U4", fill_value="")
    z[...] = np.array(["a", "b", "c"])
    assert_same(z, fast=False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_file_is_none(tmp_path, layout):
    z = create(tmp_path, numbers((6, 4)), (3, 2), layout)
    for path in stored(tmp_path):
        path.unlink()
    assert list(outcomes(z)) == [None] * 4


def test_a_missing_object_is_none():
    z = zarr.create_array(MemoryStore(), shape=(6, 4), chunks=(3, 2), dtype="f4")
    assert list(outcomes(z)) == [None] * 4


@pytest.mark.parametrize("location", ["end", "start"])
def test_an_inner_chunk_missing_from_its_shard_is_none(store, location):
    values = numbers((6, 4))
    values[3:, :2] = 0  # the fill value: zarr does not store it
    chunks, scratch = Chunks(create(store, values, (3, 2), shards=location), "y"), Scratch()
    assert [chunks.read(i, scratch) is None for i in indices(chunks)] == [False, False, True, False]


def test_the_error_for_a_missing_chunk_tells_what_and_where(tmp_path):
    plain = Chunks(create(tmp_path / "p", numbers((7, 5)), (3, 2)), "y_pred").missing((2, 1))
    inner = Chunks(create(tmp_path / "s", numbers((7, 5)), (3, 2), "shards"), "y_pred").missing((2, 1))
    memory = Chunks(create(MemoryStore(), numbers((7, 5)), (3, 2)), "y_pred").missing((2, 1))
    assert isinstance(plain, MissingChunk)
    hint = "evaluate(..., on_missing='fill') reads it as the fill value 0.0"
    assert str(plain) == f"y_pred: chunk c/2/1 of {tmp_path}/p/a/b is missing; {hint}"
    assert str(inner) == f"y_pred: chunk 2/1 in shard c/1/0 of {tmp_path}/s/a/b is missing; {hint}"
    assert "y_pred: chunk c/2/1 of memory:" in str(memory)
    assert (plain.key, inner.key) == ("c/2/1", "c/1/0")


@pytest.mark.parametrize(("dtype", "value"), [("f4", np.nan), ("f2", -1.5), ("u8", 2**64 - 1), ("?", True), (">i4", 7)])
@pytest.mark.parametrize("version", [2, 3])
def test_fill_is_what_zarr_reads(dtype, value, version):
    z = zarr.create_array(MemoryStore(), shape=4, chunks=2, dtype=dtype, fill_value=value, zarr_format=version)
    fill = Chunks(z, "y").fill()
    assert fill.dtype == z[:].dtype.newbyteorder("=")
    assert_array_equal(fill, z[0])


def test_fill_of_none_is_zero():
    z = zarr.create_array(MemoryStore(), shape=4, chunks=2, dtype="f4", fill_value=None, zarr_format=2)
    assert Chunks(z, "y").fill() == z[0] == 0


@pytest.mark.parametrize("keep", [lambda n: 0, lambda n: 3, lambda n: n // 2, lambda n: n - 1, lambda n: n + 1])
@pytest.mark.parametrize(("layout", "codec"), CASES)
def test_a_file_of_the_wrong_length_is_torn(tmp_path, layout, codec, keep):
    z = create(tmp_path, numbers((7, 5)), (3, 2), layout, codec)
    scratch = Scratch()
    assert not torn(z, scratch)  # and the buffers now hold what a careless decoder would return
    path = stored(tmp_path)[0]
    whole = path.read_bytes()
    path.write_bytes((whole + b"x")[: keep(len(whole))])
    # Only bytes after the last chunk of a shard that has its index in front do no harm.
    assert torn(z, Scratch()) or (layout == "shards-start" and keep(0) == 1)


@pytest.mark.parametrize("keep", [0, 0.5])
@pytest.mark.parametrize(("layout", "codec"), CASES)
def test_an_object_cut_short_is_torn(layout, codec, keep):
    objects = {}
    z = create(MemoryStore(objects), numbers((7, 5)), (3, 2), layout, codec)
    key = "a/b/" + Chunks(z, "y").missing((0, 0)).key
    objects[key] = objects[key][: int(len(objects[key]) * keep)]
    assert torn(z)


@pytest.mark.parametrize(("layout", "codec"), CASES)
@pytest.mark.parametrize("rows", [2, 4])
def test_a_sound_chunk_of_another_size_is_torn(tmp_path, layout, codec, rows):
    z = create(tmp_path / "z", numbers((6, 4)), (3, 2), layout, codec)
    create(tmp_path / "o", numbers((2 * rows, 4)), (rows, 2), layout, codec)
    scratch = Scratch()
    assert not torn(z, scratch)
    stored(tmp_path / "o")[0].rename(stored(tmp_path / "z")[0])
    errors = torn(z, Scratch())
    assert errors
    assert "expected 24 bytes, got 16" in str(errors[0]) or rows == 4 or codec == "zlib"


@pytest.mark.parametrize(("layout", "codec"), CHECKED)
def test_a_checksum_sees_a_flipped_bit(tmp_path, layout, codec):
    z = create(tmp_path, numbers((3, 2)), (3, 2), layout, codec)
    (path,) = stored(tmp_path)
    whole = path.read_bytes()
    harmless = 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        harmless += not torn(z)  # a wrong number fails in `outcomes`
    # In the headers: gzip's time and system, and the bit that zstd does not use.
    assert harmless <= {"gzip": 6, "zstd-checksum": 1}.get(codec, 0)


@pytest.mark.parametrize(("layout", "codec"), CASES)
def test_no_flipped_byte_gets_past_the_decoder(tmp_path, layout, codec):
    z = create(tmp_path, numbers((3, 2)), (3, 2), layout, codec)
    (path,) = stored(tmp_path)
    whole, chunks, scratch = path.read_bytes(), Chunks(z, "y"), Scratch()
    for at, flip in itertools.product(range(len(whole)), (1, 255)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
        scratch.shard = None
        try:
            chunk = chunks.read((0, 0), scratch)
        except TornChunk:
            continue
        assert chunk is not None
        assert chunk.shape == (3, 2)


@pytest.mark.parametrize("layout", ["shards", "shards-start"])
def test_a_torn_index_is_named_as_such(tmp_path, layout):
    z = create(tmp_path, numbers((6, 4)), (3, 2), layout, "none")
    (path,) = stored(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[10 if layout == "shards-start" else -10] ^= 1
    path.write_bytes(raw)
    with pytest.raises(TornChunk, match=r"the shard's index, crc32c is [0-9a-f]{8}, stored was"):
        Chunks(z, "y").read((0, 0), Scratch())


def test_the_error_for_a_torn_chunk_tells_what_and_why(tmp_path):
    z = create(tmp_path, numbers((100, 100)), (100, 100), codec="none")
    stored(tmp_path)[0].write_bytes(b"x" * 123)
    message = f"y_pred: chunk c/0/0 of {tmp_path}/a/b cannot be decoded: expected 40000 bytes, got 123"
    with pytest.raises(TornChunk) as caught:
        Chunks(z, "y_pred").read((0, 0), Scratch())
    assert str(caught.value) == message
    assert caught.value.key == "c/0/0"
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("layout", ["v3", "shards"])
def test_a_directory_in_the_place_of_a_chunk_is_an_error(tmp_path, layout, fast):
    chunks = Chunks(create(tmp_path, numbers((3, 2)), (3, 2), layout), "y")
    chunks.fast = fast
    (path,) = stored(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        chunks.read((0, 0), Scratch())


@pytest.mark.parametrize("fast", [True, False])
def test_a_file_that_cannot_be_opened_is_an_error(tmp_path, fast):
    chunks = Chunks(create(tmp_path, numbers((3, 2)), (3, 2)), "y")
    chunks.fast = fast
    (path,) = stored(tmp_path)
    path.unlink()
    path.symlink_to(path)  # permissions do not stop the superuser, a link to itself does
    with pytest.raises(OSError, match="symbolic links"):
        chunks.read((0, 0), Scratch())


def test_a_directory_that_is_missing_is_an_error(tmp_path):
    chunks = Chunks(create(tmp_path / "disk", numbers((3, 2)), (3, 2)), "y")
    (tmp_path / "disk").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        chunks.read((0, 0), Scratch())


@pytest.mark.parametrize("codec", V3)
@pytest.mark.parametrize("layout", ["v3", "shards"])
def test_one_scratch_serves_arrays_of_any_size(tmp_path, layout, codec):
    sizes = [(3, 2), (50, 7), (4, 1), (60, 9)]
    arrays = [create(tmp_path / str(c), numbers((61, 9)), c, layout, codec) for c in sizes]
    scratch = Scratch()
    for z in arrays + arrays[::-1]:
        assert_same(z, fast=True, scratch=scratch, whole=numbers((61, 9)))


def test_two_arrays_take_turns_with_one_scratch(tmp_path):
    arrays = [create(tmp_path / n, numbers((12, 4), n), (3, 2), "shards") for n in ("i4", "f8")]
    readers, scratch = [Chunks(z, "y") for z in arrays], Scratch()
    for index in indices(arrays[0]):
        for z, chunks in zip(arrays, readers, strict=True):
            assert_array_equal(chunks.read(index, scratch), z[region(z, index)])


def test_the_index_of_a_shard_is_read_once(tmp_path, monkeypatch):
    chunks = Chunks(create(tmp_path, numbers((12, 2)), (3, 2), "shards"), "y")
    fetched = []
    fetch = chunks._bytes.fetch
    monkeypatch.setattr(chunks._bytes, "fetch", lambda *a: fetched.append(a[:2]) or fetch(*a))
    scratch = Scratch()
    for index in indices(chunks):
        chunks.read(index, scratch)
    assert len(fetched) == 4 + 2  # four chunks, two shards


@pytest.mark.parametrize("layout", LAYOUTS)
def test_chunks_travel(tmp_path, layout):
    z = create(tmp_path, numbers((7, 5)), (3, 2), layout)
    chunks = pickle.loads(pickle.dumps(Chunks(z, "y")))
    assert (chunks.name, chunks.fast) == ("y", True)
    assert_array_equal(chunks.read((1, 1), Scratch()), z[3:6, 2:4])


@pytest.mark.parametrize("kind", [MissingChunk, TornChunk])
def test_errors_travel(kind):
    error = pickle.loads(pickle.dumps(kind("y: chunk c/0 is missing", "c/0")))
    assert (type(error), str(error), error.key) == (kind, "y: chunk c/0 is missing", "c/0")


@pytest.mark.parametrize("layout", ["v2", "shards"])
@pytest.mark.parametrize("codec", V2)
def test_threads_share_chunks_but_not_scratch(tmp_path, layout, codec):
    values = numbers((200, 50))
    chunks = Chunks(create(tmp_path, values, (10, 50), layout, codec), "y")

    def read_all(order):
        scratch = Scratch()
        for i in order:
            assert_array_equal(chunks.read((i, 0), scratch), values[10 * i : 10 * i + 10])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(read_all, [range(20), range(19, -1, -1)] * 5))


def test_what_cannot_be_mapped_is_read(tmp_path, monkeypatch):
    map_everything(monkeypatch)
    monkeypatch.setattr(files, "_map", lambda *a: (_ for _ in ()).throw(OSError("no such device")))
    assert_same(create(tmp_path, numbers((7, 5)), (3, 2), "shards"), fast=True)


def test_a_map_goes_when_its_array_goes(tmp_path, monkeypatch):
    map_everything(monkeypatch)
    values = numbers((6, 2000))  # an inner chunk starts at 12,000 bytes: not on a page
    chunks = Chunks(create(tmp_path, values, (3, 1000), "shards", "none"), "y")
    mapped = chunk = chunks.read((0, 1), Scratch())
    while isinstance(mapped, np.ndarray):
        mapped = mapped.base
    mapped = mapped.obj  # the memoryview that np.frombuffer keeps
    assert isinstance(mapped, mmap.mmap)
    with pytest.raises(BufferError):
        mapped.close()
    del chunk
    mapped.close()  # nothing of ours holds it any more


def test_a_file_that_was_just_written_may_be_cut_short_afterwards(tmp_path):
    values = numbers((1, 1 << 20))  # 4 MB, which are mapped if they are older
    chunks = Chunks(create(tmp_path, values, (1, 1 << 20), "v3", "none"), "y")
    chunk = chunks.read((0, 0), Scratch())
    os.truncate(tmp_path / "a" / "b" / "c" / "0" / "0", 0)
    assert_array_equal(chunk, values)  # of a map the process would die


def test_a_file_that_is_cut_short_while_it_is_mapped_is_torn(tmp_path, monkeypatch):
    chunks = Chunks(create(tmp_path, numbers((1, 1 << 20)), (1, 1 << 20), "v3", "none"), "y")
    file = tmp_path / "a" / "b" / "c" / "0" / "0"
    os.utime(file, (0, 0))
    mapped = files._map

    def cut(*given):
        found = mapped(*given)
        os.truncate(file, 1000)
        os.utime(file, (0, 0))
        return found

    monkeypatch.setattr(files, "_map", cut)
    with pytest.raises(TornChunk, match="expected 4194304 bytes, got 1000"):
        chunks.read((0, 0), Scratch())


def zstd_frame(size):
    """Return a zstd frame of this many zeros that does not say its size: run-length blocks of at most 128 KiB."""
    blocks = [min(1 << 17, size - at) for at in range(0, size, 1 << 17)]
    header = bytes.fromhex("28b52ffd 00 58")
    return header + b"".join(
        (n << 3 | 2 | (i == len(blocks) - 1)).to_bytes(3, "little") + b"\0" for i, n in enumerate(blocks)
    )


BOMBS = {
    "zstd": (numcodecs.Zstd(), lambda size: numcodecs.Zstd().encode(bytes(size))),
    "zstd of no size": (numcodecs.Zstd(), zstd_frame),
    "zstd of two frames": (numcodecs.Zstd(), lambda size: numcodecs.Zstd().encode(bytes(9)) + zstd_frame(size)),
    "bz2": (numcodecs.BZ2(), lambda size: numcodecs.BZ2().encode(bytes(size))),
    "lzma": (numcodecs.LZMA(), lambda size: numcodecs.LZMA(preset=0).encode(bytes(size))),
    "gzip": (numcodecs.GZip(), lambda size: numcodecs.GZip().encode(bytes(size))),
    "zlib": (numcodecs.Zlib(), lambda size: numcodecs.Zlib().encode(bytes(size))),
    "blosc": (numcodecs.Blosc(), lambda size: numcodecs.Blosc().encode(bytes(size))),
    "lz4": (numcodecs.LZ4(), lambda size: numcodecs.LZ4().encode(bytes(size))),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOMBS)
def test_a_chunk_that_decodes_to_too_much_takes_no_memory(tmp_path, kind):
    codec, make = BOMBS[kind]
    chunks = held_as(tmp_path, codec, make(1 << 27), 256)
    assert chunks.fast
    with suppress(OSError):  # of Linux: the peak begins anew at what is held now
        Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory()
    with pytest.raises(TornChunk, match="cannot be decoded"):
        chunks.read((0,), Scratch())
    assert peak_memory() - before < 1 << 24


@pytest.mark.parametrize(
    ("codec", "encode"),
    [
        (numcodecs.GZip(), gzip.compress),
        (numcodecs.BZ2(), bz2.compress),
        (numcodecs.LZMA(), lzma.compress),
    ],
)
def test_streams_of_several_members_are_one_chunk(tmp_path, codec, encode):  # pigz, bgzip and pbzip2 write such
    data = bytes(range(200))
    several = encode(data[:50]) + encode(data[50:])
    assert_array_equal(held_as(tmp_path, codec, several, 200).read((0,), Scratch()), list(data))
    padding = bytes(8)
    assert_array_equal(held_as(tmp_path, codec, several + padding, 200).read((0,), Scratch()), list(data))
    for torn in (several[:-5], several + b"x", encode(data[:199]), several + encode(data)):
        with pytest.raises(TornChunk):
            held_as(tmp_path, codec, torn, 200).read((0,), Scratch())


def test_zstd_without_a_content_size(tmp_path):
    # What streaming writers produce: the frame header does not say the size. Zeros as one run-length block.
    z = zarr.create_array(tmp_path, shape=8, chunks=8, dtype="u1", compressors=ZstdCodec(), fill_value=1)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "0").write_bytes(bytes.fromhex("28b52ffd 00 58 430000 00"))
    assert_array_equal(Chunks(z, "y").read((0,), Scratch()), np.zeros(8))
    assert_array_equal(z[:], np.zeros(8))


@pytest.mark.parametrize("codec", ["gzip", "zlib"])
@pytest.mark.parametrize("installed", [True, False])
def test_libdeflate_gives_the_same_bytes_and_the_same_errors(tmp_path, codec, installed, monkeypatch):
    if installed:
        pytest.importorskip("deflate")
    else:
        monkeypatch.setattr(codecs, "_libdeflate", lambda: None)
    x = np.random.default_rng(0).normal(size=(50, 20)).astype("f4")
    z = zarr.create_array(tmp_path / "z", data=x, chunks=x.shape, zarr_format=2, compressors=V2[codec])
    (file,) = tmp_path.glob("z/0.0")
    data = file.read_bytes()

    def read():
        return Chunks(zarr.open_array(z.store_path.store.root), "y").read((0, 0), Scratch())

    calls = []
    slow = codecs._streamed
    monkeypatch.setattr(codecs, "_streamed", lambda *a, **k: calls.append(a) or slow(*a, **k))
    assert np.array_equal(read(), x)
    assert bool(calls) != installed
    for torn in (data[:-1], data[:-9], data + b"x", data[:30] + bytes([data[30] ^ 8]) + data[31:], b"", data[:11]):
        file.write_bytes(torn)
        with pytest.raises(TornChunk):
            read()
    other = V2[codec].encode(np.zeros(2000, "f4"))
    file.write_bytes(bytes(other))
    with pytest.raises(TornChunk, match="expected 4000 bytes"):
        read()
