"""Options that a collection offers for built-in recorders, by name: each makes the recorders of its groups.

>>> [made] = with_options(("sketches",), sketch_size=4096)
>>> made.attributes()["size"]
4096
"""

from __future__ import annotations

from olmo_dynamics.errors import OptionError
from olmo_dynamics.recorders.base import Recorder
from olmo_dynamics.recorders.inside.lens import LensRecorder
from olmo_dynamics.recorders.inside.writes import WritesRecorder
from olmo_dynamics.recorders.lookup import Recordable
from olmo_dynamics.recorders.optimizer_moments import OptimizerRecorder
from olmo_dynamics.recorders.sketches import SketchRecorder
from olmo_dynamics.recorders.spectra import SpectraRecorder

ALL = "all"
"""The name, in place of a group's, of every built-in group that the model has."""

_RECORDERS: dict[str, tuple[type[Recorder], ...]] = {
    "sketch_size": (SketchRecorder, OptimizerRecorder),
    "spectra": (SpectraRecorder,),
    "lens_tokens": (LensRecorder, WritesRecorder),
}


def with_options(record: tuple[Recordable, ...], **options: int | str | None) -> tuple[Recordable, ...]:
    """The groups and recorders to record, with recorders by their options in place of their groups' names.

    Raises:
        OptionError: an option is given whose groups are not recorded, or a recorder refuses its value.
    """
    for option, value in options.items():
        if value is not None:
            record = _with_option(record, option, value)
    return record


def _with_option(record: tuple[Recordable, ...], option: str, value: int | str) -> tuple[Recordable, ...]:
    kinds = {kind.group.name: kind for kind in _RECORDERS[option]}
    given = {each for each in record if isinstance(each, str)}
    named = [name for name in kinds if name in given or ALL in given]
    if not named:
        raise OptionError(f"{option} needs the group {' or '.join(kinds)}; record it too, or leave {option} out")
    return (*(each for each in record if each not in named), *(kinds[name](value) for name in named))  # type: ignore[call-arg]
