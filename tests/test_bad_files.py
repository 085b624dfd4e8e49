"""Files that are damaged, no files at all, or named to harm: one line that names them, soon."""

import json
import os
import random
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from zarr.storage import MemoryStore, WrapperStore

import daskxent as dx
from daskxent import cli
from daskxent.sources.opening import open_array

RNG = np.random.default_rng(2)
X, Y = RNG.normal(0, 3, (200, 10)).astype("float32"), RNG.integers(0, 10, 200)
ESCAPES = "\x1b[2J\x1b]0;title\x07\u202e"


def refused(path, message, error=ValueError, **options):
    with pytest.raises(error, match=message):
        dx.evaluate(Y, path, from_logits=True, threads=1, **options)


@pytest.mark.fuzz
def test_headers_with_any_byte_changed_are_read_or_refused(tmp_path, tries):
    rng, path = random.Random(0), tmp_path / "x.npy"
    np.save(path, X)
    good = path.read_bytes()
    for _ in tries(600):
        data = bytearray(good)
        data[rng.randrange(128)] = rng.randrange(256)
        path.write_bytes(data)
        try:
            dx.evaluate(Y, path, from_logits=True, threads=1)
        except (ValueError, TypeError) as error:
            assert str(error).startswith(("y_pred", "y_true"))  # noqa: PT017 - most of them pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.fuzz
def test_metadata_with_any_byte_changed_are_read_or_refused(tmp_path, tries):
    rng, path = random.Random(1), tmp_path / "x.zarr"
    zarr.save_array(path, X)
    good = (path / "zarr.json").read_bytes()
    for _ in tries(600):
        data = bytearray(good)
        data[rng.randrange(len(data))] = rng.randrange(256)
        (path / "zarr.json").write_bytes(data)
        try:
            dx.evaluate(Y, path, from_logits=True, threads=1)
        except (ValueError, TypeError) as error:
            assert str(error).startswith(("y_pred", "y_true"))  # noqa: PT017


@pytest.mark.parametrize("text", ["[" * 200_000, "{}", "", "null", '{"zarr_format": 3}'])
def test_metadata_of_anything_else_is_refused(tmp_path, text):
    zarr.save_array(tmp_path / "x.zarr", X)
    (tmp_path / "x.zarr" / "zarr.json").write_text(text)
    refused(tmp_path / "x.zarr", r"^y_pred: .*x\.zarr")


@pytest.mark.slow
@pytest.mark.timeout(30)
def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.npy")
    refused(tmp_path / "x.npy", r"^y_pred: .*x\.npy is not a regular file$")
    zarr.save_array(tmp_path / "x.zarr", X)
    shutil.rmtree(tmp_path / "x.zarr" / "c")
    (tmp_path / "x.zarr" / "c" / "0").mkdir(parents=True)
    os.mkfifo(tmp_path / "x.zarr" / "c" / "0" / "0")
    refused(tmp_path / "x.zarr", r"y_pred: chunk c/0/0 of .*x\.zarr cannot be read: no regular file$", dx.Unreadable)
    os.mkfifo(tmp_path / "j")
    for journal in (tmp_path / "j", "/dev/full", "/dev/null"):
        refused(X, rf"^journal {journal}: is not a regular file$", dx.JournalError, journal=journal)


def test_a_directory_that_may_not_be_read_is_not_nothing(tmp_path):
    np.save(tmp_path / "x.npy", X)
    tmp_path.chmod(0o600)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # root may read anything
        with pytest.raises(PermissionError, match=r"^y_pred: .*x\.npy may not be read: Permission denied$"):
            open_array(str(tmp_path / "x.npy"), "y_pred")
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o700)


def test_names_and_notes_do_not_control_the_terminal(tmp_path):
    group = zarr.create_group(tmp_path / "g.zarr")
    group.create_array(f"a{ESCAPES}", data=X)
    np.save(tmp_path / "y.npy", Y)
    report = replace(dx.evaluate(Y, X, from_logits=True), notes=(f"a {ESCAPES} note",))
    (tmp_path / "r.json").write_text(report.to_json())
    json.loads(report.to_json())
    for line in (
        ["evaluate", f"{tmp_path}/y.npy", f"{tmp_path}/g.zarr"],
        ["evaluate", f"{tmp_path}/y.npy", f"{tmp_path}/no{ESCAPES}"],
        ["merge", f"{tmp_path}/r.json"],
    ):
        done = CliRunner().invoke(cli.main, line, color=True)
        assert all(each == "\n" or each.isprintable() for each in done.output)
        assert r"\x1b[2J\x1b]0;title\x07\u202e" in done.output
    assert repr(report).replace("\n", "").isprintable()


class Tensor:
    """As in torch: on a GPU, or with a gradient."""

    def __init__(self, error):
        self.error = error

    def __array__(self, dtype=None, copy=None):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."),
        TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()"),
    ],
)
def test_what_other_libraries_say_is_said_of_the_array(error):
    kind = TypeError if isinstance(error, TypeError) else ValueError
    with pytest.raises(kind, match=rf"^y_pred: this Tensor gives no array: {re.escape(str(error))}"):
        dx.evaluate(Y, Tensor(error))
    with pytest.raises(kind, match=r"^y_true: this Tensor gives no array"):
        dx.evaluate(Tensor(error), X)


def test_a_grid_that_zarr_does_not_give_is_one_line(monkeypatch, tmp_path):
    zarr.save_array(tmp_path / "x.zarr", X)

    def chunks(array):
        raise NotImplementedError("the array has a rectilinear chunk grid")

    monkeypatch.setattr(zarr.Array, "chunks", property(chunks))
    refused(tmp_path / "x.zarr", r"^y_pred: .*x\.zarr is stored in a way that is not read here: the array has a recti")


class Failing(WrapperStore):
    """Fails now and then, with what is no OSError, as the libraries of object stores do."""

    left = 2

    async def get(self, key, prototype, byte_range=None):
        if "c/" in key and self.left:
            self.left -= 1
            raise RuntimeError("Response payload is not completed")
        return await super().get(key, prototype, byte_range)


@pytest.mark.slow
def test_transient_errors_of_other_libraries_are_tried_again():
    store = Failing(MemoryStore())
    array = zarr.create_array(store, data=X, chunks=(50, 10))
    store.left = 2
    report = dx.evaluate(Y, array, from_logits=True, threads=1)
    assert report == dx.evaluate(Y, X, from_logits=True)
    assert report.retries == 2
    store.left = 99
    refused(array, r"reading failed 5 times, last with: .*RuntimeError: Response payload is not", dx.Unreadable)
