"""What a store is made for: settled from a first checkpoint, the same for every revision in it.

>>> study = prepare(checkpoint, Measurement(record=("parameters",)), source="a folder")  # doctest: +SKIP
>>> study.layout.axes["tensor"].labels  # doctest: +SKIP
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.collection.axes import axes_of, embedding_names
from olmo_dynamics.collection.measurement import DTYPES, Measurement, parse_batch
from olmo_dynamics.errors import OptionError, ProbeError, UnknownModelError
from olmo_dynamics.model import ModelConfig, check_shapes, parse_config, unknown_keys
from olmo_dynamics.names import FLOAT_DTYPES, TensorInfo
from olmo_dynamics.probes import Probe, load_probe
from olmo_dynamics.store import Layout


@dataclass(frozen=True)
class Study:
    """What a store is made for: the same for every revision in it."""

    measurement: Measurement
    tensor_names: tuple[str, ...]
    config: ModelConfig | None
    probe: Probe | None
    layout: Layout
    attributes: dict[str, Any]
    tokenizer_id: str = ""  # the file's, where there is a probe of text
    notes: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        """What is recorded."""
        return self.layout.groups

    def measured(self, groups: Collection[str]) -> tuple[str, ...]:
        """The tensors whose statistics some groups want."""
        if "parameters" in groups:
            return self.tensor_names
        return tuple(self.layout.axes["embedding"].labels.tolist()) if "embeddings" in groups else ()

    @property
    def compute_dtype(self) -> torch.dtype:
        """What the forward pass is computed in."""
        return DTYPES[self.attributes["compute_dtype"]]


def prepare(checkpoint: Checkpoint, measurement: Measurement, *, source: str) -> Study:
    """Settle, from a first checkpoint, everything that will hold for all of them.

    Raises:
        UnknownModelError: activations of a model type we do not know were asked for.
        ProbeError: the probe cannot be read, or there is no tokenizer to read it with.
        ShapeError: the tensors contradict the config.
    """
    config, groups, notes = _known_parts(checkpoint, measurement)
    chosen = choose_tensors(checkpoint.tensors, measurement.tensors)
    probe = read_probe(checkpoint, measurement, config) if _needs_probe(groups) else None
    if config is not None:
        check_shapes(config, checkpoint.tensors)
    if "embeddings" in groups and not embedding_names(chosen):
        groups = tuple(name for name in groups if name != "embeddings")
    dtype = measurement.dtype
    if dtype == "auto":
        dtype = "bfloat16" if checkpoint.dtype == "BF16" else "float32"
    attributes = {
        "source": source,
        "model_type": checkpoint.config.get("model_type", "unknown"),
        "model_config": checkpoint.config,
        "compute_dtype": dtype,
        "probe": describe_probe(probe),
    }
    layout = Layout(axes_of(checkpoint, chosen, config=config, probe=probe, until=measurement.until), groups)
    tokenizer = checkpoint.file_id("tokenizer.json") if probe and "tokenizer.json" in checkpoint.files else ""
    names = tuple(info.name for info in chosen)
    return Study(measurement, names, config, probe, layout, attributes, tokenizer, notes)


def _known_parts(
    checkpoint: Checkpoint, measurement: Measurement
) -> tuple[ModelConfig | None, tuple[str, ...], tuple[str, ...]]:
    groups = measurement.groups
    try:
        config = parse_config(checkpoint.config)
        groups = _with_experts(config, groups, asked="routing" in measurement.record)
        _check_last_layer(config, measurement.until_layer)
        return config, groups, _unknown_words(checkpoint)
    except UnknownModelError as error:
        if measurement.record and measurement.wants_forward:
            raise
        if measurement.record:
            return None, groups, ()
        return None, ("parameters",), (str(error),)


def _with_experts(config: ModelConfig, groups: tuple[str, ...], *, asked: bool) -> tuple[str, ...]:
    """The groups less routing, where there are no experts to send tokens to."""
    if config.experts is None and asked:
        raise OptionError(
            f"routing is of models with experts; {config.model_type} has none; leave routing out of what is recorded"
        )
    return groups if config.experts is not None else tuple(name for name in groups if name != "routing")


def _check_last_layer(config: ModelConfig, last: int | None) -> None:
    if last is not None and last >= config.layers:
        raise OptionError(f"until_layer must be at most {config.layers - 1}, the model's last layer; got {last}")


def _unknown_words(checkpoint: Checkpoint) -> tuple[str, ...]:
    unknown = unknown_keys(checkpoint.config)
    if not unknown:
        return ()
    words = f"{', '.join(unknown[:5])}{', …' if len(unknown) > 5 else ''}"
    return (f"{checkpoint.revision.name}: its config says {words}, which nobody here knows; taken to change nothing",)


def _needs_probe(groups: Collection[str]) -> bool:
    return any(name != "parameters" for name in groups)


def choose_tensors(tensors: dict[str, TensorInfo], patterns: Sequence[str]) -> list[TensorInfo]:
    """The measurable tensors that some pattern (a glob of the name, or a role) names; all of them where there is none."""
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


def read_probe(checkpoint: Checkpoint, measurement: Measurement, config: ModelConfig | None) -> Probe:
    """The probe, through this revision's own tokenizer."""
    has_tokenizer = "tokenizer.json" in checkpoint.files
    if not has_tokenizer and measurement.tokens is None:
        raise ProbeError(
            f"{checkpoint.revision.name} has no tokenizer.json to read the probe text with; "
            "give token ids with --tokens FILE.npy, or --record parameters"
        )
    vocab_size = config.vocab_size if config else int(checkpoint.config.get("vocab_size", np.iinfo(np.int64).max))
    return load_probe(
        checkpoint.read_file("tokenizer.json") if has_tokenizer else None,
        text=tuple(Path(each) for each in measurement.text),
        tokens=Path(measurement.tokens) if measurement.tokens is not None else None,
        batch=parse_batch(measurement.batch),
        vocab_size=vocab_size,
    )


def describe_probe(probe: Probe | None) -> dict[str, Any]:
    """What the store's attributes say of the probe."""
    if probe is None:
        return {}
    domains = {
        name: {"sequences": int((probe.domain == index).sum()), "tokens": int(probe.mask[probe.domain == index].sum())}
        for index, name in enumerate(probe.domains)
    }
    return {
        "sha256": probe.sha256,
        "shape": list(probe.shape),
        "tokens": int(probe.token_count),
        "tokenizer_sha256": probe.tokenizer_sha256,
        "tokenizer_size": int(probe.tokenizer_size),
        "domains": domains,
    }
