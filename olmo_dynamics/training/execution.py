"""The execution of a model during training: its dtype, the activations kept for the backward pass, and compilation.

Master weights stay in float32. For bfloat16 a working copy of them, rounded once per update, runs forward and backward,
as the trainers' mixed precision does; its gradients are summed in float32.

    >>> with open_execution(state.model, recipe) as execution:                       # doctest: +SKIP
    ...     hidden = execution.hidden(batch)
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
from olmo_dynamics.training.compile import is_worth_compiling, try_compile
from olmo_dynamics.training.data.batch import Batch
from olmo_dynamics.training.products import prefers_float32, use_float32_products
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.routing import RouterHook

RunBlock = Callable[[nn.Module, Tensor, Rope], Tensor]


@dataclass(frozen=True, eq=False)
class Execution:
    """A model ready to run: `model` is `masters` itself, or their working copy in another dtype."""

    masters: LanguageModel
    model: LanguageModel
    run_block: RunBlock
    router_hook: RouterHook
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
        """The head's weight, in a tied model that of the embedding."""
        head = self.model.model.embed_tokens if self.model.lm_head is None else self.model.lm_head
        return head.weight


@contextmanager
def open_execution(masters: LanguageModel, recipe: Recipe) -> Iterator[Execution]:
    """Prepare `masters` to run as the recipe says."""
    model = masters if recipe.dtype == "float32" else working_copy(masters, getattr(torch, recipe.dtype))
    compiling = is_worth_compiling(masters, recipe.tokens_in_run) if recipe.compile is None else recipe.compile
    run = try_compile(run_block, masters) if compiling else None
    router_hook = RouterHook(model)
    try:
        yield Execution(masters, model, _keeping_less(run or run_block, recipe), router_hook, run is not None)
    finally:
        router_hook.close()


def run_block(block: nn.Module, x: Tensor, rope: Rope) -> Tensor:
    """Run a block: the residual stream after it."""
    left: Tensor = block(x, rope)
    return left


def working_copy(masters: LanguageModel, dtype: torch.dtype) -> LanguageModel:
    """A model of the same shape in another dtype, frozen where `masters` are, its weights not yet set."""
    device = next(masters.parameters()).device
    copy = build_model(masters.config, device=device, dtype=dtype)
    for parameter, master in zip(copy.parameters(), masters.parameters(), strict=True):
        parameter.requires_grad_(master.requires_grad)
    if prefers_float32(next(copy.parameters())):
        use_float32_products(copy)
    return copy


def trainable(model: nn.Module) -> list[Tensor]:
    """The parameters that are not frozen, in the model's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _keeping_less(run: RunBlock, recipe: Recipe) -> RunBlock:
    """Keep only the input of a block, and run the block again for its gradient."""
    if not recipe.activation_checkpointing:
        return run

    def run_twice(block: nn.Module, x: Tensor, rope: Rope) -> Tensor:
        left: Tensor = checkpoint(run, block, x, rope, use_reentrant=False, preserve_rng_state=False)
        return left

    return run_twice
