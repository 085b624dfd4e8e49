import os
import shutil
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


def run(**environment):
    """Run the script in a new process."""
    command = [sys.executable, "-c", SCRIPT]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment)


def answer(**environment):
    """Return what the script prints in a new process, and what it warns of."""
    done = run(**environment)
    return done.stdout.split()[0], [line for line in done.stderr.splitlines() if "Warning" in line]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Return a directory that was compiled into, and what the process said that did it."""
    into = tmp_path_factory.mktemp("kept")
    return into, run(NUMBA_CACHE_DIR=str(into))


@pytest.fixture(scope="module")
def usual():
    return answer()[0]


def test_compilation_is_reported_once_and_only_when_there_is_any(compiled):
    into, first = compiled
    second = run(NUMBA_CACHE_DIR=str(into))
    assert first.stderr.strip() == "Compiling the scans, which is done once and kept ..."
    assert second.stderr == ""
    (bits, elapsed), (same, again) = first.stdout.split(), second.stdout.split()
    assert bits == same
    assert float(elapsed) < 2 + 10 * float(again)  # which is some milliseconds: compiling took seconds


def test_without_a_place_for_compiled_code_it_is_compiled_each_time(usual):
    environment = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator", "NUMBA_CACHE_DIR": ""}
    found, warned = answer(**environment)
    assert found == usual
    assert len(warned) == 1
    assert "compiled code cannot be kept: set NUMBA_CACHE_DIR" in warned[0]


def test_damaged_compiled_code_is_compiled_anew(usual, compiled, tmp_path):
    shutil.copytree(compiled[0], tmp_path, dirs_exist_ok=True)
    kept = [file for file in tmp_path.rglob("*.nb?") if "_score" in file.name]
    assert kept
    for file in kept:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    found, warned = answer(NUMBA_CACHE_DIR=str(tmp_path))
    assert found == usual
    assert len(warned) == 1
    assert f"is damaged (pickle data was truncated): remove {tmp_path}" in warned[0]


def test_without_compilation_numpy_gives_the_same(usual):
    assert answer(NUMBA_DISABLE_JIT="1") == (usual, [])
