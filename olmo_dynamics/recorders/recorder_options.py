"""Options that a collection offers for built-in recorders, by name: each makes the recorders of its groups.

>>> [made] = with_options(("sketches",), sketch_size=4096)
>>> made.attributes()["size"]
4096
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from olmo_dynamics.errors import OptionError
from olmo_dynamics.recorders.base import Recorder
from olmo_dynamics.recorders.inside.lens import LensRecorder
from olmo_dynamics.recorders.inside.ngram import NgramRecorder
from olmo_dynamics.recorders.inside.ngram_samples import NgramSampleRecorder
from olmo_dynamics.recorders.inside.ngram_source import NgramSource
from olmo_dynamics.recorders.inside.writes import WritesRecorder
from olmo_dynamics.recorders.lookup import Recordable
from olmo_dynamics.recorders.optimizer_moments import OptimizerRecorder
from olmo_dynamics.recorders.representations.representation_recorder import RepresentationRecorder
from olmo_dynamics.recorders.sketches import SketchRecorder
from olmo_dynamics.recorders.spectra import SpectraRecorder
from olmo_dynamics.recorders.tasks.task_scores import TaskRecorder
from olmo_dynamics.recorders.tasks.task_source import TaskSource

ALL = "all"
"""The name, in place of a group's, of every built-in group that the model has."""

_RECORDERS: dict[str, tuple[type[Recorder], ...]] = {
    "sketch_size": (SketchRecorder, OptimizerRecorder),
    "spectra": (SpectraRecorder,),
    "lens_tokens": (LensRecorder, WritesRecorder),
    "counts": (NgramRecorder, NgramSampleRecorder),
    "gram_tokens": (RepresentationRecorder,),
    "gram_sites": (RepresentationRecorder,),
    "tasks": (TaskRecorder,),
}

OPTIONS = tuple(_RECORDERS)
"""The names of these options."""

_ARGUMENTS = {"gram_tokens": "tokens", "gram_sites": "sites"}
"""The arguments of options of recorders that have several; of any other it is the first."""


def with_options(
    record: tuple[Recordable, ...], **options: int | str | Collection[str] | NgramSource | TaskSource | None
) -> tuple[Recordable, ...]:
    """The groups and recorders to record, with recorders by their options in place of their groups' names.

    Raises:
        OptionError: an option is given whose groups are not recorded, or a recorder refuses its value.
    """
    made: dict[type[Recorder], partial[Recorder]] = {}
    for option, value in options.items():
        for kind in _asked(record, option) if value is not None else ():
            before = made.get(kind, partial(kind))
            argument = _ARGUMENTS.get(option)
            made[kind] = partial(before, **{argument: value}) if argument else partial(before, value)
    replaced = [kind.group.name for kind in made]
    return (*(each for each in record if each not in replaced), *(make() for make in made.values()))


def _asked(record: tuple[Recordable, ...], option: str) -> list[type[Recorder]]:
    """The recorders of an option whose groups are recorded."""
    groups = tuple(dict.fromkeys(kind.group.name for kind in _RECORDERS[option]))
    given = {each for each in record if isinstance(each, str)}
    named = [kind for kind in _RECORDERS[option] if kind.group.name in given or ALL in given]
    if not named:
        typed = f"--{option.replace('_', '-')}"
        raise OptionError(
            f"{option} needs the group {' or '.join(groups)}; record it too, or leave {option} out",
            typed=f"{typed} needs --record {' or --record '.join(groups)}; add it, or leave {typed} out",
        )
    return named
