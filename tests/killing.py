"""Journals of a few small states, written by processes that are killed at one call to the system or another.

Run as a script, which has no threads and loads little, so that it may fork often: `killing.py FOLDER THEN`.
"""

import itertools
import os
import signal
import sys
from contextlib import closing
from pathlib import Path

from daskxent.numbers.exact import ExactSum
from daskxent.numbers.state import State, merge_all
from daskxent.numbers.sums import Sums
from daskxent.run.journal import Journal, read

PARTS = 8
CALLS = ("write", "fsync", "replace", "unlink", "chmod")  # that change files, or make sure that they are changed


def part(number, names=("loss",)):
    """Return the state of one row."""
    totals = {name: ExactSum.of([0.1 + number + k]) for k, name in enumerate(names)}
    return State(Sums(totals, ExactSum.whole(1), 1), covered=((number, number + 1),))


STATES = [part(number) for number in range(PARTS)]


def opened(path, steps=PARTS, **sizes):
    return Journal(
        str(path), lambda count: {"metrics": ["loss"]}, lambda count: {"shape": [count, 4]}, steps, {"y": "z"}, **sizes
    )


def small(path, steps=PARTS):
    """Open a journal that takes a snapshot after every third part."""
    return opened(path, steps, keep_bytes=800, growth=1.0)


def append(file, states):
    for state in states:
        file.append(state)


def written(path, states=STATES, begin=small, steps=PARTS):
    with closing(begin(path, steps)) as file:
        append(file, states)
    return path.read_bytes()


def mortal(name, calls, at, share):
    """Wrap a function of `os`: call number `at` kills the process before it, after it, or in the midst of a write."""
    call = getattr(os, name)

    def called(*arguments):
        if next(calls) != at:
            return call(*arguments)
        if name == "write":
            call(arguments[0], bytes(arguments[1])[: int(len(arguments[1]) * share)])
        elif share == 1:
            call(*arguments)
        return os.kill(os.getpid(), signal.SIGKILL)

    return called


def go_on(path, pipe, at, share):
    """Go on with a journal, and report every part that was added, until killed."""
    calls, tell = itertools.count(), os.write
    for name in CALLS:
        setattr(os, name, mortal(name, calls, at, share))
    with closing(small(path)) as file:
        for state in STATES[file.state.rows :]:
            file.append(state)
            tell(pipe, b".")


def killed(path, at, share):
    """Let another process resume from a journal; return how many parts it reported, and whether it was killed."""
    come, pipe = os.pipe()
    child = os.fork()
    if not child:
        try:
            go_on(path, pipe, at, share)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    os.close(pipe)
    with open(come, "rb") as pipe:
        added = len(pipe.read())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return added, status != 0


def kill_everywhere(folder, then):
    """Kill a process at every call in turn, and the one that resumes at call `then`; return how many there are."""
    for at, share in ((at, share) for at in itertools.count() for share in (0, 0.4, 1)):
        path, known = folder / f"{at}-{share}", 0
        for call in (at, then):
            added, was_killed = killed(path, call, share)
            if call == at and not was_killed:
                return at
            begun = path.exists() and path.stat().st_size
            done = read(str(path)).state if begun else State()
            assert done == merge_all(STATES[: done.rows]), (at, share)
            assert known + added <= done.rows <= known + added + 1, (at, share, call)
            known = done.rows
        written(path, STATES[known:], steps=PARTS + 1)
        assert read(str(path)).state == merge_all(STATES), (at, share)
        assert not path.with_name(f"{path.name}.unfinished").exists(), (at, share)
    return None


if __name__ == "__main__":
    os.fsync = lambda descriptor: None  # matters only where machines crash
    print(kill_everywhere(Path(sys.argv[1]), int(sys.argv[2])))
