"""Journals of large states, and what becomes of the file when a process is killed, or the disk is full."""

import errno
import functools
import itertools
import json
import os
import resource
import stat
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sized
import zarr
from hypothesis import given
from hypothesis import strategies as st
from killing import PARTS, STATES, append, opened, part, small, written
from strategies import SOME, partitions

import daskxent as dx
from daskxent.numbers.state import State, merge_all
from daskxent.run.journal import Journal, JournalError, read


def kinds(path):
    """Name what the lines of a journal hold."""
    records = [json.loads(line.partition(b" ")[2]) for line in path.read_bytes().splitlines()]
    return ["header" if "call" in r else "grown" if "steps" in r else next(iter(r)) for r in records]


def state_of(path, begin=small, steps=PARTS):
    """Open a journal, and close it again."""
    with closing(begin(path, steps)) as file:
        return file.state


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "run.journal"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Leave out what only matters where machines crash."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@SOME
@given(st.integers(0, 3000), st.sampled_from([0.0, 0.5, 2.0]), st.integers(0, 12), st.integers(0, 12), st.data())
def test_the_file_is_bounded_by_what_it_adds_up_to(tmp_path_factory, keep, growth, shared, own, data):
    path = tmp_path_factory.mktemp("bounded") / "run.journal"
    parts, at = [], 0
    for number, rows in enumerate(data.draw(partitions(30))):
        names = [*(f"group {k}" for k in range(shared)), *(f"of {number}, {k}" for k in range(own))]
        state = part(number, names)
        parts.append(replace(state, covered=((at, at + rows),)))
        at += rows
    with closing(opened(path, keep_bytes=keep, growth=growth)) as file:
        header, sums, largest = path.stat().st_size, State(), 0
        for state in parts:
            sums = sums.merge(state)
            file.append(state)
            assert file.state == sums
            largest = max(largest, 30 + len(json.dumps(sums.to_json())))
            assert path.stat().st_size <= header + largest + max(keep, growth * largest)
            assert read(str(path)).state == sums
    assert state_of(path, opened) == sums


def test_small_states_keep_a_line_each(journal):
    written(journal, begin=opened)
    assert kinds(journal) == ["header"] + ["state"] * PARTS
    kept = read(str(journal))
    assert (kept.snapshot, kept.parts) == (None, STATES)


def test_large_states_are_merged(journal):
    written(journal)
    assert kinds(journal)[:2] == ["header", "snapshot"]
    kept = read(str(journal))
    assert kept.state == merge_all(STATES)
    assert kept.parts == STATES[kept.snapshot.rows :]
    assert kept.header["call"] == {"y": "z"}
    assert os.listdir(journal.parent) == [journal.name]


def test_snapshots_cost_at_most_half_of_what_the_parts_cost(journal, monkeypatch):
    lines, write = [], os.write
    monkeypatch.setattr(os, "write", lambda file, data: (lines.append(bytes(data)), write(file, data))[1])
    names = [f"group {k}" for k in range(20)]
    states = [part(number, names) for number in range(60)]
    written(journal, states, functools.partial(opened, keep_bytes=500, growth=2.0))
    cost = {kind: sum(len(line) for line in lines if kind in line[:40]) for kind in (b'"snapshot":', b'"state":')}
    assert 0 < cost[b'"snapshot":'] <= cost[b'"state":'] / 2


@pytest.mark.parametrize(("keep", "growth"), [(400, 1.0), (0, 3.0), (700, 0.0)])
def test_a_journal_that_is_opened_for_each_part_is_the_same(journal, keep, growth):
    begin = functools.partial(opened, keep_bytes=keep, growth=growth)
    once = written(journal, begin=begin)
    journal.unlink()
    for state in STATES:
        each = written(journal, [state], begin)
    assert each == once


def steps_of(function):
    """Count the lines of the package that a call runs: what it costs, without a clock."""
    count, tracing = itertools.count(), sys.gettrace()

    def trace(frame, event, argument):
        if "daskxent" not in frame.f_code.co_filename:
            return None
        if event == "line":
            next(count)
        return trace

    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(tracing)
    return next(count)


def test_opening_costs_as_much_as_there_is_to_read(tmp_path):
    costs = []
    for n in (20, 320):
        states = [part(number, [f"of {number}, {k}" for k in range(5)]) for number in range(n)]
        written(tmp_path / f"{n}", states, opened, n)
        costs.append(steps_of(lambda n=n: state_of(tmp_path / f"{n}", opened, n)))
    assert 10 < costs[1] / costs[0] < 17


@pytest.mark.slow
@pytest.mark.parametrize("begin", [opened, small])
@pytest.mark.parametrize("grown", [False, True])
def test_cut_at_any_byte(journal, begin, grown):
    if grown:
        written(journal, STATES[:3], begin, 3)
    whole = written(journal, STATES[3:] if grown else STATES, begin)
    covers, ends = [State()], [0]
    for line in whole.splitlines(keepends=True):
        record = json.loads(line.partition(b" ")[2])
        found = [State.from_json(record[name]) for name in ("state", "snapshot") if name in record]
        covers.append(merge_all([covers[-1], *found]))
        ends.append(ends[-1] + len(line))
    assert covers[-1] == merge_all(STATES)
    for length in range(ends[1] if grown else 0, len(whole) + 1):  # the header is written in one step
        journal.write_bytes(whole[:length])
        cut = max(cover for cover, end in zip(range(len(ends)), ends, strict=True) if end <= length)
        assert state_of(journal, begin) == covers[cut]
        if length % 50 == 0:
            written(journal, STATES[covers[cut].rows :], begin)
            assert read(str(journal)).state == merge_all(STATES)


def test_what_was_left_unfinished_is_removed(journal):
    whole = written(journal, STATES[:5])
    unfinished = journal.with_name("run.journal.unfinished")
    for length in range(0, len(whole), 7):
        unfinished.write_bytes(whole[:length])
        assert state_of(journal) == merge_all(STATES[:5])
        assert os.listdir(journal.parent) == [journal.name]
        assert journal.read_bytes() == whole
    journal.write_bytes(b"precious")
    unfinished.write_bytes(b"precious, too")
    with pytest.raises(JournalError, match="this file is not a journal"):
        small(journal)
    assert unfinished.read_bytes() == b"precious, too"


@pytest.mark.parametrize("cuts", [(3, 8), (1, 4, 6, 8), (7, 8)])
def test_dumps_grow_across_snapshots(journal, cuts):
    for before, now in itertools.pairwise((0, *cuts)):
        with closing(small(journal, now)) as file:
            assert file.state == merge_all(STATES[:before])
            append(file, STATES[before:now])
        assert read(str(journal)).header["steps"] == now
        assert read(str(journal)).header["inputs"] == {"shape": [now, 4]}
    assert "snapshot" in kinds(journal)
    with pytest.raises(JournalError, match="made for 8 steps along the first axis, now 7"):
        small(journal, 7)
    with pytest.raises(JournalError, match=r"inputs\.shape was \[8, 4\], is \[8, 5\]"):
        Journal(str(journal), lambda count: {"metrics": ["loss"]}, lambda count: {"shape": [count, 5]}, 9)


@pytest.mark.slow
@pytest.mark.parametrize("then", [0, 3, 9])
def test_killed_at_any_call(tmp_path, then):
    script = [sys.executable, Path(__file__).with_name("killing.py"), tmp_path, str(then)]
    run = subprocess.run(script, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 20


def fill_up(patch, room):
    """Let a disk have room for this many more bytes."""
    left, write = [room], os.write

    def limited(descriptor, data):
        taken = write(descriptor, bytes(data)[: left[0]]) if left[0] else 0
        left[0] -= taken
        if not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return taken

    patch.setattr(os, "write", limited)


@pytest.mark.slow
@pytest.mark.parametrize("begin", [opened, small])
def test_a_full_disk_loses_the_part_that_did_not_fit(journal, monkeypatch, begin):
    for room in itertools.count(0, 11):
        journal.unlink(missing_ok=True)
        added = []
        with monkeypatch.context() as patch:
            fill_up(patch, room)
            try:
                with closing(begin(journal)) as file:
                    append(file, (state for state in STATES if not added.append(state)))
                break
            except OSError as error:
                failed = error
        assert (failed.errno, failed.filename) == (errno.ENOSPC, str(journal))
        assert os.listdir(journal.parent) == [journal.name]
        assert journal.read_bytes()[-1:] in (b"", b"\n")  # nothing is torn
        assert not added or file._file._file.closed
        done = state_of(journal, begin)
        assert done in (merge_all(added), merge_all(added[:-1]))  # the last one may have come before a snapshot
        written(journal, STATES[done.rows :], begin)
        assert read(str(journal)).state == merge_all(STATES)
    assert room > 1000


def test_after_an_error_nothing_is_written(journal, monkeypatch):
    with closing(opened(journal)) as file:
        file.append(STATES[0])
        with monkeypatch.context() as patch:
            fill_up(patch, 10)
            with pytest.raises(OSError, match="No space left on device"):
                file.append(STATES[1])
        with pytest.raises(ValueError, match="closed"):
            file.append(STATES[2])
    assert read(str(journal)).parts == STATES[:1]


def test_after_a_snapshot_that_failed_nothing_is_written(journal, monkeypatch):
    def fail(*names):
        raise OSError(errno.EIO, "Input/output error")

    with closing(small(journal)) as file:
        append(file, STATES[:2])
        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match=r"Input/output error: '.*/run\.journal'"):
            file.append(STATES[2])
        with pytest.raises(ValueError, match="closed"):
            file.append(STATES[3])
    assert read(str(journal)).parts == STATES[:3]


def test_a_file_may_not_become_as_large_as_it_should(journal):
    """As on a disk that is full, by the system itself."""
    whole = len(written(journal, begin=opened))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in range(whole // 3, whole, 97):
        journal.unlink()
        try:
            with closing(opened(journal)) as file:
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
                with pytest.raises(OSError, match=r"File too large: '.*/run\.journal'"):
                    append(file, STATES)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        done = read(str(journal)).parts
        assert done == STATES[: len(done)]
        assert len(written(journal, STATES[len(done) :], opened)) == whole


def test_one_process_at_a_time(journal):
    with closing(small(journal)) as file:
        for state in STATES:
            file.append(state)
            with pytest.raises(JournalError, match="another process is writing it"):
                small(journal)
    assert "snapshot" in kinds(journal)
    assert state_of(journal) == merge_all(STATES)


def test_a_file_that_is_exchanged_while_it_is_opened_is_opened_again(journal, monkeypatch):
    import fcntl

    flock = fcntl.flock
    writer = small(journal)
    writer.append(STATES[0])

    def late(file, how):
        """Between the other's opening and its lock, the writer takes a snapshot and is done."""
        monkeypatch.setattr(fcntl, "flock", flock)
        append(writer, STATES[1:6])
        writer.close()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    other = small(journal)
    assert other.state == merge_all(STATES[:6])
    other.append(STATES[6])
    other.close()
    assert read(str(journal)).state == merge_all(STATES[:7])


def test_the_new_file_is_locked_before_it_is_seen(journal, monkeypatch):
    replace, refused = os.replace, []

    def seen(*names):
        for when in (lambda: None, lambda: replace(*names)):
            when()
            with pytest.raises(JournalError, match="another process is writing it"):
                small(journal)
            refused.append(read(str(journal)).state.rows)

    small(journal).close()
    monkeypatch.setattr(os, "replace", seen)
    written(journal)
    assert refused == sorted(np.repeat(refused[::2], 2).tolist()) != []  # readers see the same before and after


def test_readers_see_all_of_the_old_file_or_all_of_the_new_one(journal):
    many = [part(number) for number in range(300)]
    thread = threading.Thread(target=written, args=(journal, many), kwargs={"steps": 300})
    small(journal, 300).close()
    thread.start()
    seen = [0]
    while thread.is_alive() or seen[-1] < 300:
        state = read(str(journal)).state
        assert state == merge_all(many[: state.rows])
        assert state.rows >= seen[-1]
        seen.append(state.rows)
    thread.join()
    assert len(set(seen)) > 3


def test_a_journal_that_was_moved_is_not_written_over_another(journal):
    with closing(small(journal)) as file:
        journal.rename(journal.with_name("moved"))
        other = written(journal, STATES[:1])
        with pytest.raises(JournalError, match=r"run\.journal: was moved or removed while it was written"):
            append(file, STATES)
    assert journal.read_bytes() == other
    assert read(str(journal.with_name("moved"))).state.rows


def test_links_and_permissions_stay(journal):
    there = journal.with_name("there")
    there.touch(mode=0o640)
    journal.symlink_to("there")
    written(journal)
    assert "snapshot" in kinds(there)
    assert journal.is_symlink()
    assert stat.S_IMODE(there.stat().st_mode) == 0o640


def test_a_part_that_is_there_already_is_not_written(journal):
    with closing(opened(journal)) as file:
        append(file, STATES[:3])
        with pytest.raises(ValueError, match="rows 1 to 1 are covered twice"):
            file.append(STATES[1])
    assert read(str(journal)).parts == STATES[:3]


@pytest.fixture
def dump(tmp_path):
    rng = np.random.default_rng(3)
    group = zarr.create_group(tmp_path / "dump.zarr")
    group.create_array("labels", data=rng.integers(0, 4, 60), chunks=(10,))
    group.create_array("logits", data=rng.normal(0, 3, (60, 4)).astype("float32"), chunks=(10, 4))
    return tmp_path / "dump.zarr"


def evaluate(dump, journal=None, call=dx.evaluate):
    return call(dump / "labels", dump / "logits", from_logits=True, threads=1, journal=journal)


@pytest.fixture
def cut(monkeypatch):
    """Cut the rows of the dump into six parts."""
    sized.give(monkeypatch, part_bytes=160, smallest_part_bytes=160)


@pytest.mark.parametrize(("keep", "left"), [(0, 0), (2000, 2)])
def test_a_run_goes_on_from_a_snapshot(dump, journal, monkeypatch, cut, keep, left):
    monkeypatch.setattr("daskxent.run.journal.Journal", functools.partial(Journal, keep_bytes=keep, growth=0.0))
    wanted = evaluate(dump)
    reports = evaluate(dump, journal, dx.stream)
    while next(reports).rows < 40:
        pass
    reports.close()
    assert "snapshot" in kinds(journal)
    report = evaluate(dump, journal)
    assert report == wanted
    assert report.notes == ("40 rows were in the journal already",)
    assert len(read(str(journal)).parts) == left
    if left:
        assert dx.verify(report) == left
    else:
        with pytest.raises(ValueError, match=r"^verify: the states are so large that the journal .*run\.journal holds"):
            dx.verify(report)
