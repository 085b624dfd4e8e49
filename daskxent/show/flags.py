"""What the options are in a shell: their flags, and how each is written."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from daskxent.options import Rows
from daskxent.show.arguments import Amount, By, Option, Steps, What, metrics_like

if TYPE_CHECKING:
    from dataclasses import Field


def _as_mapping(ctx: click.Context, param: click.Parameter, pairs: Any) -> Any:
    return dict(pairs) or None


# What follows from the type of an option in a shell, and what else is special about some; `options` says the rest.
KINDS: dict[str, dict[str, Any]] = {
    "bool": {"is_flag": True},
    "int": {"type": int, "metavar": "N"},
    "float": {"type": float, "metavar": "X"},
    "str": {"metavar": "NAME"},
    "Iterable[str]": {"metavar": "NAME", "multiple": True},
    "ArrayLike": {"metavar": "PATH"},
}
SHELL: dict[str, dict[str, Any]] = {
    "sample_weight": {"flags": ["--weights"], "type": Amount(), "metavar": "PATH|X"},
    "by": {"type": By(), "metavar": "NAME=WHAT", "multiple": True},
    "zero_division": {"show_default": True},
    "storage_options": {
        "flags": ["--storage-option"],
        "type": Option(),
        "metavar": "KEY=VALUE",
        "multiple": True,
        "callback": _as_mapping,
    },
    "histograms": {"flags": ["--histogram"]},
    "calibration_bins": {"show_default": True},
    "temperature": {"metavar": "T"},
    "bytes": {"type": Amount(), "metavar": "PATH|N"},
    "words": {"type": Amount(), "metavar": "PATH|N"},
    "clusters": {"type": What(), "metavar": "WHAT"},
    "metrics": {"flags": ["--metric"], "show_default": True, "shell_complete": metrics_like},
    "axis": {"metavar": None, "show_default": True},
    "ignore_class": {"multiple": True},
    "steps": {"type": Steps(), "metavar": "START:STOP"},
    "worker_timeout": {"metavar": "SECONDS"},
    "journal": {"metavar": "FILE"},
    "columns": {"flags": ["--column"], "show_default": True},
    "out": {"metavar": "GROUP", "required": True},
    "progress": {
        "flags": ["--progress/--no-progress"],
        "default": None,
        "help": "Draw a bar; by default on terminals only.",
    },
}
PYTHON_ONLY = {"class_weight", "join", "client"}


def of_kind(option: Field[Any]) -> dict[str, Any]:
    """Return what follows from the type and the check of an option."""
    choices = getattr(option.metadata["check"], "choices", None)
    if choices is None:
        return KINDS.get(str(option.type).partition(" ")[0], {})
    return {"type": click.Choice([each for each in choices if each is not None]), "show_default": True}


def flag_of(name: str) -> str:
    """Return the flag of an option, the first if it has several."""
    flags: list[str] = SHELL.get(name, {}).get("flags", [f"--{name.replace('_', '-')}"])
    return flags[0].partition("/")[0]


FLAGS = {
    each.name: (flag_of(each.name), "is_flag" in of_kind(each)) for each in fields(Rows) if each.name not in PYTHON_ONLY
}
