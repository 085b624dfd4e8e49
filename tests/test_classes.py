"""Results per class are those of scikit-learn, for any weights, and exact where float64 is not."""

import json
import math
import pickle

import dask.array as da
import numpy as np
import pytest
import sklearn.metrics as sk

import daskxent as dx
from daskxent.kernels import COMPILED
from daskxent.numbers.classes import CLASS_METRICS, Counts
from daskxent.numbers.grouping import Totals
from daskxent.numbers.question import Question
from daskxent.numbers.scores import Scores
from daskxent.numbers.state import State
from daskxent.numbers.status import Scored

CLASSES = 9
METRICS = ["crossentropy", "accuracy", *CLASS_METRICS]


def drawn(rows=400, weighted=False, present=range(CLASSES), seed=0):
    """Return labels and logits that are often right; of the classes only some are ever true or predicted."""
    rng = np.random.default_rng(seed)
    y = rng.choice(list(present), rows)
    x = rng.normal(0, 1, (rows, CLASSES)) + 2 * np.eye(CLASSES)[y]
    x[:, [c for c in range(CLASSES) if c not in present]] = -50
    return y, x, rng.random(rows) * 3 if weighted else None


def by_sklearn(y, p, w):
    def prf(average):
        return sk.precision_recall_fscore_support(y, p, average=average, sample_weight=w, zero_division=0)[:3]

    def jaccard(average):
        return sk.jaccard_score(y, p, average=average, sample_weight=w, zero_division=0)

    found = {}
    for average in ("macro", "weighted"):
        found |= dict(zip([f"{average}_{name}" for name in ("precision", "recall", "f1")], prf(average), strict=True))
    balanced = sk.balanced_accuracy_score(y, p, sample_weight=w)
    return found | {
        "micro_f1": prf("micro")[2],
        "balanced_accuracy": balanced,
        "mean_class_accuracy": balanced,
        "matthews": sk.matthews_corrcoef(y, p, sample_weight=w),
        "cohen_kappa": sk.cohen_kappa_score(y, p, sample_weight=w),
        "mean_iou": jaccard("macro"),
        "frequency_weighted_iou": jaccard("weighted"),
        "mean_dice": found["macro_f1"],
    }


def test_a_class_that_is_only_predicted_has_no_clusters():
    x, clusters = np.eye(3)[[0, 1, 2, 2]] * 5, [0, 0, 1, 1]
    report = dx.evaluate([0, 1, 0, 1], x, from_logits=True, per_class=True, clusters=clusters)
    row = report.per_class()[(2,)]
    assert (row["rows"], row["predicted"], row["precision"]) == (0, 2.0, 0.0)
    assert np.isnan(row["crossentropy"])
    assert np.isnan(row["crossentropy_se"])
    assert "</html>" in report.to_html()


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("rows", [20, 9000])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("present", [range(CLASSES), [1, 4, 5]])
def test_metrics_of_classes_are_those_of_sklearn(rows, weighted, present):
    y, x, w = drawn(rows, weighted, present)
    report = dx.evaluate(y, x, sample_weight=w, from_logits=True, metrics=METRICS, threads=1)
    for name, value in by_sklearn(y, x.argmax(axis=1), w).items():
        assert report[name] == pytest.approx(value, rel=1e-12), name
    split = dx.evaluate(
        y, da.from_array(x, chunks=(7 if rows < 99 else 900, 4)), sample_weight=w, from_logits=True, metrics=METRICS
    )
    assert split == report
    assert dx.Report.from_json(report.to_json()) == report
    assert "macro_f1" in repr(report)
    assert math.isnan(report.se["macro_f1"])


@pytest.mark.parametrize("rows", [20, 9000])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("present", [range(CLASSES), [1, 4, 7]])
def test_weighted_kappas_are_those_of_sklearn(rows, weighted, present):
    y, x, w = drawn(rows, weighted, present)
    names = ["cohen_kappa_linear", "cohen_kappa_quadratic", "class_distance"]
    report = dx.evaluate(y, x, sample_weight=w, from_logits=True, metrics=names, threads=1)
    p = x.argmax(axis=1)
    for weights in ("linear", "quadratic"):
        wanted = sk.cohen_kappa_score(y, p, weights=weights, sample_weight=w)
        if np.union1d(y, p).size < CLASSES:  # scikit-learn counts classes that are there, we their numbers
            matrix = sk.confusion_matrix(y, p, labels=range(CLASSES), sample_weight=w)
            apart = abs(np.subtract.outer(range(CLASSES), range(CLASSES))) ** (1 + (weights == "quadratic"))
            chance = np.outer(matrix.sum(axis=1), matrix.sum(axis=0)) / matrix.sum()
            wanted = 1 - (apart * matrix).sum() / (apart * chance).sum()
        assert report[f"cohen_kappa_{weights}"] == pytest.approx(wanted, rel=1e-12)
    assert report["class_distance"] == pytest.approx(np.average(abs(y - p), weights=w))
    split = da.from_array(x, chunks=(7 if rows < 99 else 900, 4))
    assert dx.evaluate(y, split, sample_weight=w, from_logits=True, metrics=names) == report
    assert all(map(math.isnan, report.interval("cohen_kappa_linear")))


@pytest.mark.filterwarnings("ignore:.*is ill-defined")
@pytest.mark.parametrize("zero", [0, 1, math.nan])
def test_quotients_by_zero_are_those_of_sklearn(zero):
    y, x, w = drawn(60, True, [1, 4, 5])
    x[:, 7] = np.where(np.arange(60) == 3, 9, -50)  # predicted, and never true
    y[5], x[5] = 2, 9 * np.eye(CLASSES)[1]  # true, and never predicted
    p, names = x.argmax(axis=1), [f"{a}_{b}" for a in ("macro", "weighted") for b in ("precision", "recall", "f1")]
    report = dx.evaluate(
        y, x, sample_weight=w, from_logits=True, metrics=names, zero_division=zero, per_class=True, threads=1
    )
    for average in ("macro", "weighted"):
        wanted = sk.precision_recall_fscore_support(y, p, average=average, sample_weight=w, zero_division=zero)[:3]
        assert [report[f"{average}_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(wanted)
    each = sk.precision_recall_fscore_support(y, p, sample_weight=w, zero_division=zero)
    assert [row["precision"] for row in report.per_class().rows] == pytest.approx(each[0], nan_ok=True)
    assert dx.Report.from_json(report.to_json()) == report
    with pytest.raises(ValueError, match="zero_division: expected 0, 1 or NaN, got 2"):
        dx.evaluate(y, x, from_logits=True, zero_division=2)


def test_a_metric_of_classes_has_no_interval():
    y, x, _ = drawn(100)
    assert all(map(math.isnan, dx.evaluate(y, x, from_logits=True, metrics=["macro_f1"]).interval("macro_f1")))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_table_of_classes(weighted):
    y, x, w = drawn(600, weighted)
    y[y == 3] = 2  # which is still predicted
    p = x.argmax(axis=1)
    report = dx.evaluate(y, x, sample_weight=w, from_logits=True, per_class=True, metrics=["crossentropy"])
    found = report.per_class()
    precision, recall, f1, _ = sk.precision_recall_fscore_support(y, p, sample_weight=w, zero_division=0)
    iou = sk.jaccard_score(y, p, sample_weight=w, average=None, zero_division=0)
    every = np.ones(len(y)) if w is None else w
    for (label,), row in found.items():
        assert [row[name] for name in ("precision", "recall", "f1", "iou")] == pytest.approx(
            [precision[label], recall[label], f1[label], iou[label]], rel=1e-12
        )
        assert row["predicted"] == pytest.approx(every[p == label].sum())
        assert (row["class"], row["rows"]) == (label, (y == label).sum())
        if label != 3:
            alone = dx.evaluate(
                y[y == label], x[y == label], sample_weight=None if w is None else w[y == label], from_logits=True
            )
            assert row["crossentropy"] == alone["crossentropy"]
            assert row["crossentropy_se"] == alone.se["crossentropy"]
    assert math.isnan(found[(3,)]["crossentropy"])
    assert list(found.to_pandas().index) == list(range(CLASSES))
    worst = min((row["recall"], row["class"]) for row in found.rows)[1]
    assert found.worst("crossentropy", count=3).rows[0]["class"] in range(CLASSES)
    assert found[(worst,)]["recall"] == 0
    assert "class" in repr(found)


@pytest.mark.parametrize("weighted", [False, True])
def test_confusions(weighted):
    y, x, w = drawn(600, weighted)
    p = x.argmax(axis=1)
    report = dx.evaluate(y, x, sample_weight=w, from_logits=True, confusions=True)
    matrix = sk.confusion_matrix(y, p, sample_weight=w, labels=range(CLASSES))
    assert report.confusion_matrix() == pytest.approx(matrix)
    top = report.top_confusions(5)
    off = matrix * (1 - np.eye(CLASSES))
    assert [each.weight for each in top] == pytest.approx(sorted(off.ravel(), reverse=True)[:5])
    for each in top:
        assert each.rows == ((y == each.true) & (p == each.predicted)).sum()
        assert each.share == pytest.approx(off[each.true, each.predicted] / matrix[each.true].sum())


def test_hidden_rows_are_left_out_of_labels_and_predictions():
    y, x, _ = drawn(300)
    y[::3], x[1, :] = 255, np.nan
    options = {"from_logits": True, "ignore_class": 255, "on_invalid": "skip", "metrics": METRICS}
    kept = np.setdiff1d(np.arange(300)[y != 255], [1])
    report = dx.evaluate(y, x, per_class=True, confusions=True, **options)
    alone = dx.evaluate(y[kept], x[kept], per_class=True, confusions=True, **options)
    assert report.metrics == alone.metrics
    assert (report.confusion_matrix() == alone.confusion_matrix()).all()


def missing(draw, logits, weighted):
    """Return labels, predictions and weights with rows of no label, of no prediction, and of neither."""
    rng = np.random.default_rng(draw)
    y, x, w = drawn(int(rng.integers(1, 40)), weighted, rng.choice(CLASSES, 3, replace=False), draw)
    y[rng.random(y.size) < rng.choice([0, 0.3, 1], p=[0.3, 0.5, 0.2])] = rng.choice([-7, CLASSES, 250])
    x = x if logits else np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    x[rng.random(y.size) < rng.choice([0, 0.3, 1], p=[0.3, 0.5, 0.2]), 2] = np.nan
    return y, x, w


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore::daskxent.DoubtfulResult")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning", "ignore:A single label was found")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("logits", [False, True])
def test_rows_without_a_label_or_a_prediction_are_wrong_and_in_no_class(logits, weighted, tries):
    """For scikit-learn they have classes of their own, which are never predicted, or never true."""
    for draw in tries(15):
        y, x, w = missing(draw, logits, weighted)
        options = {"sample_weight": w, "from_logits": logits, "on_invalid": "count", "threads": 1}
        report = dx.evaluate(y, x, metrics=METRICS, **options)
        known = (y >= 0) & (y < CLASSES)
        true, p = np.where(known, y, -2), np.where(np.isnan(x).any(axis=1), -1, np.nan_to_num(x).argmax(axis=1))
        wanted = by_sklearn(true, p, w)
        present = sorted({*true[known], *p} - {-1})
        few = {"labels": present, "average": "macro", "sample_weight": w, "zero_division": 0}
        if present:
            macro = sk.precision_recall_fscore_support(true, p, **few)[:3]
            wanted |= dict(zip(("macro_precision", "macro_recall", "macro_f1"), macro, strict=True))
            wanted |= {"mean_dice": macro[2], "mean_iou": sk.jaccard_score(true, p, **few)}
        else:
            wanted |= dict.fromkeys((name for name in wanted if name.startswith(("macro_", "mean_"))), math.nan)
        recalls = sk.recall_score(true, p, **few | {"labels": sorted(set(true[known]))}) if known.any() else math.nan
        wanted |= {"balanced_accuracy": recalls, "mean_class_accuracy": recalls}
        assert {name: report[name] for name in wanted} == pytest.approx(wanted, rel=1e-12, abs=1e-14, nan_ok=True)
        assert dx.Report.from_json(report.to_json()) == report


@pytest.mark.filterwarnings("ignore::daskxent.DoubtfulResult")
@pytest.mark.parametrize("zero", [0, 1, math.nan])
def test_weighted_means_of_quotients_by_zero_are_those_of_sklearn(zero):
    """Where no class is right or predicted, too; a label that is no class is one for scikit-learn."""
    names = [f"weighted_{name}" for name in ("precision", "recall", "f1")]
    cases = [([3, 2], np.eye(5)[[0, 4]], None), *(missing(draw, True, draw % 2) for draw in range(40))]
    for y, x, w in cases:
        classes = x.shape[1]
        report = dx.evaluate(
            y, x, sample_weight=w, from_logits=True, metrics=names, zero_division=zero, on_invalid="count", threads=1
        )
        p = np.where(np.isnan(x).any(axis=1), -1, np.nan_to_num(x).argmax(axis=1))
        true = np.where(np.isin(y, range(classes)), y, -2)
        options = {"average": "weighted", "sample_weight": w, "zero_division": zero}
        wanted = sk.precision_recall_fscore_support(true, p, **options)[:3]
        assert [report[name] for name in names] == pytest.approx(wanted, nan_ok=True)
    report = dx.evaluate([3, 2], cases[0][1], from_logits=True, metrics=names, zero_division=math.nan)
    assert report["weighted_precision"] == 0


def test_labels_beyond_the_classes_are_wrong():
    x = np.array([[2.0, 1.0], [1.0, 2.0], [2.0, 1.0]])[[0, 1, 2, 2, 2]]
    for label in (7, -1):
        y = [0, 1, label, label, label]
        report = dx.evaluate(y, x, from_logits=True, metrics=METRICS, on_invalid="count")
        assert report["micro_f1"] == report["weighted_recall"] == report["accuracy"] == 0.4
        assert report["matthews"] == pytest.approx(sk.matthews_corrcoef(y, x.argmax(axis=1)))


def test_negative_weights_leave_no_coefficient_or_that_of_the_formula():
    """Matthews's coefficient as a covariance over the root of two variances, which may be of different signs."""
    rng, found = np.random.default_rng(2), set()
    cases = [([2, 0, 0, 0, 1, 2], [1, 0, 1, 1, 2, 2], [2, -1, 2, -1, 1, -1])]
    cases += [(*rng.integers(0, 3, (2, 6)), rng.integers(-2, 4, 6)) for _ in range(60)]
    for y, p, w in cases:
        if np.sum(w) == 0:
            continue
        options = {"allow_negative_weights": True, "metrics": [*METRICS, "cohen_kappa_linear"], "from_logits": True}
        report = dx.evaluate(y, np.eye(3)[p], sample_weight=np.array(w, float), **options)
        matrix = np.zeros((3, 3))
        np.add.at(matrix, (np.array(y), np.array(p)), w)
        chance = np.outer(matrix.sum(axis=1), matrix.sum(axis=0)).trace()
        product = np.prod([np.sum(w) ** 2 - (matrix.sum(axis=axis) ** 2).sum() for axis in (0, 1)])
        wanted = (np.trace(matrix) * np.sum(w) - chance) / math.sqrt(product) if product > 0 else math.nan
        wanted = 0.0 if product == 0 else wanted
        assert report["matthews"] == pytest.approx(wanted, nan_ok=True)
        assert dx.Report.from_json(report.to_json()) == report
        assert "matthews" in repr(report)
        found.add(np.sign(product))
    assert found == {-1, 0, 1}


def test_segmentation_maps():
    rng = np.random.default_rng(0)
    y, x = rng.integers(0, 4, (3, 16, 16)), rng.normal(size=(3, 4, 16, 16)).astype("float32")
    y[:, :2] = 255
    report = dx.evaluate(y, x, axis=1, from_logits=True, ignore_class=255, metrics=["mean_iou"], clusters=dx.axis(0))
    inside = y != 255
    assert report["mean_iou"] == pytest.approx(sk.jaccard_score(y[inside], x.argmax(axis=1)[inside], average="macro"))


def test_products_of_counts_beyond_float64_are_exact():
    """Nearly all rows are right: in float64 the numerator of Matthews's coefficient would be lost."""
    n = 10**10
    counts = Counts([0, 1], [n, 2], [n + 1, 1], [n, 1], n + 2)
    exact = (n + 1) * (n + 2) - (n * (n + 1) + 2)
    below = ((n + 2) ** 2 - (n + 1) ** 2 - 1) * ((n + 2) ** 2 - n**2 - 4)
    assert CLASS_METRICS["matthews"](counts) == pytest.approx(exact / math.sqrt(below), rel=1e-15)
    assert CLASS_METRICS["cohen_kappa"](counts) == exact / ((n + 2) ** 2 - (n * (n + 1) + 2))


def test_where_a_metric_is_not_defined():
    one = dx.evaluate([0, 0], [[2.0, 1.0]] * 2, from_logits=True, metrics=["matthews", "cohen_kappa", "macro_f1"])
    assert one["matthews"] == 0
    assert math.isnan(one["cohen_kappa"])
    assert one["macro_f1"] == 1
    with pytest.warns(UserWarning, match="no row was counted"):
        none = dx.evaluate(
            [0], [[2.0, 1.0]], from_logits=True, sample_weight=[0.0], metrics=list(CLASS_METRICS), per_class=True
        )
    assert all(map(math.isnan, none.metrics.values()))
    assert len(none.per_class()) == 0
    with pytest.raises(KeyError, match="evaluate was not asked for per_class=True"):
        one.per_class()
    with pytest.raises(KeyError, match="evaluate was not asked for confusions=True"):
        one.top_confusions()
    wide = dx.evaluate([0], np.ones((1, 2049)), from_logits=True, confusions=True)
    with pytest.raises(ValueError, match="confusion_matrix: 2049 classes; at most 2048: see top_confusions"):
        wide.confusion_matrix()


@pytest.mark.filterwarnings("ignore::daskxent.DoubtfulResult", "ignore:.*weight")
def test_weights_of_a_class_that_cancel():
    x = np.array([[3.0, 0], [0, 3], [0, 3], [3, 0]])
    options = {"from_logits": True, "confusions": True, "per_class": True, "allow_negative_weights": True}
    report = dx.evaluate([0, 0, 1, 1], x, sample_weight=[1.0, -1, 1, 0.5], metrics=["ece"], **options)
    first, second = report.top_confusions()
    assert first == (1, 0, 1, 0.5, 0.5 / 1.5)
    assert second[:4] == (0, 1, 1, -1.0)
    assert math.isnan(second.share)
    assert "Most frequent confusions" in report.to_html()
    none = dx.evaluate([0, 0], x[1:3], sample_weight=[1.0, -1], metrics=["ece"], **options)
    assert math.isnan(none.top_confusions()[0].share)
    assert len(none.reliability()) == 0
    assert "Most frequent confusions" in none.to_html()


@pytest.mark.slow
def test_the_state_of_256_000_classes_is_small():
    """Of every class the counts, the sum of the losses and that of their squares: at most 20 MB, kept or sent."""
    classes, rng = 256_000, np.random.default_rng(0)
    question = Question(("crossentropy",), classes, from_logits=True, per_class=True)
    total = Totals(question, COMPILED)
    for seed in range(3):
        labels = rng.permutation(classes)
        scores = Scores(
            np.zeros(classes, np.uint8),
            loss=rng.exponential(10.0 ** (1 - 3 * seed), classes),  # small ones among them
            hit=rng.random(classes) < 0.5,
            prediction=rng.integers(0, classes, classes),
        )
        total.add(Scored.of(question, scores, labels))
    state = State(total.sums(), total.tables())
    held = sum(column.nbytes for table in state.tables.values() for column in (*table.keys, *table.columns.values()))
    assert held < 20e6
    assert len(pickle.dumps(state)) < 20e6
    assert len(json.dumps(state.to_json())) < 20e6
    merged = state.merge(state)
    assert sum(c.nbytes for table in merged.tables.values() for c in (*table.keys, *table.columns.values())) == held
