"""Columns of every row, kept in NumPy arrays and in zarr groups, killed and continued."""

import asyncio
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import sized
import strategies
import zarr
from click.testing import CliRunner
from distributed import Client
from running import prepared

import daskxent as dx
from daskxent.cli import main
from daskxent.numbers.records import scan
from daskxent.numbers.scores import UNRANKED, finish
from daskxent.numbers.softmax_sums import shape_of
from daskxent.numbers.statistics import OF_LOGITS, OF_ONE_LABEL
from daskxent.numbers.status import ROW_COLUMNS, Scored
from daskxent.run import sink

CLASSES, ROWS = 13, 700
OPTIONS = {"from_logits": True, "on_invalid": "skip", "metrics": ["crossentropy", "accuracy", "top_3_accuracy"]}


@pytest.fixture(autouse=True)
def pages(monkeypatch):
    sized.give(monkeypatch, page_rows=150)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(ROWS, CLASSES)).astype("float32").round(1)  # with ties
    x[50, 3], x[51], x[52, 1] = np.nan, -np.inf, np.inf
    y = rng.integers(0, CLASSES, ROWS)
    y[77] = 99
    return y, x, rng.integers(0, 3, ROWS) / 2


@pytest.fixture(scope="module")
def wanted(data):
    """All columns by way of the definition in NumPy."""
    y, x, w = data
    _, question = prepared(y, x, sample_weight=w, **OPTIONS)
    records = scan(x, y, 0, probabilities=False, mass=True, top=CLASSES)
    scores = finish(records, y, CLASSES, frozenset(ROW_COLUMNS))
    shape = shape_of(x, scores.peak, probabilities=False)
    scored = Scored.of(question, scores._replace(entropy=shape.entropy(), sum_p2=shape.sum_p2()), y, w)
    return {name: scored.column(name) for name in ROW_COLUMNS}


def stored(path, name, values, chunks, shards=None):
    z = zarr.create_array(path, name=name, shape=values.shape, chunks=chunks, shards=shards, dtype=values.dtype)
    z[...] = values
    return path / name


def same(found, wanted):
    for name, values in found.items():
        assert np.array_equal(np.asarray(values[...]), wanted[name], equal_nan=values.dtype.kind == "f"), name
        assert values.dtype == ROW_COLUMNS[name]


WAYS = {
    "memory": lambda path, x: x,
    "chunks": lambda path, x: stored(path, "x", x, (40, CLASSES)),
    "one chunk": lambda path, x: stored(path, "x", x, x.shape),
    "shards": lambda path, x: stored(path, "x", x, (10, CLASSES), (60, CLASSES)),
    "classes": lambda path, x: stored(path, "x", x, (40, 5)),
}


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_columns_are_those_of_the_definition(data, wanted, tmp_path, way, threads):
    y, x, w = data
    held, options = WAYS[way](tmp_path, x), {**OPTIONS, "sample_weight": w, "threads": threads, "columns": ROW_COLUMNS}
    same(dx.rows(y, held, **options), wanted)
    found = dx.rows(y, held, **options, out=tmp_path / "rows")
    same(found, wanted)
    assert {array.chunks[0] for array in found.values()} <= {120, 150, 160, 700}
    same(dx.rows(y, held, **options, out=tmp_path / "rows"), wanted)  # it is there already


@pytest.mark.parametrize("axis", [1, 3])
def test_maps_keep_the_shape_of_their_positions(tmp_path, axis):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(9, 6, 7, 4)).astype("float32"), rng.integers(0, 4, (9, 6, 7))
    z = stored(tmp_path, "x", np.moveaxis(x, 3, axis), (2, 3, 3, 4) if axis == 3 else (2, 4, 3, 3))
    for out in (None, tmp_path / "rows"):
        found = dx.rows(y, z, from_logits=True, axis=axis, columns=["prediction", "hit"], out=out)
        assert (found["prediction"][...] == x.argmax(3)).all()
        assert (found["hit"][...] == (x.argmax(3) == y)).all()


def test_dense_labels_have_a_class(data, tmp_path):
    y, x, _ = data
    dense = np.eye(CLASSES)[y % CLASSES]
    z = stored(tmp_path, "x", x, (40, 5))
    found = dx.rows(dense, z, **OPTIONS, columns=["label", "loss"], out=tmp_path / "rows")
    assert (found["label"][...] == y % CLASSES).all()
    usual = np.isfinite(x).all(axis=1)
    assert np.allclose(found["loss"][...][usual], dx.losses.categorical_crossentropy(dense, x, True)[usual], atol=1e-6)


HIDING = {
    "ignored": lambda y: (np.where(SOME, -100, y), {"ignore_class": -100}),
    "weights": lambda y: (y, {"sample_weight": np.where(SOME, 0.0, 2.0)}),
    "mask": lambda y: (y, {"mask": ~SOME}),
    "dense": lambda y: (np.eye(3)[y], {"mask": ~SOME}),
}
SOME = np.arange(6100) % 10 == 0


@pytest.mark.parametrize("logits", [True, False])
@pytest.mark.parametrize("way", HIDING)
def test_hidden_rows_hold_nothing_in_chunks_of_any_size(way, logits):
    """Of few numbers NumPy makes the columns, of many compiled code: 6,100 rows of 3 classes are many, 100 few."""
    rng = np.random.default_rng(5)
    x = rng.random((SOME.size, 3)) + 0.1
    x, y = x if logits else x / x.sum(axis=1, keepdims=True), rng.integers(0, 3, SOME.size)
    x[10], x[20, 1] = np.nan, np.inf
    given, options = HIDING[way](y)
    names = [
        name
        for name in ROW_COLUMNS
        if (way != "dense" or name not in OF_ONE_LABEL) and (logits or name not in OF_LOGITS)
    ]
    options |= {"from_logits": logits, "columns": names}
    held = [strategies.stored(x, (rows, 3)) for rows in (6100, 6000, 700)]
    for predictions in (x, *held, *(da.from_array(x, chunks=chunks) for chunks in ((6000, 3), (6100, 3), (900, 2)))):
        for name, values in dx.rows(given, predictions, **options).items():
            hidden, shown = np.asarray(values)[SOME], np.asarray(values)[~SOME]
            if name in ("label", "weight"):
                assert len(np.unique(hidden)) == (1 if name == "weight" or way == "ignored" else 3)
                continue
            empty = {"prediction": -1, "above": UNRANKED}.get(name, 0)
            assert (np.isnan(hidden) if hidden.dtype.kind == "f" else hidden == empty).all(), name
            assert values.dtype == ROW_COLUMNS[name]
            assert not np.isnan(shown).any()


@pytest.mark.slow
def test_workers_write_the_same_bytes(data, wanted, client, tmp_path):
    y, x, w = data
    held = stored(tmp_path, "y", y, (90,)), WAYS["shards"](tmp_path, x)
    options = {**OPTIONS, "sample_weight": stored(tmp_path, "w", w, (500,)), "columns": ROW_COLUMNS}
    dx.rows(*held, **options, threads=2, out=tmp_path / "here")
    same(dx.rows(*held, **options, client=client, out=tmp_path / "there"), wanted)
    assert digests(tmp_path / "here") == digests(tmp_path / "there")


@pytest.mark.slow
def test_workers_notice_that_a_group_was_replaced(client, tmp_path):
    rng = np.random.default_rng(5)
    for shape in ((2000, 4), (4000, 2), (1000, 8)):
        x = rng.normal(size=(*shape, 5)).astype("float32")
        held = stored(tmp_path, f"x{shape[1]}", x, (shape[0] // 4, shape[1], 5))
        options = {"from_logits": True, "columns": ["prediction"], "client": client}
        found = dx.rows(np.zeros(shape, int), held, **options, out=tmp_path / "rows")
        assert (found["prediction"][...] == x.argmax(2)).all()
        shutil.rmtree(tmp_path / "rows")


def digests(path: Path) -> dict[str, str]:
    chunks = (file for file in path.rglob("*") if file.is_file() and "c" in file.relative_to(path).parts)
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in chunks}


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import daskxent as dx
import sized
from daskxent.run import sink
from pytest import MonkeyPatch
sized.give(MonkeyPatch(), part_bytes=1, smallest_part_bytes=1, page_rows=40)
write = sink.Group.write

def slow(*given):
    print("page", flush=True)
    write(*given)
    time.sleep(0.02)

sink.Group.write = slow
here = Path(sys.argv[2])
options = {"from_logits": True, "on_invalid": "skip", "threads": 2, "journal": here / "journal"}
dx.rows(here / "y", here / "x", **options, out=here / "rows")
"""


def mark(path):
    return zarr.open_group(path, mode="r").attrs[sink.MARK]


@pytest.mark.slow
def test_killed_and_continued_the_bytes_are_the_same(data, tmp_path):
    y, x, _ = data
    stored(tmp_path, "y", y, (90,)), WAYS["chunks"](tmp_path, x)
    command = [sys.executable, "-c", SLOW, str(Path(__file__).parent), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.count("page") == 18
    whole = digests(tmp_path / "rows")
    assert len(whole) == 3 * 18
    for name in ("rows", "journal"):
        os.rename(tmp_path / name, tmp_path / f"whole {name}")
    written, rng = 0, np.random.default_rng(0)
    while True:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(int(rng.integers(2, 6))):
                written += bool(process.stdout.readline())
            time.sleep(rng.random() / 50)
            process.send_signal(signal.SIGKILL)
        if mark(tmp_path / "rows")["complete"]:
            break
        assert "complete" in mark(tmp_path / "rows")
    assert written < 18 + 40  # most of what was written was not written again
    assert digests(tmp_path / "rows") == whole


def test_what_a_killed_process_left_is_removed(data, tmp_path):
    y, x, _ = data
    out = tmp_path / "rows"
    dx.rows(y, x, **OPTIONS, out=out)
    group = zarr.open_group(out, mode="r+")
    group.attrs[sink.MARK] = {**group.attrs[sink.MARK], "complete": False}
    for left in ("loss/c/0.abc.partial", "zarr.abc.partial", "mine.partial", "mine/film.partial"):
        (out / left).parent.mkdir(exist_ok=True)
        (out / left).write_bytes(b"half")
    dx.rows(y, x, **OPTIONS, out=out)
    assert sorted(each.name for each in out.rglob("*.partial")) == ["film.partial", "mine.partial"]
    assert mark(out)["complete"]


def test_a_journal_knows_the_group_it_is_of(data, tmp_path):
    y, x, _ = data
    held = stored(tmp_path, "y", y, (90,)), WAYS["chunks"](tmp_path, x)
    options = {**OPTIONS, "journal": tmp_path / "journal"}
    dx.rows(*held, **options, out=tmp_path / "rows")
    os.rename(tmp_path / "rows", tmp_path / "moved")
    with pytest.raises(dx.JournalError, match=r"question\.out\.run was "):
        dx.rows(*held, **options, out=tmp_path / "rows")
    with pytest.raises(dx.JournalError, match=r"question\.out was "):
        dx.evaluate(*held, **options)


def test_an_unfinished_group_says_so_and_is_continued_without_a_journal_too(data, wanted, tmp_path):
    y, x, _ = data
    y = np.where(y == 99, -5, y)
    z = WAYS["chunks"](tmp_path, x)
    options = {**OPTIONS, "on_invalid": "raise", "out": tmp_path / "rows", "columns": ["hit"]}
    with pytest.raises(ValueError, match=r"y_true: label -5 at row 77 is outside \[0, 13\)"):
        dx.rows(y, z, **options)
    assert not mark(tmp_path / "rows")["complete"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"columns": ["los"]}, ValueError, r"columns: 'los' is unknown; known are above, brier, confidence, counted"),
        ({"columns": []}, ValueError, "columns: expected at least one name"),
        ({"columns": 3}, TypeError, "columns: expected names, got 3"),
        ({"column": "loss"}, TypeError, "rows: unknown option 'column'; did you mean 'columns'?"),
    ],
)
def test_bad_options(data, options, error, message):
    with pytest.raises(error, match=message.replace("?", r"\?")):
        dx.rows(data[0], data[1], **options)


def test_what_is_in_the_way_stays_as_it_is(data, tmp_path):
    y, x, _ = data
    z = stored(tmp_path, "x", x, (40, CLASSES))
    (tmp_path / "file").write_text("mine")
    zarr.create_group(tmp_path / "group")
    zarr.create_array(tmp_path / "array", shape=(3,), dtype="i4")
    for name in ("file", "group", "array"):
        with pytest.raises(FileExistsError, match=f"out: .*{name} exists, and "):
            dx.rows(y, z, **OPTIONS, out=tmp_path / name)
    dx.rows(y, z, **OPTIONS, out=tmp_path / "rows")
    for changed in ({"columns": ["hit"]}, {"on_invalid": "count"}, {"steps": (0, 80)}):
        with pytest.raises(FileExistsError, match=f"rows holds other rows: .*{next(iter(changed))}.* was "):
            dx.rows(y, z, **{**OPTIONS, **changed}, out=tmp_path / "rows")
    with pytest.raises(FileExistsError, match=r"holds other rows: inputs\.y_true\.sample was"):
        dx.rows(y[::-1].copy(), z, **OPTIONS, out=tmp_path / "rows")


def test_a_directory_of_something_else_is_not_written_to(data, tmp_path):
    y, x, _ = data
    results = tmp_path / "results"
    (results / "loss").mkdir(parents=True)
    (results / "loss" / "film.partial").write_text("mine")
    with pytest.raises(FileExistsError, match=r"out: .*results exists, and is not a zarr group: it holds loss"):
        dx.rows(y, x, **OPTIONS, out=results)
    assert [each.name for each in results.rglob("*")] == ["loss", "film.partial"]


def test_a_group_is_created_where_a_killed_process_only_made_the_directory(data, wanted, tmp_path):
    y, x, w = data
    out = tmp_path / "rows"
    out.mkdir()
    (out / "zarr.abc.partial").write_bytes(b"half")
    same(dx.rows(y, x, sample_weight=w, **OPTIONS, out=out), wanted)
    assert list(out.rglob("*.partial")) == []


@pytest.mark.parametrize(("journal", "again"), [(None, 5), ("journal", 1)])
def test_rows_of_a_dump_that_was_corrected_are_written_again(tmp_path, monkeypatch, journal, again):
    sized.give(monkeypatch, part_bytes=1, smallest_part_bytes=1, page_rows=40)
    rng, written, write = np.random.default_rng(9), [], sink.Group.write
    y, x = rng.integers(0, 5, 200), rng.normal(size=(200, 5)).astype("float32")
    held = stored(tmp_path, "y", y, (40,)), stored(tmp_path, "x", x, (40, 5))
    options = {"from_logits": True, "columns": ["label", "hit"], "threads": 1, "out": tmp_path / "rows"}
    options["journal"] = journal and tmp_path / journal
    monkeypatch.setattr(
        sink.Group, "write", lambda group, box, columns: (written.append(box), write(group, box, columns))
    )
    for at in (None, 50, 40):  # one of them is in the sample of the fingerprint
        if at is not None:
            y[at] = (y[at] + 1) % 5
            zarr.open_array(held[0], mode="r+")[at] = y[at]
        written.clear()
        found = dx.rows(*held, **options)
        assert (found["label"][...] == y).all()
        assert (found["hit"][...] == (x.argmax(1) == y)).all()
        assert len(written) == (5 if at is None else again)
        dx.rows(*held, **options)
        assert len(written) == (5 if at is None else again)  # it is complete


def test_a_journal_of_what_was_in_a_group_before_is_refused(data, tmp_path):
    y, x, _ = data
    held, options = (
        (stored(tmp_path, "y", y, (90,)), WAYS["chunks"](tmp_path, x)),
        {**OPTIONS, "out": tmp_path / "rows"},
    )
    dx.rows(*held, **options, journal=tmp_path / "journal")
    zarr.open_array(held[0], mode="r+")[5] = 1
    dx.rows(*held, **options)
    zarr.open_array(held[0], mode="r+")[5] = y[5]
    with pytest.raises(dx.JournalError, match=r"question\.out\.run was "):
        dx.rows(*held, **options, journal=tmp_path / "journal")


def test_other_rows_in_memory_are_noticed_beyond_the_sample(tmp_path):
    y, x = np.zeros(20_000, int), np.eye(2)[np.zeros(20_000, int)]
    for at in (1, 2, 3):
        y[at] = 1
        found = dx.rows(y, x, columns=["label"], out=tmp_path / "rows")["label"]
        assert (found[...] == y).all()


@pytest.mark.parametrize("complete", [True, False])
def test_a_column_that_was_removed_is_an_error(data, tmp_path, complete):
    y, x, _ = data
    held = stored(tmp_path, "y", y, (90,)), WAYS["chunks"](tmp_path, x)
    options, out = {**OPTIONS, "columns": ["loss", "hit"], "journal": tmp_path / "journal"}, tmp_path / "rows"
    dx.rows(*held, **options, out=out)
    group = zarr.open_group(out, mode="r+")
    group.attrs[sink.MARK] = {**group.attrs[sink.MARK], "complete": complete}
    shutil.rmtree(out / "loss")
    with pytest.raises(FileExistsError, match=r"rows has lost loss; remove the group, and its journal if there is one"):
        dx.rows(*held, **options, out=out)
    assert not (out / "loss").exists()


def test_columns_in_memory_have_no_journal(data, tmp_path):
    with pytest.raises(ValueError, match="journal: needs out as well"):
        dx.rows(*data[:2], **OPTIONS, journal=tmp_path / "journal")


def test_the_command_line_says_what_it_wrote(data, wanted, tmp_path):
    y, x, w = data
    stored(tmp_path, "w", w, (90,)), stored(tmp_path, "y", y, (90,)), WAYS["classes"](tmp_path, x)
    arguments = ["rows", str(tmp_path / "y"), str(tmp_path / "x"), "--from-logits", "--on-invalid", "skip"]
    arguments += ["--weights", str(tmp_path / "w")]
    out = str(tmp_path / "rows")
    run = CliRunner().invoke(
        main, [*arguments, "--column", "hit", "--column", "above", "--metric", "accuracy", "--out", out]
    )
    assert run.output == f"{out}/hit  (700,) bool\n{out}/above  (700,) int32\n"
    same({"hit": zarr.open(f"{out}/hit")}, wanted)
    assert CliRunner().invoke(main, arguments).exit_code == 2  # without --out


def test_dask_arrays_have_no_sink_but_columns(data, wanted, tmp_path):
    y, x, w = data
    for chunks in ((60, CLASSES), (60, 5)):
        found = dx.rows(y, da.from_array(x, chunks=chunks), sample_weight=w, **OPTIONS, columns=ROW_COLUMNS)
        same(found, wanted)
    with pytest.raises(ValueError, match=r"y_true: label 99 at row 77 is outside \[0, 13\)"):
        dx.rows(y, da.from_array(x), **{**OPTIONS, "on_invalid": "raise"})
    with pytest.raises(ValueError, match="out: give the stored predictions themselves, not a dask array"):
        dx.rows(y, da.from_array(x), **OPTIONS, out=tmp_path / "rows")


def test_rows_outside_the_steps_hold_nothing(data, wanted, tmp_path):
    y, x, w = data
    z, columns = stored(tmp_path, "x", x, (40, CLASSES)), list(ROW_COLUMNS)
    options = {**OPTIONS, "sample_weight": w, "steps": (80, 200), "columns": columns}
    for found in (dx.rows(y, z, **options), dx.rows(y, z, **options, out=tmp_path / "rows")):
        same({name: values[80:200] for name, values in found.items()}, {name: wanted[name][80:200] for name in wanted})
        for name, values in found.items():
            rest = np.concatenate([values[:80], values[200:]])
            empty = {"prediction": -1, "label": -1, "above": UNRANKED}.get(name, 0)
            assert (np.isnan(rest) if rest.dtype.kind == "f" else rest == empty).all(), name


def test_rows_of_dask_arrays_say_which_client_they_need(data):
    y, x = data[0], da.from_array(data[1], chunks=(60, CLASSES))

    async def asked():
        here = {"processes": False, "n_workers": 1, "dashboard_address": ":0", "set_as_default": False}
        async with Client(**here, asynchronous=True) as client:
            with pytest.raises(TypeError, match="client: this one is asynchronous: await"):
                dx.rows(y, x, **OPTIONS, client=client)
        with pytest.raises(ValueError, match=r"client: .* is closed"):
            dx.rows(y, x, **OPTIONS, client=client)

    asyncio.run(asked())
    with pytest.raises(TypeError, match=r"client: expected a distributed\.Client, got 'tcp://1\.2\.3\.4:5'"):
        dx.rows(y, x, **OPTIONS, client="tcp://1.2.3.4:5")


def test_dask_arrays_take_no_steps(data):
    y, x, _ = data
    for given in ({"steps": (0, 60)}, {"progress": True}):
        with pytest.raises(ValueError, match=f"{next(iter(given))}: rows of dask arrays are computed at once"):
            dx.rows(y, da.from_array(x, chunks=(60, CLASSES)), **OPTIONS, **given)


def test_a_group_that_was_not_wholly_created_is_continued(data, wanted, tmp_path, monkeypatch):
    y, x, w = data
    z, options = stored(tmp_path, "x", x, (40, CLASSES)), {**OPTIONS, "sample_weight": w, "columns": ["hit", "loss"]}

    def killed(group, name, **_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(zarr.Group, "create_array", killed)
        with pytest.raises(KeyboardInterrupt):
            dx.rows(y, z, **options, out=tmp_path / "rows")
    same(dx.rows(y, z, **options, out=tmp_path / "rows"), wanted)


@pytest.mark.slow
def test_a_full_disk_is_an_error_of_one_line(data, tmp_path):
    y, x, _ = data
    stored(tmp_path, "y", y, (90,)), WAYS["one chunk"](tmp_path, x)
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2);"
        "from daskxent.cli import main; main()"
    )
    arguments = ["rows", str(tmp_path / "y"), str(tmp_path / "x"), "--on-invalid", "skip", "--from-logits"]
    for limit, message in (("4000", "positions 0:700 cannot be written to "), ("100", ".* cannot be created")):
        command = [sys.executable, "-c", script, limit, *arguments, "--out", str(tmp_path / f"rows{limit}")]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 1
        assert re.match(f"Error: --out: {message}", run.stderr), run.stderr
        assert run.stderr.count("\n") == 1
