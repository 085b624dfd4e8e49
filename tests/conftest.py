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


@pytest.fixture(autouse=True)
def threads_for_tiny_chunks(monkeypatch):
    """Let several threads read the chunks of test data, which are all tiny."""
    sized.give(monkeypatch, tiny_bytes=0)
