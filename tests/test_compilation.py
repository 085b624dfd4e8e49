import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def arrays(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / "labels.npy", tmp_path / "logits.npy"]
    np.save(paths[0], rng.integers(10, size=10_000))
    np.save(paths[1], rng.standard_normal((10_000, 10), dtype=np.float32))
    return paths


def stderr_of(arrays, kept) -> str:
    """Evaluate in a new process, which tells soon that it compiles."""
    script = "from daskxent import cli; cli.PATIENCE = 0.01; cli.main()"
    command = [sys.executable, "-c", script, "evaluate", "--from-logits", *map(str, arrays)]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(kept)}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stderr


def test_compilation_is_reported_once_and_only_when_there_is_any(arrays, tmp_path):
    first, second = (stderr_of(arrays, tmp_path / "kept") for _ in range(2))
    assert first.strip() == "Compiling the scans, which is done once and kept ..."
    assert second == ""


SCRIPT = """
import numpy as np, daskxent as dx
rng = np.random.default_rng(0)
x, y = rng.normal(0, 3, (9_000, 10)).astype("float32"), rng.integers(0, 10, 9_000)
print(dx.evaluate(y, x, from_logits=True, threads=1)["crossentropy"].hex())
"""


def answer(**environment):
    """Return what the script prints in a new process, and what it warns of."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True, env=os.environ | environment
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "Warning" in line]


@pytest.fixture(scope="module")
def usual():
    return answer()[0]


def test_without_a_place_for_compiled_code_it_is_compiled_each_time(usual):
    environment = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator", "NUMBA_CACHE_DIR": ""}
    found, warned = answer(**environment)
    assert found == usual
    assert len(warned) == 1
    assert "compiled code cannot be kept: set NUMBA_CACHE_DIR" in warned[0]


def test_damaged_compiled_code_is_compiled_anew(usual, tmp_path):
    assert answer(NUMBA_CACHE_DIR=str(tmp_path)) == (usual, [])
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
