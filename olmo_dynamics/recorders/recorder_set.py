"""Several recorders behind one: each observation is shown to the recorders that read it.

    >>> from olmo_dynamics.model import stages
    >>> from olmo_dynamics.recorders import find_recorders
    >>> recorders = RecorderSet(find_recorders(["activations", "loss"]), context)  # doctest: +SKIP
    >>> for stage in stages(config):  # doctest: +SKIP
    ...     streamed.run(stage, weights, recorders.observe)
    ...     records += recorders.finish_layer(stage.layer)
    >>> records += recorders.finish()  # doctest: +SKIP

A layer that is finished drops its state, so memory does not grow with the number of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Self

from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import Site
from olmo_dynamics.quantities.declaration import Reads, Record
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.context import Context


class RecorderSet:
    """The recorders of some groups (all of them unless given) that are shown some kinds of values, ready for one pass.

    A recorder whose sites the model lacks is left out.
    """

    def __init__(
        self,
        prototypes: Iterable[Recorder],
        context: Context,
        groups: Collection[str] | None = None,
        reads: Collection[Reads] = tuple(Reads),
    ) -> None:
        self._prototypes, self.context, self._reads = tuple(prototypes), context, reads
        self._groups = groups
        self._recorders = [each.start(context) for each in self._prototypes if self._takes(each)]
        self._sites = [each.sites_in(context.sites) for each in self._recorders]
        self._layers: list[set[int]] = [set() for _ in self._recorders]  # seen, and not finished

    @property
    def sites(self) -> frozenset[Site]:
        """The sites that at least one recorder reads."""
        return frozenset().union(*self._sites)

    @property
    def looks_back(self) -> bool:
        """True if a recorder reads, before a stage, what it has of the stages before."""
        return any(type(each).follow is not Recorder.follow for each in self._recorders)

    def fresh(self) -> Self:
        """The same recorders, which have seen nothing, for the next stage."""
        fresh = type(self)(self._prototypes, self.context, self._groups, self._reads)
        for one, earlier in zip(fresh._recorders, self._recorders, strict=True):
            one.follow(earlier)
        return fresh

    def observe(self, seen: Observation) -> None:
        """Show an observation to every recorder that reads its site or its tensor."""
        for recorder, sites, layers in zip(self._recorders, self._sites, self._layers, strict=True):
            if recorder.reads is not seen.reads:
                continue
            if seen.site in sites if seen.tensor is None else recorder.selects(seen.tensor):
                layers.add(seen.layer)
                try:  # not _named: at every site, a context costs more than some recorders do
                    recorder.observe(seen)
                except Exception as error:
                    error.add_note(_in(recorder))
                    raise

    def merge(self, other: Self) -> None:
        """Add everything that `other` saw and has not finished."""
        for mine, theirs in zip(self._recorders, other._recorders, strict=True):
            with _named(mine):
                mine.merge(theirs)
        self._layers = [mine | theirs for mine, theirs in zip(self._layers, other._layers, strict=True)]

    def finish_layer(self, layer: int) -> list[Record]:
        """The records of one layer, whose state is dropped."""
        return list(self._kept(self._finished(layer)))

    def finish(self) -> list[Record]:
        """The records of the layers that are not finished, and the records that need the whole pass."""
        layers = sorted(set().union(*self._layers))
        records = [record for layer in layers for record in self.finish_layer(layer)]
        return [*records, *self._kept(record for each in self._recorders for record in _records(each, each.finish))]

    def _takes(self, prototype: Recorder) -> bool:
        asked = prototype.reads in self._reads and any(self._records(group.name) for group in prototype.groups)
        return asked and (not prototype.sites or bool(prototype.sites_in(self.context.sites)))

    def _finished(self, layer: int) -> Iterator[Record]:
        for recorder, layers in zip(self._recorders, self._layers, strict=True):
            if layer in layers:
                layers.remove(layer)
                yield from _records(recorder, recorder.finish_layer, layer)

    def _kept(self, records: Iterable[Record]) -> Iterator[Record]:
        return (record for record in records if self._records(record.quantity.group))

    def _records(self, group: str) -> bool:
        return self._groups is None or group in self._groups


@contextmanager
def _named(recorder: Recorder) -> Iterator[None]:
    """Let an error in a recorder's own code name the recorder."""
    try:
        yield
    except Exception as error:
        error.add_note(_in(recorder))
        raise


def _records(recorder: Recorder, method: Callable[..., Iterable[Record]], *arguments: int) -> list[Record]:
    """The records that a method of a recorder gives.

    Raises:
        OptionError: it gives something else, or records of a group that the recorder does not declare.
    """
    with _named(recorder):
        found = method(*arguments)
        records = list(found) if isinstance(found, Iterable) else [found]
    declared = {group.name for group in recorder.groups}
    must = f"{method.__name__} of {_name(recorder)} must give records"
    for record in records:
        if not isinstance(record, Record):
            raise OptionError(f"{must} (got {record!r}); yield self.record(...)")
        if record.quantity.group not in declared:
            raise OptionError(f"{must} of this group (got one of {record.quantity.key})")
    return records


def _in(recorder: Recorder) -> str:
    return f"in {_name(recorder)}"


def _name(recorder: Recorder) -> str:
    return f"{type(recorder).__name__} (group {', '.join(group.name for group in recorder.groups)})"
