"""What the README and the pages of docs show is run, block by block, next to a dump.zarr."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "docs/uses.md", "docs/tutorial.md", "docs/scaling.md")]
PAGES += sorted((ROOT / "docs/howto").glob("*.md"))


def blocks(page, language):
    """Return what a page shows in a language, but for what takes other packages or machines."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for text in found if language == "python" or "daskxent " in text]


@pytest.fixture
def directory(tmp_path):
    import zarr

    path = tmp_path
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


def run(command, directory):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "SLURM_ARRAY_TASK_ID": "0"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr  # not empty: on a busy machine Dask's log says that it had to wait


def test_the_pages_have_code():
    assert {page.name: (len(blocks(page, "python")), len(blocks(page, "sh"))) for page in PAGES} == {
        "README.md": (4, 1), "uses.md": (6, 0), "tutorial.md": (3, 1), "scaling.md": (0, 2), "calibration.md": (1, 0),
        "clusters.md": (1, 0), "extending.md": (0, 0), "language_models.md": (1, 0), "object_stores.md": (0, 0),
        "resume.md": (2, 0), "segmentation.md": (1, 0), "writing.md": (2, 0),
    }  # fmt: skip


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if "```" in page.read_text()], ids=lambda page: page.stem)
def test_what_a_page_shows_is_run(page, directory, client):
    script = "\n".join(blocks(page, "python")).replace("tcp://scheduler:8786", client.scheduler.address)
    if script:
        run([sys.executable, "-W", "error", "-c", script], directory)
    for block in blocks(page, "sh"):
        run(["bash", "-euc", block], directory)


def test_make_targets_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert (
        set(re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)) == {"demo", "test"} <= targets
    )


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        links = re.findall(r"\]\(([^)]+)\)", page.read_text())
        links = [link for link in links if "://" not in link]
        assert [link for link in links if not (page.parent / link.partition("#")[0]).exists()] == [], page
