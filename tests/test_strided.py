"""Rows that do not lie side by side in memory are read as they are."""

import ml_dtypes
import numpy as np
import pytest
import sized

import daskxent as dx

CUTS = {
    "columns": lambda x: x[:, :300],
    "every second column": lambda x: x[:, ::2],
    "every second row": lambda x: x[::2],
    "backwards": lambda x: x[::-1],
    "one row": lambda x: x[3:4, ::4],
    "maps": lambda x: np.moveaxis(x.reshape(60, 4, 300), 1, 2)[:, :, 0],
}


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float32", "float64"], ids=str)
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_strided_predictions_give_the_bits_of_contiguous_ones(dtype, cut, monkeypatch):
    sized.give(monkeypatch, few=0)
    rng = np.random.default_rng(0)
    x = cut(rng.normal(0, 2, (60, 1200)).astype(dtype))
    labels = rng.integers(0, x.shape[1], len(x))
    wanted = dx.evaluate(labels, np.ascontiguousarray(x), from_logits=True, threads=1)
    assert dx.evaluate(labels, x, from_logits=True, threads=1) == wanted
