"""Dumps of which only one path is given: their arrays have usual names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from daskxent.sources.buckets import stores
from daskxent.sources.local import check_regular
from daskxent.sources.opening import OPENERS
from daskxent.sources.paths import arrays_in, is_zarr, listed, local

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# What the arrays of a dump are called.
CONVENTIONAL = {
    "labels": ("labels", "label", "y_true", "targets", "target", "tokens", "y"),
    "predictions": ("logits", "log_probabilities", "predictions", "probabilities", "probs", "scores", "y_pred"),
    "weights": ("weights", "sample_weight", "sample_weights"),
}


def conventional(dump: str, storage: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the paths of labels, predictions and weights in a group of arrays, or a file, with conventional names.

    The kind of the predictions is there as well where their name says it.

    Raises
    ------
    FileNotFoundError
        There are no labels or no predictions of such a name.
    """
    dump = local(dump)
    there, found = names_in(dump, storage), dict[str, str]()
    for what, names in CONVENTIONAL.items():
        known = [f"{name}{end}" for name in names for end in ("", ".npy") if f"{name}{end}" in there]
        if known:
            found[what] = os.path.join(dump, known[0])
            if known[0].removesuffix(".npy") == "log_probabilities":
                found["kind"] = "log_probabilities"
        elif what != "weights":
            path = os.path.expanduser(dump)
            if not there and (os.path.isfile(path) or is_zarr(path)):
                raise FileNotFoundError(
                    f"{dump} is not a dump of several arrays: give both paths, labels and predictions"
                )
            holds = f"holds {listed(there)}" if there else "is not there, or holds no arrays"
            expected = ", ".join(map(repr, names))
            raise FileNotFoundError(f"{dump} {holds}; expected {what} called {expected}: give both paths")
    return found


def names_in(dump: str, storage: Mapping[str, Any] | None = None) -> Sequence[str]:
    """Return the names of the arrays in a directory, in a group behind a URL, or in a file."""
    dump = local(dump)
    if "://" in dump:
        import zarr

        opened = zarr.open(list(stores(dump, storage))[-1], mode="r")
        return sorted(opened.array_keys()) if isinstance(opened, zarr.Group) else []
    opener = next(each for each in OPENERS if each.takes(dump))
    path = os.path.expanduser(dump)
    if opener.names is None or not os.path.exists(path):
        return arrays_in(path)
    check_regular(path, "the dump")
    try:
        return opener.names(path)
    except (ImportError, PermissionError):
        raise
    except Exception as error:  # what libraries make of damaged files is of many kinds
        raise ValueError(f"the arrays in {dump} cannot be listed: {error}") from error
