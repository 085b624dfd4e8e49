"""What a shell calls things: messages that were written for Python, in the words of the command line."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ARRAYS = {"y_true": "LABELS", "y_pred": "PREDICTIONS"}


def in_words(message: str, flags: Mapping[str, tuple[str, bool]]) -> str:
    """Return a message with arrays and options as on a command line.

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
    """
    names = "|".join(map(re.escape, flags))
    given = rf"(?:evaluate\(\.\.\., )?\b({names})=(?:'([^']*)'|([\w.+-]+))\)?"

    def flag(found: re.Match[str]) -> str:
        name, no_value = flags[found[1]]
        return name if no_value else f"{name} {found[2] if found[2] is not None else found[3]}"

    message = re.sub(given, flag, message)
    message = re.sub(rf"^(Error: )?({names}): ", lambda found: f"{found[1] or ''}{flags[found[2]][0]}: ", message)
    return re.sub(r"(?<!')\b(y_true|y_pred)\b(?!')", lambda found: ARRAYS[found[1]], message)  # quoted they are names


def flags_of(commands: Any) -> dict[str, tuple[str, bool]]:
    """Return the flags of all options of some click commands, by their names in Python."""
    return {
        option.name: (option.opts[0], bool(option.is_flag))
        for command in commands
        for option in command.params
        if getattr(option, "opts", [""])[0].startswith("--")
    }


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
