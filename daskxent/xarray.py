"""An accessor for xarray: after ``import daskxent.xarray`` predictions evaluate themselves.

>>> import numpy as np
>>> import xarray
>>> import daskxent.xarray
>>> logits = xarray.DataArray(np.eye(3), dims=("time", "class"), coords={"time": [1, 2, 3]})
>>> labels = xarray.DataArray([0, 1, 1], dims="time", coords={"time": [1, 2, 3]})
>>> logits.xent.evaluate(labels, dim="class", from_logits=True)["accuracy"]
0.6666666666666666
>>> logits.xent.rows(labels, dim="class", from_logits=True, columns=["hit"])["hit"].sel(time=3).item()
False
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray

if TYPE_CHECKING:
    from daskxent.report import Report
    from daskxent.run.planning import Plan

__all__ = ["Xent"]


@xarray.register_dataarray_accessor("xent")
class Xent:
    """Evaluate an array of predictions: ``predictions.xent``.

    Parameters
    ----------
    predictions : xarray.DataArray
    """

    def __init__(self, predictions: xarray.DataArray) -> None:
        self._predictions = predictions

    def evaluate(self, labels: Any, **options: Any) -> Report:
        """Evaluate against labels, as `daskxent.evaluate` does with the same options."""
        from daskxent import api

        return api.evaluate(labels, self._predictions, **options)

    def rows(self, labels: Any, **options: Any) -> dict[str, Any]:
        """Return columns of every row with the coordinates of the predictions, as `daskxent.rows` does."""
        from daskxent import api

        return api.rows(labels, self._predictions, **options)

    def plan(self, labels: Any, **options: Any) -> Plan:
        """Say what `evaluate` would read, as `daskxent.plan` does."""
        from daskxent import api

        return api.plan(labels, self._predictions, **options)
