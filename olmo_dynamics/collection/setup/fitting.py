"""Each revision by itself: its model, by its own config and headers, and whether its measurements fit the store.

Shapes belong to a revision. A revision with another vocabulary still has one norm for each tensor, so its `parameters` are
measured; its embedding has other rows than the store has places for, so `embeddings` cannot be.

    >>> config = fitted_config(checkpoint, setup, ("parameters", "loss"))  # doctest: +SKIP
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping, Sequence

from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.collection.setup.axes import axes_of
from olmo_dynamics.collection.setup.collection_setup import CollectionSetup
from olmo_dynamics.errors import CheckpointError, OptionError, UnknownModelError
from olmo_dynamics.model import ModelConfig, check_shapes, resolve_config
from olmo_dynamics.names import FLOAT_DTYPES, TensorInfo


def choose_tensors(tensors: dict[str, TensorInfo], patterns: Collection[str]) -> list[TensorInfo]:
    """The measurable tensors that match some pattern (a glob of the name, or a role); all of them without a pattern."""
    measurable = [info for info in tensors.values() if info.dtype in FLOAT_DTYPES and info.size]
    if not patterns:
        return measurable
    chosen = [
        info
        for info in measurable
        if any(fnmatch.fnmatchcase(info.name, pattern) or info.role == pattern for pattern in patterns)
    ]
    if not chosen:
        roles = ", ".join(sorted({info.role for info in measurable}))
        raise OptionError(f"no tensor is called {' or '.join(patterns)}; give a glob of names or a role: {roles}")
    return chosen


def known_config(checkpoint: Checkpoint, *, needed: bool) -> ModelConfig | None:
    """A revision's model; None where only its weights are read, and its config does not describe them.

    Raises:
        UnknownModelError: a forward pass is needed, and the model type is unknown.
        CheckpointError: there are no weights, or a forward pass is needed and the config does not describe them.
    """
    tensors = checkpoint.tensors
    try:
        config = resolve_config(checkpoint.config, tensors)
        check_shapes(config, tensors)
    except (CheckpointError, UnknownModelError) as error:
        if not needed:
            return None
        raise type(error)(_named(checkpoint, f"{error}{_advice(error, tensors)}")) from None
    return config


def _named(checkpoint: Checkpoint, text: str) -> str:
    name = checkpoint.revision.name
    return text if name in text else f"{name}: {text}"


def _advice(error: Exception, tensors: Mapping[str, TensorInfo]) -> str:
    """The advice to do without a forward pass, where weights can be measured."""
    measurable = any(info.dtype in FLOAT_DTYPES and info.size for info in tensors.values())
    told = "record parameters" in str(error)
    return "; or record parameters only, which needs no forward pass" if measurable and not told else ""


def fitted_config(checkpoint: Checkpoint, setup: CollectionSetup, groups: Collection[str]) -> ModelConfig | None:
    """The model of one more revision of the store, whose measurements for some groups have a place there.

    Raises:
        CheckpointError: it contradicts itself, has other tensors, or a group has no place for its numbers.
        UnknownModelError: a forward pass is needed, and the model type is unknown.
    """
    name = checkpoint.revision.name
    chosen = choose_tensors(checkpoint.tensors, setup.options.tensors)
    _check_names(name, chosen, setup)
    forward = setup.runs_model(groups)
    config = known_config(checkpoint, needed=forward)
    if config == setup.config and _shapes(chosen) == _shapes(setup.tensors):
        return config
    unfit = _unfit(checkpoint, config, setup, groups)
    if unfit:
        rest = [group for group in setup.groups if group not in unfit]
        advice = f"--record {','.join(rest)} measures it too" if rest else "collect it into a store of its own"
        raise CheckpointError(
            f"{name} must have the shapes of the store's other revisions for {', '.join(unfit)} "
            f"({next(iter(unfit.values()))}); {advice}"
        )
    if forward and config is not None:
        _check_probe(name, config, setup)
    return config


def _shapes(tensors: Collection[TensorInfo]) -> dict[str, tuple[int, ...]]:
    return {info.name: info.shape for info in tensors}


def _check_names(name: str, chosen: Sequence[TensorInfo], setup: CollectionSetup) -> None:
    found = {info.name for info in chosen}
    different = sorted(found.symmetric_difference(setup.tensor_names))
    if different:
        where = "has" if different[0] in found else "lacks"
        raise CheckpointError(
            f"{name} {where} {different[0]}, unlike the other revisions of this store "
            f"({len(different)} tensors differ); collect it into a store of its own"
        )


def _unfit(
    checkpoint: Checkpoint, config: ModelConfig | None, setup: CollectionSetup, groups: Collection[str]
) -> dict[str, str]:
    """The groups that have no place for a revision's numbers, each with the first difference along its axes."""
    recorders = [each for each in setup.recorders if any(group.name in groups for group in each.groups)]
    chosen = choose_tensors(checkpoint.tensors, setup.options.tensors)
    context, sizes = setup.context_of(config), setup.sizes_along_tensor
    found = axes_of(checkpoint, chosen, recorders, context, sizes_along_tensor=sizes)
    differences = {
        name: axis.difference(found[name]) if name in found else f"it has no {name}"
        for name, axis in setup.layout.axes.items()
    }
    unfit = {}
    for group in groups:
        first = next((differences[name] for name in setup.layout.axis_names(group) if differences[name]), "")
        if first:
            unfit[group] = first
    return unfit


def _check_probe(name: str, config: ModelConfig, setup: CollectionSetup) -> None:
    """Check that the model knows the probe's tokens, and has positions for its windows as the store's other revisions have."""
    if setup.probe is None:
        return
    largest, window = int(setup.probe.token_ids.max()), setup.probe.shape[1]
    if largest >= config.vocab_size:
        raise CheckpointError(
            f"{name} must have a vocabulary for the probe's token id {largest} (got {config.vocab_size} ids); "
            "collect it into a store of its own"
        )
    if window > config.max_positions and setup.has_positions:
        raise CheckpointError(
            f"{name} must have positions for the probe's windows of {window} tokens (got {config.max_positions}); "
            f"give shorter windows with --batch, or collect it into a store of its own"
        )
