"""Recorders by name: the built-in ones, those of installed packages, and a user's own classes.

    >>> [type(each).__name__ for each in find_recorders(["parameters", "loss"])]
    ['ParameterRecorder', 'LossRecorder']

A package offers recorders by entry points of the group `olmo_dynamics.recorders`; `--record` then takes the entry point's name.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from operator import attrgetter
from pathlib import Path

from olmo_dynamics.errors import OptionError, did_you_mean
from olmo_dynamics.names import Site
from olmo_dynamics.quantities.declaration import Group, Reads
from olmo_dynamics.recorders.activations import ActivationRecorder
from olmo_dynamics.recorders.base import Recorder
from olmo_dynamics.recorders.embeddings import EmbeddingRecorder
from olmo_dynamics.recorders.experts.expert_geometry import ExpertGeometryRecorder
from olmo_dynamics.recorders.gradients import GradientRecorder, GradientRowRecorder
from olmo_dynamics.recorders.head_spectra import HeadSpectraRecorder
from olmo_dynamics.recorders.inside.attention import AttentionRecorder
from olmo_dynamics.recorders.inside.in_context import InContextRecorder
from olmo_dynamics.recorders.inside.induction import InductionRecorder
from olmo_dynamics.recorders.inside.lens import LensRecorder
from olmo_dynamics.recorders.inside.ngram import NgramRecorder
from olmo_dynamics.recorders.inside.ngram_samples import NgramSampleRecorder
from olmo_dynamics.recorders.inside.writes import WritesRecorder
from olmo_dynamics.recorders.losses import LossRecorder
from olmo_dynamics.recorders.optimizer_moments import OptimizerRecorder
from olmo_dynamics.recorders.outliers import OutlierRecorder
from olmo_dynamics.recorders.parameters import ParameterRecorder
from olmo_dynamics.recorders.representations.representation_recorder import RepresentationRecorder
from olmo_dynamics.recorders.routing import RoutingRecorder
from olmo_dynamics.recorders.sketches import SketchRecorder
from olmo_dynamics.recorders.spectra import SpectraRecorder
from olmo_dynamics.recorders.tasks.task_scores import TaskRecorder

BUILT_IN: tuple[type[Recorder], ...] = (
    ParameterRecorder,
    EmbeddingRecorder,
    ActivationRecorder,
    OutlierRecorder,
    LossRecorder,
    RoutingRecorder,
    ExpertGeometryRecorder,
    SketchRecorder,
    SpectraRecorder,
    HeadSpectraRecorder,
    OptimizerRecorder,
    AttentionRecorder,
    WritesRecorder,
    LensRecorder,
    InductionRecorder,
    InContextRecorder,
    NgramRecorder,
    NgramSampleRecorder,
    RepresentationRecorder,
    GradientRecorder,
    GradientRowRecorder,
    TaskRecorder,
)
"""The recorders of this package, in the order in which a store holds their groups.

`ActivationRecorder` comes before `OutlierRecorder`: it shares the statistics of each token.
"""

ENTRY_POINTS = "olmo_dynamics.recorders"
"""The group of entry points by which a package offers recorders."""

_PLACE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")

Recordable = str | type[Recorder] | Recorder
"""A group's name, `package.module:Class`, the name of an entry point, a class, or an object."""


def find_recorders(record: Iterable[Recordable]) -> tuple[Recorder, ...]:
    """The recorders that fill the groups asked for: built-in ones first, each once.

    Raises:
        OptionError: a name is unknown, an object is not a recorder or lacks a part of one, or two fill the same group.
    """
    given: list[Recorder] = []
    names: list[str] = []
    for each in record:
        if isinstance(each, str) and each in built_in_groups():
            names.append(each)
        else:
            given.append(_recorder(each))
    with_options = {type(each): each for each in given if is_built_in(each)}
    built_in = [
        with_options.get(kind) or kind()
        for kind in BUILT_IN
        if kind in with_options or any(group.name in names for group in kind().groups)
    ]
    found = (*built_in, *(each for each in given if not is_built_in(each)))
    _check_apart(found)
    return found


def built_in_groups(*, by_default: bool = False) -> dict[str, Group]:
    """The groups that this package records, or of these the ones that nobody has to ask for, by name."""
    return {group.name: group for each in BUILT_IN if each.by_default or not by_default for group in each().groups}


def offered_recorders() -> dict[str, EntryPoint]:
    """The recorders that installed packages offer, by the names of their entry points."""
    return {each.name: each for each in entry_points(group=ENTRY_POINTS)}


def is_built_in(recorder: Recorder) -> bool:
    """True for a recorder of this package."""
    return type(recorder) in BUILT_IN


def origin(recorder: Recorder) -> str:
    """The `module:Class` of a recorder, by which its group can be recorded again."""
    return f"{type(recorder).__module__}:{type(recorder).__qualname__}"


def _recorder(given: Recordable) -> Recorder:
    named: object = _by_name(given) if isinstance(given, str) else given
    recorder = _made(named) if isinstance(named, type) and issubclass(named, Recorder) else named
    if not isinstance(recorder, Recorder):
        raise OptionError(f"record must name groups or recorders (got {named!r}); subclass olmo_dynamics.Recorder")
    fault = _fault(recorder)
    if fault:
        raise OptionError(f"{type(recorder).__name__} must {fault}")
    for group in () if is_built_in(recorder) else recorder.groups:
        if group.name in built_in_groups():
            raise OptionError(
                f"group {group.name} is one of this package's (got it from {type(recorder).__name__}); "
                "record it by its name, or give your group another name"
            )
    return recorder


def _made(kind: type[Recorder]) -> Recorder:
    """An object of a class that is given without options: by itself, or by name."""
    try:
        inspect.signature(kind).bind()
    except TypeError as error:
        raise OptionError(f"{kind.__name__} needs options ({error}); give an object, {kind.__name__}(...)") from None
    return kind()


def _fault(recorder: Recorder) -> str:
    """The first thing that a recorder must do and does not; empty if it does all."""
    if not isinstance(getattr(recorder, "group", None), Group):
        return "declare its group; set group = olmo_dynamics.Group(...)"
    if not all(group.quantities for group in recorder.groups):
        return "declare at least one quantity in its group; add olmo_dynamics.Quantity(...)"
    if type(recorder).observe is Recorder.observe:
        return "define observe(self, seen)"
    reads: object = recorder.reads  # of a user's class, whatever its annotation promises
    if not isinstance(reads, Reads):
        return f"read one of olmo_dynamics.Reads (got reads = {reads!r})"
    if recorder.reads is Reads.GRADIENTS and Site.CHOSEN_EXPERTS in recorder.sites:
        return "read gradients at other sites than chosen_experts, which are whole numbers"
    return _fault_of_activations(recorder) if recorder.reads is Reads.ACTIVATIONS else ""


def _fault_of_activations(recorder: Recorder) -> str:
    if not recorder.sites:
        return "name the sites that it reads; set sites = {olmo_dynamics.Site.RESIDUAL_OUT}, or another"
    sites: object = recorder.sites
    if isinstance(sites, str) or not set(recorder.sites) <= set(Site):
        return f"name its sites by a set of olmo_dynamics.Site (got {sites!r})"
    if type(recorder).merge is Recorder.merge:
        return "define merge(self, other), since threads see different sequences"
    return ""


def _by_name(name: str) -> object:
    if ":" in name:
        return _imported(name)
    offered = offered_recorders()
    if name in offered:
        return _loaded(offered[name])
    known = [*built_in_groups(), *offered]
    raise OptionError(
        f"no group {name!r} to record; there are {', '.join(known)}, or give a recorder as package.module:Class"
        f"{did_you_mean(name, known)}"
    )


def _loaded(offered: EntryPoint) -> object:
    try:
        return offered.load()
    except Exception as error:  # a module may raise anything
        raise OptionError(f"recorder {offered.name} cannot be loaded from {offered.value} ({_told(error)})") from error


def _imported(name: str) -> object:
    """A class by `package.module:Class`; modules of the working directory are found as well."""
    if not _PLACE.fullmatch(name):
        raise OptionError(f"a recorder must be named as package.module:Class (got {name!r})")
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return attrgetter(attribute)(importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise OptionError(f"recorder {name} cannot be imported ({error}); give it as package.module:Class") from error
    except Exception as error:  # a module may raise anything
        raise OptionError(f"recorder {name} cannot be imported ({_told(error)}); mend its module") from error
    finally:
        sys.path.remove(here)


def _told(error: Exception) -> str:
    """An error of another's module; of those that are not about importing the kind as well, since their words say little."""
    return str(error) if isinstance(error, (ImportError, AttributeError)) else f"{type(error).__name__}: {error}"


def _check_apart(recorders: Sequence[Recorder]) -> None:
    filled: dict[str, Recorder] = {}
    for recorder in recorders:
        for group in recorder.groups:
            together = is_built_in(recorder) and is_built_in(filled.get(group.name, recorder))
            if group.name in filled and not together:
                raise OptionError(
                    f"group {group.name} must be filled by one recorder (got {type(filled[group.name]).__name__} and "
                    f"{type(recorder).__name__}); give one of them another group name"
                )
            filled[group.name] = recorder
