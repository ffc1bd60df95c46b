"""How a model is run while it trains: in which dtype, what is kept for the backward pass, and whether it is compiled.

Master weights stay in float32. For bfloat16 a working copy of them, rounded once an update, is run forward and backward,
as the trainers' mixed precision does; its gradients are summed in float32.

    >>> with open_compute(state.model, recipe) as compute:                       # doctest: +SKIP
    ...     hidden = compute.hidden(batch)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from olmo_dynamics.model import LanguageModel, Rope, build_model
from olmo_dynamics.model.layers import same_document
from olmo_dynamics.training.batch import Batch
from olmo_dynamics.training.compiling import compiled, pays
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.routing import RouterEar

RunBlock = Callable[[nn.Module, Tensor, Rope], Tensor]


@dataclass(frozen=True, eq=False)
class Compute:
    """A model ready to be run: `model` is `masters` itself, or their working copy in another dtype."""

    masters: LanguageModel
    model: LanguageModel
    run_block: RunBlock
    ear: RouterEar
    compiled: bool

    def refresh(self) -> None:
        """Round the masters into the working copy."""
        if self.model is not self.masters:
            with torch.no_grad():
                for copy, master in zip(self.model.parameters(), self.masters.parameters(), strict=True):
                    copy.copy_(master)

    def hidden(self, batch: Batch) -> Tensor:
        """The head's input at every position, `[sequences, length, hidden]`, attention kept within documents."""
        model, length = self.model, batch.token_ids.shape[1]
        x = model.embed(batch.token_ids)
        ropes = model.ropes(length, device=x.device, dtype=x.dtype)
        if batch.documents is not None:
            within = same_document(batch.documents)
            ropes = tuple(rope._replace(within=within) for rope in ropes)
        for block, rope in zip(model.model.layers, ropes, strict=True):
            x = self.run_block(block, x, rope)
        return model.finish(x)

    @property
    def head(self) -> Tensor:
        """The head's weight, which a tied model reads from its embedding."""
        head = self.model.model.embed_tokens if self.model.lm_head is None else self.model.lm_head
        return head.weight


@contextmanager
def open_compute(masters: LanguageModel, recipe: Recipe) -> Iterator[Compute]:
    """`masters` made ready to run as the recipe says."""
    model = masters if recipe.dtype == "float32" else working_copy(masters, getattr(torch, recipe.dtype))
    wanted = pays(masters, recipe.tokens_in_run) if recipe.compile is None else recipe.compile
    run = compiled(run_block, masters) if wanted else None
    ear = RouterEar(model)
    try:
        yield Compute(masters, model, _keeping_less(run or run_block, recipe), ear, run is not None)
    finally:
        ear.close()


def run_block(block: nn.Module, x: Tensor, rope: Rope) -> Tensor:
    """The stream leaving a block."""
    left: Tensor = block(x, rope)
    return left


def working_copy(masters: LanguageModel, dtype: torch.dtype) -> LanguageModel:
    """A model of the same shape in another dtype, trained where `masters` are, its weights yet to be set."""
    device = next(masters.parameters()).device
    copy = build_model(masters.config, device=device, dtype=dtype)
    for parameter, master in zip(copy.parameters(), masters.parameters(), strict=True):
        parameter.requires_grad_(master.requires_grad)
    return copy


def trained(model: nn.Module) -> list[Tensor]:
    """The parameters that are not frozen, in the model's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _keeping_less(run: RunBlock, recipe: Recipe) -> RunBlock:
    """Keep only what enters a block, and run the block again when its gradient is wanted."""
    if not recipe.activation_checkpointing:
        return run

    def run_twice(block: nn.Module, x: Tensor, rope: Rope) -> Tensor:
        left: Tensor = checkpoint(run, block, x, rope, use_reentrant=False, preserve_rng_state=False)
        return left

    return run_twice
