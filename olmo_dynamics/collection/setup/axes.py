"""The axes of a store, from a first checkpoint, the probe, and the recorders.

>>> axes = axes_of(checkpoint, chosen, recorders, context)  # doctest: +SKIP
>>> axes["layer"].labels  # doctest: +SKIP
array([-1,  0,  1])
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from olmo_dynamics import quantities
from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.collection.setup.held import ELEMENT_COUNT
from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import NO_LAYER, PUBLISHED, TensorInfo
from olmo_dynamics.recorders import Context, Recorder
from olmo_dynamics.store import Axis

_LABELS = (str, (int, float, np.integer, np.floating))


def axes_of(
    checkpoint: Checkpoint,
    chosen: Sequence[TensorInfo],
    recorders: Iterable[Recorder],
    context: Context,
    *,
    sizes_along_tensor: bool = False,
) -> dict[str, Axis]:
    """The axes on which measurements of some tensors, and of a forward pass, can lie: shared ones, and recorders' own.

    Older stores keep the tensors' sizes along their axis, the same for all revisions.

    Raises:
        OptionError: two recorders label one axis differently, or a recorder does not label an axis of its own.
    """
    shared = [
        *_tensor_axes(chosen, checkpoint.published_names, sizes=sizes_along_tensor),
        Axis("feature", np.arange(_hidden_size(checkpoint, chosen, context))),
        *_embedding_axes(chosen),
        *_model_axes(context),
        *_probe_axes(context),
    ]
    axes = {axis.name: axis for axis in shared}
    for recorder in recorders:
        for axis in _own_axes(recorder.start(context)):
            difference = axes[axis.name].difference(axis) if axis.name in axes else ""
            if difference:
                raise OptionError(f"{type(recorder).__name__} labels an axis of its own: {difference}; rename the axis")
            axes[axis.name] = axis
        _check_labelled(recorder, axes)
    return axes


def embedding_names(tensors: Sequence[TensorInfo]) -> list[str]:
    """The tensors with a row for each token id."""
    return [info.name for info in tensors if info.role in ("embed_tokens", "lm_head") and len(info.shape) == 2]


def _own_axes(recorder: Recorder) -> Iterator[Axis]:
    labels = recorder.labels()
    must = f"labels of {type(recorder).__name__} must give, by axis, labels that are all text or all numbers"
    if not isinstance(labels, Mapping):
        raise OptionError(f"{must} (got {labels!r})")
    for name, given in labels.items():
        row = None if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
        if row is None or not any(all(isinstance(each, kind) for each in row) for kind in _LABELS):
            raise OptionError(f"{must} (got {given!r} for {name})")
        yield Axis(name, np.array(row))


def _check_labelled(recorder: Recorder, axes: Mapping[str, Axis]) -> None:
    for group in recorder.groups:
        for name in group.axis_names:
            if name not in axes:
                raise OptionError(
                    f"{type(recorder).__name__} must label the axis {name} of its group {group.name}: give labels by "
                    f"labels(self), or use one of {', '.join(axes)}"
                )


def _tensor_axes(chosen: Sequence[TensorInfo], published: Mapping[str, str], *, sizes: bool) -> list[Axis]:
    along = {
        "layer": np.array([info.layer for info in chosen], dtype=np.int64),
        "expert": np.array([info.expert for info in chosen], dtype=np.int64),
        "role": np.array([info.role for info in chosen]),
    }
    if published:
        along[PUBLISHED] = np.array([published[info.name] for info in chosen])
    if sizes:
        along[ELEMENT_COUNT] = np.array([info.size for info in chosen], dtype=np.int64)
    return [
        Axis("tensor", np.array([info.name for info in chosen]), along),
        Axis("quantile", np.array(quantities.QUANTILES)),
    ]


def _embedding_axes(chosen: Sequence[TensorInfo]) -> list[Axis]:
    names = embedding_names(chosen)
    if not names:
        return []
    rows = max(info.shape[0] for info in chosen if info.name in names)
    return [Axis("embedding", np.array(names)), Axis("token", np.arange(rows))]


def _model_axes(context: Context) -> list[Axis]:
    if context.config is None:
        return []
    return [Axis("layer", np.arange(NO_LAYER, context.layers)), Axis("head", np.arange(context.config.heads))]


def _probe_axes(context: Context) -> list[Axis]:
    probe = context.probe
    if probe is None:
        return []
    sequences, positions = probe.token_ids.shape
    domain_of_sequence = np.array([probe.domains[index] for index in probe.domain])
    return [
        Axis("domain", np.array(probe.domains)),
        Axis("sequence", np.arange(sequences), {"domain_of_sequence": domain_of_sequence}),
        Axis("position", np.arange(positions)),
    ]


def _hidden_size(checkpoint: Checkpoint, chosen: Sequence[TensorInfo], context: Context) -> int:
    """The features of the residual stream; of an unknown model those of most tensors on it, or the config's if one has them."""
    if context.config is not None:
        return context.config.hidden_size
    widths = Counter(info.shape[info.residual_axis] for info in chosen if info.residual_axis is not None)
    declared = checkpoint.stated_config.get("hidden_size")
    widest = max((max(info.shape, default=1) for info in checkpoint.tensors.values() if info.size), default=1)
    if type(declared) is int and 0 < declared <= widest and (declared in widths or not widths):
        return declared
    return max(widths, key=lambda width: (widths[width], width), default=1)
