"""Slices: the metrics of groups of rows are those of the rows alone, and the groups add up to the whole."""

import csv
import io
import itertools
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
from daskxent.numbers import grouping, tables
from daskxent.numbers.sums import Sums

CLASSES = 5
METRICS = ["crossentropy", "accuracy", "perplexity", "top_2_accuracy"]
WORDS = np.array(["de", "en", "日本語", ""])
OPTIONS = {"from_logits": True, "metrics": METRICS}


def drawn(rows=400, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "y": rng.integers(0, CLASSES, rows),
        "x": rng.normal(0, 2, (rows, CLASSES)).astype("float32"),
        "w": rng.integers(0, 3, rows) * rng.random(rows),
        "lang": rng.choice(WORDS, rows),
        "doc": rng.integers(-40, 40, rows),
        "len": np.where(rng.random(rows) < 0.1, np.nan, rng.random(rows) * 3000),
    }


def by_all(d):
    return [
        {"language": d["lang"]},
        {"doc": d["doc"]},
        {"length": dx.bins(d["len"], [100, 512, 2048, math.inf])},
        {"language": d["lang"], "label": "label", "sure": dx.bins("confidence", [0, 0.5, 0.9, 1])},
        {"prediction": "prediction"},
    ]


def alone(d, chosen, weights=True):
    w = d["w"][chosen] if weights else None
    return dx.evaluate(d["y"][chosen], d["x"][chosen], sample_weight=w, threads=1, **OPTIONS)


def test_two_stored_groupings_in_small_chunks_keep_their_keys(tmp_path):
    numbers, keys = np.arange(32).reshape(8, 4), {}
    for name, values in (("lang", numbers % 2), ("doc", numbers % 3 + 10)):
        zarr.create_array(tmp_path / name, data=values, chunks=(2, 4))
        keys[name] = f"{tmp_path}/{name}"
    held = dx.evaluate(
        numbers % 2, np.zeros((8, 4, 2)), by=[{"lang": numbers % 2}, {"doc": numbers % 3 + 10}], from_logits=True
    )
    report = dx.evaluate(
        numbers % 2, np.zeros((8, 4, 2)), by=[{"lang": keys["lang"]}, {"doc": keys["doc"]}], from_logits=True
    )
    assert report.state == held.state


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("rows", [60, 9000])
def test_the_metrics_of_a_group_are_those_of_its_rows(rows, weights):
    d = drawn(rows)
    w = d["w"] if weights else None
    report = dx.evaluate(d["y"], d["x"], sample_weight=w, by=[{"lang": d["lang"], "doc": d["doc"]}], **OPTIONS)
    counted = d["w"] > 0 if weights else np.ones(rows, bool)
    slices = report.by("lang", "doc")
    assert list(slices) == sorted(set(zip(d["lang"][counted].tolist(), d["doc"][counted].tolist(), strict=True)))
    for key in list(slices)[:: max(1, len(slices) // 20)]:
        one = alone(d, (d["lang"] == key[0]) & (d["doc"] == key[1]), weights)
        assert slices.sums(key) == one.state.total
        row = slices[key]
        assert (row["lang"], row["doc"], row["rows"], row["weight"]) == (
            key[0] or "missing",
            key[1],
            one.state.total.counted,
            one.weight,
        )
        for name in METRICS:
            assert row[name] == one[name]
            assert [row[f"{name}_se"], row[f"{name}_low"], row[f"{name}_high"]] == pytest.approx(
                [one.se[name], *one.interval(name)], nan_ok=True, rel=1e-15
            )
    assert Sums.all([slices.sums(key) for key in slices]) == report.state.total


def test_bins_labels_and_predictions_are_groups():
    d = drawn()
    report = dx.evaluate(d["y"], d["x"], by=by_all(d), **OPTIONS)
    found = {row["length"]: row["rows"] for row in report.by("length").rows}
    expected = {"< 100": (0, 100), "[100, 512)": (100, 512), "[512, 2048)": (512, 2048), "[2048, inf]": (2048, 9e9)}
    counts = {name: int(((d["len"] >= low) & (d["len"] < high)).sum()) for name, (low, high) in expected.items()}
    assert found == counts | {"missing": int(np.isnan(d["len"]).sum())}
    predicted = d["x"].argmax(axis=1)
    assert [row["rows"] for row in report.by("prediction").rows] == np.bincount(predicted).tolist()
    assert {row["label"] for row in report.by("language", "label", "sure").rows} == set(range(CLASSES))


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
@pytest.mark.parametrize("classes_at", [0, 1, 2])
def test_an_axis_groups_by_position(axis, classes_at):
    d = drawn(6 * 7)
    y, x = d["y"].reshape(6, 7), np.moveaxis(d["x"].reshape(6, 7, CLASSES), 2, classes_at)
    report = dx.evaluate(y, x, axis=classes_at, by={"at": dx.axis(axis)}, **OPTIONS)
    hits = d["x"].reshape(6, 7, CLASSES).argmax(axis=2) == y
    assert [row["accuracy"] for row in report.by("at").rows] == hits.mean(axis=1 - axis % 2).tolist()


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    d, path = drawn(), tmp_path_factory.mktemp("slices") / "d.zarr"
    for name, array in d.items():
        chunks = (30, 2) if array.ndim == 2 else (len(array) // 3,)
        data = array.astype(np.dtypes.StringDType()) if name == "lang" else array
        config = {"write_empty_chunks": True}  # or they would be reported as missing
        zarr.create_array(str(path), name=name, data=data, chunks=chunks, config=config)
    return path


def asked(path):
    by = by_all({name: path / name for name in ("lang", "doc", "len")})
    return {"y_true": path / "y", "y_pred": path / "x", "sample_weight": path / "w", "by": by, **OPTIONS}


@pytest.fixture(scope="module")
def wanted():
    d = drawn()
    return dx.evaluate(d["y"], d["x"], sample_weight=d["w"], by=by_all(d), threads=1, **OPTIONS).state


def test_files_dask_arrays_json_and_journals_give_the_same_sums(stored, wanted, tmp_path):
    d = drawn()
    x = da.from_array(d["x"], chunks=(70, 3))
    assert dx.evaluate(d["y"], x, sample_weight=d["w"], by=by_all(d), **OPTIONS).state == wanted
    assert dx.delayed(d["y"], x, sample_weight=d["w"], by=by_all(d), **OPTIONS).compute().state == wanted
    given = asked(stored)
    assert dx.evaluate(**given, steps=(0, 150)).merge(dx.evaluate(**given, steps=(150, 400))).state == wanted
    dx.evaluate(**given, steps=(0, 400), journal=tmp_path / "j")
    report = dx.evaluate(**given, journal=tmp_path / "j", threads=2)
    assert report.notes == ("400 rows were in the journal already",)
    assert report.state == wanted
    assert dx.Report.from_json(report.to_json()) == report
    assert dx.verify(report) >= 1


@pytest.mark.slow
def test_workers_give_the_same_sums(stored, wanted, client):
    assert dx.evaluate(**asked(stored), client=client).state == wanted


@pytest.mark.filterwarnings("ignore:no row was counted")
@SOME
@given(st.data())
def test_any_order_of_merging_gives_the_same_tables(data):
    rows = data.draw(st.integers(1, 80))
    d = drawn(rows, data.draw(st.integers(0, 9)))
    d["x"] *= data.draw(st.sampled_from([1, 30, 1e4]))
    options = OPTIONS | {"sample_weight": data.draw(st.sampled_from([None, d["w"], d["w"] * 1e200]))}
    whole = dx.evaluate(d["y"], d["x"], by=by_all(d), **options)
    with pytest.MonkeyPatch.context() as patch:
        sized.give(patch, few=0)
        assert dx.evaluate(d["y"], d["x"], by=by_all(d), **options).state == whole.state
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, rows), max_size=3))), rows]
    spans = [(a, b) for a, b in itertools.pairwise(cuts) if a < b]
    parts = [
        dx.evaluate(d["y"], d["x"], by=by_all(d), steps=span, **options) for span in data.draw(st.permutations(spans))
    ]
    assert parts[0].merge(*parts[1:]).state == whole.state
    assert dx.Report.from_json(whole.to_json()).state == whole.state


@pytest.mark.parametrize("dtype", ["int8", "uint64", "bool", "int64"])
def test_keys_keep_their_values(dtype):
    low, high = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    ids = np.array([high, low, high, low, high], dtype)
    report = dx.evaluate([0] * 5, np.eye(5), by={"id": ids})
    assert [(key[0], row["rows"]) for key, row in report.by("id").items()] == [(int(low), 2), (int(high), 3)]
    assert dx.Report.from_json(report.to_json()) == report
    first, second = (dx.evaluate([0] * 5, np.eye(5), by={"id": ids}, steps=steps) for steps in ((0, 1), (1, 5)))
    assert first.merge(second) == report


def test_tables_for_people_and_for_programs():
    d = drawn()
    d["lang"] = d["lang"].astype("U20")
    d["lang"][0] = "\x1b[31m<b>"
    report = dx.evaluate(d["y"], d["x"], by={"language": d["lang"]}, **OPTIONS)
    slices = report.by("language")
    text = repr(report)
    assert "By language" in text
    assert text.replace("\n", "").isprintable()
    assert "&lt;b&gt;" in report._repr_html_()
    d["lang"][0] = "two\nlines"
    lines = repr(dx.evaluate(d["y"], d["x"], by={"language": d["lang"]}, **OPTIONS).by("language")).splitlines()
    assert len(lines) == len(text.partition("By language")[2].splitlines())
    assert any(r"two\nlines" in line for line in lines)
    frame = slices.to_pandas()
    assert frame.loc["de", "accuracy"] == slices[("de",)]["accuracy"]
    ends = ["", "_se", "_low", "_high"]
    assert list(frame.columns[:6]) == ["rows", "weight", *(f"crossentropy{end}" for end in ends)]
    assert float(slices.to_xarray()["rows"].sum()) == 400
    lines = list(csv.DictReader(io.StringIO(slices.to_csv())))
    assert [float(line["perplexity"]) for line in lines] == [row["perplexity"] for row in slices.rows]
    worst = slices.worst("accuracy", min_rows=2, count=2)
    assert len(worst) == 2
    shares = sorted(row["accuracy"] for row in slices.rows if row["rows"] > 1)
    assert [row["accuracy"] for row in worst.rows] == shares[:2]
    top = slices.worst("crossentropy", count=1).rows[0]["crossentropy"]
    assert top == max(row["crossentropy"] for row in slices.rows)
    assert json.loads(report.to_json())["by"]["language"][0]["rows"] == slices.rows[0]["rows"]


LARGER = ["crossentropy", "bits", "perplexity", "entropy", "brier", "rank", "class_distance"]
SMALLER = ["accuracy", "top_2_accuracy", "confidence", "label_probability", "margin", "mrr"]


def test_the_worst_groups_come_first_whatever_is_better():
    """The logits of the groups are ever larger, and those of labels most of all: each group is better than the last."""
    rng, groups = np.random.default_rng(0), np.arange(600) // 100
    y = rng.integers(0, CLASSES, 600)
    x = rng.normal(size=(600, CLASSES)) + groups[:, None] * 0.9 * np.eye(CLASSES)[y]
    report = dx.evaluate(y, x, from_logits=True, metrics=LARGER + SMALLER, by={"group": groups})
    for name in LARGER + SMALLER:
        found = [row[name] for row in report.by("group").worst(name).rows]
        assert found == sorted(found, reverse=name in LARGER)
        assert report.by("group").worst(name, count=1).rows[0]["group"] < 2, name


def test_a_shell_groups_too(stored, wanted, tmp_path):
    line = ["evaluate", f"{stored}/y", f"{stored}/x", "--from-logits", "--weights", f"{stored}/w"]
    for name in METRICS:
        line += ["--metric", name]
    line += ["--by", f"language={stored}/lang", "--by", f"length=bins({stored}/len, 100, 512, 2048, inf)"]
    line += ["--by", "prediction=prediction", "--by", "at=axis(0)", "--csv", str(tmp_path / "slices.csv")]
    done = CliRunner().invoke(cli.main, [*line, "--json"])
    assert done.exit_code == 0, done.stderr
    report = dx.Report.from_json(done.stdout)
    for name in ("language", "length", "prediction"):
        assert report.state.tables[name] == wanted.tables[name]
    assert (tmp_path / "slices.csv").read_text().startswith("language,rows,weight,crossentropy,")
    assert "By language" in CliRunner().invoke(cli.main, line).stdout
    both = CliRunner().invoke(cli.main, [*line[:4], "--by", f"language={stored}/lang & label=label", "--json"])
    assert list(json.loads(both.stdout)["by"]) == ["language, label"]
    for bad, message in (
        ("language", "is not NAME=PATH"),
        ("a=axis(x)", "invalid literal"),
        ("a=bins(confidence, 0, high)", "bins: expected edges, numbers that increase, got [' 0', ' high']"),
        ("a=bins(confidence, 1, 0)", "expected at least two edges that increase, got 1, 0"),
        ("a=axis(7)", "--by a: axis 7 is out of range for labels of shape (400,)"),
        (f"a={stored}/len", "--by a: expected integers, bool or strings, got dtype float64"),
    ):
        refused = CliRunner().invoke(cli.main, [*line[:4], "--by", bad])
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert message in refused.stderr


def test_no_two_of_many_combinations_are_one_group():
    rest = np.append(np.arange(1 << 16), 0)  # of five columns there are 2**80
    assert grouping.Places().of([np.arange(rest.size), rest, rest, rest, rest]).tolist() == list(range(rest.size))


@pytest.mark.parametrize(
    ("by", "error", "message"),
    [
        ({"a": [1.5] * 4}, TypeError, r"by\['a'\]: expected integers, bool or strings, got dtype float64"),
        ({"a": [1] * 5}, ValueError, r"by\['a'\]: shape \(5,\) does not lie along y_true of shape \(4,\)"),
        ({"a": "nowhere.zarr"}, FileNotFoundError, r"by\['a'\]: there is nothing at nowhere.zarr"),
        ({"a": dx.axis(1)}, ValueError, r"by\['a'\]: axis 1 is out of range for labels of shape \(4,\)"),
        ({}, ValueError, "by: expected at least one name to group by"),
        ({"weight": "label"}, ValueError, "by: 'weight' is a column of the table of slices; give the grouping another"),
        ({"accuracy_se": "label"}, ValueError, "by: 'accuracy_se' is a column of the table of slices"),
        ({"a,b": "label"}, ValueError, "by: expected names without commas, got 'a,b'"),
        ("label", TypeError, "by: expected a mapping from names"),
        ([{"a": "label"}, {"a": "prediction", "b": "label"}], ValueError, "by: 'a' means two things"),
        ([{"a": "label"}, {"a": "label"}], ValueError, "by: expected groupings of different names, got a, a"),
        (
            {"a": dx.bins("certainty", [0, 1])},
            FileNotFoundError,
            r"by\['a'\]: .* nothing at certainty; bins take .* confidence",
        ),
        (
            {"a": dx.bins("weight", [0, 1])},
            FileNotFoundError,
            "nothing at weight; bins take a path, an array, or above",
        ),
        ({"a": dx.bins("nowhere.zarr", [0, 1])}, FileNotFoundError, r"nothing at nowhere.zarr$"),
    ],
    ids=str,
)
def test_bad_groupings_are_refused_before_any_work(by, error, message):
    with pytest.raises(error, match=message):
        dx.plan([0] * 4, np.eye(4), by=by)


@pytest.mark.parametrize("edges", [[1], [], [1, 1], [2, 1], [0, math.nan, 1]])
def test_bins_need_edges_that_increase(edges):
    with pytest.raises(ValueError, match=r"^bins: expected at least two edges that increase"):
        dx.bins("loss", edges)


@pytest.mark.parametrize("edges", [5, "ab", [0, None]])
def test_edges_are_numbers(edges):
    with pytest.raises(TypeError, match="bins: expected edges, numbers that increase, got "):
        dx.bins("loss", edges)


@pytest.mark.parametrize(
    ("name", "options"),
    [("true class", {"per_class": True}), ("clusters", {"clusters": [0, 1]}), ("rank of the label", {"ranks": True})],
)
def test_names_of_other_sums_are_refused_by_the_name_that_was_given(name, options):
    with pytest.raises(ValueError, match=f"by: '{name}' is what sums for another option are called"):
        dx.evaluate([0, 1], np.eye(2), by={name: [0, 1]}, **options)


def test_too_many_groups_are_refused(monkeypatch):
    monkeypatch.setattr(tables, "MOST_KEYS", 50)
    y, x = np.zeros(9000, int), np.ones((9000, 3))
    with pytest.raises(ValueError, match="by: expected at most 50 groups; put what many rows differ in into bins"):
        dx.evaluate(y, x, by={"row": dx.axis(0)})
    with pytest.raises(ValueError, match="by: expected at most 50 groups"):
        dx.evaluate(y[:80], x[:80], by={"row": dx.axis(0)})


def test_what_was_not_asked_for_is_said():
    report = dx.evaluate([0], [[0.5, 0.5]], by={"a": "label"})
    with pytest.raises(KeyError, match="nothing was grouped by b; there are slices by a"):
        report.by("b")
    with pytest.raises(KeyError, match=r"there is no group \(7,\) by a"):
        report.by("a")[(7,)]
    with pytest.raises(KeyError, match="'bits' was not asked for"):
        report.by("a").worst("bits")
    derived = dx.evaluate([0, 1], [[0.5, 0.5], [0.2, 0.8]], by={"a": "label"}, metrics=["ece"])
    with pytest.raises(KeyError, match="'ece' was not asked for, or is of all rows only; groups have none"):
        derived.by("a").plot("ece")
    with pytest.raises(KeyError, match="groups have none of the metrics"):
        derived.by("a").plot()
    with pytest.warns(UserWarning, match="no row was counted"):
        empty = dx.evaluate([0], [[0.5, 0.5]], sample_weight=[0.0], by={"a": "label"})
    assert len(empty.by("a")) == 0
    assert "By a" in repr(empty)


@pytest.mark.parametrize(
    ("edges", "shown"),
    [
        ([999_999, 1e6, 1_000_001, 1e300], ["[999999, 1000000)", "[1000000, 1000001)", "[1000001, 1e+300]"]),
        (np.linspace(0, 0.3, 4), ["[0, 0.1)", "[0.1, 0.2)", "[0.2, 0.3]"]),
        ([1, 1 + 2**-52, 2], ["[1, 1.0000000000000002)", "[1.0000000000000002, 2]"]),
    ],
)
def test_edges_are_shown_so_that_bins_differ(edges, shown):
    rows = len(edges) - 1
    options = {"by": {"n": dx.bins(np.array(edges[:-1], float), edges)}, "from_logits": True}
    found = dx.evaluate(np.zeros(rows, int), np.zeros((rows, 2)), **options).by("n")
    assert [row["n"] for row in found.rows] == list(found.to_pandas().index) == shown
    assert [line["n"] for line in csv.DictReader(io.StringIO(found.to_csv()))] == shown


@pytest.mark.parametrize("words", [np.array(["a", "b"]), np.array(["1", "2"], object), np.array([b"1", b"2"])])
def test_bins_of_words_are_refused_by_name(words):
    with pytest.raises(TypeError, match=r"^by\['length'\]: expected numbers, got dtype "):
        dx.evaluate([0, 1], np.eye(2), by={"length": dx.bins(words, [0, 1])})


def test_rows_without_a_rank_are_in_no_bin_of_it():
    x = np.eye(3, dtype="f4")[[0, 1, 2, 0]]
    x[1] = np.nan
    for of in ("above", "rank"):
        report = dx.evaluate([0, 1, 2, 7], x, from_logits=True, on_invalid="count", by={"x": dx.bins(of, [0, 2, 9])})
        assert {key: report.by("x")[key]["rows"] for key in report.by("x")} == {
            (0,): 2,
            (3,): 2,
        }  # the last is "missing"
