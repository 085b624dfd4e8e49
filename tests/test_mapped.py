"""Arrays inside safetensors and .npz files, as their own libraries write them."""

import json
import os
import pickle
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import daskxent as dx
from daskxent.sources.opening import open_array

ROWS, CLASSES = 900, 37


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return {
        "labels": rng.integers(0, CLASSES, ROWS),
        "unaligned": np.zeros(3, np.uint8),  # what follows is not aligned in an .npz
        "logits": rng.normal(0, 3, (ROWS, CLASSES)).astype("float32"),
        "weights": rng.random(ROWS),
    }


@pytest.fixture(params=["safetensors", "npz"])
def file(request, data, tmp_path):
    path = tmp_path / f"rank0.{request.param}"
    if request.param == "npz":
        np.savez(path, **data)
    else:
        save_file(data, path)
    return path


def test_arrays_inside_a_file(file, data, tmp_path):
    options = {"sample_weight": f"{file}/weights", "from_logits": True}
    whole = dx.evaluate(data["labels"], data["logits"], sample_weight=data["weights"], from_logits=True)
    found = dx.evaluate(f"{file}/labels", f"{file}/logits", **options)
    assert found.state == whole.state
    lazy = dx.open(f"{file}/logits")[10:20, ::1]
    assert np.array_equal(np.asarray(lazy), data["logits"][10:20])
    assert found.inputs["y_pred" if "y_pred" in found.inputs else "predictions"]
    kept = dx.evaluate(f"{file}/labels", f"{file}/logits", **options, journal=tmp_path / "j")
    assert dx.verify(kept) >= 1
    both = dx.evaluate([f"{file}/labels"] * 2, [f"{file}/logits"] * 2, from_logits=True)
    assert both.rows == 2 * ROWS


@pytest.mark.slow
def test_processes_map_it_too(file, data, client):
    whole = dx.evaluate(data["labels"], data["logits"], from_logits=True)
    assert dx.evaluate(f"{file}/labels", f"{file}/logits", from_logits=True, client=client).state == whole.state


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_the_types_of_safetensors(dtype, data, tmp_path):
    x = data["logits"].astype(dtype)
    save_file({"x": x}, tmp_path / "x.safetensors")
    found = dx.evaluate(data["labels"], tmp_path / "x.safetensors", from_logits=True)  # the only one needs no name
    assert found.state == dx.evaluate(data["labels"], x, from_logits=True).state


def test_what_is_not_there_is_said(file):
    with pytest.raises(FileNotFoundError, match=rf"y_pred: there is no logit in it; {file} holds labels, .*logits"):
        dx.evaluate(f"{file}/labels", f"{file}/logit", from_logits=True)
    with pytest.raises(FileNotFoundError, match=r"y_pred: there is no name of an array in it; .* holds"):
        dx.evaluate(f"{file}/labels", file, from_logits=True)
    with pytest.raises(FileNotFoundError, match=r"y_pred: there is nothing at .*none"):
        dx.evaluate(f"{file}/labels", f"{file.parent}/none{file.suffix}/x")


def test_a_file_that_is_rewritten_meanwhile_is_an_error(file):
    lazy = dx.open(f"{file}/logits")
    os.utime(file, (1, 1))
    with pytest.raises(ValueError, match=r"was rewritten since it was opened"):
        np.asarray(lazy)


def test_damaged_files_are_named(tmp_path):
    header = {"x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}

    def written(head, body=bytes(24), length=None):
        text = head if isinstance(head, bytes) else json.dumps(head).encode()
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", length or len(text)) + text + body)

    written(header)
    assert dx.open(tmp_path / "x.safetensors").shape == (2, 3)
    for change in (
        {"dtype": "F33"}, {"shape": [2, 4]}, {"shape": [-2, -3]}, {"data_offsets": [0, 99]}, {"data_offsets": [24, 0]},
        {"data_offsets": "ab"}, {"shape": None}, {"dtype": ["F32"]},
    ):  # fmt: skip
        written({"x": header["x"] | change}, bytes(99 if change.get("data_offsets") != [0, 99] else 24))
        with pytest.raises((ValueError, TypeError), match=r".*x\.safetensors is damaged"):
            dx.open(tmp_path / "x.safetensors")
    for head, length in ((b"{", None), (b"[]", None), (header, 10**9), (b"", 1)):
        written(head, b"", length)
        with pytest.raises(ValueError, match=r"is not a safetensors file"):
            dx.open(tmp_path / "x.safetensors")
    (tmp_path / "x.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"is not an \.npz file"):
        dx.open(tmp_path / "x.npz/y")


def test_npz_that_cannot_be_read_in_parts(tmp_path):
    np.savez_compressed(tmp_path / "c.npz", x=np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r'is compressed, .*; numpy.save\("array.npy", numpy.load\("c.npz"\)\["x"\]\)'):
        dx.open(tmp_path / "c.npz/x")
    np.savez(tmp_path / "f.npz", x=np.zeros((4, 3), order="F"), o=np.array([1, "a"], object))
    with pytest.raises(ValueError, match="is in Fortran order"):
        dx.open(tmp_path / "f.npz/x")
    with pytest.raises(ValueError, match="holds Python objects"):
        dx.open(tmp_path / "f.npz/o")


def test_a_copy_of_another_size_is_an_error(file):
    """As on a worker, where the same path may hold something else."""
    travelled = pickle.dumps(open_array(f"{file}/logits", "y_pred"))
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(ValueError, match=r"was rewritten since it was opened"):
        pickle.loads(travelled).read((slice(0, 2), slice(0, 3)))
