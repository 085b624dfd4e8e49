"""What `create` says of the arrays it writes, in their attributes, and how it is obeyed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MARK = "daskxent dump"


def unfinished(attributes: Mapping[str, Any]) -> int | None:
    """Return how many steps of an array are complete, if its writer has not finished it; None for other arrays."""
    mark = attributes.get(MARK)
    return None if not isinstance(mark, dict) or mark.get("complete") else int(mark.get("steps", 0))


def is_bfloat16(attributes: Mapping[str, Any]) -> bool:
    """Return whether the elements of an array are the bits of bfloat16."""
    mark = attributes.get(MARK)
    return isinstance(mark, dict) and mark.get("view") == "bfloat16"


def check_finished(sources: Iterable[Any], path: str = "the path") -> None:
    """Refuse arrays whose writer has not finished them; parts of them are taken.

    Of joined arrays it is the first of them that is refused: a part of all would leave out what the others have.
    """
    for source in sources:
        steps = getattr(source, "unfinished", None)
        if steps is None:
            continue
        check_finished(getattr(source, "members", ()), "its own path, one of a list,")
        check_finished([source.source] if hasattr(source, "source") else (), path)
        some = f"[:{steps}] after {path} takes the steps that are complete" if steps else "it may be empty"
        raise ValueError(f"{source.name}: its writer has not finished it; {some}")
