import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import draws

import daskxent
from daskxent import kernels
from daskxent.kernels import slabs
from daskxent.kernels.crossentropy import excess_of, log1p, unit_loss
from daskxent.kernels.llvm import compiling
from daskxent.kernels.sums import add_placed, exact_sums
from daskxent.numbers import records as rows
from daskxent.numbers import sums, tables
from daskxent.numbers.crossentropy import dense_losses
from daskxent.numbers.exact import UNIT_BITS, ExactSum

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
CLASSES = [1, 2, 17, 100, 149, 150, 255, 257, 1025, 8200]
SPECIAL = [-np.inf, np.inf, np.nan, -np.nan, 0.0, -0.0, 1e-40, -1e-40, 6e-8, 65504.0, -65504.0, 60000.0, -60000.0]
SPECIAL += [262015.9, 262016.0, 262144.0, -262144.0, 3e5, -3e5, 1e9, -1e9, 2.0**30, -1.2e9, 1e30, -1e30, 3e38, -3e38]
SPECIAL += [-(2.0**30)]
MODES: list[dict[str, Any]] = [
    {},
    {"probabilities": True},
    {"mass": False},
    {"mass": False, "probabilities": True},
    {"top": 1},
    {"top": 7, "first": 5},
]

pytestmark = pytest.mark.filterwarnings("ignore:.*(overflow|invalid value):RuntimeWarning")


def assert_same(got: rows.Records, want: rows.Records) -> None:
    assert got.grid == want.grid
    for field, a, b in zip(want._fields[1:], got[1:], want[1:], strict=True):
        assert a.dtype == b.dtype, field
        np.testing.assert_array_equal(a, b, err_msg=field, strict=True)


def assert_like_rows(values: Any, labels: Any, **mode: Any) -> None:
    flat = np.moveaxis(values, 1, -1).reshape(len(labels), values.shape[1])
    want = rows.scan(flat, labels, **mode)
    assert_same(kernels.scan(values, labels, **mode), want)


def predictions(rng: Any, shape: tuple[int, ...], dtype: Any, special: int) -> Any:
    """Draw logits and probabilities of several scales, rows of huge numbers, ties, and special ones here and there."""
    scale = rng.choice([0.1, 1.0, 5.0, 100.0, 1e4], (shape[0], 1, shape[2]))
    values = np.where(rng.random((shape[0], 1, shape[2])) < 0.3, rng.random(shape), rng.normal(size=shape) * scale)
    far = rng.random((shape[0], 1, shape[2])) < 0.1
    values = np.where(far, rng.choice(SPECIAL, far.shape) + np.rint(values), values)
    flat = values.reshape(-1)
    flat[rng.integers(0, flat.size, special)] = rng.choice(SPECIAL, special)
    ties = rng.integers(0, flat.size - 1, flat.size // 20)
    flat[ties] = flat[ties + 1]
    return values.astype(dtype)


def labels_of(rng: Any, values: Any) -> Any:
    return rng.integers(-1, values.shape[1] + 2, values.shape[0] * values.shape[2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", CLASSES)
def test_scan_of_rows(dtype: Any, classes: int) -> None:
    rng = np.random.default_rng(classes)
    n = 150 if classes < 300 else 12
    values = predictions(rng, (n, classes, 1), dtype, n // 3)
    for mode in MODES:
        assert_like_rows(values, labels_of(rng, values), **mode)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(1, 3, 200), (2, 21, 70), (3, 1, 5), (40, 50, 3), (1, 300, 130), (1, 600, 9)])
def test_scan_of_maps(dtype: Any, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(shape[1])
    values = predictions(rng, shape, dtype, 30)
    for mode in MODES:
        assert_like_rows(values, labels_of(rng, values), **mode)


VIEWS = {
    "every other row": lambda x: x[::2],
    "every other class": lambda x: x[:, ::2],
    "backwards": lambda x: x[::-1, ::-1],
    "class axis first in memory": lambda x: np.asfortranarray(x),
    "class axis last in memory": lambda x: np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1),
    "every other position": lambda x: x[:, :, ::2],
    "some classes": lambda x: x[:, :-2],
    "the same row": lambda x: np.broadcast_to(x[:1], x.shape),
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "no rows": lambda x: x[:0],
    "no classes": lambda x: x[:, :0],
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shape", [(150, 5, 1), (20, 300, 1), (3, 9, 60)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_scan_of_views(dtype: Any, view: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    values = VIEWS[view](predictions(rng, shape, dtype, 5))
    labels = labels_of(rng, values)
    assert_like_rows(values, labels)
    assert_like_rows(values, labels, top=2)


@draws(100)
@given(st.data())
def test_slabs_hold_the_rows_in_their_order(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    whole = np.arange(2 * 40 * 90).reshape(2, 40, 90) % 251
    view = whole.transpose(data.draw(st.permutations(range(3))))
    for axis in range(3):
        view = np.moveaxis(np.moveaxis(view, axis, 0)[data.draw(st.slices(view.shape[axis]))], 0, axis)
    view = view if data.draw(st.booleans()) else view[:, :, :1]
    values = view.astype(dtype, order="K") if data.draw(st.booleans()) else whole.astype(dtype)[:, :, :1][:, :0:-1]
    if not values.size:
        return
    wanted, found = np.moveaxis(values, 1, -1).reshape(-1, values.shape[1]), []
    for some, lying, first in slabs.slabs(values, most := data.draw(st.integers(1, 200))):
        i, j = np.ogrid[first : first + some.stop - some.start, : lying.classes]
        stored = lying.numbers[i // lying.after * lying.pitch + j * lying.after + i % lying.after]
        np.testing.assert_array_equal(stored.view(dtype) if stored.dtype.kind in "ui" else stored, wanted[some])
        assert some.stop - some.start <= most
        found.append(some)
    assert [some.start for some in found] == [0, *(some.stop for some in found[:-1])]
    assert found[-1].stop == len(wanted)


def test_many_rows_are_copied_a_few_at_a_time() -> None:
    values = predictions(np.random.default_rng(2), (2, 21, 2 * slabs.COPIED // 21), np.float16, 50)
    assert_like_rows(values, labels_of(np.random.default_rng(3), values))


@draws(150)
@given(st.data())
def test_scan_of_anything(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 140), st.integers(1, 3)))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    number = st.one_of(st.sampled_from(SPECIAL), st.floats(-20, 20, width=32), st.floats(width=32))
    values = predictions(np.random.default_rng(data.draw(st.integers(0, 99))), shape, dtype, 3)
    for at in data.draw(st.lists(st.integers(0, values.size - 1), max_size=8)):
        values.reshape(-1)[at] = data.draw(number)
    labels = labels_of(np.random.default_rng(1), values)
    assert_like_rows(values, labels, **data.draw(st.sampled_from(MODES)))


@pytest.mark.parametrize("classes", [10, 300])
def test_merged_parts_of_the_class_axis_are_the_whole(classes: int) -> None:
    rng = np.random.default_rng(1)
    values = predictions(rng, (200, classes, 1), np.float32, 40)
    labels = labels_of(rng, values)
    for cut in (1, classes // 3, classes - 1):
        for mode in ({}, {"top": 3}):
            parts = [kernels.scan(values[:, :cut], labels, **mode), kernels.scan(values[:, cut:], labels, cut, **mode)]
            assert_same(rows.merge(*parts), kernels.scan(values, labels, **mode))


@pytest.mark.parametrize("classes", [2, 1000])
@pytest.mark.parametrize("special", [(np.nan, -0.5), (-np.inf, -0.5), (-np.inf, 0.5), (np.nan, 0.5), (np.nan, -np.inf)])
def test_no_special_number_hides_another_below_0(special: tuple[float, float], classes: int) -> None:
    values = np.full((1, classes, 1), 0.25, np.float32)
    values[0, [0, -1], 0] = special
    assert_like_rows(values, np.array([0]), probabilities=True)
    assert_like_rows(values[:, ::-1], np.array([0]), probabilities=True)


@pytest.mark.parametrize("classes", [3, 1000])
def test_tie_of_zeros_goes_to_the_first(classes: int) -> None:
    values = np.full((1, classes, 1), -1, np.float32)
    values[0, 1], values[0, -1] = -0.0, 0.0
    assert kernels.scan(values, np.array([0])).best[0] == 1


CACHED = """
from daskxent.kernels import sums
import numpy as np
sums.add_placed(np.zeros((1, 6), np.int64), np.zeros(1, np.int64), np.ones(1))
print(sum(sums._add_placed._call.stats.cache_hits.values()))
"""


def test_all_kernels_are_sources_of_compiled_code() -> None:
    package = Path(daskxent.__file__).parent
    assert {path.relative_to(package).as_posix() for path in package.glob("kernels/**/*.py")} < set(compiling.SOURCES)


@pytest.mark.slow
@pytest.mark.parametrize("name", [compiling.SOURCES[0], compiling.SOURCES[-1]])
def test_compiled_code_is_kept_until_any_of_its_sources_changes(tmp_path: Any, name: str) -> None:
    package = shutil.copytree(Path(daskxent.__file__).parent, tmp_path / "daskxent", ignore=lambda *_: ["__pycache__"])

    def hits() -> int:
        run = subprocess.run([sys.executable, "-c", CACHED], cwd=tmp_path, capture_output=True, text=True, check=True)
        return int(run.stdout)

    if name == compiling.SOURCES[0]:
        assert (hits(), hits()) == (0, 1)
    with (package / name).open("a") as source:
        source.write("# changed\n")
    assert hits() == 0


def exact_sum(terms: Any) -> ExactSum:
    return exact_sums(np.asarray(terms, np.float64))[0]


@draws(200)
@given(st.lists(st.floats(), max_size=300), st.randoms(use_true_random=False))
def test_exact_sum(terms: list[float], random: Any) -> None:
    places = np.array([random.randrange(3) for _ in terms], np.int64)
    numbers = np.array(terms, np.float64)
    assert exact_sum(numbers) == ExactSum.of(numbers)
    found = []
    for add in (add_placed, tables.add_terms):
        digits = np.zeros((3, len(tables.GRID_BITS)), np.int64)
        rare = add(digits, places, numbers)
        found.append((digits.tolist(), rare.tolist()))
        for place in range(3):
            units = sum(int(k) << (UNIT_BITS - bits) for k, bits in zip(digits[place], tables.GRID_BITS, strict=True))
            apart = ExactSum.of(numbers[rare & (places == place)])
            assert ExactSum(units) + apart == ExactSum.of(numbers[places == place])
    assert found[0] == found[1]


@draws(200)
@given(st.lists(st.tuples(st.floats(), st.floats(), st.integers(0, 1)), min_size=1, max_size=300))
def test_sums_of_a_column(rows: list[tuple[float, float, int]]) -> None:
    values, weights, status = (np.array(each) for each in zip(*rows, strict=True))
    for some in (None, weights):
        for shown in (None, status.astype(np.uint16)):
            assert exact_sums(values, some, shown) == sums.exact_sums(values, some, shown)
    assert exact_sums(values > 0, weights) == sums.exact_sums(values > 0, weights)
    assert exact_sums(values)[0] == ExactSum.of(values)


def test_columns_that_do_not_fit_are_refused() -> None:
    for more in ({"weights": np.ones(2)}, {"status": np.ones(2, np.uint16)}):
        with pytest.raises(ValueError, match=r"expected shape \(3,\) for as many rows"):
            exact_sums(np.ones(3), **more)


def test_a_place_without_a_sum_is_refused() -> None:
    for places in ([0, 3], [-1, 0], [0]):
        with pytest.raises(ValueError, match="places: expected"):
            add_placed(np.zeros((3, 6), np.int64), np.array(places), np.ones(2))


@pytest.mark.parametrize("exponent", range(-1074, 1024, 61))
def test_exact_sum_of_every_magnitude(exponent: int) -> None:
    rng = np.random.default_rng(exponent + 2000)
    terms = np.ldexp(rng.normal(size=700), np.minimum(rng.integers(exponent - 60, exponent + 1, 700), 1020))
    assert exact_sum(terms) == ExactSum.of(terms)
    assert exact_sum(np.concatenate([terms, -terms])) == ExactSum()


def test_usual_losses_are_summed_on_the_grids() -> None:
    terms = np.random.default_rng(0).exponential(size=5000)
    for scale in (2.0**-40, 1.0, 2.0**14):
        assert exact_sum(terms * scale) == ExactSum.of(terms * scale)


def test_no_multiplication_is_fused_with_an_addition() -> None:
    # A fused one rounds once instead of twice: other bits on processors that have it.
    def loss(high: Any, base: Any, peak: Any) -> Any:
        return log1p(excess_of(high, high, base, np.float64(peak), peak)) + unit_loss(high, high, peak)

    fresh = numba.njit(nogil=True, error_model="numpy")(loss)
    fresh(np.int64(3), np.int64(1), 0.5)
    text = "".join(fresh.inspect_asm().values())
    assert re.search(r"v?mulpd|v?mulsd|fmul", text)
    assert not re.search(r"v?fn?m(add|sub)\w*|fmla|fmls", text)


@pytest.mark.parametrize("label_dtype", ["float32", "float64", "bool"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize(("n", "classes"), [(1, 1), (13, 1000), (130, 33)])
def test_losses_of_dense_labels_have_the_bits_of_their_definition(n, classes, probabilities, dtype, label_dtype):
    rng = np.random.default_rng(n)
    x = predictions(rng, (n, classes, 1), dtype, 3)[:, :, 0]
    if probabilities:
        x = np.abs(x.astype("f8"))
        x = np.where(rng.random(x.shape) < 0.2, 0, x / np.maximum(x.sum(axis=1, keepdims=True), 1e-9)).astype(dtype)
        x[n // 2] = 0
    soft = rng.random((n, classes)) * rng.integers(-1, 3, (n, classes))
    soft[0, 0], soft[-1, -1] = (np.nan, np.inf) if n > 1 else (0.5, 0.5)
    hot = np.eye(classes)[rng.integers(0, classes, n)]
    found = rows.scan(x, np.zeros(n, np.int64), probabilities=probabilities)
    for labels in (hot.astype(label_dtype), *([soft.astype(label_dtype)] if "float" in label_dtype else [])):
        for options in ({}, {"smoothing": 0.1}, {"smoothing": 1.0, "class_weight": tuple(rng.random(classes))}):
            want = dense_losses(x, labels, found, **options)
            np.testing.assert_array_equal(kernels.dense_losses(x, labels, found, **options), want)
            np.testing.assert_array_equal(
                kernels.dense_losses(x[:, ::-1], labels[:, ::-1], found)[::-1],
                dense_losses(x[:, ::-1], labels[:, ::-1], found)[::-1],
            )


def test_dense_losses_read_no_further_than_their_arrays():
    x = np.zeros((3, 4))
    found = rows.scan(x, np.zeros(3, np.int64))
    for labels, records, weights in (
        (np.eye(4), found, ()),
        (np.eye(4)[:3, :3], found, ()),
        (np.eye(4)[:3], rows.scan(x[:2], np.zeros(2, np.int64)), ()),
        (np.eye(4)[:3], found, (1.0, 2.0)),
    ):
        with pytest.raises(ValueError, match=r"labels: expected shape \(3, 4\)"):
            kernels.dense_losses(x, labels, records, class_weight=weights)
