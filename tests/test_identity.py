"""Arrays are known by what they hold: reports of others do not merge, what is rewritten meanwhile does not count."""

import os
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import sized
import zarr
from click.testing import CliRunner

import daskxent as dx
from daskxent import cli

ROWS, CLASSES = 40, 5
LARGE = np.uint64(2**63)
OPTIONS = {"from_logits": True, "threads": 1}


@pytest.fixture
def values():
    rng = np.random.default_rng(11)
    return {
        "y_true": rng.integers(0, CLASSES, ROWS),
        "y_pred": rng.normal(0, 3, (ROWS, CLASSES)).astype("float32"),
        "sample_weight": rng.random(ROWS),
    }


def held(values, kind, directory):
    """Keep arrays in memory, or in files, and return what to give `evaluate`."""
    if kind == "memory":
        return values
    if kind == "dask":
        return {name: da.from_array(array, chunks=7) for name, array in values.items()}
    directory.mkdir()
    for name, array in values.items():
        if kind == "npy":
            np.save(directory / f"{name}.npy", array)
        else:
            zarr.save_array(directory / name, array)
    return {name: directory / (f"{name}.npy" if kind == "npy" else name) for name in values}


@pytest.mark.parametrize("kind", ["memory", "npy", "zarr"])
@pytest.mark.parametrize("name", ["y_true", "y_pred", "sample_weight"])
def test_reports_of_different_arrays_do_not_merge(values, tmp_path, kind, name):
    halves, other = [(0, 20), (20, 40)], values | {name: np.roll(values[name], 1, axis=0)}
    arrays, others = held(values, kind, tmp_path / "a"), held(other, kind, tmp_path / "b")
    first, second = (dx.evaluate(**arrays, steps=steps, **OPTIONS) for steps in halves)
    whole = first.merge(second)
    assert whole == dx.evaluate(**arrays, **OPTIONS)
    assert dx.Report.from_json(whole.to_json()).inputs == whole.inputs
    with pytest.raises(ValueError, match=rf"^the reports are of different arrays: {name}\.sample '\w+' and '\w+'$"):
        first.merge(dx.evaluate(**others, steps=(20, 40), **OPTIONS))


def test_reports_with_and_without_weights_do_not_merge(values):
    first = dx.evaluate(**values, steps=(0, 20), **OPTIONS)
    del values["sample_weight"]
    with pytest.raises(ValueError, match=r"different arrays: sample_weight given and not given$"):
        first.merge(dx.evaluate(**values, steps=(20, 40), **OPTIONS))


def test_reports_over_different_class_axes_do_not_merge():
    x, y = np.random.default_rng(0).normal(size=(6, 6)), np.arange(6)
    first, second = (dx.evaluate(y, x, axis=axis, steps=(3 * axis, 3 * axis + 3), **OPTIONS) for axis in (0, 1))
    with pytest.raises(ValueError, match=r"different arrays: axis 0 and 1; y_pred"):
        first.merge(second)


def test_reports_that_do_not_say_what_they_are_of_do_not_merge(values):
    unknown = replace(dx.evaluate(**values, **OPTIONS), inputs=None)
    with pytest.raises(ValueError, match=r"^the reports do not say which arrays they are about"):
        unknown.merge(dx.evaluate(**values, **OPTIONS))


@pytest.mark.parametrize("kind", ["memory", "dask", "npy", "zarr"])
def test_reports_of_graphs_say_what_they_are_of(values, tmp_path, kind):
    arrays = held(values, kind, tmp_path / "a")
    assert dx.delayed(**arrays, from_logits=True).compute().inputs == dx.evaluate(**arrays, **OPTIONS).inputs


def test_dask_arrays_are_known_by_their_names(values, tmp_path):
    reports = [dx.evaluate(**held(values, "dask", tmp_path), **OPTIONS) for _ in range(2)]
    assert reports[0].inputs == reports[1].inputs
    other = values | {"y_pred": values["y_pred"] + 1}
    assert dx.evaluate(**held(other, "dask", tmp_path), **OPTIONS).inputs != reports[0].inputs


def test_a_journal_knows_the_class_axis(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(20, 20)), np.arange(20)
    zarr.save_array(tmp_path / "x.zarr", x)
    dx.evaluate(y, tmp_path / "x.zarr", journal=tmp_path / "j", **OPTIONS)
    with pytest.raises(dx.JournalError, match=r"inputs\.axis was 1, is 0; name another file$"):
        dx.evaluate(y, tmp_path / "x.zarr", axis=0, journal=tmp_path / "j", **OPTIONS)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[: ROWS // 2],
        lambda x: x[:, :3],
        lambda x: np.tile(x, (2, 2)),
        lambda x: x.astype("float64"),
        lambda x: x.astype("int32"),
        lambda x: x > 0,
        lambda x: x[:0],
        lambda x: x[0],
        lambda x: x + 1,
    ],
)
@pytest.mark.parametrize("name", ["y_pred", "sample_weight"])
def test_a_file_that_is_rewritten_during_a_run_is_an_error(values, tmp_path, monkeypatch, change, name):
    sized.give(monkeypatch, part_bytes=100, smallest_part_bytes=100)
    arrays = held(values, "npy", tmp_path / "dump")
    reports = dx.stream(**arrays, **OPTIONS)
    assert next(reports).rows < ROWS
    np.save(tmp_path / "new.npy", change(values[name].reshape(ROWS, -1)).squeeze())
    os.replace(tmp_path / "new.npy", arrays[name])
    with pytest.raises(ValueError, match=rf"^{name}: .*{name}\.npy was rewritten since it was opened$"):
        list(reports)


@pytest.mark.parametrize("size", [ROWS, 20_000])  # in NumPy, and compiled
@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("y_pred", lambda x: x + 1j, "y_pred: a chunk of the dask array has dtype complex64 where float32"),
        ("y_pred", lambda x: x.astype("int32"), "y_pred: a chunk of the dask array has dtype int32 where float32"),
        ("y_pred", lambda x: x.astype(bool), "y_pred: a chunk of the dask array has dtype bool where float32"),
        ("y_pred", lambda x: x.astype("f8"), "y_pred: a chunk of the dask array has dtype float64 where float32"),
        ("y_pred", lambda x: x.astype(object), "y_pred: a chunk of the dask array has dtype object where float32"),
        ("sample_weight", lambda w: w * 1j, "sample_weight: expected real numbers, got a chunk of dtype complex128"),
        ("y_true", lambda y: y * 1j, "y_true: expected integer labels, got a chunk of dtype complex128"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_chunks_of_dask_arrays_keep_their_promised_dtype(values, name, change, named, size):
    arrays = {key: np.resize(array, (size, *array.shape[1:])) for key, array in values.items()}
    lazy = {key: da.from_array(array, chunks=(size // 2, *array.shape[1:])) for key, array in arrays.items()}
    array = lazy[name]
    lazy[name] = array.map_blocks(change, dtype=array.dtype, meta=np.empty((0,) * array.ndim, array.dtype))
    with pytest.raises(TypeError, match=named):
        dx.evaluate(**lazy, **OPTIONS)


@pytest.mark.filterwarnings("error")
def test_chunks_of_dense_labels_keep_their_promised_dtype(values):
    lazy = da.from_array(np.eye(CLASSES)[values["y_true"]], chunks=(20, CLASSES))
    wrong = lazy.map_blocks(lambda y: y * 1j, dtype=lazy.dtype, meta=np.empty((0, 0)))
    with pytest.raises(TypeError, match="y_true: a chunk of the dask array has dtype complex128 where float64"):
        dx.evaluate(wrong, da.from_array(values["y_pred"], chunks=(20, CLASSES)), **OPTIONS)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ZeroDivisionError])
def test_a_journal_is_free_after_an_interrupt_whose_error_is_kept(values, tmp_path, stop):
    def progress(report):
        raise stop

    with pytest.raises((dx.Interrupted, stop)) as kept:
        dx.evaluate(**values, journal=tmp_path / "j", progress=progress, **OPTIONS)
    assert dx.evaluate(**values, journal=tmp_path / "j", **OPTIONS) == dx.evaluate(**values, **OPTIONS)
    assert kept.value.__traceback__ is not None


@pytest.mark.parametrize("kind", ["memory", "zarr", "dask", "joined", "sliced"])
def test_reports_say_how_many_classes_there_are_in_how_many_blocks(tmp_path, kind):
    x, y = np.random.default_rng(0).normal(size=(6, 1200)), np.arange(6)
    zarr.create_array(tmp_path / "x", data=x, chunks=(6, 600)) if kind == "zarr" else None
    joined = dx.concat([x[:, :500], x[:, 500:]], axis=-1)
    given = {"memory": x, "zarr": tmp_path / "x", "dask": da.from_array(x, chunks=(2, 600)), "joined": joined}
    report = dx.evaluate(y, {**given, "sliced": joined[:, 1:]}[kind], **OPTIONS)
    expected = {"memory": "1,200", "sliced": "1,199 in 2 blocks"}.get(kind, "1,200 in 2 blocks")
    assert dict(report.lines())["classes"] == expected


def test_reports_about_different_dumps_are_joined_where_that_is_said(tmp_path):
    rng = np.random.default_rng(5)
    dumps = [(rng.integers(0, 4, (n, 3)), rng.normal(0, 3, (n, 3, 4)).astype("f4")) for n in (30, 7, 55)]
    dumps[1][1][2, 1, 0] = np.nan
    kinds = [rng.integers(0, 2, n) for n in (30, 7, 55)]
    options = {"from_logits": True, "worst": 5, "per_class": True, "confusions": True, "on_invalid": "count",
               "metrics": ["crossentropy", "accuracy", "ece", "temperature"]}  # fmt: skip
    reports = [
        dx.evaluate(y, x, by={"kind": kind, "position": dx.axis(1)}, clusters=kind, **options)
        for (y, x), kind in zip(dumps, kinds, strict=True)
    ]
    y, x = (np.concatenate(several) for several in zip(*dumps, strict=True))
    by = {"kind": np.concatenate(kinds), "position": dx.axis(1)}
    whole = dx.evaluate(y, x, by=by, clusters=by["kind"], **options)
    joined = reports[0].merge(*reports[1:], dumps=True)
    assert joined.state == whole.state
    assert list(joined.worst) == list(whole.worst)
    assert joined.expected == whole.expected
    assert dict(joined.se) == pytest.approx(whole.se, nan_ok=True)
    paths = [tmp_path / f"{i}.json" for i in range(3)]
    for path, report in zip(paths, reports, strict=True):
        path.write_text(report.to_json())
    done = CliRunner().invoke(cli.main, ["merge", "--dumps", "--json", *map(str, paths)])
    assert dx.Report.from_json(done.stdout).state == whole.state
    assert done.exit_code == 0
    with pytest.raises(ValueError, match="the reports are of different numbers of rows"):
        reports[0].merge(reports[1])


@pytest.mark.parametrize("sizes", [(100, 100), (100, 40)])
def test_bytes_of_texts_that_are_joined_are_added_up(sizes):
    rng, options = np.random.default_rng(6), {"from_logits": True, "metrics": ["bits_per_byte", "crossentropy"]}
    dumps = [(rng.integers(0, 4, (n, 3)), rng.normal(0, 3, (n, 3, 4)).astype("f4")) for n in (20, 7)]
    reports = [dx.evaluate(*dump, bytes=size, **options) for dump, size in zip(dumps, sizes, strict=True)]
    whole = dx.evaluate(*map(np.concatenate, zip(*dumps, strict=True)), bytes=sum(sizes), **options)
    joined = reports[0].merge(reports[1], dumps=True)
    assert (joined.metrics, joined.se, joined.question) == (whole.metrics, whole.se, whole.question)
    with pytest.raises(ValueError, match="different questions: bytes True and False"):
        reports[0].merge(dx.evaluate(*dumps[1], bytes=np.ones((7, 3), int), **options), dumps=True)


@pytest.mark.parametrize("scale", [1, 1e100])  # squares of such losses do not fit the grids
@pytest.mark.parametrize("first", [0, 1])
def test_dumps_with_and_without_weights_are_joined_as_with_weights_of_1(first, scale):
    rng = np.random.default_rng(7)
    dumps = [(rng.integers(0, 4, n), scale * rng.normal(0, 3, (n, 4))) for n in (40, 25, 30)]
    kinds = [rng.choice(["a", "b"], len(y)) for y, _ in dumps]
    weights = [None if i % 2 == first else rng.random(len(y)) * 10 for i, (y, _) in enumerate(dumps)]
    options = {
        "from_logits": True, "per_class": True, "confusions": True, "histograms": ["crossentropy"], "ranks": True,
        "metrics": ["crossentropy", "accuracy", "ece", "classwise_ece", "temperature"], "worst": 3,
    }  # fmt: skip
    several = [
        dx.evaluate(y, x, sample_weight=w, by={"kind": kind}, clusters=np.arange(len(y)) // 3, **options)
        for (y, x), w, kind in zip(dumps, weights, kinds, strict=True)
    ]
    y, x = (np.concatenate(each) for each in zip(*dumps, strict=True))
    weights = [np.ones(len(y)) if w is None else w for w, (y, _) in zip(weights, dumps, strict=True)]
    clusters = np.concatenate([np.arange(len(y)) // 3 for y, _ in dumps])
    by = {"kind": np.concatenate(kinds)}
    whole = dx.evaluate(y, x, sample_weight=np.concatenate(weights), by=by, clusters=clusters, **options)
    joined = several[0].merge(*several[1:], dumps=True)
    assert joined.state == whole.state
    assert (joined.se, joined.by("kind").rows) == (whole.se, whole.by("kind").rows)
    assert joined.quantile("crossentropy", [0.2, 0.5]) == whole.quantile("crossentropy", [0.2, 0.5])
    assert dx.Report.from_json(joined.to_json()).state == whole.state


def test_dumps_that_cannot_be_joined_are_refused():
    x, y = np.random.default_rng(5).normal(0, 3, (9, 2, 4)), np.zeros((9, 2), int)
    options = {"from_logits": True}
    by = [dx.evaluate(y, x, by={"image": dx.axis(0)}, **options) for _ in range(2)]
    with pytest.raises(ValueError, match=r"by\['image'\]: indexes along axis 0 begin anew in each dump"):
        by[0].merge(by[1], dumps=True)
    clustered = dx.evaluate(y, x, clusters=dx.axis(0), **options)
    with pytest.raises(ValueError, match="clusters: indexes along axis 0 begin anew"):
        clustered.merge(clustered, dumps=True)
    sampled = dx.evaluate(y, x, sample=3, **options)
    with pytest.raises(ValueError, match="sample: which rows are sampled depends on their numbers"):
        sampled.merge(sampled, dumps=True)
    plain, narrow = dx.evaluate(y, x, **options), dx.evaluate(y[:, :1], x[:, :1], **options)
    with pytest.raises(ValueError, match="the reports are of different shapes of a step"):
        plain.merge(narrow, dumps=True)
    images = dx.evaluate(y, x, by={"image": np.arange(9)}, **options)
    with pytest.raises(ValueError, match=r"by\['image'\]: indexes along axis 0 begin anew in each dump"):
        images.merge(images, by[1], dumps=True)
    names = dx.evaluate(y, x, by={"image": np.array(list("abcdefghi"))}, **options)
    with pytest.warns(UserWarning, match="no row was counted"):
        none = dx.evaluate(y, x, by={"image": np.arange(9)}, sample_weight=np.zeros(9), **options)
    for several in ([images, names], [names, none, images]):
        with pytest.raises(ValueError, match=r"different groups: image (integers|strings) and (integers|strings)"):
            several[0].merge(*several[1:], dumps=True)
    below, above = (
        dx.evaluate(y, x, by={"image": np.arange(9).astype(np.asarray(k).dtype) + k}, **options) for k in (-3, LARGE)
    )
    with pytest.raises(ValueError, match="by: there are groups below 0 and groups that do not fit int64"):
        below.merge(above, dumps=True)


def test_a_slice_is_known_by_what_it_covers(tmp_path):
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(30, 12, CLASSES)).astype("f4"), rng.integers(0, CLASSES, (30, 12))
    logits = zarr.create_array(tmp_path / "x", data=x, chunks=(1, 4, CLASSES))
    labels = zarr.create_array(tmp_path / "y", data=y, chunks=(1, 12))
    one = [f"{tmp_path}/{name}[7, :8]" for name in "yx"]
    first = dx.evaluate(*one, journal=tmp_path / "j", **OPTIONS)
    assert first.state == dx.evaluate(y[7, :8], x[7, :8], **OPTIONS).state
    logits[3], labels[4], logits[7, 8:] = 0, 0, 0
    logits.append(x[:2])
    labels.append(y[:2])
    again = dx.evaluate(*one, journal=tmp_path / "j", **OPTIONS)
    assert again.notes == ("8 rows were in the journal already",)
    assert again.inputs == first.inputs
    logits[7, 4] = 0
    assert any("written anew" in note for note in dx.evaluate(*one, journal=tmp_path / "j", **OPTIONS).notes)
    for other in ("[8, :8]", "[7, 4:12]"):
        with pytest.raises(dx.JournalError, match=r"inputs\.y_pred\.(index|sliced\.start)"):
            dx.evaluate(one[0], f"{tmp_path}/x{other}", journal=tmp_path / "j", **OPTIONS)


def test_chunks_outside_of_a_slice_are_not_looked_at(tmp_path):
    x = np.random.default_rng(9).normal(size=(30, 12, CLASSES))
    zarr.create_array(tmp_path / "x", data=x, chunks=(1, 4, CLASSES))
    for path in (tmp_path / "x" / "c").rglob("*"):
        inside = path.relative_to(tmp_path / "x" / "c").parts[:1] == ("7",) and path.name != "2"
        if path.is_file() and not inside and path.parts[-3:] != ("7", "0", "0"):
            path.unlink()
            path.mkdir()  # reading it fails
    report = dx.evaluate([0] * 8, f"{tmp_path}/x[7, :8]", **OPTIONS)
    assert report.state == dx.evaluate([0] * 8, x[7, :8], **OPTIONS).state


def test_files_outside_of_a_slice_of_several_do_not_matter(values, tmp_path):
    x, y = values["y_pred"], values["y_true"]
    paths = [tmp_path / f"{i}.npy" for i in range(4)]
    for i, path in enumerate(paths):
        np.save(path, x[10 * i : 10 * i + 10])
    np.save(tmp_path / "y.npy", y)
    given = f"{tmp_path}/y.npy[10:25]", dx.concat(paths)[10:25]
    dx.evaluate(*given, journal=tmp_path / "j", **OPTIONS)
    for path in (paths[0], paths[3]):
        np.save(path, np.ones((10, CLASSES), "f4"))
    assert dx.evaluate(*given, journal=tmp_path / "j", **OPTIONS).notes == ("15 rows were in the journal already",)
    np.save(paths[0], np.ones((9, CLASSES), "f4"))  # so that the slice begins one row later in the next
    with pytest.raises(dx.JournalError, match=r"inputs\.y_pred\.sliced\.joined"):
        dx.evaluate(given[0], dx.concat(paths)[10:25], journal=tmp_path / "j", **OPTIONS)


def test_a_file_of_several_that_is_corrected_is_evaluated_again(values, tmp_path):
    x, y, paths = values["y_pred"], values["y_true"], [tmp_path / f"{i}.npy" for i in range(4)]
    for i, path in enumerate(paths):
        np.save(path, x[10 * i : 10 * i + 10])
    dx.evaluate(y, paths, journal=tmp_path / "j", **OPTIONS)
    rows = {"from_logits": True, "columns": ["loss"], "out": tmp_path / "rows"}
    np.save(tmp_path / "y.npy", y)
    dx.rows(tmp_path / "y.npy", paths, **rows)
    x[3] = 0
    np.save(paths[0], x[:10])
    report = dx.evaluate(y, paths, journal=tmp_path / "j", **OPTIONS)
    assert report.state == dx.evaluate(y, x, **OPTIONS).state
    assert any("written anew" in note for note in report.notes)
    losses = dx.rows(tmp_path / "y.npy", paths, **rows)["loss"]
    assert np.array_equal(losses, dx.rows(y, x, from_logits=True, columns=["loss"])["loss"])
    np.save(paths[1], x[10:20].astype("f8"))
    with pytest.raises(ValueError, match=r"^y_pred\[1\]: dtype float64 differs"):
        dx.evaluate(y, paths, journal=tmp_path / "j", **OPTIONS)
    paths[1] = paths[2]
    with pytest.raises(dx.JournalError, match=r"evaluation: inputs\.y_pred\.joined\[1\]\.where was '.*1\.npy', is "):
        dx.evaluate(y, paths, journal=tmp_path / "j", **OPTIONS)
