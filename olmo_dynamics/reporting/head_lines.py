"""The first lines of a report: the strongest findings of its store, with the sections that show them.

>>> [line.title for line in head_lines(open_store("olmo2-1b.zarr"))]  # doctest: +SKIP
['Outliers in the residual stream: the largest feature of a token', 'Loss by domain', …]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import JoinedStore, RecordedStore, StoreFinding, TrainingLogs, findings, thin
from olmo_dynamics.frames.rules.found_series import series_behind
from olmo_dynamics.frames.rules.watched import NOUNS
from olmo_dynamics.names import Site
from olmo_dynamics.plots.lines import time_column, with_line
from olmo_dynamics.plots.page import HeadLine
from olmo_dynamics.plots.pages.small_curve import small_curve
from olmo_dynamics.reporting.seed_figures import FIGURES
from olmo_dynamics.reporting.sentences import Told, sentence

MOST = 5
"""The number of findings at the head of a report."""

_POINTS = 150  # of a small picture

_MAIN = ("loss/cross_entropy", "activations/rms", "parameters/rms", "logits/entropy", "activations/feature_kurtosis",
         "routing/load_imbalance", "attention/sink_mass", "spectra/stable_rank")  # fmt: skip
"""The quantities that are summarised, the most telling first."""

TITLES = {
    "loss/cross_entropy": "Loss by domain",
    "parameters/rms": "Weight norms, layer by layer",
    "parameters/norm_sparsity": "Weight outliers",
    "activations/rms": "The residual stream by depth",
    "activations/feature_kurtosis": "Outliers in the residual stream: kurtosis over features",
    "activations/feature_rms": "Outliers in the residual stream: the largest feature of a token",
    "attention/entropy": "Attention entropy",
    "attention/max_logit": "Attention logits",
    "attention/sink_mass": "Attention sinks",
    "writes/write_ratio": "Writes to the residual stream",
    "induction/prefix_matching": "Induction",
    "spectra/stable_rank": "Stable ranks",
    "spectra/spectral_norm": "The largest singular values",
    "representations/rank_me": "Dimensions that representations use",
    "gradients/total_l2_norm": "Total gradient norm",
    "gradient_stream/l2_norm": "Gradients of the residual stream",
    "routing/load_imbalance": "Load over experts, layer by layer",
    "logits/entropy": "Logits of the head",
    "ngram/kl": "Unigrams and bigrams",
    "optimizer/update_rms": "The state of the optimiser",
    "training/loss": "A run and its forks: training loss",
    "training/gradient_norm": "A run and its forks: gradient norm",
}
"""The section of a report that shows a quantity, by the quantity's key."""


def head_lines(store: RecordedStore, curves: TrainingLogs | None = None) -> list[HeadLine]:
    """The strongest findings of a store and of the logs of its training; if they are few, summaries of its main quantities too.

    Raises:
        OptionError: the logs are of another run.
    """
    try:
        found = findings(store, curves=curves)
        lines = [
            HeadLine(each.sentence, each.rate, _title(store, each.quantity), _picture(store, each, curves))
            for each in _varied(found)[:MOST]
        ]
        shown = {line.title for line in lines}
        lines += islice((line for line in _summaries(store) if line.title not in shown), MOST - len(lines))
    except OptionError:
        raise
    except Exception as error:  # numbers that cannot be read take no plot with them
        return [HeadLine(f"The store could not be searched for findings: {error}")]
    last = found.note or ("" if found else "No number of this store exceeds the thresholds of the rules.")
    return [*lines, HeadLine(last)] if last else lines


def _varied(found: Sequence[StoreFinding]) -> list[StoreFinding]:
    """The strongest finding of each kind and quantity, then those at other places."""
    firsts: dict[tuple[str, ...], StoreFinding] = {}
    others: dict[tuple[str, ...], StoreFinding] = {}
    for each in found:
        firsts.setdefault((each.kind, each.quantity), each)
        others.setdefault((each.kind, each.quantity, each.where, each.line), each)
    return list(dict.fromkeys([*firsts.values(), *others.values()]))


def _title(store: RecordedStore, key: str) -> str:
    """The section of this store's report that shows a quantity; empty if none does."""
    if isinstance(store, JoinedStore):
        return next((figure.title for figure in FIGURES if figure.key == key), "")
    return TITLES.get(key, "")


def _summaries(store: RecordedStore) -> Iterator[HeadLine]:
    """Start, end and extremes of the main quantities, with a small curve of their median."""
    for key in _MAIN:
        group, _, name = key.partition("/")
        if group not in store.groups or name not in store.group(group):
            continue
        rows = store.table(group)
        rows = rows.filter(pl.col("site") == Site.RESIDUAL_OUT.value) if "site" in rows.columns else rows
        said = sentence(rows, Told(name, NOUNS[key]))
        if said:
            yield HeadLine(said, "summary", _title(store, key), _median(rows, name, NOUNS[key]))


def _median(rows: pl.DataFrame, name: str, noun: str) -> str:
    """A small curve of the median of a column over training; empty of fewer than two places in it."""
    named = with_line(rows)
    time, value = time_column(named, "step"), pl.col(name).cast(pl.Float64)
    held = named.filter(value.is_finite(), pl.col(time).is_not_null()).group_by(time).agg(value.median()).sort(time)
    few, _ = thin(held, _POINTS, value=name, by=())
    return (
        small_curve(few[time].to_list(), few[name].to_list(), mark=few.height - 1, words=noun) if few.height > 1 else ""
    )


def _picture(store: RecordedStore, found: StoreFinding, curves: TrainingLogs | None) -> str:
    """A small curve of the numbers behind a finding; empty if it is not about numbers over training."""
    rows, _ = thin(series_behind(store, found, curves), _POINTS, value="value", by=())
    if rows.height < 2:
        return ""
    steps = rows["step"].to_list()
    mark = min(range(len(steps)), key=lambda place: abs(steps[place] - (found.step or 0)))
    return small_curve(steps, rows["value"].to_list(), mark=mark, words=found.where or found.quantity)
