"""What all metrics share: variables, updates, merging, and the stateless forms of Keras."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from daskxent.losses.evaluating import ask, open_inputs, result_dtype, total
from daskxent.metrics.variable import Variable, initial
from daskxent.numbers.exact import ratio

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Metric:
    """Something that is remembered from update to update and comes to a result.

    The metrics below are means over rows, of which `total` and `count` are remembered. For a metric of your own,
    derive from this class, make variables with `add_variable`, and define `update_state` and `result`.

    Parameters
    ----------
    dtype : dtype, optional
        Of the result, of variables, and of predictions given as lists; float32 by default.
    name : str, optional

    Examples
    --------
    >>> class Rows(Metric):
    ...     def __init__(self, **options):
    ...         super().__init__(**options)
    ...         self.rows = self.add_variable((), "zeros", name="rows")
    ...
    ...     def update_state(self, y_true, y_pred, sample_weight=None):
    ...         self.rows.assign_add(len(y_true))
    ...
    ...     def result(self):
    ...         return self.rows.value
    >>> rows = Rows(name="seen")
    >>> print(rows([1, 2], None), rows([3], None), rows.variables[0].path)
    2.0 3.0 seen/rows
    """

    def __init__(self, dtype: Any = None, name: str | None = None) -> None:
        self._name = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()
        self._dtype = result_dtype(dtype)
        self._variables: list[Variable] = []
        self._asks: dict[str, Any] = {}
        self._config: tuple[str, ...] = ()  # arguments besides these two, which are attributes too

    @property
    def name(self) -> str:
        """What the metric is called."""
        return self._name

    @property
    def dtype(self) -> str:
        """Name of the dtype of the result."""
        return str(self._dtype)

    @property
    def variables(self) -> list[Variable]:
        """The variables of this metric (`total` and `count` for a mean), then those of metrics among its attributes."""
        inner = [value for value in vars(self).values() if isinstance(value, Metric)]
        return [*self._variables, *(variable for metric in inner for variable in metric.variables)]

    def add_variable(
        self,
        shape: Sequence[int],
        initializer: Any,
        dtype: Any = None,
        aggregation: str = "sum",
        name: str | None = None,
    ) -> Variable:
        """Make a variable that is reset and merged with this metric.

        Parameters
        ----------
        shape : tuple of int
        initializer : "zeros", "ones", array, or callable of (shape, dtype)
            None is "zeros".
        dtype : dtype, optional
            That of the metric by default.
        aggregation : str
            For Keras's sake; variables are always summed when metrics are merged.
        name : str, optional

        Returns
        -------
        Variable
        """
        if "_variables" not in vars(self):
            raise RuntimeError("You forgot to call `super().__init__()` in the `__init__()` method. Go add it!")
        kind, shape = self._dtype if dtype is None else result_dtype(dtype), tuple(shape)
        called = name or "variable"
        path = f"{self.name.replace('/', '>')}/{called}"
        variable = Variable(np.broadcast_to(initial(initializer, shape, kind), shape), kind, called, path)
        self._variables.append(variable)
        return variable

    def add_weight(
        self, shape: Sequence[int] = (), initializer: Any = None, dtype: Any = None, name: str | None = None
    ) -> Variable:
        """Make a variable, as `add_variable` does."""
        return self.add_variable(shape, initializer, dtype, name=name)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Take in more rows. If this raises, the metric is as it was before.

        Parameters
        ----------
        y_true : array
            Labels; NumPy, zarr or dask array, list or path.
        y_pred : array
            Predictions with a class axis; floating point, or lists of numbers.
        sample_weight : number or array, optional
            Along the leading axes of the rows, each axis of that length or 1. Finite; 0 hides whatever a row holds.

        Raises
        ------
        ValueError
            Shapes do not fit, a label is outside [0, classes), or a weight is not finite.
        """
        if not self._asks:
            raise NotImplementedError(f"{type(self).__name__} does not define update_state")
        asks = dict(self._asks)
        bare = np.dtype(np.float64 if self._dtype == np.float64 else np.float32)
        k, shape = asks.pop("sorted_ids", 0), {name: asks.pop(name) for name in ("axis", "dense")}
        inputs = open_inputs(y_true, y_pred, sample_weight, **shape, bare=bare, sorted_ids=bool(k))
        if k:
            asks["score"] = top_score(min(k, inputs.classes - 1))
        state = total(inputs, ask(inputs, **asks))
        for rows in state.total.totals.values():
            self.total.assign_add(rows)
        self.count.assign_add(state.total.weight)

    def result(self) -> Any:
        """Return the metric over all rows so far, as a NumPy scalar of the metric's dtype.

        A mean is the float64 nearest to the exact quotient, then `dtype`; 0 if the weights sum to 0.
        """
        if not self._asks:
            raise NotImplementedError(f"{type(self).__name__} does not define result")
        count = self.count.exact
        nothing = count.units == 0 and count.special is None
        with np.errstate(over="ignore", invalid="ignore"):
            return np.float64(0.0 if nothing else ratio(self.total.exact, count)).astype(self._dtype)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Update, and return the result over all rows so far."""
        self.update_state(*args, **kwargs)
        return self.result()

    def reset_state(self) -> None:
        """Set all variables to what they were at first."""
        for variable in self.variables:
            variable.reset()

    def reset_states(self) -> None:
        """Set all variables to what they were at first: the older name of `reset_state`."""
        self.reset_state()

    def merge_state(self, metrics: Iterable[Metric]) -> None:
        """Add what other metrics of this kind have taken in.

        Raises
        ------
        ValueError
            A metric is of another kind: another class, other options, or other variables. None is merged then.
        """
        metrics = list(metrics)
        for metric in metrics:
            if not isinstance(metric, Metric) or metric._kind() != self._kind():
                raise ValueError(f"Metric {metric} is not compatible with {self}")
        for values in [metric.stateless_variables() for metric in metrics]:
            for variable, value in zip(self.variables, values, strict=True):
                variable.assign_add(value)

    def stateless_variables(self) -> list[Variable]:
        """Return copies of the variables, as `stateless_update_state` takes and returns them."""
        return copy.deepcopy(self.variables)

    def stateless_update_state(self, metric_variables: Sequence[Any], *args: Any, **kwargs: Any) -> list[Variable]:
        """Return what the variables would be after an update; this metric stays as it is.

        Parameters
        ----------
        metric_variables : list of Variable, numbers or arrays
            One for each of `variables`. What this method returns is exact; a number is taken at its face value.
        *args, **kwargs
            As for `update_state`.

        Returns
        -------
        list of Variable
            They convert with `float` and `numpy.asarray`.
        """
        twin = self._twin(metric_variables)
        twin.update_state(*args, **kwargs)
        return twin.variables

    def stateless_result(self, metric_variables: Sequence[Any]) -> Any:
        """Return what the result would be with these variables; this metric stays as it is."""
        return self._twin(metric_variables).result()

    def stateless_reset_state(self) -> list[Variable]:
        """Return what the variables would be after a reset; this metric stays as it is."""
        twin = copy.deepcopy(self)
        twin.reset_state()
        return twin.variables

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make this metric again, without what it has taken in."""
        return {"name": self.name, "dtype": self.dtype} | {name: getattr(self, name) for name in self._config}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a metric from what `get_config` returned."""
        return cls(**config)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}>"

    def _average(self, score: str, *, dense: bool, axis: int = -1, from_logits: bool = True, **options: Any) -> None:
        """Be the weighted mean of a score over rows; as logits, predictions may be any numbers."""
        self._asks = {"score": score, "dense": dense, "axis": axis, "from_logits": from_logits, **options}
        self.total = self.add_variable((), "zeros", name="total")
        self.count = self.add_variable((), "zeros", name="count")

    def _kind(self) -> tuple[Any, ...]:
        options = {key: value for key, value in self.get_config().items() if key not in ("name", "dtype")}
        return type(self), options, [variable.shape for variable in self.variables]

    def _twin(self, metric_variables: Sequence[Any]) -> Self:
        twin = copy.deepcopy(self)
        if len(metric_variables) != len(twin.variables):
            raise ValueError(
                "Argument `metric_variables` must be a list of tensors corresponding 1:1 to "
                f"{type(self).__name__}().variables. Received list with length {len(metric_variables)}, but expected "
                f"{len(twin.variables)} variables."
            )
        for variable, value in zip(twin.variables, metric_variables, strict=True):
            variable.assign(value)
        return twin


def top_score(k: int) -> str:
    """Return the score that counts labels among the k largest."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(f"k: expected a whole number of at least 1, got {k!r}")
    return f"top_{k}_accuracy"
