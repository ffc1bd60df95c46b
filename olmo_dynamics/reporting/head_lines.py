"""The first lines of a report: the strongest findings of its store, with the sections that show them.

>>> [line.title for line in head_lines(open_store("olmo2-1b.zarr"))]  # doctest: +SKIP
['Outliers in the residual stream: the largest feature of a token', 'Loss by domain', …]
"""

from __future__ import annotations

from olmo_dynamics.frames import RecordedStore, findings
from olmo_dynamics.plots.page import HeadLine

MOST = 5
"""The number of findings at the head of a report."""

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


def head_lines(store: RecordedStore) -> list[HeadLine]:
    """The strongest findings of the whole store, or the reason if there are none."""
    try:
        found = findings(store)
    except Exception as error:  # numbers that cannot be read take no plot with them
        return [HeadLine(f"The store could not be searched for findings: {error}")]
    lines = [HeadLine(each.sentence, each.rate, TITLES.get(each.quantity, "")) for each in found[:MOST]]
    last = found.note or ("" if lines else "No number of this store exceeds the thresholds of the rules.")
    return [*lines, HeadLine(last)] if last else lines
