"""Evaluate with further arrays along the rows, which no public function takes."""

from typing import Any

from daskxent.options import Asked
from daskxent.run import engines
from daskxent.run.prepared import prepare, repeatable


def prepared(y_true: Any, y_pred: Any, along: Any = None, **options: Any) -> Any:
    """Open and align arrays; return them and what is asked."""
    return prepare(y_true, y_pred, Asked(**options), along)


def running(inputs: Any, question: Any, client: Any = None, threads: int | None = None, **options: Any) -> Any:
    """Return the reports of aligned inputs."""
    return engines.run(inputs, question, engines.engine_for(inputs, client, threads), **options)


def last(
    y_true: Any,
    y_pred: Any,
    along: Any = None,
    journal: Any = None,
    threads: int | None = None,
    client: Any = None,
    **options: Any,
) -> Any:
    """Return the last report of arrays."""
    asked = Asked(**options)
    inputs, question = prepare(y_true, y_pred, asked, along)
    call = repeatable(y_true, y_pred, asked, along)
    *_, report = running(inputs, question, client, threads, journal=journal, call=call)
    return report
