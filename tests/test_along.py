"""Arrays along the rows by name: what is read for a box is what NumPy has there, from whatever holds it."""

import itertools
import pickle
import warnings
from dataclasses import replace

import dask.array as da
import numpy as np
import pandas
import pytest
import xarray
import zarr
from hypothesis import given
from hypothesis import strategies as st
from running import prepared
from strategies import SOME, partitions

import daskxent as dx
from daskxent.numbers.question import Question
from daskxent.run import graph
from daskxent.sources import boxes
from daskxent.sources.align import Further, align
from daskxent.sources.fingerprint import fingerprint
from daskxent.sources.opening import open_array
from daskxent.sources.sizes import Sizes

CLASSES = 3
WORDS = np.array(["", "de", "en", "日本語", "a word longer than sixteen bytes"])
STRING = np.dtypes.StringDType()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A way to the name of a file that is not there yet."""
    root, names = tmp_path_factory.mktemp("files"), itertools.count()
    return lambda: str(root / f"{next(names)}.npy")


def ask(inputs, **options):
    """The question that `inputs` were prepared for; it matters to reading only in `on_missing`."""
    return Question(metrics=("accuracy",), classes=inputs.classes, from_logits=True, **options)


def plain(columns):
    """Columns as lists, and whether each is missing."""
    return {
        name: (column.values.tolist(), None if column.missing is None else column.missing.tolist())
        for name, column in columns.items()
    }


def expected(whole, positions, box):
    """What NumPy has along a box, by name, all of it stored."""
    return {
        name: (np.broadcast_to(values.reshape(values.shape + (1,) * (len(positions) - values.ndim)), positions)[box])
        .reshape(-1)
        .tolist()
        for name, values in whole.items()
    }


def as_stored(values, kind):
    """Strings in one of the types that hold them."""
    if kind == "S":
        return np.strings.encode(values, "utf-8")
    return values.astype({"U": values.dtype, "T": STRING, "O": object}[kind])


def hold(values, where, data, files):
    """Give an array to one of the engines' holders, in chunks of any lengths."""
    if where == "npy":
        np.save(path := files(), values)
        return path
    if where == "zarr":
        chunks = tuple(data.draw(st.integers(1, n)) for n in values.shape)
        with warnings.catch_warnings(action="ignore"):  # zarr's specification has no strings of fixed length
            dtype = STRING if values.dtype == object else values.dtype
            z = zarr.create_array(
                {}, shape=values.shape, dtype=dtype, chunks=chunks, config={"write_empty_chunks": True}
            )
            z[...] = values.astype(dtype)
        return z
    if where == "dask":
        return da.from_array(values, chunks=tuple(data.draw(partitions(n)) for n in values.shape), name=False)
    if where == "xarray":
        return xarray.DataArray(values)
    return values


@st.composite
def cases(draw, holders):
    """Draw what lies along some positions, and what holds it: the arrays for NumPy, and those for `prepared`."""
    positions = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    axis = draw(st.integers(0, len(positions)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    whole = {"labels": rng.integers(0, CLASSES, positions)}

    def shape():
        own = positions[: draw(st.integers(1, len(positions)))]
        return tuple(n if draw(st.booleans()) else 1 for n in own)

    if draw(st.booleans()):
        whole["weights"] = rng.random(shape() if draw(st.booleans()) else ())
    numbers = draw(st.sampled_from(["?", "i1", "u2", "i4", ">i8", "u8"]))
    whole["number"] = rng.integers(0, 2, shape()).astype(numbers)
    whole["word"] = rng.choice(WORDS, shape())
    kinds = {"word": draw(st.sampled_from("USTO"))}
    where = {name: draw(st.sampled_from(holders), label=name) for name in (*whole, "predictions")}
    return positions, axis, whole, kinds, where


def opened(case, data, files, **options):
    """Open a case; arrays of no axes are numbers, and .npy has no strings of variable length."""
    positions, axis, whole, kinds, where = case
    shape = (*positions[:axis], CLASSES, *positions[axis:])
    logits = np.random.default_rng(0).normal(0, 3, shape).astype("float32")
    held = {}
    for name, values in whole.items():
        kind = kinds.get(name)
        if where[name] == "npy" and kind in ("T", "O"):
            kind = "U"
        values = as_stored(values, kind) if kind else values
        held[name] = hold(values, where[name], data, files) if values.ndim else float(values)
    y_pred = hold(logits, where["predictions"], data, files)
    weights = held.pop("weights", None)
    inputs, _ = prepared(
        held.pop("labels"), y_pred, sample_weight=weights, from_logits=True, axis=axis, along=held, **options
    )
    return inputs


def boxes_of(inputs, question, start, stop):
    """Read all boxes of a part as plain lists."""
    return [(aligned.box, plain(aligned.columns)) for aligned in boxes.boxes(inputs, question, start, stop)]


def as_block(block):
    """Put what lies along a block, and where it begins, into an array of one object."""
    aligned = block.aligned
    out = np.empty((1,) * len(aligned.box), object)
    out[(0,) * out.ndim] = tuple(s.start for s in aligned.box), aligned.shape, plain(aligned.columns)
    return out


def one(_):
    return 1


def per_chunk(inputs, question):
    return graph.per_chunk(inputs, question, as_block, dtype=object, size=one)


def assert_read(whole, positions, read):
    """Check that boxes cover all positions of a part once, and that each holds what NumPy has there."""
    for box, columns in read:
        wanted = expected(whole, positions, box)
        assert columns == {name: (values, None) for name, values in wanted.items()}


STORED = ("NumPy", "xarray", "zarr", "npy")


@SOME
@given(case=cases(STORED), data=st.data())
def test_every_box_has_what_numpy_has_there(case, data, files):
    positions, _, whole, *_ = case
    inputs = opened(case, data, files)
    steps = positions[inputs.lead]
    edges = np.cumsum((0, *data.draw(partitions(steps)))).tolist()
    run_rows = data.draw(st.sampled_from([1, 4, 1 << 19]), label="run")
    piece_bytes = data.draw(st.sampled_from([1, 64, 1 << 26]), label="piece")
    inputs = replace(inputs, sizes=Sizes(run_rows=run_rows, piece_bytes=piece_bytes))
    seen = np.zeros(positions, int)
    for start, stop in itertools.pairwise(edges):
        part = pickle.loads(pickle.dumps(inputs.window(start, stop))) if data.draw(st.booleans()) else inputs
        read = boxes_of(part, ask(inputs), start, stop)
        assert_read(whole, positions, read)
        for box, _ in read:
            seen[box] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize(("kind", "pieces"), [("=f4", 1), (">f4", 5)])
def test_only_what_takes_memory_to_be_read_is_cut_into_pieces(kind, pieces):
    inputs, question = prepared([0] * 10, np.zeros((10, 3), kind), from_logits=True)
    inputs = replace(inputs, sizes=Sizes(piece_bytes=24))
    assert len(list(boxes.boxes(inputs, question, 0, 10))) == pieces


@SOME
@given(case=cases((*STORED, "dask")), data=st.data(), split=st.booleans())
def test_every_chunk_of_a_graph_has_what_numpy_has_there(case, data, split, files):
    positions, axis, whole, *_, where = case
    where["predictions"] = "NumPy"
    inputs = opened(case, data, files)
    x = np.random.default_rng(0).normal(size=inputs.predictions.shape)
    cuts = [data.draw(partitions(n)) for n in x.shape]
    cuts[axis] = (1,) * CLASSES if split else CLASSES
    inputs = replace(inputs, predictions=da.from_array(x, chunks=tuple(cuts)))
    found = per_chunk(inputs, ask(inputs)).compute(scheduler="synchronous")
    read = [(tuple(map(slice, o, np.add(o, s))), columns) for o, s, columns in found.flat]
    assert_read(whole, positions, read)
    assert sum(len(columns["labels"][0]) for _, columns in read) == np.prod(positions)


def written(root, name, values, where):
    """Give an array of one axis to a holder that workers find."""
    if where == "zarr":
        with warnings.catch_warnings(action="ignore"):
            values = values.astype(STRING if values.dtype == object else values.dtype)
            zarr.create_array(root / name, data=values, chunks=7)
        return root / name
    if where == "npy":
        np.save(root / f"{name}.npy", values)
        return root / f"{name}.npy"
    if where == "dask":
        return da.from_array(values, chunks=9)
    return xarray.DataArray(values, dims="t") if where == "xarray" else values


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["U", "S", "T", "O"])
@pytest.mark.parametrize("where", [*STORED, "dask"])
def test_workers_read_what_numpy_has(client, tmp_path, where, kind):
    rng = np.random.default_rng(5)
    whole = {"labels": rng.integers(0, CLASSES, 40), "number": rng.integers(0, 9, 40), "word": rng.choice(WORDS, 40)}
    kind = "U" if where == "npy" and kind in ("T", "O") else kind
    stored = whole | {"word": as_stored(whole["word"], kind)}
    stored = {name: written(tmp_path, name, values, where) for name, values in stored.items()}
    x = rng.normal(size=(40, CLASSES))
    labels = stored.pop("labels")
    inputs, _ = prepared(labels, x, from_logits=True, along=stored)
    if where != "dask":
        parts = [(0, 13), (13, 40)]

        def read(inputs, question, start, stop):  # by value: workers do not import the tests
            from daskxent.sources.boxes import boxes

            return [
                (aligned.box, {name: (c.values.tolist(), c.missing) for name, c in aligned.columns.items()})
                for aligned in boxes(inputs, question, start, stop)
            ]

        futures = [client.submit(read, inputs.window(*part), ask(inputs), *part, pure=False) for part in parts]
        for found in client.gather(futures):
            assert_read(whole, (40,), found)

    def as_object(block):
        out = np.empty(1, object)
        aligned = block.aligned
        columns = {name: (c.values.tolist(), c.missing) for name, c in aligned.columns.items()}
        out[0] = tuple(s.start for s in aligned.box), aligned.shape, columns
        return out

    inputs = replace(inputs, predictions=da.from_array(x, chunks=(11, CLASSES)))
    every = graph.per_chunk(inputs, ask(inputs), as_object, dtype=object, size=lambda _: 1)
    found = client.compute(every).result()
    assert len(found) == 4
    assert_read(whole, (40,), [(tuple(map(slice, o, np.add(o, s))), columns) for o, s, columns in found])


@pytest.mark.parametrize("predictions", ["NumPy", "dask"])
@pytest.mark.parametrize("kind", ["integers", "U", "T"])
def test_what_is_not_stored_is_filled_and_marked(tmp_path, kind, predictions):
    whole = np.arange(1, 21) if kind == "integers" else np.array([f"word {n}" for n in range(20)])
    with warnings.catch_warnings(action="ignore"):
        z = zarr.create_array(tmp_path / "z", data=whole.astype(STRING) if kind == "T" else whole, chunks=6)
    (tmp_path / "z" / "c" / "1").unlink()
    filled, lost = whole.astype(object), np.zeros(20, bool)
    filled[6:12], lost[6:12] = (0 if kind == "integers" else ""), True
    x = np.zeros((20, CLASSES)) if predictions == "NumPy" else da.zeros((20, CLASSES), chunks=(7, CLASSES))
    inputs, _ = prepared(np.zeros(20, int), x, along={"group": z})

    def read(**options):
        if predictions == "NumPy":
            return boxes_of(inputs, ask(inputs, **options), 0, 20)
        found = per_chunk(inputs, ask(inputs, **options)).compute(scheduler="synchronous")
        return [(tuple(map(slice, o, np.add(o, s))), columns) for o, s, columns in found.flat]

    for box, columns in read():
        marked = lost[box].tolist() if lost[box].any() else None
        assert columns["group"] == (filled[box].tolist(), marked)
        assert columns["labels"] == ([0] * len(filled[box]), None)
    with pytest.raises(ValueError, match=r"^by\['group'\]: chunk c/1 of .* is missing; evaluate"):
        read(on_missing="raise")


def aligned(values, **options):
    return align(
        open_array([0, 1, 2], "y_true"),
        open_array(np.eye(3), "y_pred"),
        None,
        further={"group:0": Further(open_array(values, "by['language']"), "by['language']", **options)},
    )


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros(3, "f2"), np.zeros(3, complex), np.zeros(3, "M8[s]")])
@pytest.mark.parametrize("lazily", [False, True])
def test_other_dtypes_are_refused_in_one_line_with_the_name_that_was_typed(values, lazily):
    held = da.from_array(values) if lazily else values
    message = rf"by['language']: expected integers, bool or strings, got dtype {values.dtype}"
    with pytest.raises(TypeError) as caught:
        aligned(held)
    assert str(caught.value) == message


def test_floats_are_taken_where_they_are_asked_for():
    values = np.array([0.5, np.nan, 2], ">f4")
    (found,) = boxes.boxes(aligned(values, kind="numbers"), ask(aligned(values, kind="numbers")), 0, 3)
    np.testing.assert_array_equal(found.columns["group:0"].values, values)
    assert found.columns["group:0"].values.dtype == np.float32
    with pytest.raises(TypeError, match=r"^by\['language'\]: expected numbers, got dtype complex128$"):
        aligned(np.zeros(3, complex), kind="numbers")


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 2), (1, 3), (3, 1, 1)])
def test_another_shape_is_refused_with_the_name_that_was_typed(shape):
    with pytest.raises(ValueError, match=r"^by\['language'\]: shape .* does not lie along y_true of shape \(3,\)"):
        aligned(np.zeros(shape, int))


@pytest.mark.parametrize("wrong", [7, 0.5, b"de"], ids=repr)
@pytest.mark.parametrize("lazily", [False, True])
def test_objects_that_are_no_strings_are_an_error_that_shows_them(wrong, lazily):
    values = np.array(["de", wrong, "en"], object)
    if lazily:
        x = da.from_array(np.eye(3), chunks=(2, 3))
        inputs, _ = prepared([0, 1, 2], x, along={"language": da.from_array(values, chunks=1)})
    else:
        inputs = aligned(values)
    with pytest.raises(ValueError, match=r"^by\['language'\]: expected strings, got .* among them$") as caught:
        per_chunk(inputs, ask(inputs)).compute(scheduler="synchronous") if lazily else boxes_of(
            inputs, ask(inputs), 0, 3
        )
    assert repr(wrong) in str(caught.value)


@pytest.mark.parametrize(
    "holder", [object, np.dtypes.StringDType(na_object=np.nan), np.dtypes.StringDType(na_object=None)]
)
def test_missing_strings_are_empty_ones(holder):
    missing = getattr(holder, "na_object", None)
    values = np.array(["de", missing, "en"], holder)
    ((_, columns),) = boxes_of(aligned(values), ask(aligned(values)), 0, 3)
    assert columns["group:0"][0] == ["de", "", "en"]


@pytest.mark.parametrize("missing", [None, np.nan, pandas.NA, ""], ids=repr)
def test_rows_without_a_group_are_one_of_their_own(missing):
    values = np.array(["de", missing, "en", missing], object)
    slices = dx.evaluate([0, 1, 1, 0], np.eye(4)[:, :2] + 0.5, from_logits=True, by={"language": values}).by("language")
    assert [(row["language"], row["rows"]) for row in slices.rows] == [("missing", 2), ("de", 1), ("en", 1)]
    assert sum(row["rows"] for row in slices.rows) == 4


def test_bytes_that_are_no_text_are_an_error():
    with pytest.raises(ValueError, match=r"^by\['language'\]: 'utf-8' codec can't decode byte 0xff"):
        boxes_of(aligned(np.array([b"de", b"\xff"] * 2)[:3]), ask(aligned([0, 0, 0])), 0, 3)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("labels", "c16", r"^y_true: expected integer labels, got a chunk of dtype complex128$"),
        ("weights", "c16", r"^sample_weight: expected real numbers, got a chunk of dtype complex128$"),
        ("group", "f8", r"^by\['group'\]: expected integers, bool or strings, got a chunk of dtype float64$"),
    ],
)
def test_a_chunk_of_another_dtype_than_was_promised_is_an_error(name, wrong, message):
    given = {"labels": da.zeros(6, dtype="i8"), "weights": da.ones(6), "group": da.zeros(6, dtype="i8")}
    given[name] = given[name].map_blocks(lambda block: block.astype(wrong), dtype=given[name].dtype)
    labels, weights = given.pop("labels"), given.pop("weights")
    inputs, _ = prepared(labels, np.zeros((6, CLASSES)), sample_weight=weights, along=given)
    with pytest.raises(TypeError, match=message):
        per_chunk(inputs, ask(inputs)).compute(scheduler="synchronous")


def test_names_of_dimensions_line_further_arrays_up():
    x = xarray.DataArray(np.zeros((2, 3, CLASSES)), dims=("t", "u", "c"))
    group = xarray.DataArray(np.arange(6).reshape(3, 2), dims=("u", "t"))
    inputs, _ = prepared(np.zeros((2, 3), int), x, along={"language": group})
    (found,) = boxes.boxes(inputs, ask(inputs), 0, 2)
    assert found.columns["language"].values.tolist() == [0, 2, 4, 1, 3, 5]
    with pytest.raises(ValueError, match=r"^by\['language'\]: its dimension 'v' is not one of those of y_pred"):
        prepared(np.zeros((2, 3), int), x, along={"language": group.rename(u="v")})


HELD = [("numbers", "i4"), ("words", "U7"), ("words", "S7"), ("words", object), ("words", STRING)]


@pytest.mark.parametrize(("what", "dtype"), HELD, ids=str)
def test_a_fingerprint_tells_further_arrays_by_their_values(what, dtype):
    values = np.arange(8) if what == "numbers" else np.array([f"word {n}" for n in range(8)])

    def taken(values):
        inputs, _ = prepared(np.zeros(8, int), np.zeros((8, CLASSES)), along={"group": values.astype(dtype)})
        return fingerprint(inputs, 8)

    title, other = "by['group']", values.copy()
    other[3] = other[4]
    assert taken(values) == taken(values)
    assert taken(values)[title] != taken(other)[title]
    assert {key: kept for key, kept in taken(values).items() if key != title} == {
        key: kept for key, kept in taken(other).items() if key != title
    }


def test_a_journal_goes_on_only_with_the_same_further_arrays(tmp_path):
    x = np.random.default_rng(1).normal(size=(8, CLASSES))
    for name, values in (("y", np.zeros(8, int)), ("x", x), ("g", np.arange(8)), ("h", np.arange(8) * 2)):
        np.save(tmp_path / f"{name}.npy", values)
    y, x, g, h = (tmp_path / f"{name}.npy" for name in "yxgh")

    def run(group, name="run"):
        options = {"from_logits": True, "threads": 1, "journal": tmp_path / f"{name}.journal"}
        return dx.evaluate(y, x, by={"group": group}, **options)

    report = run(g)
    assert run(g).state == report.state
    assert dx.verify(report) == 1  # and the arrays can be opened again
    with pytest.raises(dx.JournalError, match=r"inputs\.by\['group'\]\.where was"):
        run(h)
    with pytest.raises(ValueError, match=r"^verify: arrays that were not given as paths"):
        dx.verify(run(np.arange(8), "memory"))


@pytest.mark.parametrize("weight", [2, 2.5, np.float32(0.5), np.array(3.0), da.from_array(np.array(1.5)), True])
def test_a_number_as_weight_is_that_weight_of_every_row(weight):
    inputs, _ = prepared(np.zeros((2, 3), int), np.zeros((2, 3, CLASSES)), sample_weight=weight)
    (found,) = boxes.boxes(inputs, ask(inputs), 0, 2)
    assert found.weights.dtype == np.float64
    assert found.weights.tolist() == [float(np.asarray(weight))] * 6
