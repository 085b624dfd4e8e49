"""Dumps that `create` writes: read to the same bits, whole after any end, marked when they are finished."""

import multiprocessing
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from strategies import draws

import daskxent as dx
from daskxent import cli
from daskxent.run.dump_arrays import Layout

ROWS, CLASSES = 1000, 12
RNG = np.random.default_rng(0)
X, Y = RNG.normal(0, 3, (ROWS, CLASSES)).astype("float32"), RNG.integers(0, CLASSES, ROWS)


SMALL = {"chunk_bytes": 40 * CLASSES * 4, "shard_bytes": 200 * CLASSES * 4}  # 40 rows, and 200


def write(path, x=X, y=Y, batches=(170, 1, 629), **options):
    with dx.create(path, **SMALL, **options) as dump:
        for some_x, some_y in zip(np.split(x, np.cumsum(batches)), np.split(y, np.cumsum(batches)), strict=True):
            dump.append(some_x, some_y)
    return dump


def state(y, x):
    return dx.evaluate(y, x, from_logits=True).state


@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
@pytest.mark.parametrize("checksums", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_the_bits_are_those_of_what_was_appended(tmp_path, codec, checksums, dtype):
    dump = write(tmp_path / "d.zarr", codec=codec, checksums=checksums, dtype=dtype, classes=CLASSES)
    assert dump.steps == ROWS
    array = zarr.open_array(tmp_path / "d.zarr/logits", mode="r")
    itemsize = 4 if dtype == "float32" else 8 if dtype == "float64" else 2
    assert array.chunks == (40 * 4 // itemsize, CLASSES)
    assert array.shards == (200 * 4 // itemsize, CLASSES)
    wanted = X.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    assert state(tmp_path / "d.zarr/labels", tmp_path / "d.zarr/logits") == state(Y, wanted)
    assert array.attrs["daskxent dump"]["complete"] is True
    assert array.attrs["daskxent dump"]["steps"] == ROWS
    if checksums:
        file = tmp_path / "d.zarr/logits/c/2/0"
        torn = bytearray(file.read_bytes())
        torn[40] ^= 1
        file.write_bytes(torn)
        with pytest.raises(ValueError, match=r"y_pred: chunk 1\d/0 in shard c/2/0 .* cannot be decoded: crc32c|c/2/0"):
            state(tmp_path / "d.zarr/labels", tmp_path / "d.zarr/logits")


@pytest.mark.slow
@draws(30)
@given(st.lists(st.integers(0, 450), min_size=1, max_size=8))
def test_batches_of_any_length_give_the_same_files(tmp_path_factory, lengths):
    directory = tmp_path_factory.mktemp("dumps")
    count = sum(lengths)
    x, y = np.resize(X, (count, CLASSES)), np.resize(Y, count)
    if not count:
        return
    write(directory / "one.zarr", x, y, batches=())
    write(directory / "many.zarr", x, y, batches=lengths[:-1])
    files = [sorted(p.relative_to(d) for p in d.rglob("*") if p.is_file()) for d in directory.iterdir()]
    assert files[0] == files[1]
    for file in files[0]:
        assert (directory / "one.zarr" / file).read_bytes() == (directory / "many.zarr" / file).read_bytes()


def test_zeros_are_written_and_not_missing(tmp_path):
    x = X.copy()
    x[40:80] = x[400:600] = 0
    write(tmp_path / "d.zarr", x, np.zeros_like(Y))
    assert state(tmp_path / "d.zarr/labels", tmp_path / "d.zarr/logits") == state(np.zeros_like(Y), x)


def test_sequences_columns_and_other_libraries(tmp_path):
    x, y = X.reshape(50, 20, CLASSES), Y.reshape(50, 20)
    names = np.array([f"document {i % 7}" for i in range(50)])
    with dx.create(tmp_path / "d.zarr", dtype="bfloat16", **SMALL) as dump:
        for at in range(0, 50, 9):
            some = slice(at, at + 9)
            dump.append(jnp.asarray(x[some]), jnp.asarray(y[some]), doc=np.arange(50)[some], name=list(names[some]))
    wanted = x.astype(ml_dtypes.bfloat16)
    options = {"from_logits": True, "by": {"doc": tmp_path / "d.zarr/doc", "name": tmp_path / "d.zarr/name"}}
    report = dx.evaluate(tmp_path / "d.zarr/labels", tmp_path / "d.zarr/logits", **options)
    expected = dx.evaluate(y, wanted, from_logits=True, by={"doc": np.arange(50), "name": names})
    assert report.state == expected.state


def test_logits_alone(tmp_path):
    with dx.create(tmp_path / "d.zarr") as dump:
        dump.append(X)
    assert state(Y, tmp_path / "d.zarr/logits") == state(Y, X)


def test_a_writer_that_ends_with_an_error_leaves_whole_shards(tmp_path):
    def fails():
        with dx.create(tmp_path / "d.zarr", **SMALL) as dump:
            dump.append(X[:450], Y[:450])
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    with pytest.raises(ValueError, match=r"y_pred: its writer has not finished it; \[:400\] after the path takes"):
        state(Y[:400], tmp_path / "d.zarr/logits")
    with pytest.raises(ValueError, match=r"y_true: its writer has not finished it"):
        dx.plan(tmp_path / "d.zarr/labels", X[:400], from_logits=True)
    both = dx.concat([tmp_path / "d.zarr/logits"] * 2)
    with pytest.raises(ValueError, match="has not finished it"):
        state(np.zeros(800, int), both)
    np.save(tmp_path / "x.npy", X[:300])
    own = r"\[:400\] after its own path, one of a list, takes"
    for several in ([tmp_path / "x.npy", tmp_path / "d.zarr/logits"], dx.concat([X[:300], tmp_path / "d.zarr/logits"])):
        with pytest.raises(ValueError, match=rf"y_pred\[1\]: its writer has not finished it; {own}"):
            state(Y[:700], several)
    with pytest.raises(ValueError, match=rf"y_pred\[0\] \({tmp_path}/d.zarr/logits\): its writer .*; {own}"):
        state(Y[:400], f"{tmp_path}/d*.zarr/logits")
    parts = f"{tmp_path}/d.zarr/labels[:400]", f"{tmp_path}/d.zarr/logits[:400]"
    assert state(*parts) == state(Y[:400], X[:400])
    with dx.reopen(tmp_path / "d.zarr") as dump:  # continues after the last shard
        assert dump.steps == 400
        dump.append(X[400:], Y[400:])
    assert state(tmp_path / "d.zarr/labels", tmp_path / "d.zarr/logits") == state(Y, X)
    with pytest.raises(ValueError, match=r"d.zarr is complete: it has 1000 steps"):
        dx.reopen(tmp_path / "d.zarr")


WRITER = """
import sys, time
import numpy as np, daskxent as dx
rng = np.random.default_rng(0)
x, y = rng.normal(0, 3, (1000, 12)).astype("float32"), rng.integers(0, 12, 1000)
with dx.create(sys.argv[1], chunk_bytes=1920, shard_bytes=9600) as dump:
    dump.append(x[:1], y[:1])
    print("begun", flush=True)
    dump.append(x[1:], y[1:])
    while True:
        dump.append(x, y)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.05, 0.2, 0.45])
def test_what_a_killed_writer_leaves_is_whole(tmp_path, after):
    process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "d.zarr"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    dump = dx.reopen(tmp_path / "d.zarr")
    parts = [f"{tmp_path}/d.zarr/{name}[:{dump.steps}]" for name in ("labels", "logits")]
    assert dump.steps % 200 == 0
    if dump.steps:
        assert state(*parts) == state(np.resize(Y, dump.steps), np.resize(X, (dump.steps, CLASSES)))
    with dump:
        dump.append(X[:30], Y[:30])
    assert dx.evaluate(tmp_path / "d.zarr/labels", tmp_path / "d.zarr/logits", from_logits=True).rows == dump.steps


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_writer_killed_before_its_last_mark_leaves_a_part_of_a_shard(tmp_path, monkeypatch, dtype):
    mark = Layout.mark

    def killed(arrays, *, complete, steps=None):
        if complete:
            mark(dict([*arrays.items()][:1]), complete=True)
            raise KeyboardInterrupt
        mark(arrays, complete=complete, steps=steps)

    monkeypatch.setattr(Layout, "mark", staticmethod(killed))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "d.zarr", X[:450], Y[:450], batches=(), dtype=dtype)
    monkeypatch.undo()
    wanted = X.astype(ml_dtypes.bfloat16) if dtype == "bfloat16" else X
    shutil.copytree(tmp_path / "d.zarr", tmp_path / "e.zarr")
    dx.reopen(tmp_path / "e.zarr").finish()
    assert state(tmp_path / "e.zarr/labels", tmp_path / "e.zarr/logits") == state(Y[:450], wanted[:450])
    dump = dx.reopen(tmp_path / "d.zarr")
    assert dump.steps == 450
    with dump:
        dump.append(X[450:], Y[450:])
    assert state(tmp_path / "d.zarr/labels", tmp_path / "d.zarr/logits") == state(Y, wanted)


@pytest.mark.parametrize("options", [{}, {"shift": 1}, {"classes": 4}, {"classes": 4, "shift": 1}])
def test_what_is_unfinished_is_refused_where_parts_of_it_are_taken(tmp_path, options):
    x, y = X[:, :6].reshape(200, 5, 6), Y.reshape(200, 5) % 4
    dump = dx.create(tmp_path / "d.zarr", chunk_bytes=1200, shard_bytes=6000)
    dump.append(x[:140], y[:140])
    dump._wait()
    del dump
    steps = dx.reopen(tmp_path / "d.zarr").steps
    paths = tmp_path / "d.zarr/labels", tmp_path / "d.zarr/logits"
    for labels, logits in (paths, (paths[0], x[:steps]), (y[:steps], paths[1])):
        with pytest.raises(ValueError, match=rf"its writer has not finished it; \[:{steps}\] after the path takes"):
            dx.evaluate(labels, logits, from_logits=True, **options)
    some = [f"{path}[:{steps}]" for path in paths]
    assert dx.evaluate(*some, from_logits=True, **options).rows == steps * (5 - options.get("shift", 0))


def test_fewer_steps_than_were_promised_are_not_complete(tmp_path):
    dump = dx.create(tmp_path / "d.zarr", **SMALL, classes=CLASSES, dtype="float32", steps=ROWS)
    dump.append(X[:950], Y[:950])
    with pytest.raises(ValueError, match=r"d.zarr: 950 of 1000 steps were appended"):
        dump.finish()
    with pytest.raises(ValueError, match="has not finished it"):
        state(Y, tmp_path / "d.zarr/logits")


@pytest.mark.parametrize("whole", [True, False], ids=["dump", "range"])
def test_an_end_that_was_refused_leaves_the_dump_to_be_finished(tmp_path, whole):
    dump = dx.create(tmp_path / "d.zarr", **SMALL, classes=CLASSES, dtype="float32", steps=ROWS)
    writer = dump if whole else dx.reopen(tmp_path / "d.zarr").part(0, ROWS)
    writer.append(X[:995], Y[:995])
    with pytest.raises(ValueError, match=r"995 of 1000 steps were appended|the range 0:1000 ends after 995 steps"):
        writer.finish()
    for each in (dx.reopen(tmp_path / "d.zarr"), *([] if whole else [dump])):
        with pytest.raises(ValueError, match=r"d.zarr/l\w+: the shard of step 800 was not written"):
            each.finish()
    writer.append(X[995:], Y[995:])
    writer.finish()
    dump.finish()
    assert state(tmp_path / "d.zarr/labels", tmp_path / "d.zarr/logits") == state(Y, X)


def test_steps_that_are_held_are_not_lost_by_pickling(tmp_path):
    dump = dx.create(tmp_path / "d.zarr", **SMALL)
    dump.append(X[:30], Y[:30])
    with pytest.raises(ValueError, match="a dump that holds steps of a shard cannot be pickled; pickle its ranges"):
        pickle.dumps(dump)


def _write_part(part, start, stop):
    with part:
        for at in range(start, stop, 70):
            some = slice(at, min(at + 70, stop))
            part.append(X[some], Y[some], doc=np.arange(ROWS)[some])


@pytest.mark.slow
def test_several_processes_write_ranges_at_once(tmp_path):
    dump = dx.create(
        tmp_path / "d.zarr",
        classes=CLASSES,
        dtype="float32",
        steps=ROWS,
        columns={"doc": "int64"},
        checksums=True,
        **SMALL,
    )
    assert dump.shard_steps == 200
    ranges = [(0, 400), (400, 800), (800, 1000)]
    context = multiprocessing.get_context("spawn")
    some = [context.Process(target=_write_part, args=(dump.part(*each), *each)) for each in ranges[:2]]
    for process in some:
        process.start()
    for process in some:
        process.join()
    assert [process.exitcode for process in some] == [0, 0]
    with pytest.raises(ValueError, match=r"d.zarr/logits: the shard of step 800 was not written"):
        dump.finish()
    with pytest.raises(ValueError, match="y_pred: its writer has not finished it; it may be empty"):
        state(Y, tmp_path / "d.zarr/logits")
    _write_part(dx.reopen(tmp_path / "d.zarr").part(800, 1000), 800, 1000)
    dump.finish()
    by = {"doc": tmp_path / "d.zarr/doc"}
    report = dx.evaluate(tmp_path / "d.zarr/labels", tmp_path / "d.zarr/logits", from_logits=True, by=by)
    assert report.state == dx.evaluate(Y, X, from_logits=True, by={"doc": np.arange(ROWS)}).state


def test_ranges_that_are_none(tmp_path):
    dump = dx.create(tmp_path / "d.zarr", classes=CLASSES, dtype="float32", steps=ROWS, **SMALL)
    for start, stop in ((0, 100), (100, 200), (200, 200), (400, 200), (0, 1200), (-200, 200)):
        with pytest.raises(
            ValueError, match=rf"part: {start}:{stop} is not a range of whole shards of 200 in 1000 steps"
        ):
            dump.part(start, stop)
    part = pickle.loads(pickle.dumps(dump.part(0, 200)))
    part.append(X[:150], Y[:150])
    with pytest.raises(ValueError, match="append: 201 steps, but the range ends after 200"):
        part.append(X[:51], Y[:51])
    with pytest.raises(ValueError, match="the range 0:200 ends after 150 steps"):
        part.finish()
    with pytest.raises(ValueError, match=r"part: ranges can be written where create\(\.\.\., steps=N\)"):
        dx.create(tmp_path / "other.zarr").part(0, 200)
    with pytest.raises(ValueError, match="steps: classes= and dtype= must be given as well"):
        dx.create(tmp_path / "third.zarr", steps=3)


def test_batches_that_do_not_fit(tmp_path):
    dump = dx.create(tmp_path / "d.zarr", classes=CLASSES, dtype="float16")
    with pytest.raises(ValueError, match="logits: expected 12 classes, got 11"):
        dump.append(X[:, 1:], Y)
    dump.append(X[:100], Y[:100].astype("uint8"))
    large = np.where(np.arange(4)[:, None] == 2, 1e6, X[:4])
    for message, batch in {
        r"append: expected logits, labels, got logits": (X,),
        r"labels: expected shape \(n\) along the other arrays, got \(3,\)": (X[:4], Y[:3]),
        r"logits: expected shape \(n, 12\) along the other arrays, got \(4, 3\)": (X[:4, :3], Y[:4]),
        r"logits: 1000000.0 in step 102 does not fit float16": (large, Y[:4]),
        r"labels: 300 in step 101 does not fit uint8": (X[:3], [1, 300, 2]),
        r"labels: -1 in step 100 does not fit uint8": (X[:1], [-1]),
    }.items():
        with pytest.raises(ValueError, match=message):
            dump.append(*batch)
    assert dump.steps == 100
    dump.finish()
    with pytest.raises(
        ValueError, match="logits: expected one of float16, bfloat16, float32, float64, got dtype int64"
    ):
        dx.create(tmp_path / "e.zarr").append(np.zeros((3, 12), int), Y[:3])
    with pytest.raises(ValueError, match="nothing was appended"):
        dx.create(tmp_path / "f.zarr").finish()


@pytest.mark.parametrize("name", ["logits", "labels", "doc"])
@pytest.mark.parametrize("hold", [np.ma.asarray, list], ids=["array", "list"])
def test_masks_are_not_lost(tmp_path, name, hold):
    batch = {"logits": X[:4], "labels": Y[:4], "doc": np.arange(4)}
    masked = np.ma.masked_array(batch[name], mask=False)
    masked[2] = np.ma.masked
    dump = dx.create(tmp_path / "d.zarr")
    with pytest.raises(ValueError, match=f"{name}: masked elements are not taken; fill them"):
        dump.append(**batch | {name: hold(masked)})
    assert dump.steps == 0


def test_options_that_are_none(tmp_path):
    write(tmp_path / "d.zarr")
    with pytest.raises(FileExistsError, match=r"d.zarr exists; overwrite=True replaces it, reopen\(\) continues it"):
        dx.create(tmp_path / "d.zarr")
    write(tmp_path / "d.zarr", X[:50], Y[:50], batches=(), overwrite=True)
    assert zarr.open_array(tmp_path / "d.zarr/logits").shape == (50, CLASSES)
    with pytest.raises(ValueError, match="codec: expected one of lz4, zstd, none, got 'gzip'"):
        dx.create(tmp_path / "e.zarr", codec="gzip")
    with pytest.raises(ValueError, match="dtype: expected one of float16, bfloat16, float32, float64, got 'int8'"):
        dx.create(tmp_path / "e.zarr", dtype="int8")
    zarr.create_group(tmp_path / "g.zarr")
    np.save(tmp_path / "a.npy", X)
    for path in ("a.npy", "d.zarr/logits"):
        with pytest.raises(ValueError, match=rf"{path} is not a dump that daskxent.create wrote"):
            dx.reopen(tmp_path / path)
    with pytest.raises(ValueError, match=r"g.zarr is not a dump that daskxent.create wrote"):
        dx.reopen(tmp_path / "g.zarr")
    with pytest.raises(FileNotFoundError):
        dx.reopen(tmp_path / "none.zarr")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["{}/d.zarr", "memory://late/d.zarr"])
def test_a_dump_that_came_before_the_first_batch_is_not_replaced(tmp_path, where):
    path = where.format(tmp_path)
    late, asked = dx.create(path), dx.create(path, overwrite=True)
    write(path)
    for _ in range(2):
        with pytest.raises(FileExistsError, match=r"d.zarr exists; overwrite=True replaces it, reopen\(\)"):
            late.append(X[:3], Y[:3])
    assert state(f"{path}/labels", f"{path}/logits") == state(Y, X)
    with asked:
        asked.append(X[:3], Y[:3])
    assert state(f"{path}/labels", f"{path}/logits") == state(Y[:3], X[:3])


def test_a_dump_is_not_replaced_by_a_batch_that_is_refused(tmp_path):
    write(tmp_path / "d.zarr")
    for logits, labels in ((X[:10], Y[:7]), (np.full((3, CLASSES), 1e9), Y[:3])):
        dump = dx.create(tmp_path / "d.zarr", overwrite=True, dtype="float16")
        with pytest.raises(ValueError, match=r"labels|logits"):
            dump.append(logits, labels)
    assert state(tmp_path / "d.zarr/labels", tmp_path / "d.zarr/logits") == state(Y, X)


def test_a_number_that_does_not_fit_is_named_by_its_step_in_the_whole_dump(tmp_path):
    known = {"classes": 6, "dtype": "float16", "chunk_bytes": 600, "shard_bytes": 1200}
    dump = dx.create(tmp_path / "d.zarr", steps=1000, **known)
    part = dump.part(3 * dump.shard_steps, 5 * dump.shard_steps)
    bad = np.zeros((dump.shard_steps, 6))
    bad[3, 0] = 1e9
    with pytest.raises(ValueError, match=rf"step {3 * dump.shard_steps + 3}\b"):
        part.append(bad, np.zeros(dump.shard_steps, int))


KNOWN = {"steps": 3, "classes": 2, "dtype": "float32"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"doc": "int64"}}, "columns: goes with steps=N"),
        ({"positions": (4,)}, "positions: goes with steps=N"),
        ({"chunk_bytes": 0}, "chunk_bytes: expected at least 1, got 0"),
        ({"shard_bytes": -1}, "shard_bytes: expected at least 1, got -1"),
        ({"classes": 0}, "classes: expected at least 1, got 0"),
        (KNOWN | {"steps": -1}, "steps: expected at least 1, got -1"),
        (KNOWN | {"positions": (4, 0)}, "positions: expected at least 1, got 0"),
        (KNOWN | {"columns": {"a/b": "int64"}}, "columns: 'a/b' cannot be the name of an array"),
        (KNOWN | {"columns": {"labels": "int64"}}, "columns: 'labels' is an array of every dump"),
    ],
)
def test_options_that_would_be_ignored_or_cannot_be(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        dx.create(tmp_path / "d.zarr", **options)
    assert not (tmp_path / "d.zarr").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_bytes": "4MB"}, "chunk_bytes: expected an integer, got '4MB'"),
        ({"dtype": "nonsense"}, "dtype: expected a dtype, got 'nonsense'"),
        (KNOWN | {"columns": ["doc"]}, r"columns: expected a mapping from names to dtypes, got \['doc'\]"),
        (KNOWN | {"columns": {"doc": "nonsense"}}, r"columns\['doc'\]: expected a dtype, got 'nonsense'"),
    ],
)
def test_options_of_other_types(tmp_path, options, message):
    with pytest.raises(TypeError, match=message):
        dx.create(tmp_path / "d.zarr", **options)


@pytest.mark.parametrize("name", ["a/b", "", "..", "__c"])
def test_columns_are_arrays_of_the_group(tmp_path, name):
    with pytest.raises(ValueError, match=f"columns: '{name}' cannot be the name of an array"):
        dx.create(tmp_path / "d.zarr").append(X[:3], Y[:3], **{name: Y[:3]})


def test_a_dump_in_a_bucket():
    with dx.create("memory://writer/d.zarr") as dump:
        dump.append(X, Y)
    assert state("memory://writer/d.zarr/labels", "memory://writer/d.zarr/logits") == state(Y, X)
    with pytest.raises(FileExistsError, match=r"memory://writer/d\.zarr exists"):
        dx.create("memory://writer/d.zarr")


def test_a_url_of_this_machine_is_a_path(tmp_path):
    url, journal = f"file://{tmp_path}", tmp_path / "journal"
    dump = write(f"{url}/d.zarr")
    assert dump.path == f"{tmp_path}/d.zarr"
    with pytest.raises(FileExistsError, match=r"d\.zarr exists"):
        dx.create(f"{url}/d.zarr")
    np.savez(tmp_path / "d.npz", labels=Y, logits=X)
    wanted = state(Y, X)
    for path in (f"{url}/d.zarr", f"{url}/d.npz", f"{url}/*.npz"):
        assert state(f"{path}/labels", f"{path}/logits") == wanted
    paths = f"{url}/d.zarr/labels[:]", f"{url}/d.zarr/logits[:]"
    rows = dx.rows(*paths, from_logits=True, out=f"{url}/rows.zarr", journal=f"file://{journal}", columns=["hit"])
    assert np.array_equal(rows["hit"][...], X.argmax(1) == Y)
    assert dx.evaluate(*paths, from_logits=True, journal=f"file://{journal}2").journal == f"{journal}2"
    done = CliRunner().invoke(cli.main, ["evaluate", f"{url}/d.zarr", "--from-logits"])
    assert done.stderr.startswith(f"Taking labels {tmp_path}/d.zarr/labels, predictions {tmp_path}/d.zarr/logits\n")


def test_journals_are_files_of_this_machine():
    for function in (dx.evaluate, dx.rows):
        with pytest.raises(ValueError, match=r"^journal: expected a file of this machine, got memory://j$"):
            function(Y, X, from_logits=True, journal="memory://j")


def test_what_is_finished_is_not_written_again(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with dx.create("~/d.zarr", **SMALL) as dump:
        dump.append(X[:430], Y[:430])
        dump.finish()
    dump.finish()  # and a third time: nothing
    with pytest.raises(ValueError, match=r"append: .*d\.zarr is finished"):
        dump.append(X[430:], Y[430:])
    assert state(tmp_path / "d.zarr/labels", tmp_path / "d.zarr/logits") == state(Y[:430], X[:430])


def test_sequences_in_ranges(tmp_path):
    x, y = X[:960].reshape(48, 20, CLASSES), Y[:960].reshape(48, 20)
    known = {"classes": CLASSES, "dtype": "float16", "steps": 48, "positions": (20,), "columns": {"name": str}}
    dump = dx.create(tmp_path / "d.zarr", **known, **SMALL)
    assert dump.shard_steps == 20
    for start, stop in ((40, 48), (0, 20), (20, 40)):
        with dump.part(start, stop) as part:
            part.append(x[start:stop], y[start:stop], name=[f"n{i % 3}" for i in range(start, stop)])
    dump.finish()
    by = {"name": tmp_path / "d.zarr/name"}
    report = dx.evaluate(tmp_path / "d.zarr/labels", tmp_path / "d.zarr/logits", from_logits=True, by=by)
    expected = dx.evaluate(
        y, x.astype("float16"), from_logits=True, by={"name": np.array([f"n{i % 3}" for i in range(48)])}
    )
    assert report.state == expected.state


def test_a_disk_that_fails_is_said_by_a_later_append(tmp_path, monkeypatch):
    dump = dx.create(tmp_path / "d.zarr", **SMALL)
    dump.append(X[:10], Y[:10])

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zarr.Array, "__setitem__", fails)
    dump.append(X[:190], Y[:190])
    with pytest.raises(OSError, match="No space left on device"):
        dump.append(X[:400], Y[:400])
    monkeypatch.undo()
    with pytest.raises(OSError, match="No space left on device"):  # or the steps after the lost ones would be counted
        dump.finish()
    assert dx.reopen(tmp_path / "d.zarr").steps == 0


@pytest.mark.parametrize("fails", [False, True])
def test_shards_count_in_their_order(tmp_path, monkeypatch, fails):
    dump, write, go = dx.create(tmp_path / "d.zarr", **SMALL), zarr.Array.__setitem__, threading.Event()

    def first_is_last(array, index, values):
        if index.start == 0:
            go.wait(60)
            if fails:
                raise OSError(28, "No space left on device")
        write(array, index, values)

    monkeypatch.setattr(zarr.Array, "__setitem__", first_is_last)
    dump.append(X[:400], Y[:400])
    end = time.monotonic() + 60
    while not np.array_equal(zarr.open_array(tmp_path / "d.zarr/labels")[200:400], Y[200:400]):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert dx.reopen(tmp_path / "d.zarr").steps == 0
    go.set()
    if fails:
        with pytest.raises(OSError, match="No space left on device"):
            dump.finish()
        assert dx.reopen(tmp_path / "d.zarr").steps == 0
    else:
        dump.finish()
        assert state(tmp_path / "d.zarr/labels", tmp_path / "d.zarr/logits") == state(Y[:400], X[:400])
