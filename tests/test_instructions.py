import itertools
from typing import Any

import ml_dtypes
import numba
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import draws

from daskxent.kernels import arithmetic, blocks, slabs
from daskxent.kernels.blocks import LANES, PITCH
from daskxent.kernels.llvm import across, along, compiling, instructions
from daskxent.kernels.llvm.vectors import VECTOR
from daskxent.numbers import records

STORED = {np.float16: np.uint16, ml_dtypes.bfloat16: np.int16}
DTYPES = [np.float32, np.float64, *STORED]
LOWEST = [-np.inf, -65000.0, -1000.0, -80.0, -0.0, 0.0]
FAR = 60_000.0  # a logit that every dtype holds and the vectorised loops treat

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*(overflow|invalid value):RuntimeWarning")]


def fresh(function: Any) -> Any:
    """Compile a function that is compiled anew for every setting of the switches."""
    return numba.njit(error_model="numpy")(function)


def along_row(row, base, ahead, out, peaks, floor, around, mass):
    floor[0], around[0] = arithmetic.grid(base, peaks[0])
    along.sum_logits(row, ahead, floor[0], around[0], out, 3, 1)
    along.sum_logits(row, ahead, floor[0], around[0], mass, 0, None)
    across.take_own(0, peaks, floor, around, mass, None)


def across_lanes(classes, tile, base, peak, floor, around, levels, mass):
    for i in range(LANES):
        floor[i], around[i] = arithmetic.grid(base[i], peak[i])
    for at in range(0, LANES, VECTOR):
        across.lane_logits(at, classes, tile, floor, around, levels, 1)
        across.take_own(at, peak, floor, around, levels, 1)
        across.lane_logits(at, classes, tile, floor, around, mass, None)
        across.take_own(at, peak, floor, around, mass, None)


def along_unit_row(row, mass):
    along.sum_probabilities(row, 0, mass, 3)


def across_unit_lanes(classes, tile, mass):
    for at in range(0, LANES, VECTOR):
        across.lane_probabilities(at, classes, tile, mass)


def widen_all(stored, out):
    for i in range(stored.size):
        out[i] = compiling.widen(stored[i])


SUMS = max(grid.sums for grid in records.LOGITS.values())
WAYS = [False, True]
FUNCTIONS = along_row, across_lanes, along_unit_row, across_unit_lanes
COMPILED = {(function, direct): fresh(function) for function, direct in itertools.product(FUNCTIONS, WAYS)}


@pytest.fixture(params=WAYS, ids=["in float64", "direct"])
def direct(request: Any, monkeypatch: Any) -> Any:
    """Round float32 to int64 one way and the other, whatever this processor does better."""
    monkeypatch.setattr(instructions, "DIRECT", request.param)
    return request.param


def logits(seed: int, shape: tuple[int, int], dtype: Any) -> Any:
    """Draw rows of several scales with ties, -inf and large gaps, a finite number in each."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape) * rng.choice([0.1, 1.0, 8.0, 100.0, 1e4], (shape[0], 1))
    values = np.where(rng.random(shape) < 0.1, rng.choice(LOWEST, shape), values)
    values = np.where(rng.random(shape) < 0.1, values.max(axis=1, keepdims=True), values)
    values[:, rng.integers(shape[1])] = rng.normal(size=shape[0])
    return values.clip(-np.inf, FAR).astype(dtype)


def units_of(values: Any) -> tuple[Any, Any, Any, Any]:
    """Return peaks, positions, the terms of rows at every level and those of the peaks, by the definition."""
    seen = records.scan(values, np.zeros(len(values), np.int64))
    wide = records.widen(values)
    terms = records._terms(wide, seen.base[:, None], seen.grid).sum(axis=2)
    return wide.dtype.type(seen.peak), seen.base, terms, seen.mass


cases = given(seed=st.integers(0, 10**6), size=st.integers(VECTOR, 70), dtype=st.sampled_from(DTYPES))
few = settings(draws(60), suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@cases
def test_a_row_has_the_units_of_the_definition_at_every_level(direct: bool, seed: int, size: int, dtype: Any) -> None:
    values = logits(seed, (1, size), dtype)
    peak, base, terms, rest = units_of(values)
    out, mass = np.full((SUMS, 5), -7), np.zeros((2, VECTOR), np.int64)
    row, (peaks, *grids) = values[0].view(STORED.get(dtype, dtype)), np.zeros((3, VECTOR), peak.dtype)
    peaks[0] = peak[0]
    COMPILED[along_row, direct](row, base[0], seed % 1000, out, peaks, *grids, mass)
    assert out[: len(terms), 3].tolist() == terms[:, 0].tolist()
    assert (out == -7).sum() == out.size - len(terms)
    grid = records.LOGITS[peak.dtype.name]
    assert mass[:, 0].tolist() == [rest[0, 0], rest[grid.levels, 0] if grid.integers == 2 else 0]


@few
@given(seed=st.integers(0, 10**6), classes=st.integers(1, 40), dtype=st.sampled_from([np.float32, np.float64]))
def test_lanes_have_the_units_of_the_definition_at_every_level(
    direct: bool, seed: int, classes: int, dtype: Any
) -> None:
    values = logits(seed, (LANES, classes), dtype)
    peak, base, _, rest = units_of(values)
    tile = np.zeros((classes, PITCH), dtype)
    tile[:, :LANES] = values.T
    floor, around = np.empty((2, LANES), dtype)
    levels, mass = np.full((SUMS, LANES), 5), np.full((2, LANES), 3)
    COMPILED[across_lanes, direct](classes, tile.ravel(), base, peak, floor, around, levels, mass)
    np.testing.assert_array_equal(levels[: len(rest)] - 5, rest)
    assert (levels[len(rest) :] == 5).all()
    grid = records.LOGITS[peak.dtype.name]
    np.testing.assert_array_equal(mass[0] - 3, rest[0])
    np.testing.assert_array_equal(mass[1] - 3, rest[grid.levels] if grid.integers == 2 else 0)


def probabilities(seed: int, shape: tuple[int, int], dtype: Any) -> Any:
    rng = np.random.default_rng(seed)
    values = rng.random(shape) ** rng.choice([1.0, 30.0], (shape[0], 1))
    return np.where(rng.random(shape) < 0.2, rng.choice([0.0, 1.0, 1e-7, -1.0, 2.0], shape), values).astype(dtype)


def probability_units(values: Any) -> Any:
    wide = records.widen(values)
    grid = records.PROBABILITIES[wide.dtype.name]
    return records._units(records.clip(wide).astype(np.float64) * 2.0**grid.unit, grid).sum(axis=2)


@few
@cases
def test_probabilities_of_a_row_have_the_units_of_the_definition(
    direct: bool, seed: int, size: int, dtype: Any
) -> None:
    values = probabilities(seed, (1, size), dtype)
    found, units = np.full((2, 5), -7), probability_units(values)[:, 0]
    COMPILED[along_unit_row, direct](values[0].view(STORED.get(dtype, dtype)), found)
    assert found[: len(units), 3].tolist() == units.tolist()
    assert (found == -7).sum() == found.size - len(units)


@few
@given(seed=st.integers(0, 10**6), classes=st.integers(1, 40), dtype=st.sampled_from([np.float32, np.float64]))
def test_probabilities_of_lanes_have_the_units_of_the_definition(
    direct: bool, seed: int, classes: int, dtype: Any
) -> None:
    values = probabilities(seed, (LANES, classes), dtype)
    tile = np.zeros((classes, PITCH), dtype)
    tile[:, :LANES] = values.T
    sums = np.full((2, LANES), 3)
    COMPILED[across_unit_lanes, direct](classes, tile.ravel(), sums)
    units = probability_units(values)
    np.testing.assert_array_equal(sums[: len(units)] - 3, units)
    assert (sums[len(units) :] == 3).all()


# Where the processor does not widen float16 itself, the other way would call a library that is not there.
@pytest.mark.parametrize("itself", [False, *([True] if instructions.WIDENS_HALF else [])])
@pytest.mark.parametrize("dtype", STORED)
def test_every_number_of_half_precision_is_widened(dtype: Any, itself: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(instructions, "WIDENS_HALF", itself)
    stored = np.arange(1 << 16).astype(STORED[dtype])
    out = np.empty(stored.size, np.float32)
    fresh(widen_all)(stored, out)
    want = stored.view(dtype).astype(np.float32)
    np.testing.assert_array_equal(out, want)
    np.testing.assert_array_equal(np.signbit(out), np.signbit(want))


ASKED = [(None, None, True), (None, "-avx2,-f16c", False), (None, "-avx2", True)]
ASKED += [("generic", "", False), ("generic", "+f16c,+avx2", True), ("haswell", None, False)]


@pytest.mark.parametrize(("name", "features", "expected"), ASKED)
def test_instructions_that_numba_is_asked_to_use_or_not_win(
    name: str | None, features: str | None, expected: bool, monkeypatch: Any
) -> None:
    monkeypatch.setattr(numba.config, "CPU_NAME", name)
    monkeypatch.setattr(numba.config, "CPU_FEATURES", features)
    monkeypatch.setattr(instructions, "_X86", True)
    monkeypatch.setattr("llvmlite.binding.get_host_cpu_features", lambda: {"f16c": True})
    assert instructions._has("f16c") is expected


def test_what_is_borrowed_is_the_same_memory_without_an_owner() -> None:
    @numba.njit
    def borrow(given):
        return compiling.borrowed(given)

    [(_, rows, _)] = slabs.slabs(np.zeros((3, 2, 1), np.float32), 3)
    rows = blocks.work_for(rows)._replace(mass=np.zeros((4, 3), np.int64)[::2], levels=1)
    found, (alone, number) = borrow((rows, (rows.hit, 7)))
    assert found._fields == rows._fields
    assert number == 7
    assert found.levels == 1
    for got, want in zip([*found, alone], [*rows, rows.hit], strict=True):
        if want is rows.levels:
            continue
        np.testing.assert_array_equal(got, want, strict=True)
        assert got.__array_interface__["data"][0] == want.__array_interface__["data"][0]
        assert got.base is None  # numba returns the very array of an owner
        assert not got.flags.owndata
