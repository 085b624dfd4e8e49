"""Every option once: its name, type, default, check and meaning. All signatures and the command line are made of these.

An option that is not understood is an error that says what was expected, before anything is read. Nothing that takes
time is imported here: ``--help`` is made of this.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import textwrap
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from daskxent.run.checking import (
    a_name,
    a_path,
    at_least,
    class_weights,
    column_names,
    flag,
    ignored,
    local_file,
    metric_names,
    one_of,
    progress,
    seconds,
    share,
    slices,
    statistic_names,
    steps,
    storage_options,
    temperature,
    units,
    whole,
    zero_division,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

    import dask.array
    import numpy.typing as npt
    import xarray
    import zarr
    from distributed import Client

    from daskxent.report import Report
    from daskxent.sources.source import Source

    ArrayLike = str | os.PathLike[str] | npt.ArrayLike | zarr.Array[Any] | dask.array.Array | xarray.DataArray | Source
    Steps = slice | tuple[int | None, int | None]

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


def _option(means: str, check: Callable[[Any, str], Any] | None = None) -> dict[str, Any]:
    return {"means": textwrap.dedent(means).strip(), "check": check}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of every row."""

    metrics: Iterable[str] = field(
        default=("crossentropy", "accuracy"),
        metadata=_option(
            """
            "crossentropy" (nats), "accuracy", "top_K_accuracy" for any K, "perplexity", "bits"; "entropy", "brier",
            "confidence", "margin", "mrr", "rank", "logsumexp", "z_loss", "label_probability"; of calibration "ece",
            "mce", "rmsce", "ece_debiased", "ece_equal_mass", "classwise_ece", "overconfidence", "temperature"; of text
            "bits_per_byte", "byte_perplexity", "word_perplexity"; of classes "macro_f1", "balanced_accuracy",
            "matthews", "cohen_kappa", "mean_iou", "mean_dice" and their like.""",
            metric_names,
        ),
    )
    sample_weight: ArrayLike | None = field(
        default=None,
        metadata=_option("""
            Weights along the leading axes of the positions, each axis of that length or 1, or a number. A weight of 0
            masks a row."""),
    )
    by: Mapping[str, Any] | Iterable[Mapping[str, Any]] | None = field(
        default=None,
        metadata=_option(
            """
            Slices: the metrics of groups of rows as well. A mapping from names to what to group by: an array along the
            rows like `sample_weight`, of integers, bool or strings; `axis(k)`, the index along an axis; `bins(numbers,
            edges)`; "label" or "prediction". Several names are grouped by their observed combinations; a list of
            mappings groups by each of them.""",
            slices,
        ),
    )
    worst: int = field(
        default=0,
        metadata=_option("How many rows to keep in which `worst_by` is largest: `Report.worst`.", at_least(0)),
    )
    worst_by: str = field(
        default="crossentropy",
        metadata=_option(
            '"crossentropy", or, but for log-probabilities, "entropy" or the "confidence" of wrong predictions.',
            one_of("crossentropy", "confidence", "entropy"),
        ),
    )
    worst_per_group: bool = field(
        default=False,
        metadata=_option("Whether to keep that many of each group of `by` as well: `Report.worst_of`.", flag),
    )
    sample: int = field(
        default=0,
        metadata=_option("How many rows to keep at random, the same for any chunks: `Report.sample`.", at_least(0)),
    )
    seed: int = field(default=0, metadata=_option("Chooses other random rows.", at_least(0)))
    per_class: bool = field(
        default=False,
        metadata=_option(
            "Whether to keep sums of each class, true (of dense labels the largest) and predicted: `Report.per_class`.",
            flag,
        ),
    )
    confusions: bool = field(
        default=False,
        metadata=_option(
            "Whether to count how often each class was taken for another: `Report.top_confusions`, `confusion_matrix`.",
            flag,
        ),
    )
    zero_division: float = field(
        default=0.0,
        metadata=_option(
            """
            What precision and recall are of a class that is never predicted, or never true: 0, 1, or NaN, which leaves
            the class out of means, as in scikit-learn.""",
            zero_division,
        ),
    )
    clusters: Any = field(
        default=None,
        metadata=_option("""
            What rows depend on one another by, for the errors: `axis(0)` (a sequence, an image), or ids along the rows
            like `sample_weight`, integers or strings. By default rows are taken as independent."""),
    )
    average: str = field(
        default="row",
        metadata=_option(
            """
            Whether metrics are means over rows, or with "cluster" over the means of clusters. Class metrics and
            calibration are always of the rows.""",
            one_of("row", "cluster"),
        ),
    )
    from_logits: bool = field(
        default=False, metadata=_option("Whether predictions are logits; otherwise they are probabilities.", flag)
    )
    predictions: str | None = field(
        default=None,
        metadata=_option(
            """
            What predictions are: "logits", as `from_logits` says, "probabilities", or "log_probabilities", whose loss
            is taken as it is and not normalised again, as where only the top k were kept and the rest is -inf.""",
            one_of(None, "logits", "probabilities", "log_probabilities"),
        ),
    )
    binary: bool = field(
        default=False,
        metadata=_option(
            "Predictions are one column of sigmoid probabilities or logits, of class 1; labels are 0 and 1.",
            flag,
        ),
    )
    class_weight: Any = field(
        default=None,
        metadata=_option(
            """
            A weight for each class, or a mapping from some classes to theirs (others have 1): the weight of a row is
            multiplied by that of its label, so that the mean is that of torch's weighted losses.""",
            class_weights,
        ),
    )
    storage_options: Mapping[str, Any] | None = field(
        default=None,
        metadata=_option(
            'What the file systems of URLs take, such as ``{"anon": True}``; it may be secret and is in no journal.',
            storage_options,
        ),
    )
    join: str = field(
        default="exact",
        metadata=_option(
            """
            Of xarray's arrays whose coordinates differ. "exact": that is an error; "inner": what has coordinates that
            all arrays have along a dimension is evaluated, in one order.""",
            one_of("exact", "inner"),
        ),
    )
    histograms: Iterable[str] = field(
        default=(),
        metadata=_option(
            """
            Values of which the rows are counted in fine cells, such as "crossentropy" or "confidence":
            `Report.quantile`, `Report.histogram`.""",
            statistic_names,
        ),
    )
    ranks: bool = field(
        default=False,
        metadata=_option("Whether to count how many classes are larger than the label's: `Report.top_k_curve`.", flag),
    )
    calibration_bins: int = field(
        default=15, metadata=_option("Bins of equal width of the confidence: `Report.reliability`.", at_least(1))
    )
    temperature: float = field(
        default=1.0, metadata=_option("What logits are divided by, in float64, before anything else.", temperature)
    )
    ids: ArrayLike | None = field(
        default=None,
        metadata=_option("""
            Which classes y_pred holds, where it holds only some of each row, as the largest k: integers of its shape,
            with the classes along the last axis; of a class that is twice in a row the first counts. Needs
            predictions="log_probabilities"."""),
    )
    shift: int = field(
        default=0,
        metadata=_option(
            """
            By how many places labels, and what lies along them, are ahead of the predictions along the last axis of the
            positions: with 1, logits of each token are compared with the token after it.""",
            at_least(0),
        ),
    )
    mask: ArrayLike | None = field(
        default=None,
        metadata=_option("Rows that are hidden where this is False or 0: bool or integers along the labels."),
    )
    classes: int | None = field(
        default=None,
        metadata=_option(
            "How many of the classes there are; others, as those of a padded vocabulary, are left out and not read.",
            at_least(1),
        ),
    )
    bytes: Any = field(
        default=None,
        metadata=_option(
            """
            Bytes that labels stand for, for "bits_per_byte" and "byte_perplexity": a table, a number for each class
            (labels of 0 bytes are left out of these two); an array along the labels; or the number of the whole
            text.""",
            units,
        ),
    )
    words: Any = field(
        default=None, metadata=_option('Words that labels stand for, for "word_perplexity", as `bytes`.', units)
    )
    axis: int = field(default=-1, metadata=_option("The class axis of the predictions.", whole))
    dim: str | None = field(
        default=None,
        metadata=_option(
            "The class axis by its name: a dimension of an xarray.DataArray, or a dimension name of a zarr array.",
            a_name,
        ),
    )
    view: str | None = field(
        default=None,
        metadata=_option(
            '"bfloat16": what uint16 predictions stand for. zarr has no bfloat16, so dumps keep the bits.',
            one_of(None, "bfloat16"),
        ),
    )
    ignore_class: int | Iterable[int] | None = field(
        default=None,
        metadata=_option("Rows with this label, or one of these, are left out of sums and weights.", ignored),
    )
    label_smoothing: float = field(
        default=0.0,
        metadata=_option(
            """
            The share of each label that is spread evenly over the classes. Integer labels are then taken as the one-hot
            labels they stand for: whole rows are read at once, and probabilities are divided by their sum, then
            clipped.""",
            share,
        ),
    )
    on_invalid: str = field(
        default="raise",
        metadata=_option(
            """
            What becomes of invalid rows. "raise": a label out of range is an error, and so is a dense one that is NaN
            or infinite; rows with NaN or +inf stay in, make the loss NaN, and are reported. "skip": both kinds of rows
            are left out, and reported. "count": both stay in; the loss is NaN.""",
            one_of("raise", "skip", "count"),
        ),
    )
    allow_negative_weights: bool = field(
        default=False, metadata=_option("Take negative weights, which are an error otherwise.", flag)
    )
    on_missing: str | None = field(
        default=None,
        metadata=_option(
            """
            What becomes of zarr chunks that are not stored. zarr leaves out chunks that hold nothing but the fill
            value, so None takes missing labels, weights and what else lies along the rows as filled, and reports them;
            missing predictions are an error. "raise" and "fill" decide for all of them.""",
            one_of(None, "raise", "fill"),
        ),
    )

    @property
    def slicings(self) -> tuple[dict[str, Any], ...]:
        """What to group by, checked."""
        return self.by or ()  # type: ignore[return-value]

    def __post_init__(self) -> None:
        """Check every option that was given."""
        for each in fields(self):
            check, given = each.metadata["check"], getattr(self, each.name)
            if check is not None and (given is not None or each.default is not None):
                object.__setattr__(self, each.name, check(given, each.name))


@dataclass(frozen=True, kw_only=True)
class Graph(Asked):
    """What is asked of a graph."""

    split_every: int | None = field(
        default=None, metadata=_option("How many states a task of the tree of merges takes.", at_least(2))
    )


@dataclass(frozen=True, kw_only=True)
class Run(Asked):
    """What is asked, of which steps, and where it runs."""

    steps: Steps | None = field(
        default=None,
        metadata=_option(
            """
            Only these steps along the first axis of the positions, clipped like a Python slice. ``(40000, None)`` are
            all from 40,000 on.""",
            steps,
        ),
    )
    client: Client | None = field(
        default=None,
        metadata=_option("Where to run; by default the current `distributed.Client`, else threads of this process."),
    )
    threads: int | None = field(
        default=None,
        metadata=_option(
            "Run on this many threads of this process, whatever clients there are. By default one per core.",
            at_least(1),
        ),
    )
    worker_timeout: float | None = field(
        default=None,
        metadata=_option("Seconds without a finished part after which a cluster is given up; 300 by default.", seconds),
    )
    journal: str | os.PathLike[str] | None = field(
        default=None,
        metadata=_option(
            """
            A file that keeps what has been evaluated. The same call with the same journal resumes where it stopped, and
            ends with the same bits; after rows were appended to the arrays it evaluates only those.""",
            local_file,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Shown(Run):
    """The same, with progress."""

    progress: bool | Callable[[Report], None] | None = field(
        default=None,
        metadata=_option("True draws a progress bar; a callable is given a report after each part.", progress),
    )


@dataclass(frozen=True, kw_only=True)
class Rows(Shown):
    """What is kept of every row, and where."""

    columns: Iterable[str] = field(
        default=("loss", "prediction", "confidence"),
        metadata=_option(
            """
            What to keep of every row: "loss" (nats), "hit", "prediction", "confidence", "above" (how many classes are
            larger than the label's), "rank", "peak", "second", "target" (the value at the label), "total", "margin",
            "logsumexp", "entropy", "sum_p2", "brier", "label_probability", "flags", "label", "weight", "counted"
            (whether the row counts).""",
            column_names,
        ),
    )
    out: str | os.PathLike[str] | None = field(
        default=None,
        metadata=_option(
            """
            A zarr group for the columns, a path or URL that all workers reach. By default they are NumPy arrays, made
            on threads of this process.""",
            a_path,
        ),
    )


class Takes(Protocol[P, R_co]):
    """A function of labels, predictions and options."""

    __name__: str

    def __call__(self, y_true: ArrayLike, y_pred: ArrayLike, *args: P.args, **options: P.kwargs) -> R_co:
        """Check the options and call the function."""


def takes(table: Callable[P, T]) -> Callable[[Callable[[Any, Any, T], R]], Takes[P, R]]:
    """Give a function of labels, predictions and a table the options of the table as keyword arguments.

    Its signature shows them all, and ``{options}`` in its docstring becomes what they mean.
    """
    known = {each.name: each for each in fields(table)}  # type: ignore[arg-type]
    means = "\n".join(
        f"{name} : {each.type}\n{textwrap.indent(each.metadata['means'], '    ')}" for name, each in known.items()
    )

    def decorate(function: Callable[[Any, Any, T], R]) -> Takes[P, R]:
        @functools.wraps(function)
        def call(y_true: Any, y_pred: Any, **options: Any) -> R:
            if unknown := sorted(options.keys() - known):
                elsewhere = unknown[0] in {each.name for each in fields(Rows)}  # of another function, not misspelt
                like = [] if elsewhere else difflib.get_close_matches(unknown[0], known, 1)
                hint = f"; did you mean {like[0]!r}?" if like else ""
                raise TypeError(f"{function.__name__}: unknown option {unknown[0]!r}{hint}")
            return function(y_true, y_pred, table(**options))  # type: ignore[call-arg]

        signature = inspect.signature(function)
        *arrays, _ = signature.parameters.values()
        keywords = (
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
            for name, each in known.items()
        )
        call.__signature__ = signature.replace(parameters=[*arrays, *keywords])  # type: ignore[attr-defined]
        call.__doc__ = (function.__doc__ or "").replace("{options}", textwrap.indent(means, "    ").lstrip())
        return call  # type: ignore[return-value]

    return decorate
