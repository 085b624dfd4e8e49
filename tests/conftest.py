import itertools
import os
import signal

import pytest
import sized
from hypothesis import settings

settings.register_profile("quick", max_examples=20)  # of a hundred: a fifth of the examples, see strategies.draws
QUICK_CASES = 3  # of each test with more parameters than that

# Read by Keras when it is first imported: the reference needs no deep-learning framework.
os.environ.setdefault("KERAS_BACKEND", "numpy")

# Shells start what runs in the background with SIGINT ignored; the programs that tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

collect_ignore = ["sabotage.py"]  # which workers load, not pytest: it needs what only they are given


def pytest_addoption(parser):
    parser.addoption("--fuzz", type=int, default=1, metavar="N", help="try N times as many damaged inputs")


@pytest.fixture
def tries(request):
    """Return a range of this many tries, or of as many times more as ``--fuzz`` says."""
    return lambda count: range(count * request.config.getoption("--fuzz"))


# What each worker begins with, so that no two compile the same: the scans of whole rows, those of blocks, and none.
FIRSTS = "test_scores.py", "test_kernels.py", "test_chunks.py"


@pytest.hookimpl(trylast=True)  # after tests were deselected
def pytest_collection_modifyitems(config, items):
    """Take some cases of each test if it shall be quick, and begin the share of each worker with other kernels."""
    if config.getoption("--hypothesis-profile") == "quick":
        families = itertools.groupby(items, lambda item: (item.path, getattr(item, "originalname", item.name)))
        items[:] = itertools.chain.from_iterable(_spread(list(family)) for _, family in families)
    shares = min(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)), len(FIRSTS))
    firsts = [[item for item in items if item.path.name == name] for name in FIRSTS[:shares]]
    rest = [item for item in items if item.path.name not in FIRSTS[:shares]]
    size = len(items) // shares  # xdist hands out shares of as many tests
    items.clear()
    for first in firsts:
        room = max(0, size - len(first)) if first is not firsts[-1] else len(rest)
        items += first + rest[:room]
        rest = rest[room:]


def _spread(cases):
    """Return at most this many of the cases of a test, from the first to the last."""
    few = min(len(cases), QUICK_CASES)
    return [cases[(len(cases) - 1) * k // max(1, few - 1)] for k in range(few)]


@pytest.fixture(scope="module")  # an idle cluster takes an eighth of a processor
def client():
    """The client of two worker processes, which no test may harm."""
    from forked import two_workers

    with two_workers() as client:
        yield client


@pytest.fixture(autouse=True)
def threads_for_tiny_chunks(monkeypatch):
    """Let several threads read the chunks of test data, which are all tiny."""
    sized.give(monkeypatch, tiny_bytes=0)
