"""Ask daskxent and its peers the same small questions, each with a catch, and compare the answers with the truth.

Every peer has an environment of its own, so that none decides what another depends on, and answers in a process of
its own, so that a crash is a cell of the table and not the end of it. The truth is computed here, in long double and
without daskxent.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# What a peer is made of is imported inside functions: each environment holds one peer.

ROOT = Path(__file__).parent.parent
TOLERANCE = 1e-6  # relative; float32 results are good for some 1e-7
EPSILON = 1e-7  # where Keras clips probabilities
REFUSALS = ("IndexError", "RuntimeError", "ValueError")  # errors about the data; a TypeError is about the call
MARKS = ("<!-- shootout -->", "<!-- /shootout -->")

Result = dict[str, Any]  # peer, version, case, and value, or error and message; value is None where nothing was asked


# --- The cases: small data with a catch. ---


class Case(NamedTuple):
    """A question: what is the mean of the metric over all rows of the blocks?"""

    metric: str
    blocks: list[tuple[Any, Any]]  # (labels, predictions): the chunks of an array, the batches of a loop
    logits: bool = True
    ignore: int | None = None
    valid: bool = True  # otherwise an error is the only right answer


def random_logits(*shape: int) -> Any:
    return 2 * np.random.RandomState(0).standard_normal(shape)  # a stream that no version of NumPy will change


def softmax(logits: Any) -> Any:
    mass = np.exp(logits)
    return mass / mass.sum(axis=-1, keepdims=True)


def unequal_chunks() -> Case:
    labels, logits = np.arange(100) % 3, random_logits(100, 3)
    logits[np.arange(10), labels[:10]] -= 3  # the first chunk is worse than the rest
    scores = softmax(logits)
    return Case("crossentropy", [(labels[:10], scores[:10]), (labels[10:], scores[10:])], logits=False)


def class_absent_from_a_chunk() -> Case:
    labels, scores = np.repeat([0, 1, 0, 2], 25), softmax(random_logits(100, 3))
    return Case("crossentropy", [(labels[:50], scores[:50]), (labels[50:], scores[50:])], logits=False)


def impossible_label(dtype: str) -> Case:
    return Case("crossentropy", [(np.array([0]), np.array([[0, 1]], dtype))], logits=False)


def large_vocabulary(metric: str) -> Case:
    """Return 40 rows, 10 of them right; float16 holds few of the ids of this vocabulary."""
    classes, rows = 128_256, 40
    scores = random_logits(rows, classes).astype(np.float16)
    guesses, others = np.random.RandomState(1).randint(classes, size=(2, rows))
    labels = np.where(np.arange(rows) < 10, guesses, others)
    scores[np.arange(rows), guesses] = 16
    return Case(metric, [(labels, scores)])


def count_beyond_float32() -> Case:
    many, right, wrong = 2**20, [1, 0], [0, 1]
    first = (np.zeros(many, np.uint8), np.tile(np.float32(right), (many, 1)))
    single = (np.zeros(1, np.uint8), np.array([wrong], np.float32))
    return Case("accuracy", [first] * 16 + [single] * 1_000)


def ragged_sequences() -> Case:
    def sequence(length: int) -> tuple[Any, Any]:
        labels, scores = np.arange(length) % 5, random_logits(length, 5).astype(np.float32)
        scores[np.arange(length), labels] += 8 / length  # the short sequence is easy
        return labels[None], scores[None]

    return Case("crossentropy", [sequence(2), sequence(100)])


def masked_vocabulary() -> Case:
    labels, scores = np.arange(20) % 5, random_logits(20, 10).astype(np.float32)
    scores[:, 5:] = -np.inf
    return Case("crossentropy", [(labels, scores)])


def far_apart(height: float, depth: float, dtype: str, rows: int) -> Case:
    """Return one row that is sure and wrong among many that are sure and right."""
    scores = np.tile(np.array([height, depth, depth], dtype), (rows, 1))
    labels = np.zeros(rows, np.int64)
    labels[-1] = 1
    return Case("crossentropy", [(labels, scores)])


def unlabelled(ignore: int | None) -> Case:
    labels, scores = np.arange(20) % 4, random_logits(20, 4).astype(np.float32)
    labels[[7, 11]] = -1
    return Case("crossentropy", [(labels, scores)], ignore=ignore, valid=ignore is not None)


def unequal_lengths() -> Case:
    return Case("accuracy", [(np.arange(100) % 3, np.array([[0, 1, 0]], np.float32))], valid=False)


CASES: dict[str, Callable[[], Case]] = {
    "chunks of 10 and 90 rows": unequal_chunks,
    "a class absent from a chunk": class_absent_from_a_chunk,
    "p = 0 at the label, float32": lambda: impossible_label("f4"),
    "p = 0 at the label, float64": lambda: impossible_label("f8"),
    "accuracy: float16, 128,256 classes": lambda: large_vocabulary("accuracy"),
    "crossentropy: float16, 128,256 classes": lambda: large_vocabulary("crossentropy"),
    "accuracy: 2^24 rows right, 1,000 wrong": count_beyond_float32,
    "sequences of 2 and 100 tokens, mean per token": ragged_sequences,
    "logits of 100 and 0, float32": lambda: far_apart(100, 0, "f4", 5),
    "logits of 60,000 and 0, float32": lambda: far_apart(60_000, 0, "f4", 2_000),
    "logits of ±60,000, float16": lambda: far_apart(60_000, -60_000, "f2", 2_000),
    "-inf off the target": masked_vocabulary,
    "labels of -1": lambda: unlabelled(None),
    "labels of -1, to be ignored": lambda: unlabelled(-1),
    "accuracy: 100 labels, 1 prediction": unequal_lengths,
}


def flat(labels: Any, scores: Any) -> tuple[Any, Any]:
    """Return a block as rows, whatever the shape of the positions."""
    return labels.reshape(-1), scores.reshape(-1, scores.shape[-1])


def joined(case: Case) -> tuple[Any, Any]:
    labels, scores = zip(*(flat(*block) for block in case.blocks), strict=True)
    return np.concatenate(labels), np.concatenate(scores)


# --- The truth. ---


def truth(case: Case) -> float | None:
    """Return the right answer, in long double if the machine has it; None where an error is right."""
    if not case.valid:
        return None
    labels, scores = joined(case)
    keep = labels != case.ignore if case.ignore is not None else slice(None)
    labels, scores = labels[keep], scores[keep]
    if case.metric == "accuracy":
        return int((scores.argmax(axis=1) == labels).sum()) / len(labels)
    if not case.logits:
        scores = np.log(np.clip(scores.astype(np.longdouble), EPSILON, 1 - EPSILON))
    above = scores.astype(np.longdouble) - scores.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(above).sum(axis=1)) - above[np.arange(len(labels)), labels]))


def is_right(result: Result, expected: float | None) -> bool:
    if expected is None or "error" in result:
        return expected is None and result.get("error") in REFUSALS
    return math.isclose(float(result["value"]), expected, rel_tol=TOLERANCE)


# --- The peers: a function of a case for each; None says that there is nothing to ask. ---


def as_dask(case: Case) -> list[Any]:
    import dask.array as da

    lengths = zip(*([len(part) for part in flat(*block)] for block in case.blocks), strict=True)
    return [
        da.from_array(array, chunks=(rows, *array.shape[1:]), name=False)
        for array, rows in zip(joined(case), lengths, strict=True)
    ]


def with_daskxent(case: Case) -> float:
    import daskxent as dx

    labels, scores = as_dask(case)
    options: dict[str, Any] = {"from_logits": case.logits, "ignore_class": case.ignore}
    return dx.evaluate(labels, scores, metrics=case.metric, **options)[case.metric]


def with_sklearn(case: Case) -> float | None:
    from sklearn.metrics import accuracy_score, log_loss

    labels, scores = joined(case)
    if case.metric == "accuracy":
        return accuracy_score(labels, scores.argmax(axis=1))
    return None if case.logits else log_loss(labels, scores, labels=range(scores.shape[1]))


def with_dask_ml(case: Case) -> float | None:
    from dask_ml.metrics import accuracy_score, log_loss

    labels, scores = as_dask(case)
    if case.metric == "accuracy":
        return accuracy_score(labels, scores.argmax(axis=1))
    return None if case.logits else float(log_loss(labels, scores, labels=range(scores.shape[1])))


def with_keras(case: Case) -> float:
    os.environ["KERAS_BACKEND"] = "numpy"
    from keras import losses, metrics

    if case.ignore is not None:  # the loss takes it, the metric does not
        loss = losses.SparseCategoricalCrossentropy(from_logits=case.logits, ignore_class=case.ignore)
        return float(loss(*joined(case)))
    if case.metric == "accuracy":
        metric = metrics.SparseCategoricalAccuracy()
    else:
        metric = metrics.SparseCategoricalCrossentropy(from_logits=case.logits)
    for labels, scores in case.blocks:
        metric.update_state(labels, scores)
    return float(metric.result())


def with_torchmetrics(case: Case) -> float | None:
    import torch
    from torchmetrics.classification import MulticlassAccuracy
    from torchmetrics.text import Perplexity

    if case.metric == "accuracy":
        metric = MulticlassAccuracy(case.blocks[0][1].shape[-1], average="micro", ignore_index=case.ignore)
    elif case.logits:
        metric = Perplexity(ignore_index=case.ignore)
    else:
        return None
    for block in case.blocks:
        labels, scores = map(torch.from_numpy, flat(*block))
        if case.metric == "accuracy":
            metric.update(scores, labels.long())
        else:
            metric.update(scores[None], labels[None].long())
    answer = float(metric.compute())
    return answer if case.metric == "accuracy" else math.log(answer)


def with_torch(case: Case) -> float | None:
    import torch

    if case.metric == "accuracy" or not case.logits:
        return None
    labels, scores = map(torch.from_numpy, joined(case))
    options = {} if case.ignore is None else {"ignore_index": case.ignore}
    return float(torch.nn.functional.cross_entropy(scores, labels.long(), **options))


class Peer(NamedTuple):
    answer: Callable[[Case], float | None]
    asked: str
    installs: tuple[str, ...] = ()  # one pip install each, in order; none: it is where this program runs


# On Linux the torch of the package index brings several GB of CUDA; its own index has one for CPUs.
TORCH = ("torch==2.13.0 --extra-index-url https://download.pytorch.org/whl/cpu", "torchmetrics")

PEERS = {
    "daskxent": Peer(with_daskxent, "`evaluate` on dask arrays"),
    "scikit-learn": Peer(with_sklearn, "`log_loss(labels=...)`, `accuracy_score` of the argmax", ("scikit-learn",)),
    "dask-ml": Peer(with_dask_ml, "`log_loss(labels=...)`, `accuracy_score` of the argmax", ("dask-ml",)),
    "keras": Peer(
        with_keras,
        "`SparseCategoricalCrossentropy` and `SparseCategoricalAccuracy`, a batch per chunk, "
        "and for labels to be ignored the loss of the same name; NumPy backend",
        ("keras jax",),
    ),
    "torchmetrics": Peer(with_torchmetrics, "log of `Perplexity`, `MulticlassAccuracy(average='micro')`", TORCH),
    "torch": Peer(with_torch, "`cross_entropy`", TORCH),
}


# --- Installation. ---


def python_of(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install(name: str, home: Path) -> Path:
    """Return the Python that has the peer; peers with the same installs share it.

    Raises
    ------
    CalledProcessError
        pip could not install it; `stderr` says why.
    """
    installs = PEERS[name].installs
    if not installs:
        return Path(sys.executable)
    environment = home / next(other for other, peer in PEERS.items() if peer.installs == installs)
    stamp = environment / "installed.txt"
    if not (stamp.exists() and stamp.read_text() == "\n".join(installs)):
        print(f"installing {name} in {environment}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
        pip = [python_of(environment), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for line in installs:
            subprocess.run([*pip, *line.split()], check=True, stderr=subprocess.PIPE, text=True)
        stamp.write_text("\n".join(installs))
    return python_of(environment)


# --- Questions and answers, as lines of JSON. ---


def answer(name: str, case: str) -> Result:
    """Ask a peer that is installed here."""
    result = {"peer": name, "version": version(name), "case": case}
    try:
        value = PEERS[name].answer(CASES[case]())
    except Exception as error:
        return {**result, "error": type(error).__name__, "message": str(error)}
    return {**result, "value": value if value is None or math.isfinite(value) else str(value)}


def ask(command: list[str], name: str, cases: list[str]) -> Iterator[Result]:
    """Ask a peer in a process of its own; after a crash, another one continues with the next case."""
    while cases:
        child = subprocess.run([*command, *cases], capture_output=True, text=True)
        results = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]
        yield from results
        cases = cases[len(results) :]
        if cases:
            why = (child.stderr.strip() or "no message").splitlines()[-1]
            message = f"the process ended with {child.returncode}: {why}"
            yield {"peer": name, "version": "", "case": cases[0], "error": "crash", "message": message}
            cases = cases[1:]


def ask_all(home: Path) -> tuple[list[Result], dict[str, str]]:
    """Return the answers of all peers, and why others could not be installed."""
    results: list[Result] = []
    left_out = {}
    for name in PEERS:
        try:
            python = install(name, home)
        except subprocess.CalledProcessError as error:
            left_out[name] = (error.stderr or str(error)).strip().splitlines()[-1]
            continue
        print(f"asking {name}", file=sys.stderr)
        results += ask([str(python), __file__, "--answer", name, "--cases"], name, list(CASES))
    return results, left_out


# --- The table. ---


LEGEND = f"""\
✓: within {TOLERANCE:g} of the truth, relative; or an error about the data, where that is the right answer.
✗: not so. -: has no such function. What is not an accuracy is a mean crossentropy in nats. All are given the same
arrays, as they are. Where p is 0, the truth is Keras's convention, p raised to {EPSILON:g}; other conventions are ✗."""


def cell(result: Result | None, expected: float | None) -> str:
    if result is None or result.get("value", "") is None:
        return "-"
    shown = result["error"] if "error" in result else f"{float(result['value']):.7g}"
    return f"{shown} ✓" if is_right(result, expected) else f"**{shown} ✗**"


def rows_of(results: list[Result], truths: dict[str, float | None], names: list[str]) -> list[list[str]]:
    found = {(result["case"], result["peer"]): result for result in results}
    rows = [["", "truth", *names]]
    for case, expected in truths.items():
        shown = "an error" if expected is None else f"{expected:.7g}"
        rows.append([case, shown, *(cell(found.get((case, name)), expected) for name in names)])
    return rows


def laid_out(rows: list[list[str]]) -> Iterator[str]:
    """Return a markdown table that is a table for the eye, too."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows = [rows[0], ["-" * width for width in widths], *rows[1:]]
    for row in rows:
        yield "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"


def errors(results: list[Result]) -> Iterator[str]:
    """Return a line for each error, with all cases that it was the answer to."""
    cases: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if "error" in result:
            message = " ".join(f"{result['error']}: {result['message']}".split())
            cases.setdefault((result["peer"], message), []).append(result["case"])
    for (peer, message), names in cases.items():
        yield f"* {peer} ({'; '.join(names)}): `{message if len(message) <= 160 else message[:160] + '...'}`"


def markdown(results: list[Result], truths: dict[str, float | None], left_out: dict[str, str]) -> str:
    versions = {result["peer"]: result["version"] for result in results if result["version"]}
    names = list(dict.fromkeys(result["peer"] for result in results))
    lines = [*laid_out(rows_of(results, truths, names)), ""]
    lines += [LEGEND, ""]
    lines += ["What was asked:", ""]
    lines += [f"* {name} {versions.get(name, '')}: {PEERS[name].asked}" for name in names]
    lines += [f"* {name}: left out, it could not be installed: `{why}`" for name, why in left_out.items()]
    messages = list(errors(results))
    if messages:
        lines += ["", "What the errors said:", "", *messages]
    return "\n".join(lines) + "\n"


def put_into(readme: Path, text: str, marks: tuple[str, str] = MARKS) -> None:
    """Replace what is between the marks of a page.

    Raises
    ------
    ValueError
        The page has not both marks, once each and in order.
    """
    page = readme.read_text(encoding="utf-8")
    before, begin, rest = page.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise ValueError(f"{readme}: {marks[0]} and {marks[1]} not found")
    readme.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")


# --- All of it. ---


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare the answers of daskxent and its peers with the truth.")
    parser.add_argument("--peers", type=Path, default=Path(__file__).parent / ".peers", help="where they are installed")
    parser.add_argument("--results", type=Path, help="write the answers to this file, as lines of JSON")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--page", type=Path, help=f"put the table between the marks {MARKS[0]} of this page")
    parser.add_argument("--answer", choices=PEERS, help=argparse.SUPPRESS)  # what the processes of the peers do
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Answer as a peer, or ask all of them."""
    options = parse()
    if options.answer:
        for case in options.cases:
            print(json.dumps(answer(options.answer, case)), flush=True)
        return
    results, left_out = ask_all(options.peers)
    if options.results:
        options.results.write_text("".join(json.dumps(result) + "\n" for result in results))
    truths = {name: truth(make()) for name, make in CASES.items()}
    text = markdown(results, truths, left_out)
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.page:
        put_into(options.page, text)
    wrong = [r["case"] for r in results if r["peer"] == "daskxent" and not is_right(r, truths[r["case"]])]
    if wrong:
        raise SystemExit(f"daskxent is wrong: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
