"""Configs of other trainers, field by field: translated, known to leave the computation alone, or refused.

A setting that is silently ignored makes a wrong model look right, so an unknown field is an error, unless it is off; then it
is only mentioned in the log.

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
    """Refuse settings that need a computation that is not implemented; `only` gives the allowed values.

    None in `only` also allows an absent field. `idle` fields never change what a trained model computes.

    Raises:
        CheckpointError: a field has another value, or is unknown and not off.
    """
    for name, allowed in only.items():
        value = fields.get(name)
        if value not in allowed:
            expected = " or ".join(repr(each) for each in allowed if each is not None) or "absent"
            raise CheckpointError(
                f"{where}: {name} must be {expected} (got {brief(value)}); this computation is not implemented"
            )
    for name in sorted(fields.keys() - set(used) - only.keys() - set(idle)):
        if fields[name] not in _OFF:
            raise CheckpointError(
                f"{where}: unknown field {name}, with value {brief(fields[name])}, may change the computation; remove it "
                "if it does not"
            )
        _LOG.info("%s: unknown field %s is off, and ignored", where, name)


def require_count(where: str, fields: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A whole number of at least 1; `default` if the field is absent.

    Raises:
        CheckpointError: it is missing, or not such a number.
    """
    value = fields.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not int or not 0 < value < 1 << 31:
        raise CheckpointError(
            f"{where}: {name} must be a whole number above 0 (got {brief(value)}); correct the config"
        )
    return value


def require_fields(where: str, fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Fields within fields.

    Raises:
        CheckpointError: they are missing, or not fields.
    """
    found = fields.get(name)
    if not isinstance(found, dict):
        raise CheckpointError(f"{where}: {name} must be given as fields (got {brief(found)}); correct the config")
    return found


def optional_fields(where: str, fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Fields within fields, empty if they are absent.

    Raises:
        CheckpointError: the value is not fields.
    """
    return {} if fields.get(name) is None else require_fields(where, fields, name)


def to_number(where: str, fields: Mapping[str, Any], name: str, default: float) -> float:
    """A number, also as text, since YAML reads `1e-5` (no dot) as text and trainers accept it as a number.

    Raises:
        CheckpointError: the value is not a number.
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
        raise CheckpointError(f"{where}: {name} must be a number (got {brief(value)}); correct the config") from None
