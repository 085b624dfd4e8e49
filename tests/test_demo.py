import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from daskxent import demo

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def dump(tmp_path_factory) -> Path:
    return demo.write_dump(tmp_path_factory.mktemp("demo") / "dump.zarr", MEGABYTE)


@pytest.fixture(scope="module")
def source() -> demo._RowSource:
    return demo._RowSource(seed=0)


def open_group(path: Path):
    import zarr

    return zarr.open_group(path, mode="r")


def read(path: Path) -> demo.Rows:
    group = open_group(path)
    return demo.Rows(*(group[name][:] for name in demo.Rows._fields))


def modified(path: Path) -> dict[Path, int]:
    return {file: os.stat(file).st_mtime_ns for file in path.rglob("*")}


def same(left: demo.Rows, right: demo.Rows) -> bool:
    return all(map(np.array_equal, left, right))


def test_dump_has_the_shapes_and_size_asked_for(dump):
    labels, logits, weights = read(dump)
    rows = MEGABYTE // demo.ROW_BYTES
    assert (labels.shape, labels.dtype) == ((rows,), np.uint8)
    assert (logits.shape, logits.dtype) == ((rows, 10), np.float32)
    assert (weights.shape, weights.dtype) == ((rows,), np.float32)
    assert sum(array.nbytes for array in (labels, logits, weights)) == rows * demo.ROW_BYTES
    assert open_group(dump).metadata.zarr_format == 3


def test_logits_classify_their_labels(dump):
    labels, logits, _ = read(dump)
    assert set(labels) == set(range(10))
    assert 0.7 < np.mean(logits.argmax(axis=1) == labels) < 1


def test_rows_of_greater_weight_are_easier(dump):
    labels, logits, weights = read(dump)
    hit = logits.argmax(axis=1) == labels
    assert 0.5 <= weights.min() < weights.max() <= 1
    assert hit[weights > 0.75].mean() > hit[weights < 0.75].mean()


def test_the_seed_alone_decides_the_content(dump, tmp_path):
    assert same(read(dump), read(demo.write_dump(tmp_path / "again", MEGABYTE, seed=0)))
    assert not same(read(dump), read(demo.write_dump(tmp_path / "other", MEGABYTE, seed=1)))


def test_a_larger_dump_begins_with_the_smaller_one(dump, source):
    rows = read(dump)
    longer = source.read(0, 2 * len(rows.labels))
    assert same(rows, demo.Rows(*(values[: len(rows.labels)] for values in longer)))


def test_every_machine_makes_these_bytes(source):
    rows = source.read(0, 20_000)
    found = hashlib.sha256(b"".join(values.astype(values.dtype.newbyteorder("<")).tobytes() for values in rows))
    # Whoever changes the rows raises VERSION, and writes the new figures into the README.
    assert (demo.VERSION, found.hexdigest()) == (
        2,
        "1790633bbf2375d0a54c918c22e2c68d514734893342c0d0b8a3ca6159c7c2ca",
    )


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_logits_are_sums_without_overflow(rows):
    images = np.random.default_rng(0).choice(np.array([-512, 512], np.int16), (rows, 64))  # 127 and 483 are the most
    hidden = np.maximum(images.astype(np.int64) @ demo.network()[0], 0)
    scores = hidden @ demo.network()[1].T.astype(np.int64)
    assert np.array_equal(demo.classified(images), scores.astype(np.float32) / np.float32(2**18))


@pytest.mark.parametrize("step", [5_000, demo.BLOCK_ROWS, 11_111])
def test_rows_do_not_depend_on_the_pieces(source, step):
    stop = 2 * demo.BLOCK_ROWS + 500
    pieces = [source.read(start, min(start + step, stop)) for start in range(0, stop, step)]
    assert same(source.read(0, stop), demo.Rows(*map(np.concatenate, zip(*pieces, strict=True))))


def test_many_chunks_hold_the_same_rows_as_one(dump, tmp_path):
    cut = demo.write_dump(tmp_path / "cut", MEGABYTE, chunk_rows=3_000)
    assert open_group(cut)["logits"].nchunks == 8
    assert same(read(dump), read(cut))


def test_a_finished_dump_is_reused(dump):
    before = modified(dump)
    assert demo.write_dump(dump, MEGABYTE) == dump
    assert modified(dump) == before


@pytest.mark.parametrize("change", [{"size_bytes": MEGABYTE // 2}, {"size_bytes": MEGABYTE, "seed": 1}])
def test_a_dump_of_another_size_or_seed_is_rewritten(tmp_path, change):
    path = demo.write_dump(tmp_path / "dump", MEGABYTE)
    before = read(path)
    assert not same(before, read(demo.write_dump(path, **change)))


def test_a_half_written_dump_is_rewritten(dump, tmp_path, monkeypatch):
    def stop_after_one(self: object, start: int, stop: int) -> demo.Rows:
        if start:
            raise KeyboardInterrupt
        return read_rows(self, start, stop)

    read_rows = demo._RowSource.read
    with monkeypatch.context() as patch:
        patch.setattr(demo._RowSource, "read", stop_after_one)
        with pytest.raises(KeyboardInterrupt):
            demo.write_dump(tmp_path / "dump", MEGABYTE, chunk_rows=3_000)
    assert (tmp_path / "dump" / "logits").exists()
    assert same(read(dump), read(demo.write_dump(tmp_path / "dump", MEGABYTE)))


def test_what_is_not_a_demo_dump_is_left_alone(tmp_path):
    import zarr

    zarr.create_group(tmp_path / "precious").create_array("logits", data=np.ones(3))
    (tmp_path / "file").write_text("text")
    for name in ("precious", "file"):
        with pytest.raises(FileExistsError, match=f"{name} exists and is not a demo dump"):
            demo.write_dump(tmp_path / name, MEGABYTE)
    assert open_group(tmp_path / "precious")["logits"][:].tolist() == [1, 1, 1]
    assert (tmp_path / "file").read_text() == "text"


def test_a_size_below_one_row_is_refused(tmp_path):
    with pytest.raises(ValueError, match="too small: one row takes 45"):
        demo.write_dump(tmp_path / "dump", 44)
    assert not (tmp_path / "dump").exists()


def test_one_row_is_a_dump(tmp_path):
    assert read(demo.write_dump(tmp_path / "dump", 45)).logits.shape == (1, 10)


def test_progress_is_shown_only_when_asked(tmp_path, capsys):
    demo.write_dump(tmp_path / "quiet", 45)
    assert capsys.readouterr().err == ""
    demo.write_dump(tmp_path / "shown", 45, progress=True)
    assert "1.00/1.00" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"),
    [("100MB", 10**8), ("1GB", 10**9), ("2GiB", 2**31), ("4096", 4096), ("1.5 kb", 1500), ("1e6", 10**6)],
)
def test_sizes(text, size):
    assert demo.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "1 parsec", "nan", "one", "1e999"])
def test_what_is_not_a_size(text):
    with pytest.raises(ValueError, match=r"not a size: .*; write it as 100MB"):
        demo.parse_size(text)
