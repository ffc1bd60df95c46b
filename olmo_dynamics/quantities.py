"""Every number we measure, declared once.

A recorder names the quantity it measured, the store writes its units and formula into the array's attributes, frames and
plots take their titles from it, and the glossary in the docs is printed from it.

    >>> from olmo_dynamics.quantities import find
    >>> find("parameters/rms").formula
    'sqrt(sum(x**2) / n)'

Letters in formulas: x an element, n the number of elements (of tokens: N), d the width of the residual stream, T the
positions of a sequence, V the vocabulary. Activation quantities whose name ends in `_without_first` leave out position 0
of every sequence, where attention sinks and massive activations sit.
"""

from __future__ import annotations

import math
from dataclasses import replace

from olmo_dynamics.names import Cost, Quantity

QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
"""Levels of every `quantile` axis (linear interpolation between order statistics, NumPy's default)."""

TOKEN_QUANTILES = (0.05, 0.5, 0.95)
"""Levels of the `token_quantile` axis."""

THRESHOLDS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0, 128.0)
"""Levels of the `threshold` axis: magnitudes in activation units. 6.0 is LLM.int8's."""

RMS_THRESHOLDS = (3.0, 6.0, 12.0, 24.0, 48.0)
"""Levels of the `rms_threshold` axis: magnitudes in units of the token's own RMS over features."""

MASSIVE_RANKS = 8
"""How many of the largest activations of a layer are kept, with their coordinates."""

WITHOUT_FIRST = "_without_first"

_BLOG = "Merrill 2024 (Ai2 blog, OLMo checkpoints); statistics as in Aleph-Alpha/scaling, tensor_statistics_recorder"
_HE = "He et al. 2024, arXiv:2405.19279"
_INT8 = "Dettmers et al. 2022, arXiv:2208.07339"
_SUN = "Sun et al. 2024, arXiv:2402.17762"
_OLMO2 = "OLMo 2, arXiv:2501.00656, section 3.4.2; Takase et al. 2023, arXiv:2312.16903"
_STANDARD = "standard definition"
_W = "weight unit"
_A = "activation unit"
_POSITIVE = (0.0, math.inf)


def _parameters() -> list[Quantity]:
    def tensor(name: str, long_name: str, formula: str, source: str = _STANDARD, *, unit: str = _W,
               symbol: str = "", valid: tuple[float, float] = (-math.inf, math.inf), note: str = "",
               axes: tuple[str, ...] = (), dtype: str = "float64") -> Quantity:  # fmt: skip
        return Quantity(
            name,
            "parameters",
            long_name,
            ("tensor", *axes),
            formula,
            source,
            unit,
            symbol,
            Cost.PARAMETERS,
            valid,
            dtype,
            note,
        )

    return [
        tensor("l2_norm", "L2 norm", "sqrt(sum(x**2))", symbol="‖W‖₂", valid=_POSITIVE,
               note="OLMo logs it as optim/param/{name}.norm."),
        tensor("rms", "root mean square", "sqrt(sum(x**2) / n)", _BLOG, symbol="RMS(W)", valid=_POSITIVE,
               note="Equals the standard deviation only where the mean is zero."),
        tensor("mean", "mean", "sum(x) / n", symbol="mean(W)"),
        tensor("std", "standard deviation", "sqrt(sum((x - mean)**2) / n)", symbol="σ(W)", valid=_POSITIVE,
               note="Population form: divided by n."),
        tensor("min", "minimum", "min(x)", symbol="min(W)",
               note="Signed. OLMo's own log key of this name is the minimum of |x|."),
        tensor("max", "maximum", "max(x)", symbol="max(W)",
               note="Signed. OLMo's own log key of this name is the maximum of |x|."),
        tensor("abs_max", "largest magnitude", "max(|x|)", symbol="max|W|", valid=_POSITIVE),
        tensor("abs_mean", "mean magnitude", "sum(|x|) / n", _BLOG, symbol="mean|W|", valid=_POSITIVE),
        tensor("abs_median", "median magnitude", "median(|x|)", _BLOG, symbol="median|W|", valid=_POSITIVE,
               note="Mean of the two middle elements where n is even."),
        tensor("kurtosis", "kurtosis", "mean((x - mean)**4) / std**4", unit="1", symbol="κ(W)", valid=(1.0, math.inf),
               note="Fourth standardised moment: 3 for a Gaussian. NaN where all elements are equal."),
        tensor("norm_sparsity", "norm sparsity", "sqrt(n) * l2_norm / sum(|x|)", _BLOG, unit="1", symbol="√n‖W‖₂/‖W‖₁",
               valid=(1.0, math.inf), note="1 where all magnitudes are equal, √(π/2) ≈ 1.2533 for a Gaussian, √n for one-hot."),
        tensor("max_sparsity", "max sparsity", "(max(|x|) - median(|x|)) / median(|x|)", _BLOG, unit="1",
               symbol="(max|W| − median|W|)/median|W|", valid=_POSITIVE, note="Grows with n, also for a Gaussian."),
        tensor("tail_ratio", "tail ratio", "quantile(|x|, 0.999) / quantile(|x|, 0.5)", unit="1",
               symbol="|W|₀.₉₉₉/|W|₀.₅", valid=(1.0, math.inf)),
        tensor("zero_count", "zeros", "count(x == 0)", unit="elements", valid=_POSITIVE, dtype="int64"),
        tensor("nan_count", "NaNs", "count(isnan(x))", unit="elements", valid=_POSITIVE, dtype="int64"),
        tensor("inf_count", "infinities", "count(isinf(x))", unit="elements", valid=_POSITIVE, dtype="int64"),
        tensor("element_quantile", "quantile", "quantile(x, q)", axes=("quantile",), symbol="W_q",
               note="Exact, with linear interpolation between order statistics."),
        tensor("residual_feature_l2", "L2 norm by residual feature", "sqrt(sum over the other axis of x**2)",
               axes=("feature",), valid=_POSITIVE, dtype="float32", symbol="‖W·ⱼ‖₂",
               note="One number for each feature of the residual stream that the matrix reads from (or writes to). NaN "
               "for tensors that do not touch the stream (q_norm, k_norm)."),
        tensor("residual_vector_l2_quantile", "quantile of the L2 norms of residual vectors",
               "quantile over the other axis of sqrt(sum along the residual axis of x**2)", axes=("quantile",),
               valid=_POSITIVE, symbol="‖Wᵢ·‖₂",
               note="The vectors that live in the residual stream: rows of what reads it, columns of what writes it."),
        tensor("status", "status", "0 not measured, 1 measured, 2 non-finite weights, 3 a ratio's denominator is zero",
               unit="1", dtype="uint8"),
    ]  # fmt: skip


def _embeddings() -> list[Quantity]:
    def embedding(name: str, long_name: str, formula: str, axes: tuple[str, ...] = (), *, unit: str = _W,
                  dtype: str = "float64", note: str = "", symbol: str = "") -> Quantity:  # fmt: skip
        return Quantity(name, "embeddings", long_name, ("embedding", *axes), formula, _OLMO2, unit, symbol,
                        Cost.PARAMETERS, _POSITIVE, dtype, note)  # fmt: skip

    return [
        embedding("row_l2", "L2 norm of a row", "sqrt(sum over features of E[v]**2)", ("token",), dtype="float32",
                  symbol="‖E_v‖₂"),
        embedding("row_l2_quantile", "quantile of row L2 norms", "quantile over v of row_l2[v]", ("quantile",), symbol="‖E_v‖₂"),
        embedding("row_rms", "RMS of all rows", "sqrt(mean over v, j of E[v, j]**2)", symbol="RMS(E)"),
        embedding("decile_rms", "RMS of rows by frequency in the probe",
                  "RMS over the rows of the ids in one tenth of the ids seen in the probe, rarest first", ("decile",),
                  symbol="RMS(E)"),
        embedding("unseen_rms", "RMS of rows not in the probe", "RMS over rows of tokenizer ids the probe never uses", symbol="RMS(E)"),
        embedding("padding_rms", "RMS of padding rows", "RMS over rows v >= tokenizer size",
                  symbol="RMS(E)", note="Padding rows get no gradient: with decoupled decay they shrink by prod(1 - lr*wd) exactly, "
                  "without it they stay bit-identical. Input embedding only; the head's padding rows do get gradient."),
        embedding("mean_row_l2", "L2 norm of the mean row", "‖mean over v of E[v]‖", symbol="‖mean E‖₂"),
        embedding("status", "status", "0 not measured, 1 measured, 2 non-finite weights", unit="1", dtype="uint8"),
    ]  # fmt: skip


def _activations() -> list[Quantity]:
    def site(name: str, long_name: str, formula: str, source: str = _STANDARD, *, unit: str = _A, symbol: str = "",
             valid: tuple[float, float] = _POSITIVE, note: str = "", axes: tuple[str, ...] = (),
             dtype: str = "float64") -> Quantity:  # fmt: skip
        return Quantity(name, "activations", long_name, ("site", "layer", *axes), formula, source, unit, symbol,
                        Cost.FORWARD, valid, dtype, note)  # fmt: skip

    measured = [
        site("rms", "root mean square", "sqrt(mean over tokens, features of x**2)", _BLOG, symbol="RMS(h)"),
        site("l2_norm", "mean token L2 norm", "mean over tokens of sqrt(sum over features of x**2)", _BLOG, symbol="E‖h_t‖₂"),
        site("l2_norm_quantile", "quantile of token L2 norms", "quantile over tokens of sqrt(sum over features of x**2)",
             axes=("token_quantile",), symbol="‖h_t‖₂"),
        site("mean", "mean", "mean over tokens, features of x", valid=(-math.inf, math.inf), symbol="mean(h)"),
        site("abs_max", "largest magnitude", "max(|x|)", symbol="max|h|"),
        site("abs_mean", "mean magnitude", "mean(|x|)", symbol="mean|h|"),
        site("abs_median", "median magnitude", "median over tokens, features of |x|", symbol="median|h|",
             note="From a mergeable histogram whose bins are 2^-14 wide, relative; exact for bf16."),
        site("kurtosis", "kurtosis", "mean((x - mean)**4) / std**4", unit="1", valid=(1.0, math.inf), symbol="κ(h)",
             note="Fourth standardised moment of the elements: 3 for a Gaussian."),
        site("norm_sparsity", "norm sparsity", "sqrt(n) * ‖x‖₂ / ‖x‖₁ over the whole [tokens, features]", _BLOG, unit="1",
             valid=(1.0, math.inf), symbol="√n‖h‖₂/‖h‖₁"),
        site("max_sparsity", "max sparsity", "(max(|x|) - median(|x|)) / median(|x|) over the whole [tokens, features]",
             _BLOG, unit="1", symbol="(max|h| − median|h|)/median|h|"),
        site("token_norm_sparsity", "norm sparsity of a token", "mean over tokens of sqrt(d) * ‖x_t‖₂ / ‖x_t‖₁", _BLOG,
             unit="1", valid=(1.0, math.inf), symbol="E √d‖h_t‖₂/‖h_t‖₁"),
        site("max_median_ratio", "max-median ratio", "mean over tokens of max_j|x_tj| / median_j|x_tj|", _HE, unit="1",
             valid=(1.0, math.inf), symbol="MMR", note="Per-token max sparsity is this minus one."),
        site("feature_kurtosis", "feature kurtosis", "mean_j(s_j**4) / mean_j(s_j**2)**2 with s_j**2 = mean over tokens of x_tj**2",
             _HE, unit="1", valid=(1.0, math.inf), symbol="Kurt(h)",
             note="In [1, d]; the public code's figure is (Kurt - 1) d / (d - 1)."),
        site("feature_rms", "RMS of a feature", "sqrt(mean over tokens of x_tj**2)", axes=("feature",), dtype="float32",
             symbol="RMS(h_j)"),
        site("feature_abs_max", "largest magnitude of a feature", "max over tokens of |x_tj|", axes=("feature",),
             dtype="float32", symbol="max|h_j|"),
    ]  # fmt: skip
    status = site("status", "status", "0 not measured, 1 measured, 2 non-finite values, 3 a ratio's denominator is zero",
                  unit="1", dtype="uint8")  # fmt: skip
    return [*measured, *(_without_first(quantity) for quantity in measured), status]


def _without_first(quantity: Quantity) -> Quantity:
    return replace(
        quantity,
        name=quantity.name + WITHOUT_FIRST,
        long_name=quantity.long_name + " (without first position)",
        formula=quantity.formula + ", position 0 left out",
    )


def _outliers() -> list[Quantity]:
    def forward(name: str, long_name: str, axes: tuple[str, ...], formula: str, source: str, *, unit: str = "1",
                dtype: str = "float64", note: str = "", symbol: str = "") -> Quantity:  # fmt: skip
        return Quantity(
            name, "outliers", long_name, axes, formula, source, unit, symbol, Cost.FORWARD, _POSITIVE, dtype, note
        )

    feature = ("input", "layer")
    massive = ("layer", "rank")
    per_feature = [
        forward("feature_fraction_above", "share of tokens above a threshold", (*feature, "threshold", "feature"),
                "mean over tokens of [|x_tj| >= threshold]", _INT8, dtype="float32",
                note="The inputs of the attention projections and of the MLP, as LLM.int8 reads them."),
        forward("feature_fraction_above_rms", "share of tokens above a multiple of their own RMS",
                (*feature, "rms_threshold", "feature"), "mean over tokens of [|x_tj| >= threshold * rms_j(x_t)]", _INT8,
                dtype="float32", note="Scale-free form of the rule, for models whose stream has no scale of 6."),
        forward("feature_abs_max", "largest magnitude of a feature", (*feature, "feature"),
                "max over tokens of |x_tj|", _INT8, unit=_A, dtype="float32", symbol="max|h_j|"),
    ]  # fmt: skip
    counts = [
        forward("llmint8_count", "outlier features", (), "count of j with |x| >= 6 somewhere in >= 25 % of layers and in "
                ">= 6 % of tokens of one layer", _INT8, unit="features", symbol="outlier features",
                note="Calibrated by its authors on OPT-like models; layers' inputs to attention and MLP counted apart."),
        forward("llmint8_layer_share", "layers an outlier feature reaches", (), "mean over outlier features of the share of "
                "(layer, input) pairs with |x| >= 6", _INT8, unit="1"),
        forward("llmint8_token_share", "tokens an outlier feature reaches", (), "mean over outlier features of the largest "
                "share of tokens with |x| >= 6", _INT8, unit="1"),
        forward("llmint8_magnitude", "median outlier magnitude", (), "median over outlier features of max |x|", _INT8, unit=_A),
        forward("llmint8_rms_count", "outlier features, relative to RMS", (), "llmint8_count with 6 * rms_j(x_t) in place of 6",
                _INT8, unit="features", symbol="outlier features"),
    ]  # fmt: skip
    return [
        *per_feature,
        *counts,
        *(_without_first(quantity) for quantity in (*per_feature, *counts)),
        forward("massive_value", "largest activations", massive, "the largest |x| of the layer's output, signed, by rank",
                _SUN, unit=_A, symbol="top |h|"),
        forward("massive_sequence", "probe sequence of a largest activation", massive, "sequence index", _SUN, unit="index", dtype="int64"),
        forward("massive_position", "position of a largest activation", massive, "token position in its sequence", _SUN,
                unit="index", dtype="int64"),
        forward("massive_token_id", "token of a largest activation", massive, "token id", _SUN, unit="index", dtype="int64"),
        forward("massive_feature", "feature of a largest activation", massive, "feature index", _SUN, unit="index", dtype="int64"),
        forward("massive_median", "median magnitude, by sequence", ("layer",), "mean over sequences of median(|x|) over "
                "[positions, features]", _SUN, unit=_A, symbol="median|h|"),
        forward("massive_top3", "top-3 magnitudes, by sequence", ("layer", "top"), "mean over sequences of the k-th largest |x|, k = 1, 2, 3",
                _SUN, unit=_A, symbol="top |h|"),
        forward("massive_count", "massive activations", ("layer",), "count of |x| > 100 and |x| >= 1000 * median of its sequence",
                _SUN, unit="elements"),
        forward("status", "status", ("layer",), "0 not measured, 1 measured, 2 non-finite values", _SUN, dtype="uint8"),
    ]  # fmt: skip


def _logits() -> list[Quantity]:
    def logit(name: str, long_name: str, formula: str, *, unit: str = "nat", symbol: str = "",
              valid: tuple[float, float] = (-math.inf, math.inf), note: str = "", dtype: str = "float64") -> Quantity:  # fmt: skip
        return Quantity(name, "logits", long_name, (), formula, "OLMo-core cross_entropy_loss; OLMo 2, arXiv:2501.00656", unit,
                        symbol, Cost.FORWARD, valid, dtype, note)  # fmt: skip

    measured = [
        logit("lse_mean", "mean log-sum-exp", "mean over tokens of ln sum_v exp(z_v)", symbol="ln Z",
              note="Over all columns, padding included, as in training. ln V at initialisation."),
        logit("lse_square_mean", "mean squared log-sum-exp", "mean over tokens of (ln sum_v exp(z_v))**2", unit="nat²", symbol="(ln Z)²",
              valid=_POSITIVE, note="The z-loss is this times its weight (1e-5 in OLMo 2's configs)."),
        logit("lse_std", "standard deviation of log-sum-exp", "std over tokens of ln sum_v exp(z_v)", valid=_POSITIVE, symbol="σ(ln Z)"),
        logit("lse_max", "largest log-sum-exp", "max over tokens of ln sum_v exp(z_v)", symbol="max ln Z"),
        logit("logit_mean", "mean logit", "mean over tokens, v of z_v", symbol="mean z"),
        logit("logit_rms", "RMS logit", "sqrt(mean over tokens, v of z_v**2)", valid=_POSITIVE, symbol="RMS(z)"),
        logit("logit_centred_rms", "RMS of centred logits", "sqrt(mean over tokens of var_v(z_v))", valid=_POSITIVE, symbol="RMS(z − mean z)"),
        logit("entropy", "predictive entropy", "mean over tokens of -sum_v p_v ln p_v", valid=_POSITIVE, symbol="H(p)",
              note="Over the tokenizer's own ids: padding columns left out and p renormalised."),
        logit("top_probability", "probability of the likeliest token", "mean over tokens of max_v p_v", unit="1", valid=(0.0, 1.0),
              symbol="max p", note="Over the tokenizer's own ids, as for entropy."),
    ]  # fmt: skip
    status = logit("status", "status", "0 not measured, 1 measured, 2 non-finite values", unit="1", dtype="uint8")
    return [*measured, *(_without_first(quantity) for quantity in measured), status]


def _loss() -> list[Quantity]:
    def loss(name: str, group: str, long_name: str, axes: tuple[str, ...], formula: str, *, unit: str = "nat/token",
             symbol: str = "", dtype: str = "float64", note: str = "") -> Quantity:  # fmt: skip
        return Quantity(name, group, long_name, axes, formula, "Paloma, arXiv:2312.10523; ai2-olmo-eval", unit, symbol,
                        Cost.FORWARD, _POSITIVE, dtype, note)  # fmt: skip

    measured = [
        loss("cross_entropy", "loss", "cross-entropy", ("domain",), "mean over scored tokens of -ln p(token | before)",
             symbol="CE", note="Token-weighted within a domain. A window's first token is never scored."),
        loss("bits_per_byte", "loss", "bits per byte", ("domain",), "sum of -ln p over scored tokens / (bytes of those tokens * ln 2)",
             unit="bit/byte", symbol="BPB", note="Comparable across tokenizers. Bytes of unscored first tokens are not counted."),
        loss("scored_tokens", "loss", "scored tokens", ("domain",), "count", unit="tokens", dtype="int64"),
    ]  # fmt: skip
    return [
        *measured,
        *(_without_first(quantity) for quantity in measured),
        loss("position_cross_entropy", "loss", "cross-entropy by position", ("domain", "position"),
             "mean over sequences of -ln p(token at position | before)", symbol="CE", dtype="float32"),
        loss("status", "loss", "status", ("domain",), "0 not measured, 1 measured, 2 non-finite values", unit="1", dtype="uint8"),
        loss("token_cross_entropy", "tokens", "cross-entropy of a token", ("sequence", "position"),
             "-ln p(token | before)", symbol="CE", dtype="float32", unit="nat",
             note="NaN at the first token of a window and at padding. The probe group holds the token ids."),
        loss("status", "tokens", "status", (), "0 not measured, 1 measured, 2 non-finite values", unit="1", dtype="uint8"),
    ]  # fmt: skip


ALL: tuple[Quantity, ...] = (
    *_parameters(),
    *_embeddings(),
    *_activations(),
    *_outliers(),
    *_logits(),
    *_loss(),
)
"""Every declared quantity."""

GROUPS: tuple[str, ...] = tuple(dict.fromkeys(quantity.group for quantity in ALL))
"""The store's groups of measured numbers; `collect --record` takes these names."""

_BY_KEY = {quantity.key: quantity for quantity in ALL}


def find(key: str) -> Quantity:
    """The quantity called `group/name`; KeyError if there is none."""
    return _BY_KEY[key]


def of_group(group: str) -> tuple[Quantity, ...]:
    """The quantities of one group, in declared order."""
    return tuple(quantity for quantity in ALL if quantity.group == group)
