"""The worst rows and random ones are the same however rows are cut, and those that NumPy finds."""

import json
import math

import dask.array as da
import numpy as np
import pytest
import sized
import zarr
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from strategies import SOME

import daskxent as dx
from daskxent import cli

CLASSES = 6


def drawn(rows, seed=0):
    """Return labels and logits, of which some are equal, and weights that hide some rows."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 4, (rows, CLASSES)).astype("float32")
    return rng.integers(0, CLASSES, rows), x, rng.integers(0, 3, rows).astype(float)


def softmax(x):
    e = np.exp(x.astype(np.longdouble))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("rows", [40, 9000])
@pytest.mark.parametrize("count", [1, 7, 100])
def test_the_worst_rows_are_those_with_the_largest_loss(rows, count):
    y, x, w = drawn(rows)
    report = dx.evaluate(y, x, sample_weight=w, from_logits=True, worst=count, threads=1)
    loss = np.where(w > 0, dx.losses.sparse_categorical_crossentropy(y, x.astype(float), from_logits=True), -1)
    order = np.lexsort((np.arange(rows), -loss))[: min(count, int((w > 0).sum()))]
    assert [each["row"] for each in report.worst] == order.tolist()
    p = softmax(x)
    for each in report.worst:
        row = each["row"]
        assert (each["label"], each["prediction"], each["position"]) == (y[row], x[row].argmax(), (row,))
        assert each["loss"] == pytest.approx(float(-np.log(p[row, y[row]])), rel=1e-5)
        assert each["p_label"] == pytest.approx(float(p[row, y[row]]), rel=1e-5)
        assert each["p_prediction"] == pytest.approx(float(p[row].max()), rel=1e-5)


def test_the_worst_by_confidence_are_wrong_and_sure():
    y, x, _ = drawn(500)
    report = dx.evaluate(y, x, from_logits=True, worst=10, worst_by="confidence")
    confidence = np.where(x.argmax(axis=1) != y, softmax(x).max(axis=1).astype(float), 0)
    assert [each["p_prediction"] for each in report.worst] == pytest.approx(sorted(confidence)[:-11:-1], rel=1e-6)
    assert all(each["prediction"] != each["label"] for each in report.worst)


def test_random_rows_are_uniform_and_follow_the_seed():
    y, x, w = drawn(3000)
    samples = [
        {each["row"] for each in dx.evaluate(y, x, sample_weight=w, from_logits=True, sample=300, seed=seed).sample}
        for seed in range(20)
    ]
    assert all(len(sample) == 300 for sample in samples)
    assert all(w[list(sample)].all() for sample in samples)
    counts = np.bincount([row for sample in samples for row in sample], minlength=3000)[w > 0]
    expected = 20 * 300 / (w > 0).sum()
    assert abs(counts[: counts.size // 2].mean() - expected) < 0.15 * expected
    assert counts.var() == pytest.approx(expected * (1 - 300 / counts.size), rel=0.15)  # as of a binomial distribution


@SOME
@given(st.data())
@pytest.mark.filterwarnings("ignore:no row was counted")
def test_they_are_the_same_for_any_chunks_and_order_of_merging(data):
    rows = data.draw(st.integers(1, 60))
    y, x, w = drawn(rows, data.draw(st.integers(0, 9)))
    options = {"worst": data.draw(st.integers(1, 70)), "sample": data.draw(st.integers(1, 70)), "from_logits": True}
    options |= {"sample_weight": data.draw(st.sampled_from([None, w])), "seed": data.draw(st.integers(0, 2**70))}
    wanted = dx.evaluate(y, x, **options)
    chunks = (data.draw(st.integers(1, rows)), data.draw(st.integers(1, CLASSES)))
    assert dx.evaluate(y, da.from_array(x, chunks=chunks), **options).state == wanted.state
    with pytest.MonkeyPatch.context() as patch:
        sized.give(patch, few=0)
        assert dx.evaluate(y, x, **options).state == wanted.state
    cut = data.draw(st.integers(0, rows))
    parts = [dx.evaluate(y, x, steps=steps, **options) for steps in ((cut, rows), (0, cut)) if steps[0] < steps[1]]
    merged = dx.Report.from_json(parts[0].merge(*parts[1:]).to_json())
    assert merged.state == wanted.state
    assert list(merged.worst) == list(wanted.worst)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_positions_of_maps(axis):
    rng = np.random.default_rng(0)
    y, x = rng.integers(0, CLASSES, (5, 7)), rng.normal(size=(5, 7, CLASSES))
    report = dx.evaluate(y, np.moveaxis(x, 2, axis), axis=axis, from_logits=True, worst=35, threads=1)
    assert sorted(each["position"] for each in report.worst) == list(np.ndindex(5, 7))
    for each in report.worst:
        assert (each["label"], each["prediction"]) == (y[each["position"]], x[each["position"]].argmax())


def test_files_journals_and_the_shell_know_them(tmp_path):
    y, x, w = drawn(200)
    for name, array in {"y": y, "x": x, "w": w}.items():
        zarr.create_array(str(tmp_path / "d.zarr"), name=name, data=array, chunks=(30, *array.shape[1:]))
    path, options = tmp_path / "d.zarr", {"from_logits": True, "worst": 9, "sample": 5, "seed": 3}
    given = {"y_true": path / "y", "y_pred": path / "x", "sample_weight": path / "w", **options}
    wanted = dx.evaluate(y, x, sample_weight=w, **options)
    for _ in range(2):
        report = dx.evaluate(**given, journal=tmp_path / "j")
        assert (report.state, list(report.worst)) == (wanted.state, list(wanted.worst))
    assert dx.verify(report) >= 1
    line = ["evaluate", f"{path}/y", f"{path}/x", "--from-logits", "--weights", f"{path}/w", "--worst", "9"]
    line += ["--sample", "5", "--seed", "3"]
    done = CliRunner().invoke(cli.main, [*line, "--json"])
    assert dx.Report.from_json(done.stdout).state == wanted.state
    assert json.loads(done.stdout)["worst"][0]["row"] == wanted.worst[0]["row"]
    text = CliRunner().invoke(cli.main, line).stdout
    assert "Worst rows by crossentropy" in text
    assert "Random rows" in text
    assert list(wanted.worst.to_pandas()["row"]) == [each["row"] for each in wanted.worst]
    assert "<th>p(label)</th>" in wanted._repr_html_()


def test_infinite_losses_come_first_and_rows_without_one_not_at_all():
    x = np.array([[0.0, 1.0], [-np.inf, 0.0], [np.nan, 0.0], [0.0, 5.0]])
    report = dx.evaluate([0, 0, 0, 0], x, from_logits=True, worst=4)
    assert [each["row"] for each in report.worst] == [1, 3, 0]
    assert (report.worst[0]["loss"], report.worst[0]["p_label"]) == (math.inf, 0)
    assert dx.Report.from_json(report.to_json()) == report


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"worst": 10_001}, "worst: expected at most 10,000 rows, got 10001"),
        ({"worst": -1}, "worst: expected at least 0, got -1"),
        ({"worst_by": "loss"}, "worst_by: expected one of crossentropy, confidence, entropy; got 'loss'"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dx.evaluate([0], [[1.0, 2.0]], **options)


def test_rows_that_were_not_asked_for():
    report = dx.evaluate([0], [[1.0, 2.0]], from_logits=True)
    with pytest.raises(KeyError, match="evaluate was not asked for worst=N"):
        report.worst  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize("rows", [300, 9000])
@pytest.mark.parametrize("by", ["crossentropy", "entropy", "confidence"])
def test_the_worst_of_each_group(rows, by, tmp_path):
    rng = np.random.default_rng(0)
    y, x = rng.integers(0, 5, rows), rng.normal(size=(rows, 5)).round(1)
    language, length = rng.choice(["de", "en", "fr"], rows), rng.integers(0, 9, rows)
    options = {
        "from_logits": True, "worst": 4, "worst_by": by, "worst_per_group": True, "metrics": ["accuracy"],
        "by": {"language": language, "length": dx.bins(length, [0, 3, 9])},
    }  # fmt: skip
    report = dx.evaluate(y, x, **options)
    kept = dx.rows(y, x, from_logits=True, columns=["loss", "entropy", "confidence", "hit"])
    value = {"crossentropy": kept["loss"], "entropy": kept["entropy"]}.get(
        by, np.where(kept["hit"], -1, kept["confidence"])
    )
    found = report.worst_of("language", "length")
    names = {True: "[0, 3)", False: "[3, 9]"}
    for one in ("de", "en", "fr"):
        for short in (True, False):
            inside = np.flatnonzero((language == one) & ((length < 3) == short) & (value >= 0))
            wanted = inside[np.lexsort((inside, -value[inside]))][:4].tolist()
            assert [r["row"] for r in found if (r["language"], r["length"]) == (one, names[short])] == wanted
    assert found[-1]["row"] in range(rows)
    assert list(found.to_pandas().columns[:3]) == ["language", "length", "row"]
    assert f"Worst rows by {by}, by language, length" in repr(report)
    assert json.loads(report.to_json())["worst by language, length"][0]["row"] == found[0]["row"]
    split = dx.evaluate(y, da.from_array(x, chunks=(70, 5)), **options)
    assert split == report
    assert dx.Report.from_json(report.to_json()) == report
    with pytest.raises(KeyError, match="worst_per_group=True"):
        report.worst_of("language")


def test_groups_need_a_number_of_rows():
    with pytest.raises(ValueError, match="worst_per_group: needs worst=N, and by"):
        dx.evaluate([0], [[0.5, 0.5]], worst_per_group=True)


def without_worst_rows():
    """Return what has rows that count, but none to be kept, by what makes that so."""
    y = np.array([0, 1, 2] * 4)
    right = np.where(np.arange(3) == y[:, None], 3.0, -3.0)
    return {
        "all right": (y, right, {"worst_by": "confidence"}),
        "half right": (y, np.concatenate([right[:6], -right[6:]]), {"worst_by": "confidence"}),
        "NaN": (y, np.concatenate([np.full((6, 3), np.nan), right[6:]]), {"on_invalid": "count"}),
    }


@pytest.mark.parametrize("case", without_worst_rows())
def test_no_row_may_be_worth_keeping(case, tmp_path):
    y, x, further = without_worst_rows()[case]
    for name, array, chunk in (("y", y, 3), ("x", x, (3, 3))):
        zarr.create_array(str(tmp_path / "d.zarr"), name=name, data=array, chunks=chunk)
    given, options = [tmp_path / "d.zarr" / "y", tmp_path / "d.zarr" / "x"], {"from_logits": True, **further}
    options |= {"worst": 3, "by": {"half": np.arange(12) // 6}, "worst_per_group": True}
    wanted = dx.evaluate(*given, **options)
    assert dx.Report.from_json(wanted.to_json()) == wanted
    for _ in range(2):
        assert dx.evaluate(*given, **options, journal=tmp_path / "j") == wanted
    halves = [dx.evaluate(*given, **options, steps=steps).to_json() for steps in ((0, 6), (6, 12))]
    assert dx.Report.from_json(halves[0]).merge(dx.Report.from_json(halves[1])) == wanted
    assert len(wanted.worst) == (0 if case == "all right" else 3)


@pytest.mark.filterwarnings("ignore::daskxent.DoubtfulResult")
def test_dense_labels_that_are_not_finite_are_shown_as_what_they_are():
    labels = np.array([[1, 0, 0], [0, np.nan, 1], [np.inf, 0, 0], [0, 0, -np.inf], [0, 1, 0]])
    report = dx.evaluate(
        labels, np.eye(3)[[0, 1, 1, 1, 2]], from_logits=True, on_invalid="count", sample=5, worst=5,
        worst_by="confidence", worst_per_group=True, by={"class": "label"}, confusions=True,
    )  # fmt: skip
    shown = {0: 0, 1: "nan", 2: "inf", 3: "-inf", 4: 1}
    assert {each["row"]: each["label"] for each in report.sample} == shown
    assert {each["row"]: each["class"] for each in report.worst_of("class")} == {k: shown[k] for k in (1, 2, 3, 4)}
    assert [row["class"] for row in report.by("class").rows] == ["-inf", "inf", "nan", 0, 1]
    assert {each.true for each in report.top_confusions()} == {"nan", "inf", "-inf", 1}


def test_labels_that_are_no_classes_are_missing():
    y, x = np.array([0, np.nan, 1.5, 1.0]), np.array([[3.0, 0], [0, 3], [0, 3], [0, 3]])
    options = {"from_logits": True, "on_invalid": "count", "by": {"class": "label"}, "confusions": True}
    report = dx.evaluate(y, x, sample=4, worst=4, worst_by="confidence", worst_per_group=True, **options)
    assert {each["row"]: each["label"] for each in report.sample} == {0: 0, 1: "missing", 2: "missing", 3: 1}
    assert [(each["class"], each["row"]) for each in report.worst_of("class")] == [("missing", 1), ("missing", 2)]
    assert [row["class"] for row in report.by("class").rows] == ["missing", 0, 1]
    assert report.top_confusions()[0][:3] == ("missing", 1, 2)
    assert str(-(2**63)) not in repr(report)
    assert dx.Report.from_json(report.to_json()) == report


def test_worst_rows_of_groups_beyond_int64():
    rng = np.random.default_rng(0)
    y, x, groups = rng.integers(0, 3, 8), rng.normal(size=(8, 3)), np.array([7, 7, 2**63, 2**63 + 5] * 2, np.uint64)
    options = {"from_logits": True, "worst": 2, "worst_per_group": True, "by": {"g": groups}}
    wanted = dx.evaluate(y, x, **options)
    assert dx.Report.from_json(wanted.to_json()) == wanted
    halves = [dx.evaluate(y, x, **options, steps=steps) for steps in ((0, 2), (2, 8))]
    for one, other in (halves, halves[::-1]):
        merged = dx.Report.from_json(one.to_json()).merge(other)
        assert dx.Report.from_json(merged.to_json()) == merged == wanted
        assert [each["g"] for each in merged.worst_of("g")] == [7, 7, 2**63, 2**63, 2**63 + 5, 2**63 + 5]


@pytest.mark.parametrize("name", ["row", "position", "label", "prediction", "loss", "p_label", "p_prediction"])
def test_groups_are_not_called_like_a_column_of_their_worst_rows(name):
    options = {"worst": 1, "by": {name: "label"}}
    assert name in repr(dx.evaluate([0, 1], [[0.9, 0.1], [0.4, 0.6]], **options))
    message = f"by: '{name}' is a column of the table of worst rows; give the grouping another name"
    with pytest.raises(ValueError, match=message):
        dx.evaluate([0, 1], [[0.9, 0.1], [0.4, 0.6]], worst_per_group=True, **options)
