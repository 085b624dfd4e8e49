"""How long this process has compiled: time that does not count as part of an evaluation, and is reported meanwhile."""

from __future__ import annotations

import functools
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

LOG = logging.getLogger("daskxent")
PATIENCE = 2.0  # seconds of compilation after which it is reported


class Clock:
    """Seconds in which at least one thread compiled.

    Examples
    --------
    >>> clock = Clock()
    >>> clock.timed(time.sleep)(0.02)
    >>> 0.02 <= clock.seconds < 2
    True
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock, self._active, self._began = threading.Lock(), 0, 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose calls are timed; a long one is reported."""

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            said = threading.Timer(PATIENCE, _say)
            with self._lock:
                if not self._active:
                    self._began = time.perf_counter()
                    said.daemon = True
                    said.start()
                self._active += 1
            try:
                return function(*arguments, **options)
            finally:
                said.cancel()
                with self._lock:
                    self._active -= 1
                    if not self._active:
                        self.seconds += time.perf_counter() - self._began

        return call


@functools.cache
def _say() -> None:
    LOG.warning("Compiling the scans, which is done once and kept ...")


COMPILATION = Clock()
