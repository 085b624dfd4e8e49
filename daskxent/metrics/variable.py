"""What a metric remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.numbers.exact import ExactSum

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Variable(np.lib.mixins.NDArrayOperatorsMixin):
    """A number, or an array of numbers, that a metric remembers.

    A variable without axes holds an exact sum: `assign_add` never rounds, and only `value` is of its dtype. It takes
    part in arithmetic as its value does. Assigning another variable without axes copies its exact sum; assigning a
    number sets the sum to that number.

    Parameters
    ----------
    initial : array
        What `reset` brings back; gives the shape.
    dtype : dtype
    name, path : str

    Examples
    --------
    >>> count = Variable(np.float32(2**24), "float32", "count", "mean/count")
    >>> count.assign_add(1)
    >>> count.assign_add(1)
    >>> int(count.value) - 2**24, int(count + 1) - 2**24
    (2, 4)
    """

    def __init__(self, initial: Any, dtype: Any, name: str, path: str) -> None:
        self._dtype = np.dtype(dtype)
        self.name, self.path = name, path
        self._initial = np.array(initial, self._dtype)
        self._held: Any = None
        self.reset()

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        return self._initial.shape

    @property
    def dtype(self) -> str:
        """Name of the dtype."""
        return str(self._dtype)

    @property
    def exact(self) -> ExactSum:
        """The exact sum of a variable without axes."""
        if not isinstance(self._held, ExactSum):
            raise TypeError(f"{self.path}: a variable of shape {self.shape} holds no exact sum")
        return self._held

    @property
    def value(self) -> NDArray[Any]:
        """The value, in the dtype of the variable."""
        with np.errstate(over="ignore", invalid="ignore"):
            held = float(self._held) if isinstance(self._held, ExactSum) else self._held
            return np.array(held).astype(self._dtype)

    def numpy(self) -> NDArray[Any]:
        """Return `value`."""
        return self.value

    def assign(self, value: Any) -> None:
        """Set the value; the shape stays."""
        self._held = self._checked(value)

    def assign_add(self, value: Any) -> None:
        """Add to the value."""
        term = self._checked(value)
        if isinstance(self._held, ExactSum):
            self._held = self._held + term
        else:
            self._held = np.asarray(self._held + term, self._dtype)

    def reset(self) -> None:
        """Set the value to what it was at first."""
        self._held = ExactSum.of(self._initial) if self.shape == () else self._initial.copy()

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.value, dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Compute with the values of variables."""
        values = [given.value if isinstance(given, Variable) else given for given in inputs]
        return getattr(ufunc, method)(*values, **options)

    def __repr__(self) -> str:
        return f"<Variable path={self.path}, shape={self.shape}, dtype={self.dtype}, value={self.value}>"

    def _checked(self, value: Any) -> Any:
        exact = value.exact if isinstance(value, Variable) and value.shape == () else value
        if isinstance(exact, ExactSum) and self.shape == ():
            return exact
        given = np.asarray(value)
        if given.shape != self.shape:
            raise ValueError(f"{self.path}: expected shape {self.shape}, got {given.shape}")
        return ExactSum.of(given) if self.shape == () else np.array(given, self._dtype)


def initial(initializer: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Return what a variable is at first."""
    if callable(initializer):
        return initializer(shape, dtype=dtype.name)
    known = {None: 0, "zeros": 0, "ones": 1}
    if isinstance(initializer, str) and initializer not in known:
        raise ValueError(f"initializer: expected 'zeros', 'ones', an array or a callable; got {initializer!r}")
    return known[initializer] if initializer is None or isinstance(initializer, str) else initializer
