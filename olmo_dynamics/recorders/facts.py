"""Facts that recorders give of themselves, checked before anything is measured: a probe, memory, attributes.

>>> check_facts(recorder.start(context))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from olmo_dynamics.errors import OptionError, ProbeError
from olmo_dynamics.quantities.declaration import RECORDER, Reads
from olmo_dynamics.recorders.base import Recorder
from olmo_dynamics.recorders.context import ProbeTokens


def check_facts(recorder: Recorder) -> None:
    """Check the probe and the memory of a recorder that knows its context.

    Raises:
        ProbeError: its probe cannot be read by the model.
        OptionError: its memory is not a number of bytes.
    """
    if own_probe(recorder) is not None and recorder.reads is not Reads.ACTIVATIONS:
        raise ProbeError(
            f"{type(recorder).__name__} must read the collection's probe, since it reads {recorder.reads.value} "
            "(got a probe of its own); leave out probe(self)"
        )
    kept_bytes(recorder)


def own_probe(recorder: Recorder) -> ProbeTokens | None:
    """The probe that a recorder brings, checked against the model of its context; None if it reads the main one.

    Raises:
        ProbeError: it is not a probe, or holds tokens or positions that the model does not know.
    """
    probe = recorder.probe()
    if probe is None:
        return None
    must = f"the probe of {type(recorder).__name__} must"
    if not isinstance(probe, ProbeTokens):
        raise ProbeError(f"{must} be an olmo_dynamics.recorders.PlainProbe or the like (got {type(probe).__name__})")
    ids = probe.token_ids
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu" or ids.ndim != 2 or not ids.size:
        raise ProbeError(f"{must} hold whole numbers, an array [sequences, positions] that is not empty")
    if probe.mask.shape != ids.shape:
        raise ProbeError(f"{must} have a mask of the shape {ids.shape} (got {probe.mask.shape})")
    config = recorder.context.config
    if ids.min() < 0 or (config is not None and ids.max() >= config.vocab_size):
        known = f"from 0 to {config.vocab_size - 1}" if config is not None else "of at least 0"
        raise ProbeError(f"{must} hold token ids {known} (got {ids.min()} to {ids.max()})")
    if config is not None and ids.shape[1] > config.max_positions:
        raise ProbeError(f"{must} have at most {config.max_positions} positions, as the model has (got {ids.shape[1]})")
    return probe


def kept_bytes(recorder: Recorder) -> int:
    """The most memory that a recorder holds.

    Raises:
        OptionError: it gives anything but a number of bytes.
    """
    nbytes = recorder.kept_bytes()
    if not isinstance(nbytes, int | np.integer) or nbytes < 0:
        raise OptionError(
            f"kept_bytes of {type(recorder).__name__} must give a whole number of bytes, at least 0 (got {nbytes!r})"
        )
    return int(nbytes)


def facts_to_store(recorder: Recorder) -> dict[str, Any]:
    """A recorder's attributes, numbers of NumPy as Python's.

    Raises:
        OptionError: they are not a mapping, or hold the name that the store gives to the recorder's class.
    """
    found = recorder.attributes()
    must = f"attributes of {type(recorder).__name__} must"
    if not isinstance(found, Mapping):
        raise OptionError(f"{must} give facts by name (got {found!r})")
    if RECORDER in found:
        raise OptionError(f"{must} not name one {RECORDER}: the store keeps the class by that name; choose another")
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in found.items()}
