"""Amounts as people read them: sizes and durations.

>>> human_bytes(5_900_000_000), human_seconds(12_000)
('5.9 GB', '3 h 20 min')
"""

from __future__ import annotations

_UNITS = ("kB", "MB", "GB", "TB", "PB")


def human_bytes(nbytes: float) -> str:
    """A size in decimal units, such as `5.9 GB`.

    >>> human_bytes(1), human_bytes(999), human_bytes(1_000)
    ('1 byte', '999 bytes', '1.0 kB')
    """
    size = int(nbytes)
    if size < 1000:
        return "1 byte" if size == 1 else f"{size} bytes"
    power = next((power for power in range(1, len(_UNITS)) if size < 1000 ** (power + 1)), len(_UNITS))
    return f"{size / 1000**power:,.1f} {_UNITS[power - 1]}"


def at_least(seconds: float) -> str:
    """A lower bound such as `at least 4 min 10 s`; below a second, that it is below.

    >>> at_least(12.3), at_least(0.01)
    ('at least 12 s', 'under 1 s')
    """
    return f"at least {human_seconds(seconds)}" if round(seconds) else "under 1 s"


def human_seconds(seconds: float) -> str:
    """A duration such as `3 h 20 min`, `4 min 10 s` or `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
