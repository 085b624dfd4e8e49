"""Dumps of language models: shifted labels, masks, padded vocabularies, and what is per byte and per word."""

import math

import dask.array as da
import numpy as np
import pytest
import xarray
import zarr
from scipy.special import log_softmax

import daskxent as dx

N, T, C, WIDTH = 7, 23, 40, 48


@pytest.fixture(scope="module")
def dump():
    """Tokens, logits of a padded vocabulary, a mask of sequences of different lengths, and bytes of each token."""
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, C, (N, T))
    logits = rng.normal(0, 2, (N, T, WIDTH)).astype("float32")
    logits[..., C:] = 1e4  # garbage
    mask = np.arange(T) < rng.integers(2, T + 1, (N, 1))
    return tokens, logits, mask, rng.integers(0, 9, C)


def losses(tokens, logits):
    """Return the loss of each token but the first, from the logits before it."""
    logs = log_softmax(logits[:, :-1, :C].astype(float), axis=-1)
    return -np.take_along_axis(logs, tokens[:, 1:, None], axis=-1)[..., 0]


def stored(values, chunks):
    config = {"write_empty_chunks": True}  # or they would be reported as missing
    array = zarr.create_array({}, shape=values.shape, dtype=values.dtype, chunks=chunks, config=config)
    array[...] = values
    return array


WAYS = {
    "NumPy": lambda each, chunks: each,
    "zarr": stored,
    "dask": lambda each, chunks: da.from_array(each, chunks=chunks),
}


@pytest.mark.parametrize("way", WAYS)
def test_one_word_is_the_same_as_slices(dump, way):
    tokens, logits, mask, _ = dump
    hold = WAYS[way]
    y, x, m = hold(tokens, (2, 5)), hold(logits, (2, 5, 16)), hold(mask, (3, 7))
    options = {"from_logits": True, "metrics": ["crossentropy", "accuracy", "perplexity"], "by": {"at": dx.axis(1)}}
    report = dx.evaluate(y, x, shift=1, classes=C, mask=m, clusters=dx.axis(0), **options)
    each, shown = losses(tokens, logits), mask[:, 1:]
    assert report["crossentropy"] == pytest.approx(each[shown].mean(), rel=1e-6)
    assert report.expected == N * (T - 1)
    assert report.state.total.counted == shown.sum()
    sliced = dx.evaluate(
        tokens[:, 1:], logits[:, :-1, :C], sample_weight=mask[:, 1:].astype(float), clusters=dx.axis(0), **options
    )
    assert report.state == sliced.state
    for (at,), row in report.by("at").items():
        assert row["crossentropy"] == pytest.approx(each[:, at][shown[:, at]].mean(), rel=1e-6)
    per_sequence = dx.evaluate(
        y, x, shift=1, classes=C, mask=m, clusters=dx.axis(0), average="cluster", from_logits=True
    )
    means = [row[some].mean() for row, some in zip(each, shown, strict=True) if some.any()]
    assert per_sequence["crossentropy"] == pytest.approx(np.mean(means), rel=1e-6)


@pytest.mark.parametrize("form", ["table", "array"])
@pytest.mark.parametrize("way", WAYS)
def test_bits_per_byte(dump, form, way):
    tokens, logits, mask, table = dump
    hold = WAYS[way]
    each, shown = losses(tokens, logits), mask[:, 1:]
    size = table[tokens]
    given = table if form == "table" else hold(size, (4, 9))
    report = dx.evaluate(
        hold(tokens, (2, 5)), hold(logits, (2, 5, 16)), shift=1, classes=C, mask=mask, bytes=given, from_logits=True,
        metrics=["bits_per_byte", "byte_perplexity", "crossentropy", "bytes"], by={"document": dx.axis(0)},
    )  # fmt: skip
    inside = shown & (size[:, 1:] > 0)
    nats, total = each[inside], size[:, 1:][inside]
    ratio = nats.sum() / total.sum()
    assert report["bits_per_byte"] == pytest.approx(ratio / math.log(2), rel=1e-6)
    assert report["byte_perplexity"] == pytest.approx(math.exp(ratio), rel=1e-6)
    assert report["crossentropy"] == pytest.approx(each[shown].mean(), rel=1e-6)
    n = shown.sum()
    error = math.sqrt(n / (n - 1) * ((nats - ratio * total) ** 2).sum()) / total.sum()
    assert report.se["bits_per_byte"] == pytest.approx(error / math.log(2), rel=1e-6)
    low, high = report.interval("bits_per_byte")
    assert low < report["bits_per_byte"] < high
    row = report.by("document").rows[0]
    here = inside[0]
    assert row["bits_per_byte"] == pytest.approx(each[0][here].sum() / size[0, 1:][here].sum() / math.log(2), rel=1e-6)
    assert dx.Report.from_json(report.to_json()) == report


def test_a_number_of_bytes_is_of_all_rows():
    rng, options = np.random.default_rng(2), {"from_logits": True, "metrics": ["bits_per_byte", "crossentropy"]}
    y, x = rng.integers(0, 4, (20, 3)), rng.normal(size=(20, 3, 4))
    whole = dx.evaluate(y, x, bytes=100, by={"position": dx.axis(1)}, **options)
    with pytest.warns(dx.DoubtfulResult, match="bytes: the number is of the whole text, of which these are some rows"):
        parts = [
            dx.evaluate(y, x, bytes=100, by={"position": dx.axis(1)}, steps=s, **options) for s in ((0, 5), (5, 20))
        ]
    for each in parts:
        assert math.isnan(each["bits_per_byte"])
        assert math.isnan(each.se["bits_per_byte"])
    merged = parts[0].merge(parts[1])
    assert (merged.metrics, merged.se) == (whole.metrics, whole.se)
    assert whole.by("position").metrics == ("crossentropy",)
    with pytest.raises(ValueError, match="bytes: a number is of the whole text; means of clusters need an array along"):
        dx.evaluate(y, x, bytes=100, clusters=dx.axis(0), average="cluster", **options)


def test_bits_per_byte_by_cluster(dump):
    tokens, logits, mask, table = dump
    each, shown, size = losses(tokens, logits), mask[:, 1:], table[tokens][:, 1:]
    report = dx.evaluate(
        tokens, logits, shift=1, classes=C, mask=mask, bytes=table, from_logits=True, metrics=["bits_per_byte"],
        clusters=dx.axis(0),
    )  # fmt: skip
    a = np.where(shown & (size > 0), each, 0).sum(axis=1)
    b = np.where(shown, size, 0).sum(axis=1)
    some = shown.any(axis=1)
    ratio, g = a.sum() / b.sum(), some.sum()
    error = math.sqrt(g / (g - 1) * ((a - ratio * b)[some] ** 2).sum()) / b.sum() / math.log(2)
    assert report.se["bits_per_byte"] == pytest.approx(error, rel=1e-6)


def test_reports_of_other_tables_do_not_merge(dump):
    tokens, logits, _, table = dump
    options = {"shift": 1, "classes": C, "from_logits": True, "metrics": ["bits_per_byte"]}
    one = dx.evaluate(tokens, logits, bytes=table, steps=(0, 3), **options)
    other = dx.evaluate(tokens, logits, bytes=table + 1, steps=(3, None), **options)
    with pytest.raises(ValueError, match="the reports are of different arrays"):
        one.merge(other)
    rest = dx.evaluate(tokens, logits, bytes=table, steps=(3, None), **options)
    assert one.merge(rest) == dx.evaluate(tokens, logits, bytes=table, **options)


def test_numbers_of_the_whole_text(dump):
    """As in lm-eval: the sum over all tokens, by the bytes and the words of the text."""
    tokens, logits, _, _ = dump
    metrics = ["bits_per_byte", "byte_perplexity", "word_perplexity"]
    report = dx.evaluate(tokens, logits, shift=1, classes=C, bytes=700, words=120, metrics=metrics, from_logits=True)
    each = losses(tokens, logits)
    assert report["bits_per_byte"] == pytest.approx(each.sum() / 700 / math.log(2), rel=1e-6)
    assert report["word_perplexity"] == pytest.approx(math.exp(each.sum() / 120), rel=1e-5)
    n = each.size
    assert report.se["bits_per_byte"] == pytest.approx(each.std(ddof=1) * math.sqrt(n) / 700 / math.log(2), rel=1e-6)
    assert dx.Report.from_json(report.to_json()) == report


@pytest.mark.parametrize(
    "number",
    [np.array(700), np.int64(700), np.uint16(700), xarray.DataArray(700), da.from_array(np.array([300, 400])).sum()],
    ids=["array", "int64", "uint16", "xarray", "dask"],
)
def test_an_array_without_axes_is_the_number_of_the_whole_text(dump, number):
    options = {"shift": 1, "classes": C, "metrics": ["bits_per_byte", "word_perplexity"], "from_logits": True}
    report = dx.evaluate(*dump[:2], bytes=number, words=number, **options)
    assert report == dx.evaluate(*dump[:2], bytes=700, words=700, **options)


def test_a_stored_number_is_to_be_given_as_a_number(dump, tmp_path):
    np.save(tmp_path / "total.npy", np.array(700))
    with pytest.raises(ValueError, match=r"bytes: .*total.npy is one number; give the number itself"):
        dx.evaluate(*dump[:2], bytes=tmp_path / "total.npy", metrics=["bits_per_byte"], from_logits=True)


def test_the_padding_is_not_read(dump, tmp_path):
    tokens, logits, _, _ = dump
    group = zarr.open_group(tmp_path / "d.zarr", mode="w")
    array = group.create_array("logits", shape=logits.shape, dtype="f4", chunks=(N, T, C), compressors=None)
    array[..., :C] = logits[..., :C]
    for path in (tmp_path / "d.zarr" / "logits").rglob("1"):
        if path.is_file() and path.parent.name == "0":
            path.write_bytes(b"torn")  # chunk 0/0/1: the padding
    report = dx.evaluate(tokens, tmp_path / "d.zarr" / "logits", shift=1, classes=C, from_logits=True)
    assert report["crossentropy"] == pytest.approx(losses(tokens, logits).mean(), rel=1e-6)


def test_all_of_it_goes_through_a_journal(dump, tmp_path):
    tokens, logits, mask, table = dump
    group = zarr.open_group(tmp_path / "d.zarr", mode="w")
    for name, values, chunks in (
        ("tokens", tokens, (2, T)), ("logits", logits, (1, T, WIDTH)), ("mask", mask, (2, T)), ("table", table, (C,)),
    ):  # fmt: skip
        group.create_array(name, data=values, chunks=chunks)
    at = tmp_path / "d.zarr"
    options = {
        "shift": 1, "classes": C, "mask": at / "mask", "bytes": at / "table", "from_logits": True,
        "metrics": ["bits_per_byte", "ece", "temperature"], "histograms": ["crossentropy"], "ranks": True,
    }  # fmt: skip
    whole = dx.evaluate(at / "tokens", at / "logits", **options)
    for report in dx.stream(at / "tokens", at / "logits", **options, journal=tmp_path / "j", threads=1):
        if report.rows:
            break
    resumed = dx.evaluate(at / "tokens", at / "logits", **options, journal=tmp_path / "j")
    assert resumed == whole
    assert dx.verify(resumed, parts=3) >= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shift": T}, rf"shift: {T} leaves nothing of an axis of length {T}"),
        ({"shift": -1}, "shift: expected at least 0"),
        ({"classes": WIDTH + 1}, f"classes: y_pred has only {WIDTH} classes, got {WIDTH + 1}"),
        ({"classes": 0}, "classes: expected at least 1"),
        ({"mask": np.ones((N, T + 1), bool)}, "mask: shape"),
        ({"bytes": np.ones(5)}, "bytes: shape"),
        ({"metrics": ["bits_per_byte"]}, "'bits_per_byte' needs bytes="),
        ({"bytes": np.full((N, T), np.nan), "metrics": ["bytes"]}, "bytes: .* got nan, as for a label beyond a table"),
        ({"metrics": ["bytes"], "bytes": 7}, "needs a table, or an array along the labels"),
        ({"metrics": ["bits_per_byte"], "bytes": 0}, "bytes: expected at least 1"),
        ({"metrics": ["bits_per_byte"], "bytes": np.int64(0)}, "bytes: expected at least 1, got 0"),
        (
            {"metrics": ["bits_per_byte"], "bytes": -np.ones((N, T))},
            r"bytes: expected finite numbers .* got -1.0 at row 0",
        ),
    ],
)
def test_what_cannot_be_is_refused(dump, options, message):
    tokens, logits, _, _ = dump
    with pytest.raises(ValueError, match=message):
        dx.evaluate(tokens, logits, from_logits=True, **options)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("column", [False, True])
def test_a_table_as_long_as_the_labels_is_refused(shift, column):
    x, labels, size = np.zeros((12, 12)), np.arange(12) % 3, np.arange(12)
    options = {"shift": shift, "metrics": ["bits_per_byte"], "from_logits": True}
    with pytest.raises(ValueError, match=r"bytes: shape .* either may be meant"):
        dx.evaluate(labels[:, None] if column else labels, x, bytes=size, **options)
    assert dx.evaluate(labels, x[:, :8], bytes=size, **options).metrics == (
        dx.evaluate(labels, x[:, :8], bytes=size[:, None], **options).metrics
    )


def test_bytes_of_rows_that_are_hidden_may_be_anything(dump):
    tokens, logits, mask, table = dump
    size = np.where(mask, table[tokens], np.nan)
    options = {"mask": mask, "metrics": ["bits_per_byte"], "from_logits": True, "classes": C}
    assert dx.evaluate(tokens, logits, bytes=size, **options).metrics == (
        dx.evaluate(tokens, logits, bytes=table, **options).metrics
    )


@pytest.mark.parametrize("way", WAYS)
def test_one_hot_labels_are_shifted_along_any_class_axis(dump, way):
    tokens, logits, mask, _ = dump
    hold, options = WAYS[way], {"shift": 1, "mask": mask, "from_logits": True}
    expected = dx.evaluate(np.eye(WIDTH)[tokens], logits, **options)
    dense, moved = (np.moveaxis(each, 2, 1) for each in (np.eye(WIDTH)[tokens], logits))
    found = dx.evaluate(hold(dense, (2, WIDTH, 5)), hold(moved, (2, WIDTH, 5)), axis=1, **options)
    assert (found.metrics, found.expected) == (expected.metrics, N * (T - 1))
    for labels in (tokens, tokens[:, None], tokens[..., None]):
        sparse = dx.evaluate(labels, moved, axis=1, **options)
        assert sparse["accuracy"] == expected["accuracy"]


def test_one_hot_labels_of_padding_are_refused(dump):
    dense = np.eye(WIDTH)[dump[0]]
    with pytest.raises(ValueError, match=f"labels of {WIDTH} classes; classes={C} needs those of the first {C}"):
        dx.evaluate(dense, dump[1], classes=C, from_logits=True)
    dx.evaluate(dense[..., :C], dump[1], classes=C, from_logits=True)


@pytest.mark.parametrize("kind", [bool, int, np.int64, np.bool_])
def test_a_mask_of_one_number_is_that_of_all_rows(dump, kind, tmp_path):
    options = {"from_logits": True}
    assert (
        dx.evaluate(dump[0], dump[1], mask=kind(1), **options).state == dx.evaluate(dump[0], dump[1], **options).state
    )
    with pytest.warns(UserWarning, match="no row was counted"):
        assert dx.evaluate(dump[0], dump[1], mask=kind(0), **options).counted == 0


def test_ids_of_one_number_are_refused(dump):
    with pytest.raises(ValueError, match=r"^ids: expected the classes of each row along .*, got one number$"):
        dx.evaluate(dump[0], dump[1], predictions="log_probabilities", ids=3)


def test_a_mask_of_floats_is_refused(dump):
    with pytest.raises(TypeError, match="mask: expected bool, or integers of which 0 hides a row, got dtype float64"):
        dx.evaluate(dump[0], dump[1], from_logits=True, mask=np.ones((N, T)))


@pytest.mark.parametrize("way", ["NumPy", "zarr"])
def test_tokens_that_were_not_shifted_are_pointed_out(way):
    rng = np.random.default_rng(0)
    tokens, logits = rng.integers(0, C, (5, 40)), rng.normal(size=(5, 40, C)).astype("float32")
    np.put_along_axis(logits[:, :-1], tokens[:, 1:, None], 9, axis=-1)  # a good model
    y, x = WAYS[way](tokens, (2, 40)), WAYS[way](logits, (2, 40, C))
    with pytest.warns(dx.DoubtfulResult, match=r"labels match the predictions of the row before them.* shift=1"):
        report = dx.evaluate(y, x, from_logits=True)
    assert any("shift=1" in doubt for doubt in report.doubts)
    assert not dx.evaluate(y, x, from_logits=True, shift=1).doubts


@pytest.mark.parametrize("seed", range(30))
def test_chance_is_no_shift(seed):
    rng = np.random.default_rng(seed)
    report = dx.evaluate(rng.integers(0, 3, (2, 64)), rng.normal(size=(2, 64, 3)), from_logits=True)
    assert not report.doubts


def test_a_padded_vocabulary_is_pointed_out():
    rng = np.random.default_rng(0)
    y, x = rng.integers(0, 1001, 600), rng.normal(size=(600, 1024)).astype("float32")
    y[3], y[5] = 1000, -1
    report = dx.evaluate(y, x, from_logits=True, ignore_class=-1)
    assert "labels end at 1,000: if the rest is padding, classes=1001" in repr(report)
    assert dx.evaluate(y, da.from_array(x, chunks=(70, 500)), from_logits=True, ignore_class=-1) == report
    assert "padding" not in repr(dx.evaluate(y, x, from_logits=True, ignore_class=-1, classes=1001))
