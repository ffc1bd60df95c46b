"""The probe of a collection: the store's tokens, in windows for which the model has positions.

A window of the built-in or a given text is 512 tokens, or as many as the model has positions if those are fewer. Rows of a
token file that are longer are split. A `batch` that asks for longer windows is refused: numbers at positions that a model was
never trained on would look like any others.

    >>> probe, notes = choose_probe(checkpoint, options, config)  # doctest: +SKIP
    >>> notes  # doctest: +SKIP
    ('windows are 128 tokens, not 512, because the model has 128 positions',)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.collection.options import CollectOptions, parse_batch
from olmo_dynamics.collection.setup.axes import embedding_names
from olmo_dynamics.errors import OptionError, ProbeError
from olmo_dynamics.model import ModelConfig
from olmo_dynamics.probes import Probe, load_probe
from olmo_dynamics.probes.tokenizer import ProbeTokenizer
from olmo_dynamics.probes.tokenizer_files import read_tokenizer

WINDOW = 512
"""Tokens of a window of text, unless a batch is given."""

TOKENIZER = "tokenizer.json"


def choose_probe(
    checkpoint: Checkpoint, options: CollectOptions, config: ModelConfig | None, held_window: int | None = None
) -> tuple[Probe, tuple[str, ...]]:
    """The probe, and a note where its windows are not those that were asked for; those of a store to continue stay.

    Raises:
        OptionError: the batch asks for windows that are longer than the model has positions.
        ProbeError: the probe cannot be read, or there is no tokenizer to read it with.
    """
    most = config.max_positions if config else None
    batch = parse_batch(options.batch)
    if most is None:
        return read_probe(checkpoint, options, config), ()
    if batch and batch[1] > most and batch[1] != held_window:
        raise OptionError(
            f"--batch must have windows of at most {most} tokens, because {checkpoint.revision.name} has {most} positions "
            f"(got {batch[0]}x{batch[1]}); give {batch[0]}x{most}"
        )
    if not batch and not options.tokens and most < WINDOW != held_window:
        note = f"windows are {most} tokens, not {WINDOW}, because the model has {most} positions"
        return read_probe(checkpoint, options, config, window=most), (note,)
    probe = read_probe(checkpoint, options, config)
    window = probe.shape[1]
    if window <= most:
        return probe, ()
    if window == held_window:
        return probe, (f"windows of {window} tokens are kept, as the store has them; the model has {most} positions",)
    note = f"rows of {window} tokens are split into windows of {most}, because the model has {most} positions"
    return read_probe(checkpoint, options, config, batch=(probe.token_ids.size, most)), (note,)


def read_probe(
    checkpoint: Checkpoint,
    options: CollectOptions,
    config: ModelConfig | None,
    *,
    window: int = WINDOW,
    batch: tuple[int, int] | None = None,
) -> Probe:
    """The probe, through the tokenizer that was given or else this revision's own; in windows of `batch` if it is given."""
    has_tokenizer = options.tokenizer is not None or TOKENIZER in checkpoint.files
    if not has_tokenizer and not options.tokens:
        raise ProbeError(
            f"{checkpoint.revision.name} has no tokenizer.json to read the probe text with; give one with --tokenizer "
            "FILE|REPO, token ids with --tokens FILE, or --record parameters"
        )
    return load_probe(
        _tokenizer_json(checkpoint, options) if has_tokenizer else None,
        text=tuple(Path(each) for each in options.text_files),
        tokens=options.token_files,
        tokens_dtype=options.tokens_dtype,
        batch=batch or parse_batch(options.batch),
        length=window,
        vocab_size=config.vocab_size if config else _rows(checkpoint),
    )


def _tokenizer_json(checkpoint: Checkpoint, options: CollectOptions) -> bytes:
    return checkpoint.read_file(TOKENIZER) if options.tokenizer is None else read_tokenizer(options.tokenizer)


def choose_tokenizer(checkpoint: Checkpoint, options: CollectOptions) -> ProbeTokenizer:
    """The tokenizer that was given, or else this revision's own.

    Raises:
        ProbeError: there is none, or it cannot be read.
    """
    if options.tokenizer is None and TOKENIZER not in checkpoint.files:
        raise ProbeError(
            f"{checkpoint.revision.name} has no tokenizer.json to read tasks with; give one with --tokenizer FILE|REPO"
        )
    return ProbeTokenizer(_tokenizer_json(checkpoint, options))


def tokenizer_id(checkpoint: Checkpoint, options: CollectOptions) -> str:
    """The id of the revision's own tokenizer; empty where it reads no text."""
    of_probe = not options.token_files and any(each.reads_probe for each in options.recorders)
    read = of_probe or any(each.needs_tokenizer for each in options.recorders)
    own = options.tokenizer is None and TOKENIZER in checkpoint.files
    return checkpoint.file_id(TOKENIZER) if read and own else ""


def _rows(checkpoint: Checkpoint) -> int:
    """The token ids that the embeddings have rows for; no bound without embeddings."""
    tensors = checkpoint.tensors
    found = [tensors[name].shape[0] for name in embedding_names(list(tensors.values()))]
    return max(found, default=int(np.iinfo(np.int64).max))


def describe_probe(probe: Probe | None) -> dict[str, Any]:
    """The probe in the store's attributes."""
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
