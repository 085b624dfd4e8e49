"""What is released: a wheel that runs where nothing else of the project is, and sources that can be tested."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = """
import daskxent, numpy as np
assert {directory!r} in daskxent.__file__, daskxent.__file__
print(daskxent.evaluate(np.arange(1000) % 10, np.tile(np.eye(10, dtype="f4"), (100, 1)), from_logits=True)["accuracy"])
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    into = tmp_path_factory.mktemp("dist")
    line = [sys.executable, "-m", "hatchling", "build", "--directory", into]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True)
    return into


@pytest.mark.slow
def test_the_wheel_runs_alone(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"daskxent/py.typed", "daskxent/demo_weights.txt", "daskxent/xarray.py"} <= set(names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"daskxent"}
    (metadata,) = (name for name in names if name.endswith("/METADATA"))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 10
    assert [link for link in links if not link.startswith("https://")] == []
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path / "site", wheel]
    subprocess.run(install, check=True, capture_output=True)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    script = SCRIPT.format(directory=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "1.0\n", done.stderr
    line = [sys.executable, "-m", "daskxent", "--version"]
    assert (
        "daskxent, version"
        in subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
    )


@pytest.mark.slow
def test_the_sources_hold_tests_and_documentation(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"tests/conftest.py", "docs/index.md", "docs/howto/writing.md", "examples/notebooks/quickstart.ipynb",
            "benchmarks/objects.py", "CITATION.cff", "Makefile", "LICENSE", "pyproject.toml"} <= names  # fmt: skip
    assert not any("_build" in name or name.startswith("benchmarks/data") for name in names)


def test_the_namespaces_hold_public_names_only():
    import daskxent as dx

    for module in (dx, dx.losses, dx.metrics):
        assert [name for name in dir(module) if name not in {*module.__all__, "__version__"}] == [], module.__name__
