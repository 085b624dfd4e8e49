"""What inputs say about themselves: names of axes, coordinates, attributes."""

import base64
import struct
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr

import daskxent as dx

CLASSES = 3
RNG = np.random.default_rng(0)
X = RNG.normal(0, 3, (6, 4, CLASSES)).astype("f4")
Y = RNG.integers(0, CLASSES, (6, 4))
LAT, LON = [-50, -30, -10, 10, 30, 50], list("abcd")
PRED = xr.DataArray(X, dims=("lat", "lon", "class"), coords={"lat": LAT, "lon": LON})
OBS = xr.DataArray(Y, dims=("lat", "lon"), coords={"lat": LAT, "lon": LON})
WANTED = dx.evaluate(Y, X, from_logits=True)


def by_evaluate(y, x, w=None, axis=-1):
    return dx.evaluate(y, x, sample_weight=w, from_logits=True, axis=axis)["crossentropy"]


def by_loss(y, x, w=None, axis=-1):
    loss = dx.losses.SparseCategoricalCrossentropy(
        True, axis=axis, dtype="float64", reduction="mean_with_sample_weight"
    )
    return float(loss(y, x, w))


def by_metric(y, x, w=None, axis=-1):
    return float(dx.metrics.SparseCategoricalCrossentropy(from_logits=True, axis=axis, dtype="float64")(y, x, w))


CALLS = {"evaluate": by_evaluate, "loss": by_loss, "metric": by_metric}


@pytest.mark.parametrize("call", CALLS)
def test_names_decide_which_axis_is_which(call):
    ask, wanted = CALLS[call], WANTED["crossentropy"]
    assert ask(OBS, PRED) == wanted
    assert ask(OBS.transpose("lon", "lat"), PRED) == wanted
    assert ask(OBS.T, PRED.transpose("lon", "class", "lat"), axis=1) == wanted
    w = RNG.random((6, 4))
    weights = xr.DataArray(w, dims=("lat", "lon"))
    weighted = ask(Y, X, w)
    assert ask(OBS, PRED, weights.T) == weighted
    by_lon = ask(Y, X, np.broadcast_to(w[0], (6, 4)))
    assert ask(OBS, PRED, xr.DataArray(w[0], dims="lon")) == by_lon
    assert ask(OBS, PRED.T, xr.DataArray(w[0], dims="lon"), axis=0) == by_lon
    assert ask(xr.DataArray(Y), xr.DataArray(np.moveaxis(X, 2, 0)), axis=0) == wanted  # dim_0 is no name
    assert ask(OBS.rename(lat="y", lon="x").drop_vars(["x", "y"]), PRED) == wanted


@pytest.mark.parametrize("call", CALLS)
def test_coordinates_that_differ_are_refused(call):
    ask = CALLS[call]
    for obs, message in (
        (OBS[::-1], r"y_pred: its coordinates along 'lat' differ from those of y_true: -50 instead of 50 at index 0"),
        (OBS.assign_coords(lat=OBS.lat + 1000), "y_pred: its coordinates along 'lat' differ .* -50 instead of 950 at"),
        (OBS.assign_coords(lon=list("abdc")), "'lon' differ .*: c instead of d at index 2"),
        (OBS[:5], "y_pred: 6 coordinates along 'lat', but 5 in y_true"),
    ):
        with pytest.raises(ValueError, match=message):
            ask(obs, PRED)
    with pytest.raises(ValueError, match="sample_weight: its coordinates along 'lat' differ from those of y_true"):
        ask(OBS, PRED, xr.DataArray(np.ones(6), dims="lat", coords={"lat": LAT[::-1]}))
    assert ask(OBS.drop_vars("lat"), PRED) == WANTED["crossentropy"]
    obs, pred = xr.align(OBS[::-1], PRED, join="right")
    assert ask(obs, pred) == WANTED["crossentropy"]


def test_a_class_axis_among_the_labels_is_a_contradiction():
    with pytest.raises(ValueError, match=r"y_true: its dimensions .* hold 'class', the class axis of y_pred"):
        dx.evaluate(OBS.rename(lon="class").drop_vars("class"), PRED, from_logits=True)
    with pytest.raises(ValueError, match="sample_weight: its dimension 'time' is not one of those of y_pred"):
        dx.evaluate(OBS, PRED, sample_weight=xr.DataArray(np.ones((6, 4)), dims=("lat", "time")), from_logits=True)
    hot = xr.DataArray(np.eye(CLASSES)[Y], dims=("lat", "lon", "class"))
    assert dx.evaluate(hot.transpose("class", "lat", "lon"), PRED, from_logits=True).state == WANTED.state


def stored(path, name, values, attributes):
    z = zarr.create_array(path, name=name, shape=values.shape, dtype=values.dtype, attributes=attributes)
    z[...] = values
    return path / name


@pytest.mark.parametrize(
    ("which", "dtype", "attributes"),
    [
        ("y_pred", "f4", {"scale_factor": 0.01}),
        ("y_pred", "f4", {"add_offset": 1.0, "scale_factor": 1.0}),
        ("y_pred", "f4", {"missing_value": -9999.0}),
        ("y_pred", "f4", {"_FillValue": base64.b64encode(struct.pack("<d", 0.0)).decode()}),
        ("y_pred", "f4", {"valid_range": [-1.0, 1.0]}),
        ("y_true", "i2", {"_FillValue": -1}),
        ("y_true", "u1", {"_Unsigned": "false"}),
        ("y_true", "i1", {"_Unsigned": "true"}),
        ("sample_weight", "u1", {"scale_factor": 0.05, "add_offset": 1.0}),
        ("sample_weight", "u1", {"_FillValue": 255}),
        ("sample_weight", "f8", {"valid_max": 3}),
    ],
    ids=str,
)
def test_attributes_that_change_numbers_are_refused_by_name(tmp_path, which, dtype, attributes):
    arrays = {"y_true": Y, "y_pred": X, "sample_weight": np.ones((6, 4))}
    arrays[which] = stored(tmp_path, which, arrays[which].astype(dtype), attributes)
    refused = next(name for name in (*attributes,) if name != "scale_factor" or attributes[name] != 1)
    refused = "scale_factor" if "scale_factor" in attributes and attributes["scale_factor"] != 1 else refused
    weights = {"sample_weight": arrays.pop("sample_weight")}
    loss = dx.losses.SparseCategoricalCrossentropy(from_logits=True)
    metric = dx.metrics.SparseCategoricalCrossentropy(from_logits=True)
    opened = {name: zarr.open(array) if hasattr(array, "parent") else array for name, array in arrays.items()}
    for given in (arrays, opened):
        for call in (dx.evaluate, dx.plan, loss, metric):
            with pytest.raises(ValueError, match=f"{which}: its attribute {refused}=.* changes what its numbers mean"):
                call(*given.values(), **weights)
    labelled = xr.DataArray(np.asarray(zarr.open(tmp_path / which)), attrs=attributes)
    arrays, weights = (
        (arrays, {"sample_weight": labelled}) if which in weights else ({**arrays, which: labelled}, weights)
    )
    with pytest.raises(ValueError, match=f"{which}: its attribute {refused}="):
        dx.evaluate(*arrays.values(), **weights)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_xarray_writes_of_itself_is_taken(tmp_path, zarr_format):
    dataset = xr.Dataset({"logits": PRED, "labels": OBS, "w": ("lat", np.arange(6.0))})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.to_zarr(tmp_path / "a.zarr", zarr_format=zarr_format, consolidated=False)
    at = tmp_path / "a.zarr"
    assert dx.evaluate(at / "labels", at / "logits", from_logits=True).state == WANTED.state
    assert dx.evaluate(at / "labels", at / "logits", sample_weight=at / "w", from_logits=True).weight == 60
    harmless = {"scale_factor": 1.0, "add_offset": 0, "_FillValue": "NaN", "units": "nats", "long_name": "scale_factor"}
    assert dx.evaluate(Y, stored(tmp_path, "x", X, harmless), from_logits=True).state == WANTED.state


@pytest.mark.parametrize(
    ("dtype", "ignore"), [("uint8", -1), ("uint8", 256), ("int8", 255), ("uint64", -100), ("bool", 2), ("int16", 2**15)]
)
def test_a_class_that_no_label_can_be_is_not_ignored(dtype, ignore):
    labels = np.zeros((6, 4), dtype)
    message = f"ignore_class: no label is {ignore}, as their dtype is {dtype}"
    for call in (dx.evaluate, dx.plan, dx.stream, dx.delayed, dx.rows):
        with pytest.raises(ValueError, match=message):
            call(labels, X, from_logits=True, ignore_class=ignore)
    for kind in (dx.losses, dx.metrics):
        with pytest.raises(ValueError, match=message):
            kind.SparseCategoricalCrossentropy(from_logits=True, ignore_class=ignore)(labels, X)


@pytest.mark.parametrize("chunks", [None, 2])
@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1), [3, 0, 5, 1]])
def test_coordinates_are_joined_if_asked(chunks, order):
    rng = np.random.default_rng(0)
    coords = {"lat": [-50, -30, -10, 10, 30, 50]}
    pred = xr.DataArray(rng.normal(0, 3, (6, 4, 3)), dims=("lat", "lon", "class"), coords=coords)
    obs = xr.DataArray(rng.integers(0, 3, (6, 4)), dims=("lat", "lon"), coords=coords)
    w, band = xr.DataArray(np.arange(6.0) + 1, dims="lat", coords=coords), pred.lat > 0
    given = {"y_true": obs[order], "sample_weight": w[::-1], "by": {"north": band[::-1]}}
    given["y_pred"] = pred if chunks is None else pred.chunk(lat=chunks)
    some = obs[order].sortby("lat").lat
    report = dx.evaluate(**given, join="inner", from_logits=True)
    picked = {"y_true": obs.sel(lat=some), "y_pred": pred.sel(lat=some), "sample_weight": w.sel(lat=some)}
    expected = dx.evaluate(**picked, by={"north": band.sel(lat=some)}, from_logits=True)
    assert report.metrics == expected.metrics
    assert report.state.tables == expected.state.tables
    with pytest.raises(ValueError, match="join='inner' keeps what all have"):
        dx.evaluate(**given, from_logits=True)
    far = obs.assign_coords(lat=obs.lat + 1000)
    with pytest.raises(ValueError, match="join: y_true and the others have no coordinate along 'lat' in common"):
        dx.evaluate(far, pred, join="inner", from_logits=True)
    twice = obs.assign_coords(lat=[0, 0, 1, 2, 3, 4])
    with pytest.raises(ValueError, match="join: the coordinates of y_true, y_pred cannot be joined"):
        dx.evaluate(twice, pred, join="inner", from_logits=True)
