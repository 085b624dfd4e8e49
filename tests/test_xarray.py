"""Predictions with names: dimensions by name, results with coordinates, the accessor."""

import numpy as np
import pytest
import xarray
import zarr
from click.testing import CliRunner

import daskxent as dx
import daskxent.xarray
from daskxent import cli, losses

RNG = np.random.default_rng(3)
X = RNG.normal(0, 2, (6, 4, 5, 7)).astype("float32")
Y = RNG.integers(0, 4, (6, 5, 7))
COORDS = {"time": np.arange(6) * 10, "lat": [10.0, 0, -10, -20, -30], "place": ("lat", list("abcde"))}


@pytest.fixture
def maps():
    logits = xarray.DataArray(X, dims=("time", "class", "lat", "lon"), coords=COORDS | {"class": list("wxyz")})
    labels = xarray.DataArray(Y, dims=("time", "lat", "lon"), coords=COORDS)
    return labels, logits


def test_the_class_axis_by_name(maps):
    labels, logits = maps
    wanted = dx.evaluate(Y, X, from_logits=True, axis=1).state
    assert dx.evaluate(labels, logits, from_logits=True, dim="class").state == wanted
    assert dx.evaluate(labels, logits.chunk(time=2), from_logits=True, dim="class").state == wanted
    moved = logits.transpose("class", "lon", "time", "lat")
    assert (
        dx.evaluate(labels, moved, from_logits=True, dim="class")["accuracy"]
        == dx.evaluate(Y, X, from_logits=True, axis=1)["accuracy"]
    )


def test_names_of_zarr_arrays(tmp_path):
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(2, 4, 5, 7), dimension_names=["time", "class", "lat", "lon"])
    wanted = dx.evaluate(Y, X, from_logits=True, axis=1).state
    assert dx.evaluate(Y, tmp_path / "x.zarr", from_logits=True, dim="class").state == wanted
    np.save(tmp_path / "y.npy", Y)
    line = ["evaluate", f"{tmp_path}/y.npy", f"{tmp_path}/x.zarr", "--from-logits", "--dim", "class", "--json"]
    assert dx.Report.from_json(CliRunner().invoke(cli.main, line).stdout).state == wanted


def test_names_of_parts_of_zarr_arrays(tmp_path):
    names = ["time", "class", "lat", "lon"]
    square = RNG.normal(0, 2, (4, 4, 4, 4)).astype("float32")  # any axis could be the class axis
    zarr.create_array(tmp_path / "x.zarr", data=square, dimension_names=names)
    options, labels = {"from_logits": True, "dim": "class"}, RNG.integers(0, 4, (4, 4, 4))
    wanted = dx.evaluate(labels[..., 2], square[..., 2], from_logits=True, axis=1).state
    assert dx.evaluate(labels[..., 2], f"{tmp_path}/x.zarr[..., 2]", **options).state == wanted
    assert dx.evaluate(labels[1:, :, 2], dx.open(tmp_path / "x.zarr")[1:][..., 2], **options).rows == 12
    wanted = dx.evaluate(labels[0], square[0], from_logits=True, axis=0).state
    assert dx.evaluate(labels[0], f"{tmp_path}/x.zarr[0]", **options).state == wanted
    with pytest.raises(ValueError, match="dimension 'class' is not one of those of y_pred, time, lat, lon"):
        dx.evaluate(labels, f"{tmp_path}/x.zarr[:, 0]", **options)


def test_names_that_are_not_there(maps):
    labels, logits = maps
    for message, given, options in (
        ("dim: dimension 'klass' is not one of those of y_pred, time, class, lat, lon", logits, {"dim": "klass"}),
        ("dim: dimension 'class' is unknown: y_pred names none", X, {"dim": "class"}),
        ("dim: 'class' is an axis already; axis=2 is another", logits, {"dim": "class", "axis": 2}),
    ):
        with pytest.raises(ValueError, match=message):
            dx.evaluate(labels, given, from_logits=True, **options)
    with pytest.raises(TypeError, match="dim: expected a name, got 1"):
        dx.evaluate(labels, logits, from_logits=True, dim=1)


@pytest.mark.parametrize("chunked", [False, True])
def test_columns_of_rows_keep_their_coordinates(maps, chunked):
    labels, logits = maps
    given = logits.chunk(time=2) if chunked else logits
    rows = dx.rows(labels, given, from_logits=True, dim="class", columns=["loss", "prediction"])
    plain = dx.rows(Y, X, from_logits=True, axis=1, columns=["loss", "prediction"])
    assert rows["loss"].dims == ("time", "lat", "lon")
    assert set(rows["loss"].coords) == set(COORDS)
    for name, values in plain.items():
        assert np.array_equal(rows[name].values, values)
    assert float(rows["loss"].sel(time=30, lat=-10)[2]) == plain["loss"][3, 2, 2]
    assert isinstance(plain["loss"], np.ndarray)


def test_joined_coordinates_are_those_of_the_result(maps):
    labels, logits = maps
    rows = dx.rows(labels[2:], logits[:5], from_logits=True, dim="class", join="inner", columns=["hit"])
    assert rows["hit"].time.values.tolist() == [20, 30, 40]


def test_the_accessor(maps):
    labels, logits = maps
    options = {"dim": "class", "from_logits": True}
    assert logits.xent.evaluate(labels, **options).state == dx.evaluate(Y, X, from_logits=True, axis=1).state
    assert logits.xent.plan(labels, **options).rows == Y.size
    assert logits.xent.rows(labels, columns=["hit"], **options)["hit"].dims == ("time", "lat", "lon")


@pytest.mark.parametrize("chunked", [False, True])
def test_losses_of_rows_keep_coordinates(maps, chunked):
    labels, logits = maps
    given = logits.chunk(time=2) if chunked else logits
    wanted = losses.sparse_categorical_crossentropy(Y, X, from_logits=True, axis=1)
    each = losses.SparseCategoricalCrossentropy(from_logits=True, axis=1, reduction="none")
    for found in (losses.sparse_categorical_crossentropy(labels, given, from_logits=True, axis=1), each(labels, given)):
        assert found.dims == ("time", "lat", "lon")
        assert (found.chunks is not None) is chunked
        assert found.coords.identical(labels.coords)
        np.testing.assert_array_equal(found.values, wanted, strict=True)
    hot = xarray.DataArray(np.eye(4)[Y], dims=("time", "lat", "lon", "class")).transpose(*logits.dims)
    dense = losses.categorical_crossentropy(hot, given, from_logits=True, axis=1)
    assert dense.coords.identical(labels.coords)
    np.testing.assert_array_equal(dense.values, wanted, strict=True)
    assert isinstance(losses.SparseCategoricalCrossentropy(from_logits=True, axis=1)(labels, logits), np.float32)


@pytest.mark.parametrize("name", ["sample_weight", "mask", "clusters", "by"])
def test_coordinates_that_any_array_leaves_are_those_of_the_result(maps, name):
    labels, logits = maps
    few = xarray.DataArray(np.array([3, 1, 2]), dims="time", coords={"time": [50, 0, 20]})
    given = {name: {"group": few} if name == "by" else few}
    rows = dx.rows(labels, logits, from_logits=True, dim="class", join="inner", columns=["loss", "weight"], **given)
    plain = dx.rows(Y, X, from_logits=True, axis=1, columns=["loss"])["loss"]
    assert rows["loss"].dims == ("time", "lat", "lon")
    assert sorted(rows["loss"].time.values) == [0, 20, 50]
    for time in (0, 20, 50):
        assert np.array_equal(rows["loss"].sel(time=time), plain[time // 10])
        if name == "sample_weight":
            assert (rows["weight"].sel(time=time) == few.sel(time=time)).all()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("dims", ["stc", "sct", "cst"])
def test_shifted_rows_have_the_coordinates_of_their_predictions(dims, chunked):
    coords = {"s": [3, 1, 2], "t": [10, 20, 30, 40], "word": ("t", list("abcd"))}
    logits = xarray.DataArray(X[:3, :, :4, 0], dims=("s", "c", "t"), coords=coords).transpose(*dims)
    labels = xarray.DataArray(Y[:3, :4, 0], dims=("s", "t"), coords=coords)
    given = logits.chunk(s=2) if chunked else logits
    rows = dx.rows(labels, given, from_logits=True, dim="c", shift=1, columns=["loss", "label"])
    assert rows["label"].t.values.tolist() == [10, 20, 30]
    assert rows["loss"].word.values.tolist() == ["a", "b", "c"]
    assert np.array_equal(rows["label"], Y[:3, 1:4, 0])
    plain = dx.rows(Y[:3, :4, 0], X[:3, :, :4, 0], axis=1, from_logits=True, shift=1, columns=["loss"])
    assert np.array_equal(rows["loss"], plain["loss"])


@pytest.mark.parametrize("column", [False, True])
def test_binary_predictions_have_no_dimension_of_classes(column):
    logits = xarray.DataArray(X[..., 0, 0], dims=("s", "t"), coords={"s": range(6), "t": range(4)})
    labels, weights = (Y[:, :4, 0] > 1).astype(int), np.arange(4.0)
    given = logits.expand_dims("c", -1) if column else logits
    wanted = dx.rows(labels, X[..., 0, 0], from_logits=True, binary=True, columns=["loss"])["loss"]
    rows = dx.rows(
        xarray.DataArray(labels.T, dims=("t", "s")), given, from_logits=True, binary=True, columns=["loss", "weight"],
        sample_weight=xarray.DataArray(weights, dims="t"),
    )  # fmt: skip
    assert rows["loss"].dims == ("s", "t")
    assert set(rows["loss"].coords) == {"s", "t"}
    assert np.array_equal(rows["loss"][:, 1:], wanted[:, 1:])  # a weight of 0 hides the others
    assert (rows["weight"] == weights).all()
