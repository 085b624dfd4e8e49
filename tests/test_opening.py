"""What `open` and `concat` make of stored arrays is what NumPy makes of them in memory, on every engine."""

import itertools
import json
import os
import pathlib
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import sized
import xarray
import zarr
from hypothesis import given
from hypothesis import strategies as st
from running import prepared
from strategies import SOME

import daskxent as dx
from daskxent.run import planning
from daskxent.run.cluster import joined
from daskxent.sources import opening, zarr_arrays
from daskxent.sources.chunks import Chunks
from daskxent.sources.cuts import Even, Uneven, chunked
from daskxent.sources.memory import Memory
from daskxent.sources.opening import open_array
from daskxent.sources.sizes import Sizes
from daskxent.sources.source import Base
from daskxent.sources.zarr_arrays import CONVERTED

SHAPE = (23, 5, 9)
X = np.random.default_rng(0).normal(size=SHAPE).astype("float32")
Y = np.random.default_rng(1).integers(0, 9, SHAPE[:2])


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """The same array in several kinds of source."""
    path = tmp_path_factory.mktemp("held")
    zarr.create_array(path / "z", shape=SHAPE, chunks=(4, 2, 4), dtype="float32")[...] = X
    zarr.create_array(path / "s", shape=SHAPE, chunks=(2, 5, 9), shards=(6, 5, 9), dtype="float32")[...] = X
    zarr.create_array(path / "y", shape=SHAPE[:2], chunks=(7, 5), dtype="int64")[...] = Y
    np.save(path / "x.npy", X)
    return {
        "zarr": path / "z",
        "shards": path / "s",
        "npy": path / "x.npy",
        "memory": X,
        "array": zarr.open(path / "z"),
    }


def slices(length):
    edge = st.none() | st.integers(-length - 2, length + 2)
    return st.builds(slice, edge, edge)


def keys(shape):
    """Keys for the basic indexing of arrays of this shape."""

    def shortened(each):
        key, at = each
        return (*key[:at], Ellipsis) if at < len(key) else key

    one = st.tuples(*(slices(n) | st.integers(-n, n - 1) if n else slices(n) for n in shape))
    return st.tuples(one, st.integers(0, len(shape))).map(shortened)


@SOME
@given(st.data(), st.sampled_from(["zarr", "shards", "npy", "memory", "array"]))
def test_slices_are_those_of_numpy(held, data, kind):
    lazy, plain = dx.open(held[kind]), X
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(keys(plain.shape))
        lazy, plain = lazy[key], plain[key]
        assert (lazy.shape, lazy.dtype, lazy.ndim) == (plain.shape, plain.dtype, plain.ndim)
    lazy = pickle.loads(pickle.dumps(lazy))
    assert np.array_equal(np.asarray(lazy), plain)
    if plain.size:
        box = tuple(slice(*sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2)))) for n in plain.shape)
        window = lazy.opened("x").window(0 if plain.ndim else None, *(box[0].start, box[0].stop) if box else (0, 0))
        assert np.array_equal(window.read(box), plain[box])


@SOME
@given(st.data())
def test_joins_are_those_of_numpy(held, data):
    axis = data.draw(st.integers(-3, 2))
    parts = []
    for _ in range(data.draw(st.integers(1, 4))):
        cut = [slice(None)] * 3
        cut[axis] = data.draw(slices(SHAPE[axis]))
        parts.append((data.draw(st.sampled_from(list(held))), tuple(cut)))
    lazy = dx.concat([dx.open(held[kind])[cut] for kind, cut in parts], axis=axis)
    plain = np.concatenate([X[cut] for _, cut in parts], axis=axis)
    key = data.draw(keys(plain.shape))
    assert lazy.shape == plain.shape
    assert np.array_equal(np.asarray(lazy), plain)
    assert np.array_equal(np.asarray(lazy[key]), plain[key])
    source = lazy.opened("x")
    for each in range(3):
        for cuts in (source.pieces(each), source.stored(each)):
            assert cuts is None or cuts.length == plain.shape[each]


@SOME
@given(st.data(), st.sampled_from(["threads", "one thread", "graph", "rows"]))
def test_evaluation_gives_the_bits_of_memory(held, data, way):
    kinds = st.sampled_from(["zarr", "shards", "npy", "memory"])
    cut = data.draw(st.integers(1, 22))
    x = dx.concat([dx.open(held[data.draw(kinds)])[:cut], dx.open(held[data.draw(kinds)])[cut:]])
    split = data.draw(st.integers(1, 8))
    x = (
        dx.concat([x[..., :split], dx.open(held[data.draw(kinds)])[..., split:]], axis=-1)
        if data.draw(st.booleans())
        else x
    )
    start, stop = sorted(data.draw(st.lists(st.integers(0, 23), min_size=2, max_size=2, unique=True)))
    key = (slice(start, stop), slice(data.draw(st.integers(0, 4)), None))
    y = dx.open(held["zarr"].with_name("y"))[key]
    options = {"from_logits": True, "metrics": ["crossentropy", "top_3_accuracy"]}
    wanted = dx.evaluate(Y[key], X[key], **options, threads=1)
    if way == "graph":
        found = dx.delayed(y, x[key], **options).compute(scheduler="synchronous")
    elif way == "rows":
        rows = dx.rows(y, x[key], **options, columns=["loss", "hit"], threads=2)
        assert np.array_equal(rows["loss"], dx.rows(Y[key], X[key], **options, threads=1)["loss"])
        return
    else:
        found = dx.evaluate(y, x[key], **options, threads=1 if way == "one thread" else 3)
    assert found == wanted


@SOME
@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.data())
def test_cuts_agree_with_a_list_of_edges(sizes, data):
    cuts = chunked(tuple(sizes))
    if data.draw(st.booleans()):
        cuts = Uneven((cuts, Even(9, 4), Even(3, 3)))
    edges = sorted({0, *(edge for piece in cuts.ranges(0, cuts.length) for edge in piece)})
    assert edges[-1] == cuts.length
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, cuts.length)] * 2)))
    part = cuts.part(start, stop)
    inside = sorted({start, *(edge for edge in edges if start < edge < stop), stop})
    wanted = list(itertools.pairwise(inside))
    assert list(cuts.ranges(start, stop)) == wanted
    assert [(a + start, b + start) for a, b in part.ranges(0, part.length)] == wanted
    assert cuts.count(start, stop) == part.count(0, part.length) == len(wanted)
    assert part.largest <= cuts.largest == max(b - a for a, b in itertools.pairwise(edges))
    assert cuts.floor(start) == max(edge for edge in edges if edge <= start)
    assert cuts.ceil(start) == min(edge for edge in edges if edge >= start)


@pytest.mark.parametrize("given", ["a-*.npy", pathlib.Path("a-*.npy")])
def test_a_pattern_is_opened_and_not_joined_letter_by_letter(given):
    with pytest.raises(
        TypeError, match=r"concat: expected several arrays, got the path 'a-\*.npy'; open\(\) takes one"
    ):
        dx.concat(given)


def test_one_thing_is_not_joined():
    with pytest.raises(TypeError, match="concat: expected several arrays, got 5"):
        dx.concat(5)


def test_messages_about_arguments_have_the_public_name():
    with pytest.raises(TypeError, match=r"^open\(\) got an unexpected keyword argument 'foo'"):
        dx.open("x.npy", foo=1)


@SOME
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 40), st.data())
def test_joined_parts_of_a_plan_are_cut_where_the_plan_is(sizes, most, data):
    x = dx.concat([np.zeros((n, 4), "f4") for n in sizes] + [zarr.ones(shape=(30, 4), chunks=(7, 4), dtype="f4")])
    x = x[data.draw(st.integers(0, 5)) :]
    inputs, question = prepared(np.zeros(len(x), int), x, from_logits=True)
    inputs = replace(inputs, sizes=Sizes(part_rows=most, smallest_part_bytes=1, part_bytes=most * 16))
    plan = planning.cut(inputs, question, 2)
    parts = list(plan)
    assert [part for whole in joined(parts, most * 3) for part in plan.between(*whole)] == parts
    assert [start for start, _ in parts] == [0, *(stop for _, stop in parts[:-1])]
    assert all(plan.cuts.floor(start) == start for start, _ in parts)  # no chunk belongs to two parts


def test_a_window_of_a_window_is_the_window():
    source = Memory(X, "x").window(0, 0, 9)
    box = (slice(3, 7), slice(0, 5), slice(0, 9))
    assert np.array_equal(source.window(0, 3, 7).read(box), X[3:7])


def read_by(monkeypatch, call):
    """Return the chunks that a call reads."""
    read, seen = Chunks.read, []

    def noted(chunks, index, scratch):
        seen.append(index)
        return read(chunks, index, scratch)

    with monkeypatch.context() as patch:
        patch.setattr(Chunks, "read", noted)
        call()
    return sorted(seen)


def test_chunks_outside_a_slice_are_not_read_and_others_once(held, monkeypatch):
    x = dx.open(f"{held['zarr']}[5:11, :, :8]")
    found = read_by(monkeypatch, lambda: dx.evaluate(Y[5:11] % 8, x, from_logits=True, threads=2))
    assert found == [(i, j, k) for i in (1, 2) for j in (0, 1, 2) for k in (0, 1)]
    whole = dx.concat([dx.open(held["zarr"])[8:16], dx.open(held["zarr"])[:8]])
    found = read_by(monkeypatch, lambda: dx.evaluate(np.zeros((16, 5), int), whole, from_logits=True, threads=1))
    assert found == [(i, j, k) for i in range(4) for j in range(3) for k in range(3)]
    assert read_by(monkeypatch, lambda: (dx.plan(Y[5:11] % 8, x), repr(x), x[1:2].shape)) == []


def test_paths_carry_an_index_and_lists_and_patterns_are_rows(held, tmp_path):
    path, wanted = held["zarr"], dx.evaluate(Y[2:, 1:], X[2:, :-1], from_logits=True)
    y = f"{path.with_name('y')}[2:, 1:]"
    assert dx.evaluate(y, f"{path}[2:, :-1]", from_logits=True) == wanted
    assert dx.evaluate(y, f"{path}[2:, :-1, ...]", from_logits=True) == wanted
    for rank, rows in ((2, slice(0, 9)), (10, slice(9, 12)), (11, slice(12, 23))):
        np.save(tmp_path / f"x-{rank}.npy", X[rows])
    files = [tmp_path / f"x-{rank}.npy" for rank in (2, 10, 11)]
    for several in (files, list(map(str, files)), f"{tmp_path}/x-*.npy", dx.concat(files)):
        assert dx.evaluate(Y, several, from_logits=True) == dx.evaluate(Y, X, from_logits=True)
    assert dx.evaluate(y, f"{tmp_path}/x-*.npy[2:, :-1]", from_logits=True) == wanted
    run = subprocess.run(
        [sys.executable, "-m", "daskxent", "evaluate", y, f"{tmp_path}/x-*.npy[2:, :-1]", "--from-logits", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(run.stdout)["state"] == wanted.state.to_json()


def test_the_files_of_a_pattern_are_named_and_share_memory(tmp_path):
    paths = [tmp_path / f"x-{i}.zarr" for i in range(4)]
    for path in paths:
        zarr.create_array(path, data=X, chunks=(2, 5, 9))
    source = open_array(f"{tmp_path}/x-*.zarr", "y_pred")
    memory = [zarr_arrays._memory_for(each.name) for each in source.members]
    assert all(each is memory[0] for each in memory)
    assert memory[0] is not zarr_arrays._memory_for("by['y_pred']")
    zarr.create_array(tmp_path / "x-4.zarr", data=X[:, :4])
    message = rf"y_pred\[4\] \({tmp_path}/x-4.zarr\): shape .* does not continue y_pred\[0\] \({tmp_path}/x-0.zarr\)"
    with pytest.raises(ValueError, match=message):
        dx.evaluate(np.zeros((115, 5), int), f"{tmp_path}/x-*.zarr")


def test_losses_and_metrics_take_lists_of_paths(held, tmp_path):
    np.save(tmp_path / "a.npy", X[:9])
    np.save(tmp_path / "b.npy", X[9:])
    files = [tmp_path / "a.npy", tmp_path / "b.npy"]
    losses = dx.losses.sparse_categorical_crossentropy
    assert np.array_equal(losses(Y, files, from_logits=True), losses(Y, X, from_logits=True))
    loss, metric = dx.losses.SparseCategoricalCrossentropy(True), dx.metrics.SparseCategoricalAccuracy()
    assert loss(Y, files) == loss(Y, X)
    assert metric(Y, files) == dx.metrics.SparseCategoricalAccuracy()(Y, X)
    options = {"from_logits": True, "journal": tmp_path / "journal"}
    y = held["zarr"].with_name("y")
    assert dx.verify(dx.evaluate(y, dx.open(files), sample_weight=2, **options)) == 1


def test_a_file_may_be_named_like_an_index_or_a_pattern(tmp_path):
    for name in ("x[0].npy", "x*.npy"):
        np.save(tmp_path / name, X)
        assert dx.open(tmp_path / name).shape == SHAPE
    os.rename(tmp_path / "x*.npy", tmp_path / "x[1]")
    with pytest.raises(ValueError, match="is not a zarr array"):
        dx.open(tmp_path / "x[1]")


def test_only_an_asterisk_is_a_pattern(tmp_path):
    rows = {"run1": X[:9], "run[1]": X[9:], "runs?": X[5:]}
    for name, some in rows.items():
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x-0.npy", some[:3])
        np.save(tmp_path / name / "x-1.npy", some[3:])
    for name, some in rows.items():
        assert np.array_equal(dx.open(f"{tmp_path}/{name}/x-*.npy"), some)
    with pytest.raises(FileNotFoundError, match=r"there is nothing like .*run\?/x-\*.npy"):
        dx.open(f"{tmp_path}/run?/x-*.npy")


def test_patterns_lead_into_files(tmp_path):
    for rank, some in ((2, X[:9]), (10, X[9:])):
        (tmp_path / f"d{rank}").mkdir()
        np.savez(tmp_path / f"d{rank}/x.npz", logits=some)
        np.savez(tmp_path / f"rank{rank}.npz", logits=some)
        np.ascontiguousarray(some).tofile(tmp_path / f"x-{rank}.bin")
    bare = f"{tmp_path}/x-*.bin?dtype={X.dtype}&shape=-1,{','.join(map(str, SHAPE[1:]))}"
    for path in (f"{tmp_path}/rank*.npz/logits", f"{tmp_path}/d*/x.npz/logits", bare):
        assert np.array_equal(dx.open(path), X)
        assert np.array_equal(dx.open(f"{path}[2:, :-1]"), X[2:, :-1])
    with pytest.raises(FileNotFoundError, match=r"\[0\] \(.*/rank2.npz/logit\): there is no logit in it"):
        dx.open(f"{tmp_path}/rank*.npz/logit")
    for path in ("d*/y.npz/logits", "x-*.raw?dtype=float32"):
        with pytest.raises(FileNotFoundError, match=f"there is nothing like {re.escape(f'{tmp_path}/{path}')}"):
            dx.open(f"{tmp_path}/{path}")
    np.savez(tmp_path / "rank*.npz", logits=X[:4])
    assert np.array_equal(dx.open(f"{tmp_path}/rank*.npz/logits"), X[:4])


def test_journals_know_slices_and_joins(held, tmp_path):
    np.save(tmp_path / "a.npy", X[:9])
    np.save(tmp_path / "b.npy", X[9:])
    x = dx.concat([tmp_path / "a.npy", tmp_path / "b.npy"])
    options = {"from_logits": True, "journal": tmp_path / "journal"}
    y = held["zarr"].with_name("y")
    report = dx.evaluate(f"{y}[:, 1:]", x[:, 1:], **options)
    assert dx.evaluate(f"{y}[:, 1:]", x[:, 1:], **options).notes == ("92 rows were in the journal already",)
    assert dx.verify(report) == 1
    for other in (x[:, :-1], dx.concat([tmp_path / "b.npy", tmp_path / "a.npy"])[:, 1:], dx.open(held["npy"])[:, 1:]):
        with pytest.raises(dx.JournalError, match=r"inputs\.y_pred"):
            dx.evaluate(f"{y}[:, 1:]", other, **options)


def test_a_journal_goes_on_when_files_were_added(held, tmp_path):
    options = {"from_logits": True, "journal": tmp_path / "journal"}
    np.save(tmp_path / "x-0.npy", X[:9])
    first = dx.evaluate(Y[:9], dx.concat([X[:9]])[:], from_logits=True)
    np.save(tmp_path / "y.npy", Y)
    assert dx.evaluate(f"{tmp_path}/y.npy[:9]", f"{tmp_path}/x-*.npy", **options) == first
    np.save(tmp_path / "x-1.npy", X[9:])
    report = dx.evaluate(f"{tmp_path}/y.npy[:]", f"{tmp_path}/x-*.npy", **options)
    assert report == dx.evaluate(Y, X, from_logits=True)
    assert report.notes == ("45 rows were in the journal already",)


class Counted(Base):
    """A format of a test's own: ``count:N`` has the logits 0, 1, 2 ... N - 1 in rows of four."""

    dtype = np.dtype("float32")

    def __init__(self, name, shape):
        self.name, self.shape = name, shape

    def read(self, box, absent=None):
        whole = np.arange(self.shape[0] * 4, dtype="float32").reshape(self.shape)
        return whole[box]


def test_a_new_format_is_one_entry(monkeypatch):
    def opened(path, name):
        return Counted(name, (int(path.removeprefix("count:")) // 4, 4))

    entry = opening.Opener(lambda path: path.startswith("count:"), opened)
    monkeypatch.setattr(opening, "OPENERS", [entry, *opening.OPENERS])
    x = np.arange(400, dtype="float32").reshape(100, 4)
    labels = np.arange(100) % 4
    wanted = dx.evaluate(labels, x, from_logits=True)
    assert dx.evaluate(labels, "count:400", from_logits=True) == wanted
    assert dx.evaluate(labels[5:], "count:400[5:]", from_logits=True, threads=2).rows == 95
    joined = dx.concat(["count:200", x[50:]])
    assert dx.evaluate(labels, joined, from_logits=True) == wanted
    assert dx.evaluate(da.from_array(labels), "count:400", from_logits=True) == wanted


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("[::2]", r"expected slices without steps, got \[::2\] for axis 0"),
        ("[:, ::-1]", r"expected slices without steps, got \[::-1\] for axis 1"),
        ("[23]", "index 23 is out of range for axis 0 of length 23"),
        ("[0, -6]", "index -6 is out of range for axis 1 of length 5"),
        ("[:, :, :, :]", r"\[:, :, :, :\] has too many indices for shape \(23, 5, 9\)"),
        ("[..., ...]", r"\[\.\.\., \.\.\.\] has too many indices"),
        ("[]", "'' is not an integer, a slice"),
        ("[1:2:3:4]", "'1:2:3:4' is not an integer, a slice"),
        ("[1.5]", "'1.5' is not an integer, a slice"),
        ("[--1]", "'--1' is not an integer, a slice"),
    ],
)
def test_bad_indices_of_paths(held, index, message):
    for call in (dx.open, lambda path: dx.evaluate(Y, path), lambda path: dx.plan(Y, path)):
        with pytest.raises(IndexError, match=message):
            call(f"{held['zarr']}{index}")


@pytest.mark.parametrize(
    "key", [None, 1.5, "a", [1, 2], np.array([1]), True, slice(0, 2, 2), slice("a", "b"), (0, None)]
)
def test_bad_keys(held, key):
    with pytest.raises(IndexError, match=r"expected slices|out of range"):
        dx.open(held["zarr"])[key]


def test_bad_joins(held, tmp_path):
    np.save(tmp_path / "wide.npy", X[:, :, :8])
    np.save(tmp_path / "double.npy", X.astype("float64"))
    cases = [
        (
            [X, tmp_path / "wide.npy"],
            0,
            r"array\[1\]: shape \(23, 5, 8\) does not continue array\[0\] of shape \(23, 5, 9\)",
        ),
        ([X, X[0]], 0, r"array\[1\]: shape \(5, 9\) does not continue"),
        ([X, tmp_path / "double.npy"], 0, r"array\[1\]: dtype float64 differs from float32 of array\[0\]"),
        ([X, X], 3, r"array\[0\]: axis 3 is out of range for shape"),
        ([], 0, "concat: expected at least one array"),
        ([da.from_array(X), X], 0, "concat: expected either all dask arrays or none"),
    ]
    for arrays, axis, message in cases:
        with pytest.raises(ValueError, match=message):
            dx.concat(arrays, axis=axis)
    with pytest.raises(ValueError, match=r"y_pred\[1\]: shape \(23, 5, 8\) does not continue y_pred\[0\]"):
        dx.evaluate(Y, [held["npy"], tmp_path / "wide.npy"])
    with pytest.raises(FileNotFoundError, match=r"y_pred: there is nothing like .*none-\*\.npy"):
        dx.evaluate(Y, f"{tmp_path}/none-*.npy")
    with pytest.raises(TypeError, match="open: a dask array is lazy itself"):
        dx.open(da.from_array(X))


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_of_arrays_is_refused_with_the_calls_that_say_what_is_meant(held, kind):
    several = [
        kind([X[:9], X[9:]]), kind([zarr.open(held["zarr"])] * 2), kind([da.from_array(X)]),
        kind([dx.open(X)]), kind([held["zarr"], X]),
    ]  # fmt: skip
    message = r"y_pred: a \w+ of \d arrays may mean rows or classes: daskxent.concat\(arrays, axis=0\) joins rows, "
    for given_ in several:
        for call in (dx.evaluate, dx.losses.sparse_categorical_crossentropy, dx.metrics.SparseCategoricalAccuracy()):
            with pytest.raises(TypeError, match=message):
                call(Y, given_)


def test_a_bad_row_is_named_by_the_row_of_all(held, tmp_path):
    bad = Y.copy()
    bad[20, 3] = 9
    np.save(tmp_path / "a.npy", bad[:9])
    np.save(tmp_path / "b.npy", bad[9:])
    with pytest.raises(ValueError, match=r"y_true: label 9 at position \(20, 3\)|y_true: label 9 at row 103"):
        dx.evaluate([tmp_path / "a.npy", tmp_path / "b.npy"], held["zarr"])


class Dataset:
    """What HDF5's datasets are: read as they are sliced."""

    def __init__(self, array, chunks=None):
        self._array, self.shape, self.dtype, self.reads = array, array.shape, array.dtype, []
        if chunks:
            self.chunks = chunks

    def __getitem__(self, box):
        found = self._array[box]
        self.reads.append(found.nbytes)
        return found

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("was read whole")


@pytest.mark.parametrize("chunks", [None, (10, 7)])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_what_can_be_sliced_is_not_loaded_whole(monkeypatch, chunks, byteorder):
    sized.give(monkeypatch, part_bytes=400, smallest_part_bytes=400, piece_bytes=400)
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(95, 7)).astype("float32"), rng.integers(0, 7, 95), rng.random(95)
    given = Dataset(x.astype(f"{byteorder}f4"), chunks), Dataset(y.astype(f"{byteorder}i8")), Dataset(w)
    plan = dx.plan(given[1], given[0], sample_weight=given[2], from_logits=True)
    assert plan.rows == 95
    assert not any(each.reads for each in given)
    report = dx.evaluate(given[1], given[0], sample_weight=given[2], from_logits=True)
    assert report == dx.evaluate(y, x, sample_weight=w, from_logits=True)
    assert max(given[0].reads) < x.nbytes / 2
    part = dx.open(given[0])[10:20]
    assert np.array_equal(np.asarray(part), x[10:20])


@pytest.mark.slow
def test_a_dataset_that_fails_is_tried_again_and_named():
    class Closed(Dataset):
        def __getitem__(self, box):
            raise ValueError("Not a dataset (not a dataset)")

    with pytest.raises(dx.Unreadable, match=r"y_pred: ValueError: Not a dataset \(not a dataset\)$"):
        dx.evaluate(np.zeros(9, int), Closed(np.zeros((9, 3))), from_logits=True)


@pytest.mark.slow
def test_strings_of_no_fixed_length_are_read_as_they_are_sliced():
    class Slices:
        """Strings of another library."""

        held = np.array(["code", "prose"] * 4, np.dtypes.StringDType())
        shape, dtype = held.shape, held.dtype

        def __getitem__(self, box):
            return self.held[box]

    report = dx.evaluate(np.arange(8) % 2, np.eye(8)[:, :3], from_logits=True, by={"kind": Slices()})
    assert sorted(report.by("kind")) == [("code",), ("prose",)]


class Promised(Dataset):
    """An array that says another dtype, or gives another part, than it has."""

    def __init__(self, array, dtype=None, give=lambda part: part):
        super().__init__(array)
        self.dtype, self.give = np.dtype(dtype or array.dtype), give

    def __getitem__(self, box):
        return self.give(super().__getitem__(box))


LABELS, LOGITS = np.arange(20) % 4, np.random.default_rng(0).normal(size=(20, 4))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("y_pred", Promised(LOGITS, "f4"), "dtype float64 where float32 was promised"),
        ("y_pred", Promised(LOGITS + 1j, "f8"), "dtype complex128 where float64 was promised"),
        ("y_pred", Promised(LOGITS, "f8", lambda part: part.astype("U")), "dtype <U32 where float64 was promised"),
        ("y_true", Promised(LABELS + 0.5, "i8"), "dtype float64 where int64 was promised"),
        ("y_true", Promised(LABELS + 256, "i1"), "dtype int64 where int8 was promised"),
        (
            "y_true",
            Promised(LABELS, "i8", lambda part: (part + 0.5).tolist()),
            "dtype float64 where int64 was promised",
        ),
        ("sample_weight", Promised(LABELS / 9, "i2"), "dtype float64 where int16 was promised"),
        ("y_pred", Promised(LOGITS, give=lambda part: part[:, :1]), r"shape \(\d+, 1\) where \(\d+, 4\) was asked for"),
        ("y_true", Promised(LABELS, give=lambda part: part[:1]), r"shape \(1,\) where \(20,\) was asked for"),
    ],
)
def test_what_is_sliced_keeps_its_promises(name, given, message):
    arrays = {"y_true": LABELS, "y_pred": LOGITS}
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: what was read has {message}$"):
        dx.evaluate(**{**arrays, name: given}, from_logits=True)


@pytest.mark.parametrize(
    "given",
    [Promised(LABELS.astype("i2"), "i8"), Promised(LABELS, ">i8"), Promised(LABELS, give=lambda part: part.tolist())],
)
def test_what_is_sliced_may_be_of_a_narrower_type(given):
    assert dx.evaluate(given, LOGITS, from_logits=True) == dx.evaluate(LABELS, LOGITS, from_logits=True)


def test_masked_elements_of_what_is_sliced_are_refused():
    class Slices:
        """As netCDF4's variables, which are masked where they have a fill value."""

        held = np.ma.masked_greater(np.arange(24.0).reshape(8, 3), 22)
        shape, dtype = held.shape, held.dtype

        def __getitem__(self, box):
            return self.held[box]

    with pytest.raises(ValueError, match="y_pred: masked elements are not taken"):
        dx.evaluate(np.zeros(8, int), Slices(), from_logits=True)
    assert dx.evaluate(np.zeros(7, int), dx.open(Slices())[:7], from_logits=True).rows == 7


def test_an_xarray_of_dask_is_a_dask_array():
    given = xarray.DataArray(da.from_array(X, chunks=(7, 5, 9)), dims=("row", "token", "class"))
    with pytest.raises(TypeError, match="open: a dask array is lazy itself"):
        dx.open(given)
    both = dx.concat([given, da.from_array(X)])
    assert isinstance(both, da.Array)
    assert np.array_equal(both.compute(), np.concatenate([X, X]))
    with pytest.raises(ValueError, match="concat: expected either all dask arrays or none"):
        dx.concat([given, X])
    given.attrs["scale_factor"] = 0.5
    with pytest.raises(ValueError, match=r"array\[1\]: its attribute scale_factor=0.5 changes what its numbers mean"):
        dx.concat([da.from_array(X), given])


@pytest.mark.slow
def test_an_xarray_that_was_opened_lazily_is_not_loaded_whole(tmp_path):
    x = np.random.default_rng(0).normal(size=(6_000_000, 10)).astype("float32")  # 240 MB
    xarray.Dataset({"logits": (("row", "class"), x)}).to_zarr(
        tmp_path / "d.zarr", consolidated=False, encoding={"logits": {"chunks": (100_000, 10), "compressors": None}}
    )
    script = f"""
import numpy as np, xarray, daskxent as dx
from daskxent.show.shell import peak_memory
y = np.zeros(6_000_000, np.uint8)
logits = xarray.open_zarr({str(tmp_path / "d.zarr")!r}, chunks=None, consolidated=False).logits
assert dx.evaluate(y[:9000], np.zeros((9000, 10), "f4"), from_logits=True).complete
before = peak_memory()
plan = dx.plan(y, logits, from_logits=True)
assert peak_memory() - before < 8 << 20, peak_memory() - before
found = dx.evaluate(y, logits, from_logits=True, threads=1)
print(found["crossentropy"].hex(), peak_memory() - before)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, capture_output=True, text=True)
    found, more = done.stdout.split()
    assert found == dx.evaluate(np.zeros(6_000_000, int), x, from_logits=True)["crossentropy"].hex()
    assert int(more) < 160 << 20  # a box of 64 MB, and xarray with the same


def test_arrays_inside_a_zip_file_are_read(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(61, 23)).astype("f4"), np.arange(61) % 23
    zarr.create_array(str(tmp_path / "dump.zarr"), name="eval/logits", data=x, chunks=(5, 23))
    file = shutil.make_archive(str(tmp_path / "dump.zarr"), "zip", tmp_path / "dump.zarr")
    wanted = dx.evaluate(y, x, from_logits=True)
    assert dx.evaluate(y, f"{file}/eval/logits", from_logits=True).state == wanted.state
    assert dx.open(f"{file}/eval/logits[3:, :9]").shape == (58, 9)
    assert pickle.loads(pickle.dumps(open_array(f"{file}/eval/logits", "x"))).shape == x.shape
    with pytest.raises(ValueError, match=r"dump.zarr.zip/eval is a zarr group, not an array; it holds logits"):
        dx.open(f"{file}/eval")
    with pytest.raises(FileNotFoundError, match=r"there is no zarr array at none inside .*/dump.zarr.zip"):
        dx.open(f"{file}/none")
    (tmp_path / "dump.zarr/eval/logits/zarr.json").write_text('{"zarr_format": 3, "node_type": "array"}')
    damaged = shutil.make_archive(str(tmp_path / "damaged"), "zip", tmp_path / "dump.zarr")
    with pytest.raises(ValueError, match=r"the zarr metadata at .*/damaged.zip/eval/logits cannot be understood"):
        dx.open(f"{damaged}/eval/logits")
    (tmp_path / "text.zip").write_text("no zip file")
    with pytest.raises(ValueError, match=r"text.zip is not a zip file"):
        dx.open(f"{tmp_path}/text.zip/logits")
    with pytest.raises(FileNotFoundError, match="nothing at"):
        dx.open(f"{tmp_path}/none.zip/logits")


@pytest.mark.parametrize("end", [end for ends in CONVERTED for end in ends])
def test_files_that_are_not_read_are_refused_with_what_to_type(tmp_path, end):
    (tmp_path / f"logits{end}").write_bytes(b"anything")
    with pytest.raises(ValueError, match=rf'is not a zarr array; numpy.save\("array.npy", .*"logits{end}"'):
        dx.open(tmp_path / f"logits{end}")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_dtypes_that_zarr_does_not_know_are_refused(tmp_path, zarr_format):
    zarr.create_array(str(tmp_path / "x"), shape=(2, 2), dtype="uint16", zarr_format=zarr_format)
    file = tmp_path / "x" / (".zarray" if zarr_format == 2 else "zarr.json")
    file.write_text(file.read_text().replace('"<u2"', '"float8"').replace('"uint16"', '"float8"'))
    with pytest.raises(ValueError, match=r"zarr does not know the dtype of .*/x"):
        dx.open(tmp_path / "x")
