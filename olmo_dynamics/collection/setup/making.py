"""A collection's setup, made from one revision and from the store that is continued, if there is one.

>>> setup = make_setup(checkpoint, CollectOptions(record=("parameters",)), source="a folder")  # doctest: +SKIP
>>> setup.layout.axes["tensor"].labels  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.checkpoints.source import CONFIG_FILE
from olmo_dynamics.collection.options import CollectOptions
from olmo_dynamics.collection.setup.axes import axes_of
from olmo_dynamics.collection.setup.collection_setup import CollectionSetup, context_of
from olmo_dynamics.collection.setup.config_facts import describe_config
from olmo_dynamics.collection.setup.fitting import choose_tensors, known_config
from olmo_dynamics.collection.setup.held import ELEMENT_COUNT, Held
from olmo_dynamics.collection.setup.probe_windows import TOKENIZER, choose_probe, choose_tokenizer, describe_probe
from olmo_dynamics.collection.setup.revision_state import find_state
from olmo_dynamics.errors import CheckpointError, OptionError, UnknownModelError
from olmo_dynamics.model import MODEL_TYPES, ModelConfig, parse_config, unknown_keys
from olmo_dynamics.model.config_schema import brief
from olmo_dynamics.names import Site, TensorInfo
from olmo_dynamics.probes import Probe
from olmo_dynamics.quantities import in_order
from olmo_dynamics.quantities.declaration import RECORDER, Group, Reads
from olmo_dynamics.recorders import Context, Recorder
from olmo_dynamics.recorders.facts import check_facts, facts_to_store
from olmo_dynamics.recorders.lookup import is_built_in, origin
from olmo_dynamics.store import Layout

_MODEL_AXES = frozenset({"layer", "head"})  # axes that only a known model has


def make_setup(
    checkpoint: Checkpoint, options: CollectOptions, *, source: str, held: Held | None = None
) -> CollectionSetup:
    """Decide, from one revision, everything that will hold for all of them; a store that is continued keeps what it has.

    Raises:
        OptionError: the model has nothing that was asked for.
        UnknownModelError: activations of an unknown model type were asked for.
        ProbeError: the probe cannot be read, or there is no tokenizer to read it with.
        CheckpointError: a forward pass is needed, and the config is not valid or contradicts the tensors.
    """
    chosen = choose_tensors(checkpoint.tensors, options.tensors)
    config, notes = _known_config(checkpoint, options)
    state, reason = find_state(checkpoint, asked=options.asked) if options.reads_state else (None, "")
    optimizer = state.name if state else ""
    recorders, left_out = _supported(options, context_of(config, None, options.until, optimizer), chosen, reason)
    probe: Probe | None = None
    windows: tuple[str, ...] = ()
    if any(each.reads_probe for each in recorders):
        probe, windows = choose_probe(checkpoint, options, config, held.window if held else None)
    tokenizer = choose_tokenizer(checkpoint, options) if any(each.needs_tokenizer for each in recorders) else None
    context = context_of(config, probe, options.until, optimizer, tokenizer)
    for recorder in recorders:
        check_facts(recorder.start(context))
    axes = axes_of(checkpoint, chosen, recorders, context, sizes_along_tensor=bool(held and held.sizes_along_tensor))
    groups = _groups(options, recorders, context)
    layout = Layout(axes, groups if held is None else [_as_held(group, held) for group in groups])
    return CollectionSetup(
        options,
        recorders,
        tuple(chosen),
        config,
        probe,
        layout,
        _attributes(checkpoint, options, layout, held) | {"source": source, "probe": describe_probe(probe)},
        optimizer,
        checkpoint.file_id(TOKENIZER) if (probe or tokenizer) and TOKENIZER in checkpoint.files else "",
        tokenizer,
        (*notes, *left_out, *windows, *_gradient_notes(recorders)),
    )


def compute_dtype(options: CollectOptions, held: Held | None) -> str:
    """The compute dtype of a store: the one it has, else the one asked for; `auto` is decided by the device alone.

    Raises:
        StoreMismatchError: the store has another one than is asked for.
    """
    if held is not None:
        return held.compute_dtype(options.dtype)
    if options.dtype != "auto":
        return options.dtype
    return "bfloat16" if torch.device(options.device).type == "cuda" else "float32"


def needs_config(checkpoint: Checkpoint, options: CollectOptions) -> bool:
    """True if the model must be known: unless others are asked for, an unknown model type has only groups of weights.

    A config that is there and cannot be used is a fault to name, not a model of an unknown type.
    """
    if not options.needs_forward or options.asked:
        return options.needs_forward
    try:
        return checkpoint.config.get("model_type") in MODEL_TYPES
    except CheckpointError:
        return CONFIG_FILE in checkpoint.files or checkpoint.stored_as is not None


def _attributes(checkpoint: Checkpoint, options: CollectOptions, layout: Layout, held: Held | None) -> dict[str, Any]:
    """The root attributes that follow from the config; of a store in which the revision has a place, those of the store."""
    config = describe_config(checkpoint)
    found = {"model_type": config.get("model_type", "unknown"), "model_config": config}
    if held and found["model_type"] == held.attributes["model_type"] and not held.difference(layout):
        found["model_config"] = held.attributes["model_config"]
    return found | {"compute_dtype": compute_dtype(options, held)}


def _known_config(checkpoint: Checkpoint, options: CollectOptions) -> tuple[ModelConfig | None, tuple[str, ...]]:
    """The model, None where it is unknown and only weights are to be read, and notes on it."""
    config = known_config(checkpoint, needed=needs_config(checkpoint, options))
    if config is not None:
        _check_last_layer(config, options.until_layer)
        return config, _unknown_words(checkpoint)
    if options.asked or not options.needs_forward:
        return None, ()
    try:
        parse_config(checkpoint.config)
    except UnknownModelError as error:
        return None, (str(error),)
    except CheckpointError as error:
        return None, (f"{error}; only weights are measured",)
    return None, ()


def _supported(
    options: CollectOptions, context: Context, chosen: Sequence[TensorInfo], without_state: str
) -> tuple[tuple[Recorder, ...], tuple[str, ...]]:
    """The recorders that the model allows, and a note for each other one that was asked for.

    Raises:
        OptionError: it allows none of them.
    """
    lacking = {
        id(each): reason
        for each in options.recorders
        if (reason := _without(each, without_state) or _reason(each, context, chosen, options))
    }
    supported = tuple(each for each in options.recorders if id(each) not in lacking)
    notes = tuple(lacking.values())
    of_own = tuple(lacking[id(each)] for each in options.recorders if id(each) in lacking and not is_built_in(each))
    if not supported:
        raise OptionError(f"nothing to record: {'; '.join(notes)}; name other groups with record")
    return supported, notes if options.asked else of_own


def _without(recorder: Recorder, reason: str) -> str:
    """A line on a recorder of an optimiser's state, given why there is none; empty for every other, and if there is one."""
    lacks = recorder.reads is Reads.OPTIMIZER and reason
    return f"{recorder.group.name} is not recorded: {reason}" if lacks else ""


def _reason(recorder: Recorder, context: Context, chosen: Sequence[TensorInfo], options: CollectOptions) -> str:
    """In words, what the model lacks for a recorder; empty where it lacks nothing."""
    name, config = recorder.group.name, context.config
    of_weights = recorder.reads in (Reads.WEIGHTS, Reads.OPTIMIZER)
    on_model_axes = not _MODEL_AXES.isdisjoint(recorder.group.axis_names)
    needs_config = not of_weights or on_model_axes or (recorder.needs_probe and not options.asked)
    if config is None and needs_config:
        return f"{name} is not recorded: the model type is unknown"
    needs_head = recorder.reads is Reads.GRADIENTS or Site.LOGITS in recorder.sites
    if config is not None and not config.has_head and needs_head:
        return f"{name} is not recorded: the checkpoint has no language-model head"
    if of_weights or not recorder.sites:
        return "" if any(map(recorder.selects, chosen)) else f"{name} is not recorded: no chosen tensor is of its kind"
    if config is None or recorder.sites_in(context.sites):
        return ""
    absent = sorted(site.value for site in recorder.sites if site not in context.sites)
    return f"{name} is not recorded: {config.model_type} has no {', '.join(absent)}"


def _gradient_notes(recorders: Iterable[Recorder]) -> tuple[str, ...]:
    """A line on the cost and the dtype of gradients, if there are any to record."""
    if not any(each.reads is Reads.GRADIENTS for each in recorders):
        return ()
    return ("gradients are computed in float32, whatever --dtype; the weights of the blocks are read twice for them",)


def _groups(options: CollectOptions, recorders: Iterable[Recorder], context: Context) -> list[Group]:
    """The groups to record, with the facts that the store keeps of each."""
    groups = {group.name: group for each in recorders for group in each.groups if group.name in options.groups}
    for recorder in recorders:
        attributes = facts_to_store(recorder.start(context))
        if not is_built_in(recorder):
            attributes[RECORDER] = origin(recorder)
        for name in sorted(groups.keys() & {each.name for each in recorder.groups}):
            groups[name] = replace(groups[name], attributes={**groups[name].attributes, **attributes})
    return [groups[name] for name in in_order(groups)]


def _as_held(group: Group, held: Held) -> Group:
    """A group without the element counts that an older store keeps along the axis."""
    if not held.sizes_along_tensor or ELEMENT_COUNT not in group:
        return group
    return group.only([each.name for each in group.quantities if each.name != ELEMENT_COUNT])


def _check_last_layer(config: ModelConfig, last: int | None) -> None:
    if last is not None and last >= config.layers:
        raise OptionError(f"until_layer must be at most {config.layers - 1}, the model's last layer; got {last}")


def _unknown_words(checkpoint: Checkpoint) -> tuple[str, ...]:
    unknown = [
        key if key.isidentifier() and key.isprintable() else brief(key) for key in unknown_keys(checkpoint.config)
    ]
    if not unknown:
        return ()
    words = f"{', '.join(unknown[:5])}{', …' if len(unknown) > 5 else ''}"
    return (f"{checkpoint.revision.name}: unknown config keys {words}; assumed to have no effect",)
