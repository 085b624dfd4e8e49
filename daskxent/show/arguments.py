"""What a shell gives as text, and what is meant by it."""

from __future__ import annotations

import math
import operator
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import click


class Steps(click.ParamType):  # type: ignore[type-arg]
    """A range of steps, written like a slice."""

    name = "steps"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the range as (start, stop)."""
        edges = value.split(":")
        try:
            start, stop = (int(edge) if edge.strip() else None for edge in edges)
        except ValueError:
            self.fail(f"{value!r} is not START:STOP, two whole numbers, either of which may be left out", param, ctx)
        return start, stop


class What(click.ParamType):  # type: ignore[type-arg]
    """What to group rows by: an array, a word, an axis or bins."""

    name = "what"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a path or a word as it is, an axis, or bins."""
        word, bracket, inner = value.partition("(")
        if not bracket or word not in ("axis", "bins") or not inner.endswith(")"):
            return value
        from daskxent.run import slicing

        of, *edges = inner[:-1].split(",")
        try:
            return slicing.bins(of.strip(), edges) if word == "bins" else slicing.axis(int(of))
        except (TypeError, ValueError) as error:
            self.fail(f"{value!r}: {error}", param, ctx)


class Amount(click.ParamType):  # type: ignore[type-arg]
    """A number, or an array of numbers."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a number as one, anything else as it is; a file that is called like a number is `./2.5`."""
        try:
            return int(value) if value.isdecimal() else float(value)
        except ValueError:
            return value


# Whether a metric is within a limit that fails above, or below it.
BEYOND = {">": operator.ge, "<": operator.le}


class Limit(click.ParamType):  # type: ignore[type-arg]
    """A metric, a sign and a number."""

    name = "limit"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the three of them."""
        found = re.fullmatch(r"\s*(\w+)\s*([<>])\s*(\S+)\s*", value)
        with suppress(ValueError):
            if found and not math.isnan(limit := float(found[3])):
                return found[1], found[2], limit
        return self.fail(f"{value!r} is not a limit such as 'crossentropy>2.5' or 'accuracy<0.7'", param, ctx)


class Option(click.ParamType):  # type: ignore[type-arg]
    """A name and a value, which is JSON or else a string."""

    name = "option"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name and the value."""
        import json

        name, equals, text = value.partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text


class Target(click.ParamType):  # type: ignore[type-arg]
    """A file to be written once a run is over: what would stop that is said before the run."""

    name = "target"

    def __init__(self, *endings: str) -> None:
        self.endings = endings

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path."""
        path = Path(value).expanduser()
        if self.endings and path.suffix not in self.endings:
            self.fail(f"{value!r} does not end in {' or '.join(self.endings)}", param, ctx)
        if path.is_dir() or not path.parent.is_dir():
            self.fail(
                f"{value!r} is a directory" if path.is_dir() else f"there is no directory {path.parent}", param, ctx
            )
        return path


class By(What):
    """What to group rows by, with a name."""

    name = "by"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the slicing as a mapping, of several groupings where they are joined by an ampersand."""
        found = {}
        for each in value.split("&"):
            name, equals, given = each.strip().partition("=")
            if not equals or not name or not given:
                forms = "NAME=PATH, NAME=label, NAME=axis(1) or NAME=bins(PATH, 0, 512, inf), or several joined by &"
                self.fail(f"{value!r} is not {forms}", param, ctx)
            if name in found:
                self.fail(f"{value!r} has two groupings called {name!r}", param, ctx)
            found[name] = super().convert(given, param, ctx)
        return found


def arrays_below(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Complete a path: files and directories, into zarr groups and files of several arrays."""
    from click.shell_completion import CompletionItem

    from daskxent.sources.conventional import names_in

    directory, slash, name = incomplete.rpartition("/")
    try:
        inside = names_in(directory) if slash and directory else []
    except Exception:  # whatever is wrong with a file is said where it is read
        inside = []
    found = [CompletionItem(f"{directory}/{each}") for each in inside if each.startswith(name)]
    return found or [CompletionItem(incomplete, type="file")]


def metrics_like(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a metric."""
    from daskxent.numbers.statistics import DERIVED, METRICS

    return [name for name in sorted({*METRICS, *DERIVED, "top_5_accuracy"}) if name.startswith(incomplete)]
