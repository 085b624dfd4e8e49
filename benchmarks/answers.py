"""Answer questions with the revision of daskxent that this Python imports, one line of JSON for each.

`against` runs this under both revisions and compares the lines. To look at a single question:

    python benchmarks/answers.py --only 1234
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import re
import shutil
import sys
import tempfile
import traceback
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import either
import numpy as np
from questions import Question, question
from stored import keep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHOWN = 50  # numbers of an array that are in its line; all are in its digest
PATIENCE = 180  # seconds for one question; then the process ends, and says where it was


# --- Calls: each is given the question and its arrays as they are stored. ---


def evaluate(asked: Question, arrays: dict[str, Any]) -> Any:
    return either.contents(either.evaluate(**arrays, **asked.options, **where(asked)))


def stream(asked: Question, arrays: dict[str, Any]) -> Any:
    """Return the last report."""
    return either.contents(either.stream(**arrays, **asked.options, **where(asked))[-1])


def merged(asked: Question, arrays: dict[str, Any]) -> Any:
    """Return the reports of two ranges of steps, and what they give together."""
    steps, cut = asked.extra["steps"], asked.extra["cut"]
    ranges = [(0, cut), (cut, steps)]
    reports = [either.evaluate(**arrays, **asked.options, **where(asked), rows=each) for each in ranges]
    return [either.contents(report) for report in (*reports, reports[1].merge(reports[0]))]


def delayed(asked: Question, arrays: dict[str, Any]) -> Any:
    asks = {"split_every": asked.extra["split_every"]} if asked.extra["split_every"] else {}
    lazy = either.delayed(**arrays, **asked.options, **asks)
    return either.contents(lazy.compute(scheduler="threads", num_workers=asked.extra["threads"]))


def journaled(asked: Question, arrays: dict[str, Any]) -> Any:
    """Return what a run with a journal gives, what it gives when it resumes from it, and how much was verified."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "run.journal"
        run = {**arrays, **asked.options, **where(asked), "journal": journal}
        first, again = either.evaluate(**run), either.evaluate(**run)
        every = all(given is None or isinstance(given, (str, int, float)) for given in arrays.values())
        return [either.contents(first), either.contents(again), either.verify(again) if every else None]


def loss_function(asked: Question, arrays: dict[str, Any]) -> Any:
    call = either.loss_function(asked.extra["name"])
    return computed(call(arrays["y_true"], arrays["y_pred"], **asked.options))


def loss_class(asked: Question, arrays: dict[str, Any]) -> Any:
    call = either.loss_class(asked.extra["name"])(**asked.options)
    return computed(call(arrays["y_true"], arrays["y_pred"], arrays["sample_weight"]))


def metric(asked: Question, arrays: dict[str, Any]) -> Any:
    """Update a metric, or one for each batch which are then merged; return results and variables."""
    found, results = [either.metric(asked.extra["name"], **asked.options)], []
    for batch in batches(asked, arrays):
        if asked.extra["merged"]:
            found.append(either.metric(asked.extra["name"], **asked.options))
        found[-1].update_state(**batch)
        results.append(found[-1].result())
    found[0].merge_state(found[1:])
    sums = {variable.name: variable.exact.to_json() for variable in found[0].variables}
    return [*results, found[0].result(), sums]


CALLS: dict[str, Callable[[Question, dict[str, Any]], Any]] = {
    call.__name__: call for call in (evaluate, stream, merged, delayed, journaled, loss_function, loss_class, metric)
}


def where(asked: Question) -> dict[str, Any]:
    """Return where to run."""
    if asked.extra.get("cluster"):
        return {"client": cluster()}
    return {} if "threads" in asked.options else {"threads": asked.extra["threads"]}


@cache
def cluster() -> Any:
    """Start a cluster of two processes; it ends with this process."""
    from distributed import Client, LocalCluster

    workers = LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50, memory_limit=0
    )
    return Client(workers, set_as_default=False)


def batches(asked: Question, arrays: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Cut the arrays along the first axis of the positions."""
    ndim, axis = asked.y_pred.ndim, asked.extra["axis"] % asked.y_pred.ndim
    lead, stop = 1 if axis == 0 else 0, 0
    steps = asked.y_pred.shape[lead]
    for count in asked.extra["cuts"]:
        start, stop = stop, stop + count
        here: dict[str, Any] = {}
        for name, given in arrays.items():
            whole = isinstance(given, np.ndarray) and given.ndim
            at = lead if whole and (name == "y_pred" or given.ndim == ndim) else 0
            cut = whole and given.ndim > at and given.shape[at] == steps
            here[name] = given[(slice(None),) * at + (slice(start, stop),)] if cut else given
        yield here


def computed(found: Any) -> Any:
    return found.compute(scheduler="threads", num_workers=2) if hasattr(found, "dask") else found


# --- Answers as JSON. ---


def exactly(value: Any) -> Any:
    """Return a value as JSON that differs for any two values, but for the kinds of NaN."""
    if isinstance(value, dict):
        return {str(key): exactly(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [exactly(each) for each in value]
    if isinstance(value, np.ndarray):
        flat = np.where(np.isnan(value), np.array(np.nan, value.dtype), value).reshape(-1)
        digest = hashlib.sha256(np.ascontiguousarray(flat).tobytes()).hexdigest()
        first = [float(each).hex() for each in flat[:SHOWN]]
        return {"dtype": str(value.dtype), "shape": list(value.shape), "digest": digest, "first": first}
    if isinstance(value, np.generic):
        return [str(value.dtype), exactly(value.item())]
    return value.hex() if isinstance(value, float) else value


def answer(asked: Question, folder: Path) -> dict[str, Any]:
    """Ask, and return what came back: a result or an error, and the warnings."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            names = ("y_true", "y_pred", "sample_weight")
            plain = {"kind": "plain"}
            arrays = {name: keep(getattr(asked, name), asked.stored.get(name, plain), folder / name) for name in names}
        except Exception as error:
            traceback.print_exc()
            raise SystemExit("the arrays of a question could not be stored") from error
        try:
            found = {"result": exactly(CALLS[asked.call](asked, arrays))}
        except Exception as error:
            found = {"error": type(error).__name__, "words": either.said(_anywhere(str(error), folder))}
    # The one comes when garbage is collected, the other is of findings that not every revision has.
    left_out = "ResourceWarning", "DoubtfulResult"
    kept = [each for each in warned if each.category.__name__ not in left_out]
    said = sorted({f"{each.category.__name__}: {_anywhere(str(each.message), folder)}" for each in kept})
    return found | ({"warnings": said} if said else {})


def _anywhere(text: str, folder: Path) -> str:
    """Take out of a text what differs from run to run: places on disk and in memory."""
    return re.sub(r"0x[0-9a-f]{6,}|memory://\d+", "0x...", text.replace(str(folder), "..."))


def lines(seed: int, numbers: list[int]) -> Iterator[str]:
    for number in numbers:
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        asked = question(seed, number)
        if asked.extra.get("cluster"):
            cluster()  # what starting one warns of is not an answer
        folder = Path(tempfile.mkdtemp(prefix="daskxent-"))
        try:
            found = {"number": number, "given": asked.digest(), "answer": answer(asked, folder)}
        finally:
            shutil.rmtree(folder)
        yield json.dumps(found, sort_keys=True)
    faulthandler.cancel_dump_traceback_later()


def main() -> None:
    """Answer."""
    parser = argparse.ArgumentParser(description="Answer questions with the daskxent of this Python.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="the numbers of the questions")
    parser.add_argument("--range", type=int, nargs=2, metavar=("START", "STOP"), help="all from START to STOP - 1")
    options = parser.parse_args()
    faulthandler.enable()
    numbers = list(options.only or range(*(options.range or (0, 100))))
    for line in lines(options.seed, numbers):
        print(line, flush=True)
    if cluster.cache_info().currsize:
        sys.stdout.flush()
        cluster().cluster.close()


if __name__ == "__main__":
    main()
