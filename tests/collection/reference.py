"""The numbers of a store, computed again by other means: transformers for activations, NumPy in float64 for statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from scipy import special, stats
from transformers import AutoModelForCausalLM

from olmo_dynamics.quantities import QUANTILES, RMS_THRESHOLDS, THRESHOLDS

Arrays = dict[str, np.ndarray]


def weights(folder: Path) -> Arrays:
    """Every tensor of a revision in float64."""
    found: Arrays = {}
    for shard in sorted(folder.glob("*.safetensors")):
        found |= {name: tensor.double().numpy() for name, tensor in load_file(shard).items()}
    return found


def parameter_statistics(tensor: np.ndarray) -> dict[str, float | np.ndarray]:
    """The parameter quantities of one tensor, from their formulas."""
    x, magnitude = tensor.ravel(), np.abs(tensor).ravel()
    l2 = np.sqrt((x**2).sum())
    return {
        "l2_norm": l2,
        "rms": np.sqrt((x**2).mean()),
        "mean": x.mean(),
        "std": x.std(),
        "min": x.min(),
        "max": x.max(),
        "abs_max": magnitude.max(),
        "abs_mean": magnitude.mean(),
        "abs_median": np.median(magnitude),
        "kurtosis": stats.kurtosis(x, fisher=False),
        "norm_sparsity": np.sqrt(x.size) * l2 / magnitude.sum(),
        "max_sparsity": (magnitude.max() - np.median(magnitude)) / np.median(magnitude),
        "tail_ratio": np.quantile(magnitude, 0.999) / np.quantile(magnitude, 0.5),
        "zero_count": (x == 0).sum(),
        "nan_count": np.isnan(x).sum(),
        "inf_count": np.isinf(x).sum(),
        "element_quantile": np.quantile(x, QUANTILES),
    }


@torch.no_grad()
def activations(
    folder: Path, token_ids: np.ndarray, dtype: torch.dtype = torch.float32
) -> dict[tuple[str, int], np.ndarray]:
    """What transformers computes at each site, [sequences, positions, width] in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    seen: dict[tuple[str, int], np.ndarray] = {}

    def keep(site: str, layer: int, value: torch.Tensor) -> None:
        seen[site, layer] = value.double().numpy()

    handles = []

    def on_output(module: torch.nn.Module, site: str, layer: int) -> None:
        def hook(module: torch.nn.Module, inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
            keep(site, layer, output[0] if isinstance(output, tuple) else output)

        handles.append(module.register_forward_hook(hook))

    def on_input(module: torch.nn.Module, site: str, layer: int) -> None:
        handles.append(module.register_forward_pre_hook(lambda module, inputs: keep(site, layer, inputs[0])))

    on_output(model.model.embed_tokens, "embedding", -1)
    on_output(model.model.norm, "final_norm", -1)
    on_output(model.lm_head, "logits", -1)
    for index, block in enumerate(model.model.layers):
        on_input(block, "residual_in", index)
        on_output(block.self_attn.q_norm, "q", index)
        on_output(block.self_attn.k_norm, "k", index)
        on_input(block.post_attention_layernorm, "attention_output", index)
        on_output(block.post_attention_layernorm, "attention_output_normed", index)
        on_input(block.mlp, "residual_middle", index)
        on_input(block.mlp.down_proj, "mlp_hidden", index)
        on_output(block.mlp, "mlp_output", index)
        on_output(block.post_feedforward_layernorm, "mlp_output_normed", index)
        on_output(block, "residual_out", index)
    model(input_ids=torch.from_numpy(token_ids.copy()))
    for handle in handles:
        handle.remove()
    return seen


def activation_statistics(tokens: np.ndarray) -> dict[str, float | np.ndarray]:
    """The activation quantities of [tokens, width], from their formulas."""
    magnitude = np.abs(tokens)
    norms = np.sqrt((tokens**2).sum(1))
    second = (tokens**2).mean(0)
    median = np.median(magnitude)
    width = tokens.shape[1]
    return {
        "rms": np.sqrt((tokens**2).mean()),
        "l2_norm": norms.mean(),
        "l2_norm_quantile": np.quantile(norms, (0.05, 0.5, 0.95)),
        "mean": tokens.mean(),
        "abs_max": magnitude.max(),
        "abs_mean": magnitude.mean(),
        "abs_median": median,
        "kurtosis": stats.kurtosis(tokens.ravel(), fisher=False),
        "norm_sparsity": np.sqrt(tokens.size) * np.sqrt((tokens**2).sum()) / magnitude.sum(),
        "max_sparsity": (magnitude.max() - median) / median,
        "token_norm_sparsity": (np.sqrt(width) * norms / magnitude.sum(1)).mean(),
        "max_median_ratio": (magnitude.max(1) / np.median(magnitude, axis=1)).mean(),
        "feature_kurtosis": (second**2).mean() / second.mean() ** 2,
        "feature_rms": np.sqrt(second),
        "feature_abs_max": magnitude.max(0),
    }


def feature_fractions(tokens: np.ndarray) -> Arrays:
    """How many tokens lift each feature above each threshold, [threshold, width]."""
    magnitude, rms = np.abs(tokens), np.sqrt((tokens**2).mean(1, keepdims=True))
    return {
        "feature_fraction_above": np.stack([(magnitude >= level).mean(0) for level in THRESHOLDS]),
        "feature_fraction_above_rms": np.stack([(magnitude >= level * rms).mean(0) for level in RMS_THRESHOLDS]),
        "feature_abs_max": magnitude.max(0),
    }


def logit_statistics(logits: np.ndarray, tokenizer_size: int) -> dict[str, float]:
    """The logit quantities of [tokens, vocabulary], from their formulas."""
    lse = special.logsumexp(logits, axis=1)
    known = special.log_softmax(logits[:, :tokenizer_size], axis=1)
    return {
        "lse_mean": lse.mean(),
        "lse_square_mean": (lse**2).mean(),
        "lse_std": lse.std(),
        "lse_max": lse.max(),
        "logit_mean": logits.mean(),
        "logit_rms": np.sqrt((logits**2).mean()),
        "logit_centred_rms": np.sqrt(logits.var(1).mean()),
        "entropy": -(np.exp(known) * known).sum(1).mean(),
        "top_probability": np.exp(known.max(1)).mean(),
    }


def token_losses(logits: np.ndarray, token_ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """-ln p of every scored token at its own position, NaN elsewhere: [sequences, positions]."""
    losses = np.full(token_ids.shape, np.nan)
    log_p = special.log_softmax(logits[:, :-1], axis=-1)
    picked = np.take_along_axis(log_p, token_ids[:, 1:, None], axis=-1)[..., 0]
    losses[:, 1:] = np.where(mask[:, 1:] & mask[:, :-1], -picked, np.nan)
    return losses
