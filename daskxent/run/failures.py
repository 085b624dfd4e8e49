"""How evaluations fail, and what they warn of."""

from __future__ import annotations

import inspect
import warnings
from typing import Any


class IncompleteResult(RuntimeError):
    """Not every row was evaluated.

    Attributes
    ----------
    report : Report or None
        What the rows that were evaluated gave.
    journal : str or None
        The journal from which the same call resumes.
    """

    def __init__(self, message: str, report: Any = None, journal: str | None = None) -> None:
        super().__init__(message)
        self.report, self.journal = report, journal

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.report, self.journal)


class ClusterLost(IncompleteResult):
    """The scheduler went away."""


class Stalled(IncompleteResult):
    """There were no workers, or none finished a part, for too long."""


class Poisoned(IncompleteResult):
    """Some rows kill every worker that evaluates them; the message names them."""


class Unreadable(IncompleteResult):
    """Storage kept failing; the message names the rows."""


class Unwritable(IncompleteResult):
    """Columns of rows could not be written; the message says which and where."""


class DoubtfulResult(UserWarning):
    """The numbers may not mean what was asked for: see `Report.doubts`."""


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn whoever called the package, wherever in it this is found out: with the line of the first frame outside."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "daskxent":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


class Interrupted(KeyboardInterrupt):
    """The evaluation was interrupted; `report` is about the rows evaluated by then.

    Threads are left after a second if they read, or compile, for longer than that.
    """

    report: Any = None
    journal: str | None = None
