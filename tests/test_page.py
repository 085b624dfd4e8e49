"""A report as a page: well formed, complete, and safe whatever names the data has."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner

import daskxent as dx
from daskxent import cli

EVIL = "<script>alert(1)</script>"
VOID = {"meta"}


class Tags(HTMLParser):
    """Checks that tags are closed in order, and remembers texts and headings."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.texts = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def read(text: str) -> Tags:
    found = Tags()
    found.feed(text)
    assert found.open == []
    return found


@pytest.fixture(scope="module")
def report():
    rng = np.random.default_rng(0)
    y, x = rng.integers(0, 12, (30, 16)), rng.normal(size=(30, 16, 12))
    y[0, 0] = -1
    return dx.evaluate(
        y, x, from_logits=True, ignore_class=-1, metrics=["crossentropy", "accuracy", "ece", "temperature", "macro_f1"],
        by=[
            {"language": rng.choice(["de", EVIL], 30)},
            {"position": dx.axis(1)},
            {"sure": dx.bins("confidence", [0, 0.5, 1])},
        ],
        clusters=dx.axis(0), histograms=["crossentropy", "confidence"], ranks=True, per_class=True, confusions=True,
        worst=4, sample=3,
    )  # fmt: skip


def test_the_page_has_everything_that_was_asked_for(report, tmp_path):
    report.save(tmp_path / "first report.html")
    text = (tmp_path / "first report.html").read_text()
    found = read(text)
    headings = re.findall("<h2>(.*?)</h2>", text)
    assert headings == [
        "By language", "By position", "By sure", "Distributions", "Calibration", "Classes", "Most frequent confusions",
        "Worst rows by crossentropy", "Random rows", "Audit", "Where it comes from",
    ]  # fmt: skip
    assert found.seen.count("svg") == 2 + 2 + 1 + 1  # two metrics by position, two histograms, top k, reliability
    assert "<h1>first report</h1>" in text
    low, high = report.interval("accuracy")
    assert f"{low:.5g} to {high:.5g}" in text
    assert "label is ignore_class" in text
    assert EVIL in "".join(found.texts)
    assert EVIL not in text
    assert not re.search(r"https?:|url\(|@import|<link|<img", text)  # nothing from elsewhere


def test_reports_of_nothing_and_of_little_have_pages_too():
    with pytest.warns(UserWarning, match="no row was counted"):
        none = dx.evaluate(
            [0], [[0.5, 0.5]], sample_weight=0, metrics=["ece", "crossentropy"], histograms=["entropy"], ranks=True,
            per_class=True, confusions=True, worst=1, by={"label": "label"},
        )  # fmt: skip
    for few in (none, dx.evaluate([0, 1], [[0.9, 0.1], [0.3, 0.7]], histograms=["entropy"], ranks=True)):
        read(few.to_html())
    infinite = dx.evaluate([1, 0], [[0.0, -np.inf], [1, 2]], from_logits=True, histograms=["crossentropy"])
    read(infinite.to_html("<&>"))


def test_other_files_are_refused(report, tmp_path):
    report.save(tmp_path / "r.json")
    assert dx.Report.from_json((tmp_path / "r.json").read_text()) == report
    with pytest.raises(ValueError, match=r"save: expected a path that ends in .html or .json, got"):
        report.save(tmp_path / "r.pdf")


def test_a_shell_writes_pages_and_fails_beyond_limits(tmp_path):
    rng = np.random.default_rng(0)
    for name, values in (("y", rng.integers(0, 3, 40)), ("x", rng.normal(size=(40, 3)))):
        np.save(tmp_path / f"{name}.npy", values)
    line = [
        "evaluate",
        str(tmp_path / "y.npy"),
        str(tmp_path / "x.npy"),
        "--from-logits",
        "--html",
        str(tmp_path / "r.html"),
    ]
    done = CliRunner().invoke(cli.main, [*line, "--fail-if", "crossentropy>9", "--fail-if", "accuracy<0"])
    assert done.exit_code == 0, done.stderr
    read((tmp_path / "r.html").read_text())
    beyond = CliRunner().invoke(cli.main, [*line, "--fail-if", "accuracy<0.99", "--fail-if", "crossentropy > 9"])
    assert beyond.exit_code == 1
    assert re.search(r"^Error: --fail-if: accuracy is 0\.\d+, which is < 0\.99$", beyond.stderr, re.MULTILINE)
    assert "crossentropy is" not in beyond.stderr
    for given, message in (
        (["--html", str(tmp_path / "nowhere/r.html")], "there is no directory"),
        (["--output", "r.txt"], "'r.txt' does not end in .json or .html"),
        (["--output", str(tmp_path)], "does not end in"),
        (["--csv", str(tmp_path)], "is a directory"),
        (["--csv", "r.csv"], "--csv needs --by"),
    ):
        refused = CliRunner().invoke(cli.main, [*line, *given])
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert message in refused.stderr
    page = tmp_path / "page.json"
    assert CliRunner().invoke(cli.main, [*line[:-1], str(page)]).exit_code == 0
    assert page.read_text().startswith("<!")
    for bad, message in (
        ("accuracy", "is not a limit such as"),
        ("f1>1", "f1 is not a --metric"),
        ("accuracy>x", "is not a limit"),
        ("accuracy>nan", "is not a limit"),
    ):
        refused = CliRunner().invoke(cli.main, [*line, "--fail-if", bad])
        assert refused.exit_code == 2
        assert message in refused.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_it_without_complaints(report, tmp_path, width):
    report.save(tmp_path / "r.html")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr"]
    command += [
        "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900",
    ]
    shot = tmp_path / "shot.png"
    done = subprocess.run(
        [*command, f"--screenshot={shot}", (tmp_path / "r.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    assert shot.stat().st_size > 10_000
