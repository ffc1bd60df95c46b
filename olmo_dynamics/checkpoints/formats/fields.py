"""Configs of other trainers, field by field: translated, known to leave the computation alone, or refused.

A setting that is passed over in silence makes a wrong model look right, so a field nobody here knows is an error, unless it
is off; then it is only mentioned in the log.

    >>> check_fields("config.yaml", {"alibi": False, "n_layers": 2}, used={"n_layers"}, only={"alibi": (None, False)})
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from typing import Any

from olmo_dynamics.checkpoints.formats.unpickling import brief
from olmo_dynamics.errors import CheckpointError

_LOG = logging.getLogger(__name__)
_OFF: tuple[Any, ...] = (None, False, 0, 0.0, "", (), [], {})


def check_fields(
    where: str,
    fields: Mapping[str, Any],
    *,
    used: Collection[str],
    only: Mapping[str, tuple[Any, ...]],
    idle: Collection[str] = (),
) -> None:
    """Refuse what would change the computation in a way not implemented; `only` gives the values that do not.

    None in `only` stands for an absent field too. `idle` fields never change what a trained model computes.

    Raises:
        CheckpointError: a field has another value, or is unknown and not off.
    """
    for name, allowed in only.items():
        value = fields.get(name)
        if value not in allowed:
            wanted = " or ".join(repr(each) for each in allowed if each is not None) or "absent"
            raise CheckpointError(
                f"{where}: {name} must be {wanted}, got {brief(value)}; this computation is not implemented"
            )
    for name in fields.keys() - set(used) - only.keys() - set(idle):
        if fields[name] not in _OFF:
            raise CheckpointError(
                f"{where}: unknown field {name}, with value {brief(fields[name])}, may change the computation; remove it "
                "if it does not"
            )
        _LOG.info("%s: unknown field %s is off, and passed over", where, name)


def require_count(where: str, fields: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A whole number of at least 1; `default` where the field is absent.

    Raises:
        CheckpointError: it is missing, or none.
    """
    value = fields.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not int or not 0 < value < 1 << 31:
        raise CheckpointError(f"{where}: {name} must be a whole number above 0, got {brief(value)}; correct the config")
    return value


def require_fields(where: str, fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Fields within fields.

    Raises:
        CheckpointError: they are missing, or something else.
    """
    found = fields.get(name)
    if not isinstance(found, dict):
        raise CheckpointError(f"{where}: {name} must be given as fields, got {brief(found)}; correct the config")
    return found


def optional_fields(where: str, fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Fields within fields, empty where they are absent.

    Raises:
        CheckpointError: something else is there.
    """
    return {} if fields.get(name) is None else require_fields(where, fields, name)


def to_number(where: str, fields: Mapping[str, Any], name: str, default: float) -> float:
    """A number; YAML reads `1e-5` (no dot) as text, and trainers take it as a number all the same.

    Raises:
        CheckpointError: it is none.
    """
    value = fields.get(name)
    if value is None:
        return default
    try:
        number = value if isinstance(value, int | float) else float(value)
        if isinstance(value, bool) or not math.isfinite(number):
            raise ValueError
        return number
    except (TypeError, ValueError, OverflowError):
        raise CheckpointError(f"{where}: {name} must be a number, got {brief(value)}; correct the config") from None
