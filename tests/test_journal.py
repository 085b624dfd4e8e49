import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import sized
import zarr

import daskxent as dx
from daskxent import api
from daskxent.run import parts
from daskxent.run.journal import Journal, JournalError, read
from daskxent.run.parts import Done
from daskxent.run.threads import Threads
from daskxent.sources.memory import Memory
from daskxent.sources.npy import Npy
from daskxent.sources.zarr_arrays import Zarr

ROWS, CHUNK, CLASSES = 60, 10, 4
METRICS = ("crossentropy", "accuracy", "top_2_accuracy")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    sized.give(monkeypatch, part_bytes=CHUNK * CLASSES * 4, smallest_part_bytes=CHUNK * CLASSES * 4, row_bytes=1)


@pytest.fixture
def values():
    rng = np.random.default_rng(6)
    labels, logits = rng.integers(0, CLASSES, ROWS), rng.normal(0, 3, (ROWS, CLASSES)).astype("float32")
    return {"labels": labels, "logits": logits, "weights": rng.random(ROWS)}


def write(path, values):
    group = zarr.create_group(path, overwrite=True)
    for name, array in values.items():
        group.create_array(name, data=array, chunks=(CHUNK, *array.shape[1:]))
    return path


@pytest.fixture
def dump(values, tmp_path):
    return write(tmp_path / "dump.zarr", values)


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "run.journal"


def arguments(dump, **options):
    given = {"y_true": dump / "labels", "y_pred": dump / "logits", "sample_weight": dump / "weights"}
    return {**given, "metrics": METRICS, "from_logits": True, "threads": 1, **options}


def evaluate(dump, journal=None, **options):
    return dx.evaluate(**arguments(dump, journal=journal, **options))


def begin(journal, count, **asked):
    """Evaluate a few parts and stop; wait for the one that runs meanwhile, which nobody else does."""
    others = set(threading.enumerate())  # of a stream that somebody else has dropped, and that is not collected yet
    reports = dx.stream(**asked, journal=journal)
    last = list(itertools.islice(reports, count))[-1]
    reports.close()
    for thread in threading.enumerate():
        if thread.name.startswith("daskxent") and thread not in others:
            thread.join()
    return last


@pytest.fixture
def evaluated(monkeypatch):
    """Spans of the parts that are evaluated."""
    spans = []
    evaluate_part = parts.evaluate_part

    def noted(inputs, question, start, stop, *more):
        spans.append((start, stop))
        return evaluate_part(inputs, question, start, stop, *more)

    monkeypatch.setattr(parts, "evaluate_part", noted)
    return spans


def test_a_run_that_was_cut_short_goes_on(dump, journal, evaluated):
    wanted = evaluate(dump)
    assert begin(journal, 3, **arguments(dump)).rows == 3 * CHUNK
    evaluated.clear()
    report = evaluate(dump, journal)
    assert report == wanted
    assert report.journal == str(journal)
    assert report.notes == ("30 rows were in the journal already",)
    assert evaluated == [(30, 40), (40, 50), (50, 60)]
    evaluated.clear()
    assert evaluate(dump, journal) == wanted
    assert evaluated == []


def test_metrics_may_be_any_iterable(dump, journal):
    report = evaluate(dump, journal, metrics=iter(METRICS))
    assert report == evaluate(dump, journal, metrics=list(METRICS))
    assert dx.verify(report) == 6


def test_other_parts_fill_the_gaps(dump, journal, monkeypatch):
    begin(journal, 2, **arguments(dump))
    sized.give(monkeypatch, part_bytes=10**6, smallest_part_bytes=10**6)
    assert evaluate(dump, journal) == evaluate(dump)


@pytest.mark.parametrize("kind", ["NumPy", "npy", "blocks", "NumPy labels"])
def test_whatever_holds_the_arrays(values, dump, journal, tmp_path, kind):
    asked = arguments(dump)
    if kind == "NumPy":
        asked |= {"y_true": values["labels"], "y_pred": values["logits"], "sample_weight": values["weights"]}
    elif kind == "NumPy labels":
        asked |= {"y_true": values["labels"]}
    elif kind == "npy":
        for name, array in values.items():
            np.save(tmp_path / name, array)
        asked |= {"y_true": tmp_path / "labels.npy", "y_pred": tmp_path / "logits.npy"}
    else:
        asked |= {"y_pred": dx.concat(np.split(values["logits"], 2, axis=1), axis=-1)}
    assert begin(journal, 2, **asked).rows < ROWS
    assert dx.evaluate(**asked, journal=journal) == evaluate(dump)
    if kind == "NumPy":
        values["logits"][0] += 1
        assert dx.evaluate(**asked, journal=journal) == dx.evaluate(**asked)


def test_dask_arrays_are_refused(dump, journal):
    import dask.array as da

    with pytest.raises(ValueError, match="journal: a dask array has no identity"):
        dx.evaluate(**arguments(dump) | {"y_pred": da.from_zarr(str(dump / "logits"))}, journal=journal)
    assert not journal.exists()


@pytest.mark.slow
def test_cut_around_every_record_a_run_goes_on(dump, journal):
    wanted = evaluate(dump)
    begin(journal, 4, **arguments(dump))
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 5
    ends = list(itertools.accumulate(map(len, lines)))
    for length in (0, 1, *(end + off for end in ends for off in (-2, -1, 0, 1))):
        journal.write_bytes(whole[:length])
        report = evaluate(dump, journal)
        assert report == wanted
        kept = max(0, sum(end <= length for end in ends) - 1) * CHUNK
        assert report.notes == ((f"{kept} rows were in the journal already",) if kept else ())
        assert journal.read_bytes()[: len(lines[0])] == lines[0]
        assert read(str(journal)).header["call"]["arrays"]["y_pred"] == str(dump / "logits")


@pytest.mark.slow
def test_damage_is_an_error(dump, journal):
    begin(journal, 3, **arguments(dump))
    whole = journal.read_bytes()
    rng = random.Random(1)
    places = [*rng.sample(range(len(whole) - 1), 60), *(i for i, byte in enumerate(whole[:-1]) if byte == 10)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        journal.write_bytes(damaged)
        line = whole[:place].count(b"\n") + 1
        with pytest.raises(JournalError, match=f"journal .*: line {line} is "):
            evaluate(dump, journal)
        assert journal.read_bytes() == damaged
    lines = whole.splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], lines[1], lines[1]]))
    with pytest.raises(ValueError, match="covered twice"):
        evaluate(dump, journal)
    journal.write_bytes(b"".join(lines[1:]))
    with pytest.raises(JournalError, match="line 1 is not the header"):
        evaluate(dump, journal)


def test_a_line_that_is_there_twice_is_an_error(dump, journal):
    report = evaluate(dump, journal)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines, lines[-1]]))
    message = "journal .*: a record does not belong to this journal: rows 50 to 59 are covered twice"
    for go_on in (lambda: evaluate(dump, journal), lambda: dx.verify(report)):
        with pytest.raises(JournalError, match=message):
            go_on()


@pytest.mark.parametrize("number", [np.float32(2), np.int64(2), np.array(2.0), 2])
def test_a_weight_of_any_kind_of_number_is_given_again(dump, journal, number):
    report = evaluate(dump, journal, sample_weight=number)
    assert dx.verify(report) == 6


@pytest.mark.parametrize("content", [b"precious", b"precious\n", b"{}\n", b"\n"])
def test_a_file_that_is_no_journal_is_left_alone(dump, journal, content):
    journal.write_bytes(content)
    with pytest.raises(JournalError, match=r"line 1 is damaged|this file is not a journal"):
        evaluate(dump, journal)
    assert journal.read_bytes() == content


def changed(values, change):
    if change == "classes":
        return values | {"logits": np.pad(values["logits"], ((0, 0), (0, 1)))}
    if change == "dtype":
        return values | {"logits": values["logits"].astype("float64")}
    if change == "data":
        return values | {"logits": values["logits"] + 1}
    if change == "labels":
        return values | {"labels": values["labels"][::-1]}
    return {name: array[:30] for name, array in values.items()}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("classes", r"inputs\.y_pred\.shape was \[60, 4\], is \[60, 5\]"),
        ("dtype", r"inputs\.y_pred\.dtype was 'float32', is 'float64'"),
        ("fewer rows", "made for 60 steps along the first axis, now 30"),
    ],
)
def test_other_arrays_are_refused(dump, journal, values, change, named):
    evaluate(dump, journal)
    before = journal.read_bytes()
    write(dump, changed(values, change))
    with pytest.raises(JournalError, match=named):
        evaluate(dump, journal)
    assert journal.read_bytes() == before


def test_other_chunks_and_other_places_are_refused(dump, journal, values, tmp_path):
    evaluate(dump, journal)
    with pytest.raises(JournalError, match=r"inputs\.y_pred\.where was .*dump\.zarr/logits.* is .*moved\.zarr/logits"):
        evaluate(dump.rename(tmp_path / "moved.zarr"), journal)
    group = zarr.create_group(dump)
    for name, array in values.items():
        group.create_array(name, data=array, chunks=(CHUNK + 1, *array.shape[1:]))
    grid = r"inputs\.y_pred\.layout\.chunks was \[10, 4\], is \[11, 4\]"
    with pytest.raises(JournalError, match=grid):
        evaluate(dump, journal)


def test_another_codec_is_refused(dump, journal, values):
    evaluate(dump, journal)
    zarr.create_array(dump, name="logits", data=values["logits"], chunks=(CHUNK, 4), compressors=None, overwrite=True)
    with pytest.raises(JournalError, match=r"inputs\.y_pred\.layout\.codecs was .*zstd.*, is .*bytes"):
        evaluate(dump, journal)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"metrics": ["accuracy"]}, r"question\.metrics was \['crossentropy', .*\], is \['accuracy'\]"),
        ({"from_logits": False}, r"question\.from_logits was True, is False"),
        ({"ignore_class": 1}, r"question\.ignore_class was \[\], is \[1\]"),
        ({"on_invalid": "skip"}, r"question\.on_invalid was 'raise', is 'skip'"),
        ({"on_missing": "fill"}, r"question\.on_missing was None, is 'fill'"),
        ({"steps": (0, 20)}, r"question\.steps was None, is \[0, 20\]"),
        ({"sample_weight": None}, r"inputs\.sample_weight was \{.*\}, is None"),
        ({"sample_weight": 2.0}, r"inputs\.sample_weight was \{.*\}, is 2\.0"),
    ],
)
def test_another_question_is_refused(dump, journal, asked, named):
    evaluate(dump, journal)
    with pytest.raises(JournalError, match=named):
        evaluate(dump, journal, **asked)


def grow(dump, values, before, now=ROWS):
    for name, array in values.items():
        stored = zarr.open_array(dump / name)
        stored.resize((now, *array.shape[1:]))
        stored[before:now] = array[before:now]


@pytest.mark.parametrize("cuts", [(25, 60), (30, 45, 60), (7, 8, 60)])
def test_growing_dumps(values, tmp_path, journal, evaluated, cuts):
    full = evaluate(write(tmp_path / "full.zarr", values))
    dump = write(tmp_path / "dump.zarr", {name: array[: cuts[0]] for name, array in values.items()})
    evaluate(dump, journal)
    for before, now in itertools.pairwise(cuts):
        grow(dump, values, before, now)
        evaluated.clear()
        report = evaluate(dump, journal)
        first = before // CHUNK * CHUNK  # what is new, and the chunk that was not full
        assert min(start for start, _ in evaluated) == first
        assert sum(stop - start for start, stop in evaluated) == now - first
    assert report == full
    assert dx.verify(report, parts=99) >= len(cuts)


@pytest.mark.parametrize(
    "steps", [(25, None), (25, 99), (None, -5), (0, 30), (45, None)], ids=lambda steps: "{}:{}".format(*steps)
)
def test_steps_of_growing_dumps(values, tmp_path, journal, steps):
    """What the same steps are depends on how many there are."""
    dump = write(tmp_path / "dump.zarr", {name: array[:30] for name, array in values.items()})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no row was counted")  # of a range that begins later
        evaluate(dump, journal, steps=steps)
    grow(dump, values, 30)
    for _ in range(2):
        report = evaluate(dump, journal, steps=steps)
        assert report.complete
        assert report == evaluate(dump, steps=steps)
    with pytest.raises(JournalError, match=r"question\.steps was \[?\w+.*, is \[1, "):
        evaluate(dump, journal, steps=(1, None))


def test_steps_from_the_end_of_a_growing_dump_are_others(values, tmp_path, journal):
    dump = write(tmp_path / "dump.zarr", {name: array[:30] for name, array in values.items()})
    evaluate(dump, journal, steps=(-20, None))
    grow(dump, values, 30)
    with pytest.raises(JournalError, match=r"question\.steps was \[10, 30\], is \[40, 60\]"):
        evaluate(dump, journal, steps=(-20, None))


def test_rows_that_change_after_a_dump_grew_are_noticed(values, tmp_path, journal):
    dump = write(tmp_path / "dump.zarr", {name: array[:20] for name, array in values.items()})
    evaluate(dump, journal)
    write(dump, values)
    evaluate(dump, journal)
    write(dump, values | {"logits": np.concatenate([values["logits"][:40], values["logits"][40:] + 1])})
    assert evaluate(dump, journal) == evaluate(dump)


@pytest.mark.parametrize("name", ["labels", "logits", "weights"])
@pytest.mark.parametrize("kind", ["zarr", "npy"])
def test_what_was_written_anew_is_read_again(values, tmp_path, journal, evaluated, name, kind):
    dump, rows = write(tmp_path / "dump.zarr", values), slice(21, 29)
    asked = arguments(dump)
    argument = {"labels": "y_true", "logits": "y_pred", "weights": "sample_weight"}[name]
    file = tmp_path / "array.npy"
    if kind == "npy":
        np.save(file, values[name])
        asked[argument] = file
    before = dx.evaluate(**asked, journal=journal)
    mended = values[name].copy()
    mended[rows] = mended[rows][::-1]
    if kind == "npy":
        np.save(file, mended)
    else:
        zarr.open_array(dump / name)[rows] = mended[rows]
    evaluated.clear()
    report = dx.evaluate(**asked, journal=journal)
    read = sum(stop - start for start, stop in evaluated)
    assert read == (ROWS if kind == "npy" else CHUNK)
    assert f"{read} rows were written anew since" in report.notes
    assert report == dx.evaluate(**asked) != before
    evaluated.clear()
    assert dx.evaluate(**asked, journal=journal) == report  # the journal holds what is new, and only that
    assert not evaluated
    assert dx.verify(report, parts=99) == 6


@pytest.mark.parametrize("held", ["zarr", "npy", "memory"])
def test_a_run_that_met_a_bad_label_goes_on_when_it_is_mended(values, tmp_path, journal, held):
    labels, mended = values["labels"].copy(), values["labels"]
    labels[3] = 99

    def stored(array):
        if held == "memory":
            return array
        place = tmp_path / f"labels.{held}"
        if held == "zarr":
            zarr.create_array(place, data=array, overwrite=True)
        else:  # in its place: a thread may still have the one before mapped
            np.save(tmp_path / "new.npy", array)
            os.replace(tmp_path / "new.npy", place)
        return place

    asked = {"y_pred": values["logits"], "from_logits": True, "journal": journal, "threads": 1}
    with pytest.raises(ValueError, match="label 99 at row 3"):
        dx.evaluate(stored(labels), **asked)
    report = dx.evaluate(stored(mended), **asked)
    assert report == dx.evaluate(mended, **asked | {"journal": None})
    assert dx.evaluate(stored(mended), **asked) == report
    with pytest.raises(JournalError, match="belongs to another evaluation"):
        dx.evaluate(stored(mended), **asked, metrics=["accuracy"])


def test_what_was_written_anew_twice_is_read_again(values, tmp_path, journal):
    dump = write(tmp_path / "dump.zarr", values)
    evaluate(dump, journal)
    zarr.open_array(dump / "labels")[:] = values["labels"][::-1]
    dx.stream(**arguments(dump, journal=journal)).close()  # which drops all parts and begins none
    next(dx.stream(**arguments(dump, journal=journal)))
    zarr.open_array(dump / "labels")[:] = values["labels"]
    assert evaluate(dump, journal) == evaluate(dump)


def test_a_snapshot_of_what_was_written_anew_is_dropped(values, tmp_path, journal, monkeypatch):
    dump = write(tmp_path / "dump.zarr", values)
    monkeypatch.setattr("daskxent.run.journal.Journal", partial(Journal, keep_bytes=0, growth=0.0))
    evaluate(dump, journal)
    zarr.open_array(dump / "logits")[3] = 0
    report = evaluate(dump, journal)
    assert report == evaluate(dump)
    assert "60 rows were written anew since" in report.notes


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from functools import partial
import sized, test_journal
from pytest import MonkeyPatch
from daskxent.run import journal, parts

def slow(*part):
    import time
    print("part", flush=True)
    time.sleep(float(sys.argv[4]))
    return evaluate_part(*part)

sized.give(MonkeyPatch(), part_bytes=1, smallest_part_bytes=1)
journal.Journal = partial(journal.Journal, keep_bytes=int(sys.argv[5]), growth=0.0)
evaluate_part, parts.evaluate_part = parts.evaluate_part, slow
print("ready", flush=True)
test_journal.evaluate(Path(sys.argv[2]), Path(sys.argv[3]))
"""


def another_process(dump, journal, sleep, keep=10**6):
    command = [sys.executable, "-c", SCRIPT, *map(str, [Path(__file__).parent, dump, journal, sleep, keep])]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


@pytest.mark.slow
def test_one_process_at_a_time(dump, journal):
    with another_process(dump, journal, 60) as other:
        while not (journal.exists() and journal.stat().st_size):
            assert other.poll() is None
            time.sleep(0.02)
        with pytest.raises(JournalError, match="another process is writing it"):
            evaluate(dump, journal)
        other.kill()
    assert evaluate(dump, journal) == evaluate(dump)
    reports = dx.stream(**arguments(dump, steps=(0, 50)), journal=str(journal) + "2")
    next(reports)
    with pytest.raises(JournalError, match="another process"):
        evaluate(dump, str(journal) + "2", steps=(0, 50))
    reports.close()


@pytest.mark.slow
@pytest.mark.parametrize("keep", [10**6, 0], ids=["parts", "snapshots"])
@pytest.mark.parametrize("seed", range(4))
def test_the_client_is_killed(dump, journal, seed, keep):
    rng = random.Random(seed)
    begun = rng.randrange(ROWS // CHUNK + 1)
    with another_process(dump, journal, 0.05, keep) as client:
        for _ in range(1 + begun):
            client.stdout.readline()
        time.sleep(rng.random() * 0.05)
        client.send_signal(signal.SIGKILL)
        assert client.wait() in (-signal.SIGKILL, 0)
    report = evaluate(dump, journal)
    assert report == evaluate(dump)
    kept = int(report.notes[0].split()[0]) // CHUNK if report.notes else 0
    assert begun - 3 <= kept  # one part was running, one on its way, one being written


def test_it_is_plain_text(dump, journal):
    evaluate(dump, journal)
    lines = journal.read_text("ascii").splitlines()
    records = [json.loads(line.partition(" ")[2]) for line in lines]
    assert records[0]["daskxent journal"] == 5
    assert records[0]["steps"] == ROWS
    assert [record["state"]["covered"] for record in records[1:]] == [[[i, i + CHUNK]] for i in range(0, ROWS, CHUNK)]


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_quotient_by_zero_that_is_nan_is_plain_json_and_given_again(dump, journal):
    report = evaluate(dump, journal, metrics=["macro_precision"], zero_division=math.nan)
    for line in journal.read_text("ascii").splitlines():
        strict(line.partition(" ")[2])
    strict(report.to_json())
    assert evaluate(dump, journal, metrics=["macro_precision"], zero_division=math.nan) == report
    assert dx.verify(report) == 6


def test_a_weight_that_is_no_number_leaves_no_journal(dump, journal):
    for weight in (math.nan, math.inf, np.float32(-math.inf)):
        with pytest.raises(ValueError, match=rf"^sample_weight: {weight}; weights must be finite$"):
            evaluate(dump, journal, sample_weight=weight)
        assert not journal.exists()
    assert evaluate(dump, journal, sample_weight=2.0).complete


def test_any_directory_will_do(dump, journal, monkeypatch):
    monkeypatch.chdir(dump.parent)
    report = dx.evaluate(
        "dump.zarr/labels", "dump.zarr/logits", sample_weight="dump.zarr/weights", metrics=METRICS, from_logits=True,
        threads=1, journal="run.journal",
    )  # fmt: skip
    monkeypatch.chdir(os.sep)
    assert dx.verify(dx.Report.from_json(report.to_json())) == 6


def test_verify_names_rows_that_changed(dump, journal, values):
    report = evaluate(dump, journal)
    assert dx.verify(report) == 6
    assert dx.verify(report, parts=2) == 2
    logits = zarr.open_array(dump / "logits")
    logits[33, 2] += 0.5
    with pytest.raises(ValueError, match=r"^verify: rows 30 to 39 give other bits"):
        dx.verify(report, parts=6)


def test_verify_merges_the_ranges_of_a_state_as_a_cluster_does(dump, journal, values, monkeypatch):
    def states(engine, work, parts, plan):
        yield Done.all([work(0, 20), work(40, 60)])  # of which one handed its rest back
        yield work(20, 40)

    monkeypatch.setattr(Threads, "states", states)
    report = evaluate(dump, journal)
    monkeypatch.undo()
    assert report.complete
    assert dx.verify(report) == 2
    logits = zarr.open_array(dump / "logits")
    logits[43, 2] += 0.5
    with pytest.raises(ValueError, match=r"^verify: rows 0 to 19, 40 to 59 give other bits"):
        dx.verify(report)


def test_verify_refuses_what_it_cannot_check(dump, journal, values):
    with pytest.raises(ValueError, match="without a journal"):
        dx.verify(evaluate(dump))
    report = evaluate(dump, journal)
    other = evaluate(dump, str(journal) + "2", steps=(0, 20))
    with pytest.raises(ValueError, match=r"is not what the journal .* adds up to"):
        dx.verify(api.replace(report, state=other.state))
    held = dx.evaluate(values["labels"], values["logits"], from_logits=True, threads=1, journal=str(journal) + "3")
    with pytest.raises(ValueError, match="not given as paths"):
        dx.verify(held)
    for number in (0, -1):
        with pytest.raises(ValueError, match=f"parts: expected at least 1, got {number}"):
            dx.verify(report, parts=number)
    with pytest.raises(TypeError, match=r"verify: expected a Report, got 'report\.json'; Report\.from_json reads"):
        dx.verify("report.json")


def test_reports_of_jobs_merge_to_the_bits_of_one_run(dump, journal, values, tmp_path):
    wanted = evaluate(dump)
    spans = [(0, 17), (17, 40), (40, ROWS)]
    jobs = [evaluate(dump, f"{journal}{i}", steps=span) for i, span in enumerate(spans)]
    jobs = [dx.Report.from_json(job.to_json()) for job in jobs]
    both = jobs[2].merge(jobs[0])
    assert both.gaps == ((17, 40),)
    assert not both.complete
    assert both.merge(jobs[1]) == wanted
    with pytest.raises(TypeError, match="merge: expected reports, each an argument of its own, got a list"):
        both.merge([jobs[1]])
    with pytest.raises(ValueError, match="rows 0 to 16 are covered twice"):
        both.merge(jobs[0])
    with pytest.raises(ValueError, match=r"different questions: metrics \['crossentropy', .*\] and \['accuracy'\]$"):
        both.merge(evaluate(dump, steps=(17, 40), metrics=["accuracy"]))
    other = write(tmp_path / "other.zarr", values | {"logits": values["logits"] + 1})
    with pytest.raises(ValueError, match=r"different arrays: y_pred\.sample '\w+' and '\w+'$"):
        both.merge(evaluate(other, tmp_path / "other.journal", steps=(17, 40)))
    moved = dump.rename(tmp_path / "moved.zarr")
    assert both.merge(evaluate(moved, tmp_path / "moved.journal", steps=(17, 40))) == wanted


def test_reads_are_counted(dump, journal, monkeypatch):
    """Going on reads the chunks that are left, and no others, but for the first bytes of a few."""
    begin(journal, 4, **arguments(dump))
    boxes = []
    for kind in (Zarr, Npy, Memory):
        whole = kind.read
        monkeypatch.setattr(
            kind, "read", lambda self, box, absent=None, whole=whole: (boxes.append(box), whole(self, box, absent))[1]
        )
    evaluate(dump, journal)
    assert {(box[0].start, box[0].stop) for box in boxes} == {(40, 50), (50, 60)}
