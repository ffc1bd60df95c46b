"""A revision opened for a study: found comparable with the others, its way through planned.

>>> with closing(Opener(run, Measurement(), Bounds.of(1 << 30))) as opener:  # doctest: +SKIP
...     study = opener.settle(revisions)
...     opened = opener.open(revisions[0])
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

from olmo_dynamics.checkpoints import Checkpoint, ShardHashes
from olmo_dynamics.collection.fetching import Opened
from olmo_dynamics.collection.itinerary import Bounds, Itinerary, plan_stops, plan_way
from olmo_dynamics.collection.measurement import Measurement
from olmo_dynamics.collection.study import Study, choose_tensors, describe_probe, prepare, read_probe
from olmo_dynamics.errors import CheckpointError, StoreMismatchError
from olmo_dynamics.frames.run import Run
from olmo_dynamics.model import Stage, check_shapes, parse_config, stages
from olmo_dynamics.names import Revision, TensorInfo
from olmo_dynamics.quantities import PARAMETER_GROUPS


class Opener:
    """Opens a run's revisions, the first of them to settle what holds for all; none is opened twice.

    Attributes:
        bounds: how much may be fetched ahead.
        groups: what is measured of a revision, by name, where that is not all that the study records.
    """

    def __init__(self, run: Run, measurement: Measurement, bounds: Bounds) -> None:
        self.bounds = bounds
        self.groups: Mapping[str, tuple[str, ...]] = {}
        self._run, self._measurement = run, measurement
        self._first: dict[str, Checkpoint] = {}
        self._under_way: Checkpoint | None = None
        self._study: Study | None = None

    @property
    def mapped(self) -> bool:
        """Whether weights are looked at where they lie, on this machine, and not copied."""
        return self._run.source.kind in ("folder", "memory")

    def settle(self, revisions: Sequence[Revision], *, done: Collection[str] = ()) -> Study:
        """The study of the first revision that does not contradict itself, rather of one that is still to do.

        Raises:
            CheckpointError: all of them do; the first one's error.
        """
        refused: CheckpointError | None = None
        for revision in sorted(revisions, key=lambda each: each.name in done):
            checkpoint = self._run.open(revision)
            try:
                self._study = prepare(checkpoint, self._measurement, source=self._run.name)
            except CheckpointError as error:
                checkpoint.close()
                refused = refused or error
            except BaseException:
                checkpoint.close()
                raise
            else:
                self._first[revision.name] = checkpoint
                return self._study
        raise refused or CheckpointError(f"{self._run.name}: no revision was chosen; select at least one")

    def open(self, revision: Revision) -> Opened:
        """Read a revision's headers and plan its way; no weights are read.

        Raises:
            CheckpointError: it contradicts itself, or has other tensors than the store's first revision.
            StoreMismatchError: its tokenizer reads the probe otherwise.
        """
        assert self._study is not None
        checkpoint = self._first.pop(revision.name, None) or self._run.open(revision)
        self._under_way = checkpoint
        try:
            groups = self.groups.get(revision.name, self._study.groups)
            return open_checkpoint(checkpoint, self._study, groups, self.bounds)
        except BaseException:
            checkpoint.close()
            raise
        finally:
            self._under_way = None

    def first(self, groups: tuple[str, ...]) -> Opened:
        """The way through the revision that settled the study, for some groups; it stays open."""
        assert self._study is not None
        [checkpoint] = self._first.values()
        return open_checkpoint(checkpoint, self._study, groups, self.bounds)

    def close(self) -> None:
        """Close the first revision, if nobody took it, and the one whose headers another thread still waits for."""
        under_way = self._under_way
        for checkpoint in (*self._first.values(), *([under_way] if under_way else [])):
            checkpoint.close()


def open_checkpoint(checkpoint: Checkpoint, study: Study, groups: tuple[str, ...], bounds: Bounds) -> Opened:
    """Find a checkpoint comparable, and its way."""
    _check_same_tensors(checkpoint, study)
    _check_same_probe(checkpoint, study)
    return Opened(checkpoint, find_way(checkpoint, study, groups, bounds), groups, ShardHashes(checkpoint))


def find_way(checkpoint: Checkpoint, study: Study, groups: Collection[str], bounds: Bounds) -> Itinerary:
    """The way through a checkpoint that reads what some groups need, and nothing else.

    Raises:
        ShapeError: its tensors contradict its config.
    """
    stops = plan_stops(
        checkpoint.tensors, _stages(checkpoint, study, groups), study.measured(groups), limit=bounds.load
    )
    shards: dict[str, list[TensorInfo]] = {file: [] for file in checkpoint.expected_sha256}
    for info in checkpoint.tensors.values():
        if info.file in shards:
            shards[info.file].append(info)
    return plan_way(stops, shards, bounds)


def _stages(checkpoint: Checkpoint, study: Study, groups: Collection[str]) -> Sequence[Stage]:
    if all(name in PARAMETER_GROUPS for name in groups):
        return ()
    config = parse_config(checkpoint.config)
    check_shapes(config, checkpoint.tensors)
    return stages(config, until=study.measurement.until)


def _check_same_tensors(checkpoint: Checkpoint, study: Study) -> None:
    found = {info.name for info in choose_tensors(checkpoint.tensors, study.measurement.tensors)}
    different = sorted(found.symmetric_difference(study.tensor_names))
    if different:
        where = "has" if different[0] in found else "lacks"
        raise CheckpointError(
            f"{checkpoint.revision.name} {where} {different[0]}, unlike the first revision of this store "
            f"({len(different)} tensors differ); collect it into a store of its own"
        )


def _check_same_probe(checkpoint: Checkpoint, study: Study) -> None:
    """A revision whose tokenizer reads the probe text otherwise is not comparable with the others."""
    if study.probe is None or study.measurement.tokens is not None:
        return
    if study.tokenizer_id == checkpoint.file_id("tokenizer.json"):
        return
    expected = study.attributes["probe"]
    if hashlib.sha256(checkpoint.read_file("tokenizer.json")).hexdigest() == expected["tokenizer_sha256"]:
        return
    probe = describe_probe(read_probe(checkpoint, study.measurement, study.config))
    if probe["sha256"] != expected["sha256"]:
        raise StoreMismatchError(
            f"{checkpoint.revision.name}'s tokenizer turns the probe text into other tokens (sha256 {probe['sha256'][:12]}) "
            f"than the store holds ({expected['sha256'][:12]}); collect it into a store of its own"
        )
