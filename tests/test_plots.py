"""Plots with matplotlib, and what notebooks show."""

import matplotlib as mpl
import numpy as np
import pytest
import zarr

import daskxent as dx
from daskxent.show import progress

mpl.use("agg")
RNG = np.random.default_rng(0)
X, Y = RNG.normal(0, 2, (3000, 12)).astype("float32"), RNG.integers(0, 12, 3000)

SURE = dx.bins("confidence", [0, 0.5, 1])


@pytest.fixture(scope="module")
def report():
    return dx.evaluate(
        Y, X, from_logits=True, metrics=["crossentropy", "accuracy", "ece"], histograms=["crossentropy"], ranks=True,
        by=[{"class": "label"}, {"row": np.arange(3000) // 50}, {"class": "label", "sure": SURE}],
    )  # fmt: skip


@pytest.fixture(autouse=True)
def closed():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


@pytest.mark.slow
def test_a_figure_has_a_plot_of_everything_that_was_asked_for(report, tmp_path):
    figure = report.plot()
    titles = [
        ax.get_title(loc="left") or ax.get_title() or ax.get_xlabel() for ax in figure.axes if ax.axison or ax.texts
    ]
    assert titles == ["3,000 rows", "crossentropy by class", "crossentropy by row", "crossentropy by class, sure",
                      "crossentropy", "Calibration", "Label among the k largest"]  # fmt: skip
    figure.savefig(tmp_path / "report.png")
    assert len(dx.evaluate(Y, X, from_logits=True).plot().axes) == 1


def test_plots_show_the_numbers(report):
    ax = report.plot_reliability()
    lines = list(report.reliability())
    assert [bar.get_height() for bar in ax.patches] == [line["accuracy"] for line in lines]
    ax = report.plot_histogram("crossentropy")
    assert sum(bar.get_height() for bar in ax.patches) == pytest.approx(3000)
    x, y = report.plot_top_k().lines[0].get_data()
    assert (x[-1], y[-1]) == (12, 1)
    ax = report.by("class").plot("accuracy")
    assert [bar.get_width() for bar in ax.patches] == [row["accuracy"] for row in report.by("class").rows]
    ax = report.by("row").plot("accuracy")
    assert list(ax.lines[0].get_ydata()) == [row["accuracy"] for row in report.by("row").rows]
    own = report.plot().axes[0]
    assert report.plot_top_k(own) is own


def test_without_matplotlib_it_is_said(report, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"plots need matplotlib: pip install 'daskxent\[plots\]'"):
        report.plot()


def test_lazy_arrays_show_as_tables(tmp_path):
    zarr.create_array(tmp_path / "<x>.zarr", data=X, chunks=(1000, 12))
    html = dx.open(tmp_path / "<x>.zarr")[:, :10]._repr_html_()
    assert "(3000, 10)" in html
    assert "3 x 1" in html
    assert "&lt;x&gt;" in html


def test_running_lines_fit_a_terminal(report):
    for running in dx.stream(Y, X, from_logits=True, metrics=["crossentropy", "accuracy", "top_5_accuracy", "entropy"]):
        text = progress.line(running)
        assert len(text) <= 80
        assert "crossentropy" in text
    assert progress.short(999) == "999"
