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

# DESIGN.md: every module imports from earlier ones only.
ORDER = re.findall(
    r"\S+",
    """
numbers numbers.clock numbers.elementary numbers.reading numbers.exact numbers.records numbers.softmax_sums
numbers.crossentropy numbers.scores numbers.classes numbers.statistics numbers.keys numbers.row_choices
numbers.question numbers.status numbers.audit numbers.chosen_rows numbers.sums numbers.errors numbers.estimates
numbers.tables numbers.grouping numbers.state numbers.calibration numbers.temperature numbers.derived
numbers.distributions show show.tables sources sources.sizes sources.files sources.zstd sources.codecs sources.buckets
sources.objects sources.prefetch sources.chunks sources.layout sources.cache sources.cuts sources.source sources.paths
sources.dump_marks sources.meaning sources.local sources.memory sources.pieces sources.npy sources.archives
sources.raw sources.kld sources.made_of sources.sliceable sources.hdf5 sources.arrow sources.remote sources.converted
sources.bits sources.rectilinear sources.zarr_arrays sources.zipped sources.joined sources.sliced sources.opening
sources.conventional sources.columns sources.binary sources.largest sources.align sources.fingerprint
kernels.llvm kernels.llvm.instructions kernels.llvm.vectors kernels.llvm.compiling kernels.llvm.softmax_sums
kernels.slabs kernels.blocks kernels.llvm.along kernels.llvm.across kernels.arithmetic kernels.crossentropy
kernels.rows kernels.long_rows kernels.lanes kernels.columns kernels.scan kernels.softmax_sums kernels.dense_losses
kernels.sums kernels
sources.boxes show.plots show.listing show.slices show.classes show.rows show.merging show.answers show.provenance
show.summary show.drawing show.page run run.failures report run.slicing run.checking options show.progress
show.arguments show.flags show.shell run.code run.journal_file run.journal run.planning run.dump_arrays run.sink
run.scoring run.parts run.driver run.graph run.text run.prepared run.threads run.cluster run.engines run.writer api demo
losses.evaluating losses metrics.variable metrics.metric metrics xarray cli __init__ __main__
""",
)


def module_of(path: Path) -> str:
    """Name a module as `ORDER` does."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".").replace(".__init__", "")


def imported_modules(path: Path) -> Iterator[str]:
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
            while rest and rest not in ORDER:
                rest = rest.rpartition(".")[0]
            if package == "daskxent":
                yield rest or "__init__"


def public_objects() -> Iterator[tuple[str, object]]:
    for name in dx.__all__:
        value = getattr(dx, name)
        if isinstance(value, ModuleType):
            yield from ((f"{name}.{inner}", getattr(value, inner)) for inner in value.__all__)
        else:
            yield name, value


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_a_module_imports_from_earlier_ones_only(path):
    here = module_of(path)
    assert set(imported_modules(path)) <= {here, *ORDER[: ORDER.index(here)]}


def test_the_order_names_every_module_once():
    assert sorted(map(module_of, MODULES)) == sorted(ORDER)


def test_no_file_is_named_for_nothing_in_particular():
    vague = {"utils", "util", "core", "base", "common", "helpers", "misc"}
    assert not vague & {path.stem for path in MODULES}


@pytest.mark.parametrize("name", ["daskxent", "daskxent.metrics", "daskxent.losses"])
def test_all_is_sorted_and_importable(name):
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(module.__all__)
    assert [entry for entry in module.__all__ if not hasattr(module, entry)] == []


def test_type_checkers_see_every_public_name():
    body = ast.parse((PACKAGE / "__init__.py").read_text()).body
    typed = next(node for node in body if isinstance(node, ast.If))
    assert sorted(alias.asname or alias.name for each in typed.body for alias in each.names) == sorted(dx.__all__)


def test_public_objects_pickle():
    for name, value in public_objects():
        assert pickle.loads(pickle.dumps(value)) is value, name


def test_tests_patch_no_size():
    patched = re.compile(r"setattr\(\w+, \"[A-Z_]*(BYTES|ROWS|FEW|TINY)\"|^\w+\.[A-Z_]*(BYTES|ROWS) = ", re.MULTILINE)
    assert [path.name for path in (ROOT / "tests").glob("*.py") if patched.search(path.read_text())] == []


@pytest.mark.slow
def test_import_is_light():
    heavy = ["dask", "zarr", "numba", "distributed", "sklearn", "xarray", "keras"]
    script = f"import sys, daskxent; print(*[name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def named_in(page: str, folder: str) -> Iterator[str]:
    """Yield the files that entries of lists and tables name; a bare name is in the folder that its entry named last."""
    for entry in re.findall(r"^[*|] .*(?:\n  .*)*", page, re.MULTILINE):
        here = folder
        for name in re.findall(r"`([\w/]+(?:/|\.py))`", entry):
            if name.endswith("/"):
                here = folder + name
            else:
                yield f"{folder if '/' in name else here}{name}"


def test_the_design_names_every_module_and_no_other():
    design = (ROOT / "DESIGN.md").read_text().partition("## Modules\n")[2].partition("## Meanings\n")[0]
    kernels = (PACKAGE / "kernels/README.md").read_text()
    names = {str(path.relative_to(PACKAGE)) for path in MODULES if path.parent == PACKAGE or path.stem != "__init__"}
    assert {*named_in(design, ""), *named_in(kernels, "kernels/")} == names


@pytest.mark.parametrize("name", ["README.md", "DESIGN.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs", "benchmarks"])
def test_documents_name_no_path_of_a_machine(name):
    path = ROOT / name
    assert path.exists()
    for page in [path] if path.is_file() else path.rglob("*.md"):
        found = re.findall(r"(?<![\w.:/~])/(?:home|root|work|tmp|Users|mnt|opt)/\S*", page.read_text())
        assert not found, page
