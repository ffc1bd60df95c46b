"""A whole checkpoint as a resident PyTorch module.

>>> model = load_model("cache/demo/run", "step0-tokens0")  # doctest: +SKIP
>>> logits = model(token_ids)  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path

import torch

from olmo_dynamics.checkpoints import Source
from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.frames.run import Run
from olmo_dynamics.model import (
    LanguageModel,
    build_model,
    check_shapes,
    load_model_weights,
    missing_head,
    resolve_config,
    to_tensor,
)
from olmo_dynamics.names import Revision


def load_model(
    run: Run | Source | str | Path,
    revision: str | int | Revision,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> LanguageModel:
    """One revision as our own `torch.nn.Module`; `model(token_ids)` gives logits.

    Args:
        run: a hub repo id, a folder of revisions, or a `Run`.
        revision: one of its names, a `Revision` such as `run.at(step=1000)` gives, or its place in `run.revisions`: 5, or -1
            for the last.
        device: where the weights are put.
        dtype: what they are cast to; None keeps the dtype they are stored in.

    Raises:
        UnknownRevisionError: there is no such revision.
        UnknownModelError: its model type is not implemented.
        ShapeError: its tensors contradict its config.
        CheckpointError: it has no language-model head, as a reward model.
    """
    run = run if isinstance(run, Run) else Run(run)
    with run.open(revision) as checkpoint:
        config = resolve_config(checkpoint.config, checkpoint.tensors, checkpoint.read_many)
        check_shapes(config, checkpoint.tensors)
        if not config.has_head:
            raise CheckpointError(
                f"{checkpoint.label} must have a language-model head to be loaded as a model "
                f"({missing_head(checkpoint.config, checkpoint.tensors)}); collect its activations up to the final norm"
            )
        model = build_model(config, device="meta")
        weights = {}
        for name in model.state_dict():
            stored = to_tensor(checkpoint.read(checkpoint.tensors[name]), checkpoint.tensors[name])
            weights[name] = torch.empty(stored.shape, dtype=dtype or stored.dtype, device=device).copy_(stored)
    load_model_weights(model, weights)
    return model
