"""Evaluate in steps: what is aligned, and what is asked, before it is run."""

from dataclasses import replace
from typing import Any

from daskxent.options import Asked
from daskxent.run import engines
from daskxent.run.prepared import prepare, repeatable


def prepared(y_true: Any, y_pred: Any, along: Any = None, **options: Any) -> Any:
    """Open and align arrays, further ones by their own names; return them and what is asked."""
    inputs, question = prepare(y_true, y_pred, Asked(by=along, **options))
    own = {name.removeprefix("by['").removesuffix("']"): each for name, each in inputs.along.items()}
    return replace(inputs, along=own), replace(question, by=())


def running(inputs: Any, question: Any, client: Any = None, threads: int | None = None, **options: Any) -> Any:
    """Return the reports of aligned inputs."""
    return engines.run(inputs, question, engines.engine_for(inputs, client, threads), **options)


def last(
    y_true: Any,
    y_pred: Any,
    journal: Any = None,
    threads: int | None = None,
    client: Any = None,
    **options: Any,
) -> Any:
    """Return the last report of arrays."""
    asked = Asked(**options)
    inputs, question = prepare(y_true, y_pred, asked)
    call = repeatable(y_true, y_pred, asked)
    *_, report = running(inputs, question, client, threads, journal=journal, call=call)
    return report
