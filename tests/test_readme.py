"""What the README and docs/uses.md show is run, block by block, next to a dump.zarr."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "uses.md"]
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
]
PYTHON = [text for language, text in BLOCKS if language == "python"]
SHELL = [text for language, text in BLOCKS if language == "sh" and "daskxent " in text]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    import zarr

    path = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    group = zarr.create_group(path / "dump.zarr")
    group.create_array("labels", data=rng.integers(10, size=500))
    group.create_array("logits", data=rng.normal(size=(500, 10)).astype("float32"), chunks=(200, 10))
    group.create_array("weights", data=rng.random(500))
    group.create_array("documents", data=rng.integers(40, size=500))
    text = zarr.create_group(path / "lm.zarr")
    text.create_array("tokens", data=rng.integers(50, size=(60, 12)))
    text.create_array("logits", data=rng.normal(size=(60, 12, 64)).astype("float32"), chunks=(20, 12, 64))
    text.create_array("mask", data=rng.random((60, 12)) < 0.9)
    text.create_array("bytes", data=rng.integers(1, 5, size=50))
    return path


@pytest.fixture(scope="module")
def scheduler():
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


def run(command, directory):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr  # not empty: on a busy machine Dask's log says that it had to wait


def test_the_uses_are_there():
    assert (len(SHELL), len(PYTHON)) == (1, 10)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.slow
@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_python(block, directory, scheduler):
    run([sys.executable, "-W", "error", "-c", block.replace("tcp://scheduler:8786", scheduler)], directory)


@pytest.mark.slow
def test_shell(directory):
    run(["sh", "-euc", SHELL[0]], directory)


def test_make_targets_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert (
        set(re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)) == {"demo", "test"} <= targets
    )


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        links = re.findall(r"\]\(([^)]+)\)", page.read_text())
        assert [link for link in links if not (page.parent / link.partition("#")[0]).exists()] == [], page
