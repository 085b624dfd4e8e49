"""Another revision of the package, in an environment of its own."""

import os
import subprocess
import sys
import tarfile
import tomllib
import venv
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
EXTRAS = "bfloat16,distributed"


class Side(NamedTuple):
    """A daskxent to be run: the Python that imports it, and the environment variables that make it do so."""

    name: str
    python: str
    environment: dict[str, str]
    note: str = ""

    def run(self, *arguments: str) -> str:
        """Return what a program prints that runs on this side."""
        command = [self.python, *arguments]
        environment = os.environ | self.environment
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout

    def imported(self) -> Path:
        """Return the directory of the package that is imported; where this process runs does not matter."""
        return Path(self.run("-P", "-c", "import daskxent; print(daskxent.__file__)").strip()).parent


def of_tree(tree: Path, name: str = "", python: str = sys.executable) -> Side:
    """Return the side of a tree of sources, run by this Python or another one.

    Raises
    ------
    SystemExit
        There is no package in it.
    """
    tree = tree.resolve()
    side = Side(name or tree.name, python, {"PYTHONPATH": str(tree)})
    if not (tree / "daskxent" / "__init__.py").is_file():
        raise SystemExit(f"there is no daskxent in {tree}")
    if not (found := side.imported()).is_relative_to(tree):
        raise SystemExit(f"{side.name}: imports {found}, which is not in {tree}")
    return side


def this_tree(python: str) -> Side:
    """Return the side of the tree that this file is in, changes that are not committed included.

    It is run by the Python of the other side: what else is installed there has a part in how long an import takes.
    """
    described = git("describe", "--always", "--dirty", "--abbrev=7", "--exclude=*") or "no git"
    return of_tree(ROOT, f"this tree ({described})", python)


def of_revision(revision: str, builds: Path) -> Side:
    """Return the side of a revision: exported, and what it needs installed with the versions there are here.

    It is imported from its sources, as this tree is: an import takes longer or shorter from elsewhere.

    Raises
    ------
    SystemExit
        There is no such revision.
    """
    commit = git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if not commit:
        raise SystemExit(f"there is no revision {revision!r} in {ROOT}")
    home, name = (
        builds.resolve() / commit[:12],
        revision if commit.startswith(revision) else f"{revision} ({commit[:7]})",
    )
    sources, environment, stamp = home / "sources", home / "venv", home / "installed.txt"
    if not sources.exists():
        export(commit, sources)
    versions = installed()
    if not stamp.exists() or stamp.read_text() != versions:
        try:
            install(sources, environment, versions)
        except subprocess.CalledProcessError as error:
            why = (error.stderr or str(error)).strip().splitlines()[-1]
            note = f"what {name} needs could not be installed ({why}); it is run by this Python instead"
            return of_tree(sources, name)._replace(note=note)
        stamp.write_text(versions)
    return of_tree(sources, name, str(environment / "bin" / "python"))


def git(*arguments: str) -> str:
    """Return what git says, or "" if it fails."""
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def export(commit: str, target: Path) -> None:
    """Write the files of a commit into a directory, which is there only when it is whole."""
    part = target.with_name(f"{target.name}.{os.getpid()}.unfinished")
    part.mkdir(parents=True)
    with subprocess.Popen(["git", "-C", str(ROOT), "archive", commit], stdout=subprocess.PIPE) as archive:
        assert archive.stdout is not None
        options: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not before Python 3.11.4
        with tarfile.open(fileobj=archive.stdout, mode="r|") as files:
            files.extractall(part, **options)
    part.rename(target)


def installed() -> str:
    """Return the versions that are installed here, as constraints for pip."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "freeze", "--exclude-editable"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return "".join(f"{line}\n" for line in lines if "==" in line and not line.startswith("daskxent"))


def install(sources: Path, environment: Path, versions: str) -> None:
    """Install a tree, and what it and this tree depend on, in these versions, in an environment of its own."""
    print(f"installing {sources} in {environment}", file=sys.stderr)
    venv.create(environment, with_pip=True, clear=True)
    constraints = environment / "constraints.txt"
    constraints.write_text(versions)
    command = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    command += ["--constraint", str(constraints), f"{sources}[{EXTRAS}]", *needed]
    subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
