import contextlib
import itertools
import os
import subprocess
import sys

import numcodecs
import numpy as np
import pytest
import zarr
import zstandard
from holding import held_as, numbers
from numpy.testing import assert_array_equal
from zarr.codecs import ZstdCodec

import daskxent as dx
from daskxent.sources import zstd
from daskxent.sources.chunks import Chunks, Scratch, TornChunk
from daskxent.sources.zarr_arrays import Zarr


@pytest.mark.parametrize("checksum", [False, True])
def test_a_zstd_frame_is_whole_or_torn(tmp_path, checksum):
    data = np.random.default_rng(0).integers(0, 9, 1 << 18, "u1")  # of two blocks
    frame = zstandard.ZstdCompressor(write_checksum=checksum).compress(data)
    assert_array_equal(held_as(tmp_path, numcodecs.Zstd(), frame, data.size).read((0,), Scratch()), data)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(data[1000:])
    skipped = bytes.fromhex("502a4d18 03000000") + b"any"
    split = zstandard.compress(data[:1000]) + zstandard.compress(data[1000:])
    for whole in (split, skipped + frame + skipped, zstandard.compress(data[:1000]) + skipped + unsized):
        assert_array_equal(held_as(tmp_path, numcodecs.Zstd(), whole, data.size).read((0,), Scratch()), data)
    cuts = [frame[:-n] for n in (*range(1, 9), 1000, len(frame) - 20, len(frame) - 5, len(frame) - 1)]
    others = split[:-1], unsized, unsized[:-1], skipped, frame + skipped[:-1], zstandard.compress(data[1:]), b""
    for torn in (*cuts, *others, frame + b"x", frame + frame):
        with pytest.raises(TornChunk, match="cannot be decoded"):
            held_as(tmp_path, numcodecs.Zstd(), torn, data.size).read((0,), Scratch())
    flipped = bytearray(frame)
    flipped[len(frame) // 2] ^= 1
    found = held_as(tmp_path, numcodecs.Zstd(), bytes(flipped), data.size)
    with pytest.raises(TornChunk) if checksum else contextlib.suppress(TornChunk):
        found.read((0,), Scratch())


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize(("shape", "chunk", "piece"), [((70, 9), (24, 9), (4, 9)), ((3, 70, 9), (1, 24, 9), (1, 4, 9))])
def test_a_large_chunk_of_zstd_is_decoded_in_pieces(tmp_path, shape, chunk, piece, checksum):
    values = numbers(shape)
    codec = ZstdCodec(level=1, checksum=checksum)
    z = zarr.create_array(tmp_path, shape=shape, chunks=chunk, dtype="<f4", compressors=[codec])
    z[...] = values
    chunks, scratch = Chunks(z, "y", large=24 * 9 * 4 - 1, piece=5 * 9 * 4), Scratch()
    assert (chunks.chunks, chunks.blocks, chunks.fast) == (piece, chunk, True)
    every = [*itertools.product(*(range(-(-n // c)) for n, c in zip(shape, piece, strict=True)))]
    for order in (every, every[::-1], every[::2], np.random.default_rng(0).permutation(every).tolist()):
        for index in map(tuple, order):
            box = tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, piece, strict=True))
            assert_array_equal(chunks.read(index, scratch), values[box])
    assert_array_equal(chunks.read_apart(every[1], scratch), chunks.read(every[1], scratch))
    assert Chunks(z, "y", large=24 * 9 * 4).chunks == chunk
    (tmp_path / "c" / "/".join("0" for _ in shape)).unlink()
    assert chunks.read(every[0], Scratch()) is None


def outcome(chunks, pieces):
    scratch, found = Scratch(), []
    for number in range(pieces):
        try:
            found.append(chunks.read((number, 0), scratch).copy())
        except TornChunk as error:
            assert "y: chunk c/0/0 of" in str(error)  # noqa: PT017
            return found, error
    return found, None


@pytest.mark.parametrize("checksum", [False, True])
def test_a_torn_chunk_in_pieces_gives_no_wrong_number(tmp_path, checksum):
    values = np.random.default_rng(0).normal(size=(40_000, 9)).astype("<f4")
    z = zarr.create_array(
        tmp_path, shape=(35_000, 9), chunks=values.shape, dtype="<f4", compressors=[ZstdCodec(checksum=checksum)]
    )
    file = tmp_path / "c" / "0" / "0"
    file.parent.mkdir(parents=True)
    frame = zstandard.ZstdCompressor(write_checksum=checksum).compress(values)

    def stored_as(data):
        file.write_bytes(data)
        return outcome(Chunks(z, "y", large=1 << 20, piece=4000 * 36), 9)

    split = zstandard.compress(values[:7]) + zstandard.compress(values[7:])
    for whole in (frame, split, numcodecs.Zstd().encode(values)):
        found, error = stored_as(whole)
        assert error is None
        assert_array_equal(np.concatenate(found), values[:35_000])
    for torn in (frame[:-1], frame[:-4], frame[: len(frame) // 2], frame + b"x", frame + frame, b"", frame[:3]):
        found, error = stored_as(torn)
        assert (found, error is None) == ([], False)
    for at in (len(frame) // 3, len(frame) - 1000) if checksum else ():  # of what lies beyond the array too
        flipped = bytearray(frame)
        flipped[at] ^= 1
        found, error = stored_as(bytes(flipped))
        assert (found, error is None) == ([], False)  # a checksum is known before anything is used


@pytest.mark.slow
def test_a_large_chunk_takes_little_memory(tmp_path):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (20_000, 1000)).astype("f4"), rng.integers(0, 1000, 20_000)
    z = zarr.create_array(
        tmp_path, shape=logits.shape, chunks=logits.shape, dtype="f4", compressors=[ZstdCodec(level=1)]
    )
    z[...] = logits
    expected = dx.evaluate(labels, logits, from_logits=True)
    code = f"""
import numpy, daskxent as dx
import daskxent as dx
from daskxent.show.shell import peak_memory
rng = numpy.random.default_rng(1)
labels = rng.integers(0, 1000, 20_000)
dx.evaluate(labels[:100], rng.normal(size=(100, 1000)).astype("f4"), from_logits=True, threads=2)
before = peak_memory()
dx.evaluate(labels, {str(tmp_path)!r}, from_logits=True, threads=2)
print(peak_memory() - before)
"""
    grown = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert grown < 40e6
    assert dx.evaluate(labels, z, from_logits=True).state == expected.state


def test_a_large_chunk_that_was_rewritten_is_read_again(tmp_path):
    z = zarr.create_array(tmp_path, shape=(40, 9), chunks=(40, 9), dtype="<f4", compressors=[ZstdCodec()])
    source = Zarr(z, "y")
    source.chunks = Chunks(z, "y", large=1, piece=10 * 36)
    for values, starts in ((numbers((40, 9)), (0, 10)), (numbers((40, 9))[::-1], (20, 30))):
        z[...] = values
        source.refresh()
        for start in starts:  # the stream is left in the middle
            box = slice(start, start + 10), slice(0, 9)
            assert_array_equal(source.read(box), values[box])


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts the files that are open as Linux lists them")
def test_a_large_chunk_that_is_left_in_the_middle_is_closed(tmp_path):
    z = zarr.create_array(tmp_path, shape=(40, 9), chunks=(40, 9), dtype="<f4", compressors=[ZstdCodec()])
    z[...] = numbers((40, 9))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        Chunks(z, "y", large=1, piece=10 * 36).read((0, 0), Scratch())
    scratches = [Scratch() for _ in range(20)]
    for scratch in scratches:  # one that is at its end is closed at once
        for number in range(4):
            Chunks(z, "y", large=1, piece=10 * 36).read((number, 0), scratch)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_chunks_of_a_prime_length_are_not_cut():
    chunk = (100_000_007,)
    assert zstd.pieces(chunk, chunk, 1, 8 << 20) == chunk
    assert zstd.pieces((10**9,), (10**9,), 1, 8 << 20) == (8_000_000,)
