"""Put the same questions to two sides, and compare what they answer, to the last bit."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from revisions import Side

ANSWERS = Path(__file__).with_name("answers.py")
CRASHES = 10  # after this many, a side is given up
LINES = 25  # of a difference that are shown
TEXTS = {"words", "warnings"}
NOTHING = "nothing"

Answers = list[dict[str, Any]]


def compare(sides: tuple[Side, Side], seed: int, questions: int, shown: int, texts: bool = True) -> bool:
    """Ask both sides, print what differs, and return whether nothing did.

    Parameters
    ----------
    sides : two Sides
    seed, questions : int
    shown : int
        How many of the questions that are answered differently are printed in full.
    texts : bool
        Whether the words of errors, warnings and findings count.

    Raises
    ------
    SystemExit
        The sides were given different arrays, or one cannot answer at all.
    """
    with ThreadPoolExecutor(len(sides)) as pool:
        theirs, ours = pool.map(lambda side: ask(side, seed, questions), sides)
    different = {}
    for number, (one, other) in enumerate(zip(theirs, ours, strict=True)):
        if one.get("given", other.get("given")) != other.get("given", one.get("given")):
            raise SystemExit(f"question {number}: the sides were given different arrays; do their NumPy differ?")
        crashed = "crash" in one["answer"] or "crash" in other["answer"]
        found = [line for line in differences(one["answer"], other["answer"]) if texts or TEXTS.isdisjoint(line[0])]
        if found or crashed:
            different[number] = found or [(("crash",), one["answer"]["crash"], other["answer"]["crash"])]
    report(sides, theirs, different, seed, shown)
    return not different


def ask(side: Side, seed: int, questions: int) -> Answers:
    """Return what a side answers; after a crash, which is an answer, a new process continues with the next question."""
    found: Answers = []
    crashes = 0
    while len(found) < questions:
        with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryDirectory() as folder:
            command = [side.python, str(ANSWERS), "--seed", str(seed), "--range", str(len(found)), str(questions)]
            environment = os.environ | side.environment | {"TMPDIR": folder}  # of which a crash leaves nothing
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            ) as process:
                assert process.stdout is not None
                for line in filter(_whole, process.stdout):
                    found.append(json.loads(line))
                    if len(found) % 500 == 0:
                        print(f"{side.name}: {len(found):,} of {questions:,} questions", file=sys.stderr)
            errors.seek(0)
            said = errors.read().strip()
        if len(found) == questions:
            break
        crashes += 1
        print(f"{side.name}: question {len(found)} ended its process:\n{said[-4000:]}", file=sys.stderr)
        if crashes == CRASHES:
            raise SystemExit(f"{side.name}: given up after {crashes} processes that ended before their time")
        last = said.splitlines()[-1] if said else ""
        found.append({"number": len(found), "answer": {"crash": f"status {process.returncode}: {last}"}})
    return found


def _whole(line: str) -> bool:
    return line.endswith("\n")


def differences(one: Any, other: Any, name: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Say where two answers differ: the names that lead there, and both values."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from differences(one.get(key, NOTHING), other.get(key, NOTHING), (*name, key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for at, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, (*name, str(at)))
    elif one != other or type(one) is not type(other):
        yield name or ("answer",), one, other


def report(sides: tuple[Side, Side], theirs: Answers, different: dict[int, Any], seed: int, shown: int) -> None:
    """Print how many answers are the same, and the first that are not."""
    from questions import question

    errors = sum("error" in answer["answer"] for answer in theirs)
    print(f"bits: {len(theirs) - len(different):,} of {len(theirs):,} questions have the same answer", end="")
    print(f" (seed {seed}; {errors:,} are errors)")
    for number in list(different)[:shown]:
        print(f"\nquestion {number} (python benchmarks/answers.py --seed {seed} --only {number})")
        for what, value in question(seed, number).described().items():
            print(f"  {what}: {value}")
        for name, one, other in different[number][:LINES]:
            print(f"  differs in {'.'.join(name)}:")
            for side, value in zip(sides, (one, other), strict=True):
                print(f"    {side.name}: {readable(value)}")
        if len(different[number]) > LINES:
            print(f"  and in {len(different[number]) - LINES} other places")
    if len(different) > shown:
        print(f"\nothers: {', '.join(map(str, list(different)[shown:][:200]))}")


def readable(value: Any) -> str:
    """Return a value with hexadecimal floats in decimal as well."""
    if isinstance(value, str) and value.lstrip("-").startswith("0x") and "p" in value:
        return f"{value} ({float.fromhex(value)!r})"
    text = json.dumps(value)
    return text if len(text) < 2_000 else f"{text[:2_000]}..."
