"""What a shell calls things: messages that were written for Python, in the words of the command line."""

from __future__ import annotations

import re
import shlex
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ARRAYS = {"y_true": "LABELS", "y_pred": "PREDICTIONS"}
# A name within a longer word is that of a file, and a quoted one that of an array.
BEFORE, AFTER = r"(?<![\w./'=&-])", r"(?![\w/=&-]|\.\w|'(?!s\b))"
VALUE = r"'[^']*'|(?:dx\.)?\w+\(\w*\)|-?[\d.]+(?:e[+-]?\d+)?|-?\w+|(?=:)"


def in_words(message: str, flags: Mapping[str, tuple[str, bool]]) -> str:
    """Return a message with arrays and options as on a command line; paths and what is quoted stay as they are.

    Parameters
    ----------
    message : str
    flags : mapping
        From the name of an option in Python to its flag, and whether that takes no value.

    Examples
    --------
    >>> flags = {"from_logits": ("--from-logits", True), "ignore_class": ("--ignore-class", False)}
    >>> in_words("y_true: label -100 at row 3; ignore_class=-100 leaves it out; logits need from_logits=True", flags)
    'LABELS: label -100 at row 3; --ignore-class -100 leaves it out; logits need --from-logits'
    >>> in_words("y_pred: there is nothing at ignore_class=0/y_pred; ignore_class=0 holds y_true", flags)
    'PREDICTIONS: there is nothing at ignore_class=0/y_pred; ignore_class=0 holds y_true'
    """

    def worded(found: re.Match[str]) -> str:
        if found["by"] is not None:
            return f"--by {shlex.quote(found['by'])}"
        if found["array"]:
            return ARRAYS[found["array"]]
        name = found["given"] or found["ticked"] or found["named"] or found["titled"]
        if not name:
            return found[0]
        flag, no_value = flags[name]
        value = (found["value"] or "").strip("'").removeprefix("dx.")
        return flag if no_value or not value else f"{flag} {shlex.quote(value)}"

    return _words(tuple(flags)).sub(worded, message)


@cache
def _words(names: tuple[str, ...]) -> re.Pattern[str]:
    """Return what finds paths, which are kept, and the names of arrays and options."""
    option = "|".join(names)
    long = "|".join(name for name in names if "_" in name)  # short ones are English too
    return re.compile(
        rf"""
        \bby\['(?P<by>[^']*)'\]
        | \S+\ holds\ (?:[^\s,;]+,\ )*[^\s,;]+ | \S*/\S* | \bat\ \S+
        | (?P<call>evaluate\(\.\.\.,\ )?{BEFORE}(?P<given>{option})=(?P<value>{VALUE}){AFTER}(?(call)\))
        | `(?P<ticked>{option})`
        | {BEFORE}(?:(?P<array>y_true|y_pred)|(?P<named>{long or "(?!)"})){AFTER}
        | (?:^|(?<=^Error:\ )|(?<=^Warning:\ ))(?P<titled>{option})(?=:\ )
        """,
        re.VERBOSE,
    )


def peak_memory() -> int:
    """Return the most memory that this process has held so far, in bytes.

    Examples
    --------
    >>> peak_memory() > 1_000_000
    True
    """
    try:
        # On Linux getrusage starts from what the process held that started this one.
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1 << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
