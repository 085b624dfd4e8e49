import os
import signal

import pytest
import sized
from hypothesis import settings

settings.register_profile("quick", max_examples=20)  # of a hundred: a fifth of the examples, see strategies.draws

# Read by Keras when it is first imported: the reference needs no deep-learning framework.
os.environ.setdefault("KERAS_BACKEND", "numpy")

# Shells start what runs in the background with SIGINT ignored; the programs that tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

collect_ignore = ["sabotage.py"]  # which workers load, not pytest: it needs what only they are given


@pytest.hookimpl(trylast=True)  # after tests were deselected
def pytest_collection_modifyitems(items):
    """Begin each of two workers' halves with other compiled code: what one has compiled the other need not."""
    firsts = [[item for item in items if item.path.name == name] for name in ("test_scores.py", "test_kernels.py")]
    rest = [item for item in items if not any(item in first for first in firsts)]
    half = max(0, len(items) // 2 - len(firsts[0]))
    items[:] = firsts[0] + rest[:half] + firsts[1] + rest[half:]


@pytest.fixture(autouse=True)
def threads_for_tiny_chunks(monkeypatch):
    """Let several threads read the chunks of test data, which are all tiny."""
    sized.give(monkeypatch, tiny_bytes=0)
