import ast
import importlib
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import daskxent as dx

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "daskxent"
MODULES = sorted(PACKAGE.rglob("*.py"))

# DESIGN.md: a module imports from lower levels only.
LEVELS = {
    "rows": 0,
    "elementary": 0,
    "exact": 0,
    "state": 1,
    "scores": 1,
    "kernels": 1,
    "report": 2,
    "sources": 2,
    "planning": 2,
    "options": 2,
    "parts": 2,
    "journal": 2,
    "engine": 3,
    "lazy": 3,
    "runners": 3,
    "cluster": 3,
    "metrics": 4,
    "losses": 4,
    "cli": 4,
    "demo": 4,
    "demo_network": 4,
    "__init__": 4,
    "__main__": 5,
}
# Modules that may import others of their own level, and which.
SAME_LEVEL = {
    "rows": {"elementary"},
    "state": {"scores"},
    "kernels": {"state", "scores"},
    "parts": {"sources"},
    "journal": {"report"},
    "planning": {"sources"},
    "options": {"sources"},
    "runners": {"lazy"},
    "cluster": {"lazy", "runners"},
    "engine": {"lazy", "runners", "cluster"},
    "metrics": {"losses"},
    "__init__": {"metrics", "losses"},
    "cli": {"demo"},
    "demo": {"demo_network"},
}


def unit(path: Path) -> str:
    """Name the module, or the subpackage, that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_units(path: Path) -> Iterator[str]:
    """Name our modules that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "daskxent":
                first = rest.partition(".")[0]
                yield first if first in LEVELS else "__init__"


def public_objects() -> Iterator[tuple[str, object]]:
    for name in dx.__all__:
        value = getattr(dx, name)
        if isinstance(value, ModuleType):
            yield from ((f"{name}.{inner}", getattr(value, inner)) for inner in value.__all__)
        else:
            yield name, value


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    here = unit(path)
    allowed = {name for name, level in LEVELS.items() if level < LEVELS[here]}
    allowed |= SAME_LEVEL.get(here, set()) | {here}
    assert set(imported_units(path)) <= allowed


def test_every_level_is_of_a_module():
    assert {unit(path) for path in MODULES} == set(LEVELS)


def test_no_file_is_named_for_nothing_in_particular():
    vague = {"utils", "util", "core", "base", "common", "helpers", "misc"}
    assert not vague & {path.stem for path in MODULES}


@pytest.mark.parametrize("name", ["daskxent", "daskxent.metrics", "daskxent.losses"])
def test_all_is_sorted_and_importable(name):
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(module.__all__)
    assert [entry for entry in module.__all__ if not hasattr(module, entry)] == []


def test_public_objects_pickle():
    for name, value in public_objects():
        assert pickle.loads(pickle.dumps(value)) is value, name


def test_import_is_light():
    heavy = ["dask", "zarr", "numba", "distributed", "sklearn", "xarray", "keras"]
    script = f"import sys, daskxent; print(*[name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_design_names_every_module():
    design = (ROOT / "DESIGN.md").read_text()
    names = {f"{name}/" if (PACKAGE / name).is_dir() else f"{name}.py" for name in LEVELS}
    assert sorted(name for name in names if name not in design) == []


@pytest.mark.parametrize("name", ["README.md", "DESIGN.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs", "benchmarks"])
def test_documents_name_no_path_of_a_machine(name):
    path = ROOT / name
    assert path.exists()
    for page in [path] if path.is_file() else path.rglob("*.md"):
        found = re.findall(r"(?<![\w.:/~])/(?:home|root|work|tmp|Users|mnt|opt)/\S*", page.read_text())
        assert not found, page
