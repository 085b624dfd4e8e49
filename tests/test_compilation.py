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


def test_compilation_is_told_once_and_only_when_there_is_any(arrays, tmp_path):
    first, second = (stderr_of(arrays, tmp_path / "kept") for _ in range(2))
    assert first.strip() == "Compiling the scans, which is done once and kept ..."
    assert second == ""
