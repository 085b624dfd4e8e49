"""Check what is read from JSON: others may have written it, and a sum that is missing would not raise by itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

MOST = 2**63 - 1


def mapping(value: Any, what: str, *names: str) -> dict[str, Any]:
    """Return a dictionary that has just these names, or any if none are given.

    Examples
    --------
    >>> mapping({"a": 1}, "sums", "a", "b")
    Traceback (most recent call last):
        ...
    ValueError: sums: 'b' is missing
    """
    if not isinstance(value, dict):
        raise ValueError(f"{what}: expected a mapping, got {brief(value)}")
    for name in names:
        if name not in value:
            raise ValueError(f"{what}: {name!r} is missing")
    if names:
        known(value, what, names)
    return value


def known(value: Mapping[str, Any], what: str, names: Collection[str]) -> None:
    """Raise if a mapping has other names than these."""
    for name in value:
        if name not in names:
            raise ValueError(f"{what}: {brief(name)} is unknown")


def several(value: Any, what: str, length: int | None = None) -> list[Any]:
    """Return a list, of some length if one is given."""
    if not isinstance(value, list) or length not in (None, len(value)):
        raise ValueError(f"{what}: expected a list{'' if length is None else f' of {length}'}, got {brief(value)}")
    return value


def whole(value: Any, what: str, least: int = 0, most: int = MOST) -> int:
    """Return an integer within bounds."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{what}: expected an integer from {least} to {most}, got {brief(value)}")
    return value


def one_of(value: Any, what: str, *types: type) -> Any:
    """Return a value that is of one of some types; a float is finite."""
    if type(value) not in types or (type(value) is float and not math.isfinite(value)):
        expected = " or ".join(each.__name__ for each in types)
        raise ValueError(f"{what}: expected {expected}, got {brief(value)}")
    return value


def brief(value: Any) -> str:
    """Return the beginning of what a value looks like."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def differences(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Say where two values made of dictionaries, and lists of them, differ: the names that lead there, and both values.

    Examples
    --------
    >>> list(differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}))
    [('a.c', 2, 3)]
    >>> list(differences({"a": [{"b": 1}, {"b": 2}]}, {"a": [{"b": 1}, {"b": 3}]}))
    [('a[1].b', 2, 3)]
    """
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one | other):
            yield from differences(one.get(key), other.get(key), f"{name}.{key}" if name else key)
    elif _are_alike(one, other):
        for i, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{name}[{i}]")
    elif one != other:
        yield name, one, other


def _are_alike(one: Any, other: Any) -> bool:
    """Return whether two values are lists of as many dictionaries."""
    lists = isinstance(one, list) and isinstance(other, list) and len(one) == len(other)
    return lists and all(isinstance(each, dict) for each in (*one, *other))
