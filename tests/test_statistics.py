"""A statistic is a row of a table, and a grouping an object: both right, to the same bits, on every way there is."""

import json
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import dask.array as da
import numpy as np
import pytest
import sized
import zarr
from running import prepared, running

import daskxent as dx
from daskxent.numbers import statistics
from daskxent.numbers.exact import ExactSum
from daskxent.numbers.keys import Bins, Group
from daskxent.numbers.question import Question
from daskxent.numbers.state import State
from daskxent.numbers.statistics import Statistic
from daskxent.numbers.sums import Sums

CLASSES = 41
LEAD = Statistic("lead", frozenset({"peak", "second"}), lambda scores, labels: scores.peak - scores.second, "nats")
EDGES = (0.0, 0.1, 0.3, 0.5, 1.0)
LANGUAGE, SURE = (Group("language", "language"),), (Bins("sure", "confidence", EDGES),)
LABEL = (Group("label", "labels"),)


def add_lead() -> None:
    """Put the statistic into the table of this process."""
    statistics.STATISTICS["lead"] = LEAD


def remove_lead() -> None:
    """Take it out again."""
    del statistics.STATISTICS["lead"]


@pytest.fixture
def lead():
    add_lead()
    yield
    remove_lead()


@pytest.fixture
def lead_on_workers(client):
    client.run(add_lead)
    yield
    client.run(remove_lead)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(11)
    x = rng.normal(0, 2, (700, CLASSES)).astype(np.float32)
    x[::50] = np.round(x[::50])  # ties
    return rng.integers(0, CLASSES, 700), x, rng.integers(0, 9, 700) / 8, rng.choice(["de", "en", "fr"], 700)


def stored(values, chunks):
    array = zarr.create_array({}, shape=values.shape, dtype=values.dtype, chunks=chunks)
    array[...] = values
    return array


WAYS = {
    "NumPy": lambda x: x,
    "map": lambda x: x,
    "zarr": lambda x: stored(x, (90, CLASSES)),
    "zarr split by classes": lambda x: stored(x, (90, 7)),
    "blocks of classes": lambda x: dx.concat([x[:, :1], x[:, 1:20], x[:, 20:]], axis=-1),
    "dask": lambda x: da.from_array(x, chunks=(130, CLASSES)),
    "dask split by classes": lambda x: da.from_array(x, chunks=(130, 13)),
}


def asked(way: str, data: Any, **options: Any) -> tuple[Any, Question]:
    """Open and align the data held in some way, with the languages of the rows along them."""
    y, x, w, languages = data
    if way == "map":  # the class axis in the middle, rows over two axes
        y, w, languages = (each.reshape(10, 70) for each in (y, w, languages))
        x, options = np.moveaxis(x.reshape(10, 70, CLASSES), 2, 1), {**options, "axis": 1}
    given = {"sample_weight": w, "from_logits": True, "along": {"language": languages}, **options}
    return prepared(y, WAYS[way](x), **given)


def answered(inputs: Any, question: Question, **where: Any) -> State:
    *_, report = running(inputs, question, **where)
    return report.state


@pytest.mark.parametrize("few", [0, 1 << 30], ids=["compiled", "NumPy"])
@pytest.mark.parametrize("way", WAYS)
def test_a_statistic_of_one_row_in_the_table_is_right(lead, data, monkeypatch, way, few):
    sized.give(monkeypatch, few=few)
    _, x, w, _ = data
    top = np.sort(x.astype(float), axis=1)
    each = [Fraction(a - b) for a, b in zip(top[:, -1], top[:, -2], strict=True)]
    total = sum(Fraction(weight) * value for weight, value in zip(w, each, strict=True))
    state = answered(*asked(way, data, metrics=["lead", "crossentropy"]))
    assert state.total.totals["lead"] == ExactSum.of([]) + ExactSum(int(total * 2**1074))
    assert state.total == answered(*asked("NumPy", data, metrics=["lead", "crossentropy"])).total


@pytest.mark.slow
def test_a_statistic_of_one_row_in_the_table_is_right_on_a_cluster(lead, lead_on_workers, data, client):
    wanted = answered(*asked("NumPy", data, metrics=["lead"]), threads=1)
    for way in ("zarr split by classes", "dask", "dask split by classes"):
        assert answered(*asked(way, data, metrics=["lead"]), client=client) == wanted, way


def test_a_metric_is_reported_by_the_name_of_its_statistic(lead, data):
    report = dx.evaluate(data[0], data[1], metrics=["lead"], from_logits=True)
    top = np.sort(data[1].astype(float), axis=1)
    assert report["lead"] == pytest.approx((top[:, -1] - top[:, -2]).mean(), rel=1e-14)  # a sum of 700 rounds
    assert "lead" in repr(report)
    assert "nats" in repr(report)


@pytest.mark.parametrize("name", ["margn", "top_0_accuracy", "", None, 3])
def test_an_unknown_statistic_is_an_error_everywhere(data, name):
    y, x = data[:2]
    for call in (dx.evaluate, dx.plan, dx.stream):
        with pytest.raises((TypeError, ValueError), match=r"metrics: .* (is unknown|expected)"):
            call(y, x, metrics=[name])
    if isinstance(name, str):
        with pytest.raises(ValueError, match="is unknown; known are 'crossentropy', 'accuracy'"):
            Question((name,), 3)


def summed(data: Any, chosen: Any, question: Question) -> Sums:
    """Return the sums over some rows, from an evaluation of them alone."""
    y, x, w = (each[chosen] for each in data[:3])
    return dx.evaluate(y, x, sample_weight=w, from_logits=True, metrics=question.metrics, threads=1).state.total


@pytest.mark.parametrize("few", [0, 1 << 30], ids=["compiled", "NumPy"])
@pytest.mark.parametrize("way", WAYS)
def test_sums_by_key_are_those_of_the_rows_alone(data, monkeypatch, way, few):
    sized.give(monkeypatch, few=few)
    inputs, question = asked(way, data, metrics=["crossentropy", "accuracy", "top_2_accuracy"])
    question = replace(question, by=(LANGUAGE, SURE, LABEL, LANGUAGE + LABEL))
    state = answered(inputs, question)
    x = data[1].astype(np.longdouble)
    confidence = (np.exp(x.max(axis=1)) / np.exp(x).sum(axis=1)).astype(float)
    keys = {"language": [data[3]], "label": [data[0]], "sure": [np.digitize(confidence, EDGES) - 1]}
    keys["language, label"] = [data[3], data[0]]
    assert set(state.tables) == set(keys)
    for name, values in keys.items():
        used = sorted(set(zip(*(each[data[2] > 0].tolist() for each in values), strict=True)))
        assert list(state.tables[name]) == used
        groups = [state.tables[name].sums(key) for key in used]
        for key, sums in zip(used, groups, strict=True):
            chosen = np.all([each == value for each, value in zip(values, key, strict=True)], axis=0)
            assert sums == summed(data, chosen, question)
        assert Sums.all(groups) == state.total  # and they add up to the total


@pytest.mark.slow
def test_sums_by_key_are_the_same_on_a_cluster_in_json_and_in_a_journal(data, client, tmp_path):
    by = (LANGUAGE, SURE, (*LANGUAGE, *SURE))
    inputs, question = asked("NumPy", data)
    wanted = answered(inputs, replace(question, by=by))
    for way in ("zarr", "zarr split by classes", "dask"):
        inputs, question = asked(way, data)
        assert answered(inputs, replace(question, by=by), client=client) == wanted, way
    assert State.from_json(json.loads(json.dumps(wanted.to_json()))) == wanted
    inputs, question = asked("zarr", data)
    question = replace(question, by=by)
    for _ in range(2):  # the second run finds everything in the journal
        assert answered(inputs, question, journal=tmp_path / "journal") == wanted
    with pytest.raises(dx.JournalError, match=r"question\.by"):
        answered(inputs, replace(question, by=by[:1]), journal=tmp_path / "journal")
    assert Question.from_json(json.loads(json.dumps(question.to_json()))) == question


@pytest.mark.parametrize("beyond", [-5, 3, 250, 2**62])
@pytest.mark.parametrize("rows", [30, 9000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_label_that_is_no_class_has_no_distance(beyond, rows, dtype, tmp_path):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(rows, 5)).astype(dtype)[:, :3], rng.integers(0, 3, rows)
    y[7] = beyond
    names = ["class_distance", "squared_class_distance", "cohen_kappa_linear"]
    by = {"sure": dx.bins("class_distance", [0, 1, 2])}
    options = {"from_logits": True, "on_invalid": "count", "metrics": names, "by": by, "threads": 1}
    stored = zarr.create_array({}, shape=x.shape, dtype=dtype, chunks=(rows // 3, 2))
    stored[...] = x
    for given in (x, np.asfortranarray(x), stored, da.from_array(x, chunks=(rows // 2, 2))):
        report = dx.evaluate(y, given, **options)
        assert all(math.isnan(report[name]) for name in names)
        assert report.by("sure")[(3,)]["rows"] == 1
    known = np.delete(np.arange(rows), 7)
    report = dx.evaluate(y, x, **{**options, "on_invalid": "skip"})
    assert report["class_distance"] == np.mean(abs(y - x.argmax(axis=1))[known])


def test_rows_that_do_not_count_have_no_key():
    inputs, question = prepared(
        [0, 1, 5], [[0.5, 0.5]] * 3, sample_weight=[0, 1, 1], on_invalid="skip", along={"group": [7, 8, 9]}
    )
    state = answered(inputs, replace(question, by=((Group("group", "group"),),)))
    assert list(state.tables["group"]) == [(8,)]


def test_columns_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="columns: 'certainty' is unknown; known are above, confidence"):
        Question(("accuracy",), 3, columns=("certainty",))


@pytest.mark.parametrize("other", [Bins("peak", "loss", (0.0, 1.0)), Group("peak", "labels")])
def test_groupings_of_the_same_name_are_refused(other):
    with pytest.raises(ValueError, match="by: expected groupings of different names, got peak, peak"):
        Question(("accuracy",), 3, by=((Bins("peak", "peak", (0.5, 1.0)),), (other,)))


EVERYTHING = ("crossentropy", "accuracy", "perplexity", "margin", *statistics.DERIVED)


def shown(report):
    """Show all that a report has, in every form."""
    repr(report), report.to_html(), report.to_pandas(), report.design_effect, report.effective_rows
    report.brier_decomposition(), report.temperature(), report.top_confusions(), list(report.top_k_curve())
    for each in (*report.slices, report.per_class()):
        each.to_csv(), each.worst("accuracy"), repr(each)
    assert dx.Report.from_json(report.to_json()) == report


def everything(weights, seed=0, **options):
    rng = np.random.default_rng(seed)
    y, x = rng.integers(0, 3, 8), rng.normal(size=(8, 3))
    return dx.evaluate(
        y, x, from_logits=True, metrics=EVERYTHING, sample_weight=weights, by={"label": "label"}, per_class=True,
        confusions=True, histograms=["crossentropy", "margin"], ranks=True, worst=2, threads=1, **options,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::daskxent.DoubtfulResult")
def test_weights_whose_sum_is_beyond_float64_are_those_of_their_size():
    report, plain = everything(np.full(8, 2.0**1022)), everything(np.ones(8))
    shown(report)
    assert report.weight == math.inf
    for name in ("accuracy", "macro_f1", "matthews", "cohen_kappa", "mean_iou", "ece", "mce", "classwise_ece"):
        assert report[name] == plain[name]
    for one, other in zip(report.reliability(), plain.reliability(), strict=True):
        assert one == other | {"weight": one["weight"]}
    assert sum(line["weight"] for line in report.reliability()) == math.inf


@pytest.mark.filterwarnings("ignore::daskxent.DoubtfulResult", "ignore:the weights sum to zero")
@pytest.mark.parametrize("average", [None, "row", "cluster"])
def test_reports_show_whatever_the_weights(average):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        weights = rng.choice([1e308, -1e308, 5e-324, -5e-324, 1.0, -1.0], 8)
        clusters = {"clusters": rng.integers(0, 3, 8), "average": average} if average else {}
        shown(everything(weights, seed, allow_negative_weights=True, **clusters))
