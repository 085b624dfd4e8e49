import itertools
import json
import math
from decimal import Decimal, localcontext
from functools import reduce

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from strategies import MANY, SOME, labels, logits, partitions, probabilities, weights

import daskxent as dx
from daskxent.numbers import statistics
from daskxent.numbers.audit import AUDIT, FIRST, Finding, findings, raise_first_error
from daskxent.numbers.exact import ExactSum
from daskxent.numbers.grouping import Totals
from daskxent.numbers.question import Question
from daskxent.numbers.records import scan
from daskxent.numbers.scores import finish
from daskxent.numbers.state import State
from daskxent.numbers.status import Scored
from daskxent.numbers.sums import Sums

METRICS = ("crossentropy", "accuracy", "top_2_accuracy", "perplexity", "bits")
ROUNDING = 2.0**-52  # one product and one quotient are rounded, each to half a unit in the last place


def ask(y_true, y_pred, **options):
    options = {"metrics": METRICS, "from_logits": True, "threads": 1, **options}
    return dx.evaluate(np.asarray(y_true), np.asarray(y_pred), **options)


def accumulated(question, rows):
    """Return the state of scored rows."""
    totals = Totals(question)
    totals.add(rows)
    return State(totals.sums(), totals.tables(), findings(question, rows))


@st.composite
def states(draw, start=0, stop=24):
    """Draw the states of consecutive, unequal ranges of rows with exceptional rows of all kinds."""
    n, classes = stop - start, 5
    values, label = draw(logits((n, classes))), draw(labels((n,), classes)).astype(np.int64)
    weight = draw(weights((n,)))
    label[draw(st.integers(0, n - 1))] = -7
    unit = draw(st.booleans())
    question = Question(METRICS, classes, from_logits=not unit, ignore_class=draw(st.sampled_from([(), (1,)])))
    found, at = [], start
    for size in draw(partitions(n)):
        part = slice(at - start, at - start + size)
        rows = scan(values[part], label[part], probabilities=unit, top=2)
        scores = finish(rows, label[part], classes, question.needs)
        state = accumulated(question, Scored.of(question, scores, label[part], weight[part]))
        found.append(state.placed(lambda row, at=at: row + at, ((at, at + size),)))
        at += size
    return found


@MANY
@given(states(), st.randoms(use_true_random=False))
def test_merging_states_is_associative_and_commutative(parts, random):
    whole = reduce(State.merge, parts)
    assert whole.covered == ((0, 24),)
    parts = list(parts)
    while len(parts) > 1:
        random.shuffle(parts)
        parts.append(parts.pop().merge(parts.pop()))
    assert parts[0] == whole
    assert json.dumps(parts[0].to_json()) == json.dumps(whole.to_json())


@SOME
@given(states())
def test_zero_is_the_identity_of_merging(parts):
    for state in parts:
        assert state.merge(State()) == state == State().merge(state)
    assert State().merge(State()) == State()


@MANY
@given(states())
def test_states_round_trip_through_json(parts):
    halves = [State.from_json(json.loads(json.dumps(state.to_json()))) for state in parts]
    assert halves == parts
    assert reduce(State.merge, halves) == reduce(State.merge, parts)


def covering(*spans):
    return State(covered=spans)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (((0, 5),), ((4, 6),), "rows 4 to 4 "),
        (((0, 5),), ((0, 5),), "rows 0 to 4 "),
        (((3, 9),), ((0, 20),), "rows 3 to 8 "),
        (((0, 2), (6, 8)), ((2, 4), (7, 9)), "rows 7 to 7 "),
    ],
)
def test_states_that_cover_the_same_row_refuse_to_merge(a, b, said):
    for one, other in ((a, b), (b, a)):
        with pytest.raises(ValueError, match=f"{said}are covered twice"):
            covering(*one).merge(covering(*other))


@SOME
@given(st.data())
def test_coverage_is_the_union(data):
    sizes = data.draw(partitions(40))
    edges = np.cumsum([0, *sizes]).tolist()
    spans = data.draw(st.permutations([(a, b) for a, b in itertools.pairwise(edges)]))
    kept = spans[: data.draw(st.integers(0, len(spans)))]
    merged = reduce(State.merge, [covering(span) for span in kept], State())
    rows = sorted(row for span in kept for row in range(*span))
    assert [row for span in merged.covered for row in range(*span)] == rows
    assert merged.rows == len(rows)
    assert all(a[1] < b[0] for a, b in zip(merged.covered, merged.covered[1:], strict=False))  # none touch


def test_counts_are_whole_beyond_what_floats_hold():
    for count in (2**24 + 1, 2**31 + 1, 2**53 + 1):
        part = State(Sums({"accuracy": ExactSum.whole(count)}, ExactSum.whole(count), count))
        both = part.merge(part)
        assert both.total.counted == 2 * count
        assert both.total.weight == both.total.totals["accuracy"] == ExactSum.whole(2 * count)
        assert State.from_json(json.loads(json.dumps(both.to_json()))) == both


@SOME
@given(st.data())
def test_the_first_ten_findings_are_the_same_in_any_order_of_merging(data):
    bad = data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=40, unique=True))
    y_true = np.zeros(100, int)
    y_true[bad] = 9
    sizes = data.draw(partitions(100))
    edges = np.cumsum([0, *sizes]).tolist()
    rows = [
        ask(y_true, np.eye(3)[np.zeros(100, int)], on_invalid="skip", steps=span).state
        for span in itertools.pairwise(edges)
        if (y_true[slice(*span)] == 0).any()
    ]
    covered = np.concatenate([np.arange(*span) for state in rows for span in state.covered])
    wanted = sorted(set(bad) & set(covered.tolist()))
    merged = reduce(State.merge, data.draw(st.permutations(rows)))
    assert merged.audit.get("label_out_of_range", Finding()) == Finding(
        len(wanted), tuple((row, 9) for row in wanted[:FIRST])
    )


@SOME
@given(st.data(), st.sampled_from([2, 4, 8]))
def test_a_weight_is_the_row_repeated(data, power):
    y_pred = data.draw(logits((9, 4)))
    y_true = data.draw(labels((9,), 4))
    times = np.array([0, 1, power, 1, power, 0, power, 1, 2])
    weighted = ask(y_true, y_pred, sample_weight=times)
    repeated = ask(np.repeat(y_true, times), np.repeat(y_pred, times, axis=0))
    for name, total in weighted.state.total.totals.items():  # powers of two times a float64 are exact
        assert total.units == repeated.state.total.totals[name].units
    assert weighted.state.total.weight == repeated.state.total.weight
    assert np.array_equal(list(weighted.metrics.values()), list(repeated.metrics.values()), equal_nan=True)


@SOME
@given(st.data())
def test_any_whole_weight_is_the_row_repeated_but_for_one_rounding(data):
    y_pred, y_true = data.draw(logits((9, 4), dtypes=("float64",))), data.draw(labels((9,), 4))
    times = np.array([3, 1, 7, 10, 0, 5, 11, 3, 6])
    weighted = ask(y_true, y_pred, sample_weight=times)
    repeated = ask(np.repeat(y_true, times), np.repeat(y_pred, times, axis=0))
    assert weighted["accuracy"] == repeated["accuracy"]
    assert weighted.state.total.weight == repeated.state.total.weight
    np.testing.assert_allclose(weighted["crossentropy"], repeated["crossentropy"], ROUNDING, equal_nan=True)


BAD_ROWS = {
    "NaN": [np.nan, 1.0, 2.0],
    "infinite": [np.inf, 1.0, 2.0],
    "masked out": [-np.inf, -np.inf, -np.inf],
    "huge": [1e300, -1e300, 0.0],
}


@pytest.mark.parametrize("unit", [False, True], ids=["logits", "probabilities"])
@pytest.mark.parametrize("bad", BAD_ROWS)
@pytest.mark.parametrize("label", [0, 2, 3, -1, 2**40], ids="label {}".format)
@pytest.mark.parametrize("on_invalid", ["raise", "skip", "count"])
def test_a_weight_of_zero_removes_the_row_whatever_it_holds(bad, label, on_invalid, unit):
    y_true, y_pred = (
        np.array([0, 2, 1, 0]),
        np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], BAD_ROWS[bad], [0.2, 0.6, 0.2]]),
    )
    y_true[2] = label
    options = {"from_logits": not unit, "on_invalid": on_invalid}
    got = ask(y_true, y_pred, sample_weight=[1.0, 0.5, 0.0, 2.0], **options)
    kept = [0, 1, 3]
    wanted = ask(y_true[kept], y_pred[kept], sample_weight=[1.0, 0.5, 2.0], **options)
    assert got.metrics == wanted.metrics
    assert got.state.total.totals == wanted.state.total.totals
    assert got.audit == {"masked": {"what": AUDIT["masked"], "count": 1, "rows": [2]}}


@pytest.mark.parametrize("unit", [False, True], ids=["logits", "probabilities"])
@pytest.mark.parametrize("bad", BAD_ROWS)
@pytest.mark.parametrize("ignored", [1, -1, 255])
def test_an_ignored_row_is_removed_whatever_it_holds(bad, ignored, unit):
    y_true = np.array([0, 2, ignored, 0])
    y_pred = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], BAD_ROWS[bad], [0.2, 0.6, 0.2]])
    kept = [0, 1, 3]
    for w in (None, np.array([1.0, 0.5, 3.0, 2.0])):
        got = ask(y_true, y_pred, ignore_class=ignored, from_logits=not unit, sample_weight=w)
        wanted = ask(y_true[kept], y_pred[kept], from_logits=not unit, sample_weight=None if w is None else w[kept])
        assert got.metrics == wanted.metrics
        assert got.weight == wanted.weight
        assert got.audit == {"ignored": {"what": AUDIT["ignored"], "count": 1, "rows": [2]}}


LABELS_OUT = np.array([0, 3, 1, -1, 2])
SQUARE = np.array([[4.0, 1, 0], [1, 2, 3], [0, 5, 1], [9, 1, 1], [1, 0, 2]])


def test_one_row_is_one_row_in_words():
    reported = repr(ask([2, 2, 0, 1], np.eye(3)[[0, 1, 2, 0]], sample_weight=[1, 1, 0, 1], ignore_class=2))
    assert [line.split("  ")[1] for line in reported.splitlines() if "row " in line] == ["2 rows", "1 row"]


def test_a_label_out_of_range_raises_with_its_row_and_value():
    with pytest.raises(ValueError, match=r"label 3 at row 1 is outside \[0, 3\)"):
        ask(LABELS_OUT, SQUARE)
    with pytest.raises(ValueError, match=r"label 3 at row 1 is outside"):
        ask(LABELS_OUT, SQUARE, metrics=["accuracy"])
    with pytest.raises(ValueError, match=r"label 7 at row 3 \(position \(1, 1\)\) is outside \[0, 3\)"):
        ask([[0, 0], [1, 7]], SQUARE[:4].reshape(2, 2, 3))


def test_labels_out_of_range_are_skipped():
    got, kept = ask(LABELS_OUT, SQUARE, on_invalid="skip"), [0, 2, 4]
    wanted = ask(LABELS_OUT[kept], SQUARE[kept])
    assert got.metrics == wanted.metrics
    assert (got.state.total.counted, got.weight, got.rows) == (3, 3.0, 5)
    assert got.audit == {
        "label_out_of_range": {"what": AUDIT["label_out_of_range"], "count": 2, "rows": [1, 3]},
    }


def test_labels_out_of_range_are_counted_as_wrong():
    got = ask(LABELS_OUT, SQUARE, on_invalid="count")
    assert math.isnan(got["crossentropy"])
    assert math.isnan(got["perplexity"])
    assert got["accuracy"] == got["top_2_accuracy"] == 3 / 5
    assert got.state.total.counted == 5


@pytest.mark.parametrize("on_invalid", ["raise", "skip", "count"])
@pytest.mark.parametrize("kind", ["NaN", "infinite", "masked out"])
def test_rows_that_have_no_loss_are_reported_and_skipped_on_request(kind, on_invalid):
    y_pred, y_true = SQUARE.copy(), np.array([0, 2, 1, 1, 2])
    y_pred[3] = BAD_ROWS[kind]
    got = ask(y_true, y_pred, on_invalid=on_invalid)
    name = "nan" if kind == "NaN" else "infinite"
    assert got.audit == {name: {"what": AUDIT[name], "count": 1, "rows": [3]}}
    if on_invalid == "skip":
        kept = [0, 1, 2, 4]
        assert got.metrics == ask(y_true[kept], y_pred[kept]).metrics
        assert got.state.total.counted == 4
    else:
        assert math.isnan(got["crossentropy"])
        assert got["accuracy"] == 4 / 5
        assert got.state.total.counted == 5


def test_a_row_with_nan_is_never_right():
    y_pred = np.array([[np.nan, 1.0, 9.0], [0.0, 9.0, np.nan]])
    assert ask([2, 1], y_pred)["accuracy"] == 0
    assert ask([2, 1], y_pred)["top_2_accuracy"] == 0
    assert ask([2, 1], y_pred, metrics=["accuracy"]).audit["nan"]["rows"] == [0, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_an_error_with_their_place(bad):
    for on_invalid in ("raise", "skip", "count"):
        with pytest.raises(ValueError, match=rf"sample_weight: {bad} at row 3; weights must be finite"):
            ask([0, 1, 2, 0], SQUARE[:4], sample_weight=[1, 1, 1, bad], on_invalid=on_invalid)
    with pytest.raises(ValueError, match=r"row 2 \(position \(1, 0\)\)"):
        ask([[0, 1], [2, 0]], SQUARE[:4].reshape(2, 2, 3), sample_weight=[1, bad], allow_negative_weights=True)
    with pytest.raises(ValueError, match=rf"^sample_weight: {bad}; weights must be finite$"):
        ask([0], SQUARE[:1], sample_weight=bad)


def test_negative_weights_are_an_error_unless_they_are_allowed():
    y_true, w = [0, 1, 2, 0], np.array([1.0, 2.0, -0.5, 1.0])
    with pytest.raises(ValueError, match=r"sample_weight: -0\.5 at row 2 is negative"):
        ask(y_true, SQUARE[:4], sample_weight=w)
    got = ask(y_true, SQUARE[:4], sample_weight=w, allow_negative_weights=True)
    wanted = reference.evaluate(y_true, SQUARE[:4], sample_weight=w, from_logits=True, metrics=METRICS)
    np.testing.assert_allclose(list(got.metrics.values()), [float(v) for v in wanted.values()], 1e-14)  # as test_rows
    assert got.audit["weight_negative"]["rows"] == [2]


def test_weights_that_cancel_leave_no_mean():
    with pytest.warns(UserWarning, match="the weights sum to zero"):
        got = ask([0, 1], SQUARE[:2], sample_weight=[0.5, -0.5], allow_negative_weights=True)
    assert all(map(math.isnan, got.metrics.values()))


def test_no_weight_and_no_rows_are_nan_with_a_warning():
    with pytest.warns(UserWarning, match="no row was counted"):
        got = ask([0, 1], SQUARE[:2], sample_weight=0.0)
    assert all(map(math.isnan, got.metrics.values()))
    with pytest.warns(UserWarning, match="no row was counted"):
        assert math.isnan(ask([1, 1], SQUARE[:2], ignore_class=1)["accuracy"])


def test_huge_and_tiny_weights_are_summed_exactly():
    w = np.array([1e300, 1.0, 1e-300, 5e-324])
    got = ask([0, 0, 0, 0], SQUARE[:4], sample_weight=w)
    assert got.state.total.weight == ExactSum.of(w)
    assert got.state.total.totals["accuracy"] == ExactSum.of(w[[0, 3]])


def test_a_product_beyond_float64_is_infinite():
    assert ask([1], [[1e200, -1e200]], sample_weight=1e200)["crossentropy"] == math.inf


def test_clipped_probabilities_are_reported_with_their_share_of_the_loss():
    y_pred = np.array([[0.0, 1.0], [0.5, 0.5], [1e-9, 1 - 1e-9], [1.0, 0.0]])
    got = ask([0, 0, 0, 0], y_pred, from_logits=False)
    assert got.audit["clipped"]["rows"] == [0, 2]
    each = reference.from_probabilities(reference.rows(y_pred), np.zeros(4, int))
    assert got.clipped_share == pytest.approx(float(each[[0, 2]].sum() / each.sum()), rel=1e-14)  # as test_rows
    assert "clipped" not in ask([0, 0, 0, 0], np.log(y_pred + 1)).audit


def test_probabilities_that_do_not_sum_to_one_are_reported():
    y_pred = np.array([[0.5, 0.5], [0.5, 0.49], [0.9, 0.9], [-0.5, 1.5], [0.4995, 0.5]])
    assert ask(np.zeros(5, int), y_pred, from_logits=False).audit["unnormalised"]["rows"] == [1, 2, 3]
    assert "unnormalised" not in ask(np.zeros(5, int), y_pred).audit
    half = np.random.default_rng(0).dirichlet(np.ones(2000), 4).astype("float16")
    assert "unnormalised" not in ask(np.zeros(4, int), half, from_logits=False).audit


def test_every_kind_of_the_audit_is_of_a_row_counted_once():
    y_true = np.array([0, 5, 1, 2, 0, 0, 0])
    y_pred = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [np.nan, 0, 1], [0.2, 0.2, 0.2], [0, 0.5, 0.5], [np.nan, 0, 0]])
    w = np.array([1, 1, 1, 1, 1, 1, 0])
    got = ask(y_true, y_pred, from_logits=False, sample_weight=w, ignore_class=1, on_invalid="count")
    assert {kind: found["rows"] for kind, found in got.audit.items()} == {
        "label_out_of_range": [1], "ignored": [2], "masked": [6], "nan": [3], "clipped": [5], "unnormalised": [4],
        "equal": [4],
    }  # fmt: skip


@SOME
@given(st.data(), st.booleans())
def test_the_audit_counts_what_numpy_counts(data, unit):
    y_pred = data.draw(probabilities((30, 4)) if unit else logits((30, 4)))
    y_true = data.draw(labels((30,), 4)).astype(np.int64)
    y_true[data.draw(st.lists(st.integers(0, 29), max_size=20))] = 4
    w = data.draw(weights((30,)))
    w[0], y_true[0], y_pred[0] = 1, 0, 0.25
    got = ask(y_true, y_pred, sample_weight=w, from_logits=not unit, on_invalid="skip", ignore_class=3)
    x = reference.rows(y_pred)
    ignored = y_true == 3
    masked = (w == 0) & ~ignored
    used = ~ignored & ~masked
    nan = np.isnan(x).any(axis=1) & used
    wanted = {"ignored": ignored, "masked": masked, "label_out_of_range": (y_true == 4) & used, "nan": nan}
    wanted["infinite"] = np.isinf(x.max(axis=1)) & used & ~nan
    wanted["loss_infinite"] = used & ~nan & ~wanted["infinite"] & (y_true < 4) & (not unit)
    wanted["loss_infinite"] &= x[np.arange(30), np.minimum(y_true, 3)] == -np.inf
    dropped = np.logical_or.reduce(
        [wanted[kind] for kind in ("label_out_of_range", "nan", "infinite", "loss_infinite")]
    )
    wanted["equal"] = used & ~dropped & (x.min(axis=1) == x.max(axis=1))
    for kind, rows in wanted.items():
        found = got.audit.get(kind, {"count": 0, "rows": []})
        assert (found["count"], found["rows"]) == (rows.sum(), np.flatnonzero(rows)[:FIRST].tolist()), kind
    assert got.state.total.counted == (used & ~dropped).sum()


def test_complaints_name_the_first_bad_row():
    question = Question(METRICS, 3)
    audit = {"label_out_of_range": Finding(1, ((8, 4),)), "weight_negative": Finding(1, ((7, -1.0),))}
    with pytest.raises(ValueError, match="row 7 is negative"):
        raise_first_error(question, audit)
    raise_first_error(question, {kind: Finding(1, ((0, 0.0),)) for kind in ("nan", "ignored", "masked", "clipped")})


def test_a_question_asks_each_statistic_once():
    question = Question(("crossentropy", "perplexity", "bits", "accuracy", "top_3_accuracy", "top_5_accuracy"), 10)
    names = [statistic.name for statistic in question.statistics]
    assert names == ["crossentropy", "accuracy", "top_3_accuracy", "top_5_accuracy"]
    assert (question.needs_loss, question.depth) == (True, 5)
    assert not Question(("accuracy",), 10).needs_loss


@pytest.mark.parametrize("mean", [0.0, 1e-12, 0.5, 5.0, 700.0, 709.7, -0.5, -700.0])
def test_perplexity_and_bits_are_made_of_the_mean(mean):
    with localcontext(prec=60):
        nats, ln2 = Decimal(mean), Decimal(2).ln()
        wanted = {"bits": float(nats / ln2), "perplexity": float(nats.exp())}
    for name, value in wanted.items():
        assert abs(statistics.metric(name).finish(mean) - value) <= 2 * np.spacing(abs(value)), (
            name
        )  # as test_elementary


def test_perplexity_and_bits_of_a_mean_beyond_all_bounds():
    means = [math.inf, 1e300, 710.0, -1e300, -math.inf, math.nan]
    assert list(map(repr, map(statistics.metric("perplexity").finish, means))) == ["inf"] * 3 + ["0.0"] * 2 + ["nan"]
    assert [statistics.metric("bits").finish(mean) for mean in (math.inf, -math.inf)] == [math.inf, -math.inf]
    assert math.isnan(statistics.metric("bits").finish(math.nan))


def test_ties_at_the_boundary_are_in_the_top_and_the_lowest_class_is_best():
    y_pred = np.array([[1.0, 3, 3, 0, 3]] * 5)
    got = ask(
        np.arange(5),
        y_pred,
        metrics=["accuracy", "top_1_accuracy", "top_3_accuracy", "top_4_accuracy", "top_9_accuracy"],
    )
    assert got.metrics == {
        "accuracy": 1 / 5, "top_1_accuracy": 3 / 5, "top_3_accuracy": 3 / 5, "top_4_accuracy": 4 / 5,
        "top_9_accuracy": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
def test_states_with_a_weight_that_is_not_finite_are_equal_and_round_trip(weight):
    def found():
        question, y = Question(("accuracy",), 2, from_logits=True), np.zeros(2, int)
        scores = finish(scan(np.zeros((2, 2)), y, mass=False), y, 2, question.needs)
        return question, accumulated(question, Scored.of(question, scores, y, np.array([1.0, np.float64(weight) * 1])))

    (question, one), (_, other) = found(), found()
    assert one == other == State.from_json(json.loads(json.dumps(other.to_json())))
    with pytest.raises(ValueError, match=f"sample_weight: {weight} at row 1; weights must be finite"):
        raise_first_error(question, one.audit)
