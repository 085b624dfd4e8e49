import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


SCRIPT = """
import numpy as np, daskxent as dx
rng = np.random.default_rng(0)
x, y = rng.normal(0, 3, (9_000, 10)).astype("float32"), rng.integers(0, 10, 9_000)
report = dx.evaluate(y, x, from_logits=True, threads=1)
print(report["crossentropy"].hex(), report.elapsed)
"""


# An entry that is compiled in a second.
FEW = """
import numpy as np
from daskxent.kernels.sums import count_placed
counts = np.zeros(3, np.int64)
count_placed(counts, np.array([0, 2, 2]), None)
print(counts)
"""


def run(script, **environment):
    """Run a script in a new process."""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment)


def counted(**environment):
    """Return what a process warns of that compiles an entry, and counts right."""
    done = run(FEW, **environment)
    assert done.stdout == "[1 0 2]\n"
    return [line for line in done.stderr.splitlines() if "Warning" in line]


def test_compilation_is_reported_once_and_only_when_there_is_any(tmp_path):
    first, second = (run(SCRIPT, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert first.stderr.strip() == "Compiling the scans, which is done once and kept ..."
    assert second.stderr == ""
    (bits, elapsed), (same, again) = first.stdout.split(), second.stdout.split()
    assert bits == same
    assert float(elapsed) < 2 + 10 * float(again)  # which is some milliseconds: compiling took seconds


def test_without_a_place_for_compiled_code_it_is_compiled_each_time():
    warned = counted(NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator", NUMBA_CACHE_DIR="")
    assert len(warned) == 1
    assert "compiled code cannot be kept: set NUMBA_CACHE_DIR" in warned[0]


def test_damaged_compiled_code_is_compiled_anew(tmp_path):
    assert not counted(NUMBA_CACHE_DIR=str(tmp_path))
    kept = [file for file in tmp_path.rglob("*.nb?") if "_count_placed" in file.name]
    assert kept
    for file in kept:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    warned = counted(NUMBA_CACHE_DIR=str(tmp_path))
    assert len(warned) == 1
    assert f"is damaged (pickle data was truncated): remove {tmp_path}" in warned[0]


def test_without_compilation_numpy_gives_the_same():
    compiled, interpreted = run(SCRIPT), run(SCRIPT, NUMBA_DISABLE_JIT="1")
    assert interpreted.stdout.split()[0] == compiled.stdout.split()[0]
    assert "Warning" not in interpreted.stderr
