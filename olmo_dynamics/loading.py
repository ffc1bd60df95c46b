"""A whole checkpoint as a resident PyTorch module.

>>> model = load_model("cache/demo/run", "step0-tokens0")  # doctest: +SKIP
>>> logits = model(token_ids)  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path

import torch

from olmo_dynamics.checkpoints import Source
from olmo_dynamics.frames.run import Run
from olmo_dynamics.model import LanguageModel, build_model, check_shapes, load_model_weights, parse_config, to_tensor


def load_model(
    run: Run | Source | str | Path,
    revision: str,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> LanguageModel:
    """One revision as our own `torch.nn.Module`; `model(token_ids)` gives logits.

    Args:
        run: a hub repo id, a folder of revisions, or a `Run`.
        revision: one of its names.
        device: where the weights are put.
        dtype: what they are cast to; None keeps the dtype they are stored in.

    Raises:
        UnknownRevisionError: there is no such revision.
        UnknownModelError: its model type is not implemented.
        ShapeError: its tensors contradict its config.
    """
    run = run if isinstance(run, Run) else Run(run)
    with run.open(revision) as checkpoint:
        config = parse_config(checkpoint.config)
        check_shapes(config, checkpoint.tensors)
        model = build_model(config, device="meta")
        weights = {}
        for name in model.state_dict():
            stored = to_tensor(checkpoint.read(checkpoint.tensors[name]), checkpoint.tensors[name])
            weights[name] = torch.empty(stored.shape, dtype=dtype or stored.dtype, device=device).copy_(stored)
    load_model_weights(model, weights)
    return model
