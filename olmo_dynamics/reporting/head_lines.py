"""The first lines of a report: the strongest findings of its store, with the sections that show them.

>>> [line.title for line in head_lines(open_store("olmo2-1b.zarr"))]  # doctest: +SKIP
['Outliers in the residual stream: the largest feature of a token', 'Loss by domain', …]
"""

from __future__ import annotations

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import RecordedStore, StoreFinding, TrainingLogs, findings, thin
from olmo_dynamics.frames.rules.found_series import series_behind
from olmo_dynamics.plots.page import HeadLine
from olmo_dynamics.plots.pages.small_curve import small_curve

MOST = 5
"""The number of findings at the head of a report."""

_POINTS = 150  # of a small picture

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
    "training/loss": "A run and its forks: loss",
    "training/gradient_norm": "A run and its forks: gradient norm",
}
"""The section of a report that shows a quantity, by the quantity's key."""


def head_lines(store: RecordedStore, curves: TrainingLogs | None = None) -> list[HeadLine]:
    """The strongest findings of the whole store and of the logs of its training, or the reason if there are none.

    Raises:
        OptionError: the logs are of another run.
    """
    try:
        found = findings(store, curves=curves)
        lines = [
            HeadLine(each.sentence, each.rate, TITLES.get(each.quantity, ""), _picture(store, each, curves))
            for each in found[:MOST]
        ]
    except OptionError:
        raise
    except Exception as error:  # numbers that cannot be read take no plot with them
        return [HeadLine(f"The store could not be searched for findings: {error}")]
    last = found.note or ("" if lines else "No number of this store exceeds the thresholds of the rules.")
    return [*lines, HeadLine(last)] if last else lines


def _picture(store: RecordedStore, found: StoreFinding, curves: TrainingLogs | None) -> str:
    """A small curve of the numbers behind a finding; empty if it is not about numbers over training."""
    rows, _ = thin(series_behind(store, found, curves), _POINTS, value="value", by=())
    if rows.height < 2:
        return ""
    steps = rows["step"].to_list()
    mark = min(range(len(steps)), key=lambda place: abs(steps[place] - (found.step or 0)))
    return small_curve(steps, rows["value"].to_list(), mark=mark, words=found.where or found.quantity)
