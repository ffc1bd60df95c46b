"""Revisions opened for a collection: each found comparable with the others, its fetch plan made.

>>> with closing(Opener(source, CollectOptions(), Bounds.of(1 << 30))) as opener:  # doctest: +SKIP
...     setup = opener.set_up(revisions)
...     opened = opener.open(revisions[0])
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

from olmo_dynamics.checkpoints import Checkpoint, ShardHashes, Source
from olmo_dynamics.collection.fetch_plan import Bounds, FetchPlan, plan_fetch, plan_steps
from olmo_dynamics.collection.options import CollectOptions
from olmo_dynamics.collection.prefetch import OpenRevision
from olmo_dynamics.collection.setup import CollectionSetup, choose_tensors, describe_probe, make_setup, read_probe
from olmo_dynamics.errors import CheckpointError, StoreMismatchError
from olmo_dynamics.model import Stage, check_shapes, parse_config, stages
from olmo_dynamics.names import Revision, TensorInfo
from olmo_dynamics.quantities.declaration import Reads


class Opener:
    """Opens a run's revisions, the first of them to decide what holds for all; none is opened twice.

    Attributes:
        bounds: how much may be fetched ahead.
        groups: the groups to measure of a revision, by its name, where they are not all that the setup records.
    """

    def __init__(self, source: Source, options: CollectOptions, bounds: Bounds) -> None:
        self.bounds = bounds
        self.groups: Mapping[str, tuple[str, ...]] = {}
        self._source, self._options = source, options
        self._first: dict[str, Checkpoint] = {}
        self._under_way: Checkpoint | None = None
        self._setup: CollectionSetup | None = None

    @property
    def mapped(self) -> bool:
        """True if weights are read in place, on this machine, and not copied."""
        return self._source.kind in ("folder", "memory")

    def set_up(self, revisions: Sequence[Revision], *, done: Collection[str] = ()) -> CollectionSetup:
        """Make the setup from the first revision that does not contradict itself; one that is still to do is preferred.

        Raises:
            CheckpointError: all of them do; the first one's error.
        """
        refused: CheckpointError | None = None
        for revision in sorted(revisions, key=lambda each: each.name in done):
            checkpoint = self._source.open(revision)
            try:
                self._setup = make_setup(checkpoint, self._options, source=self._source.name)
            except CheckpointError as error:
                checkpoint.close()
                refused = refused or error
            except BaseException:
                checkpoint.close()
                raise
            else:
                self._first[revision.name] = checkpoint
                return self._setup
        raise refused or CheckpointError(f"{self._source.name}: no revision was chosen; select at least one")

    def open(self, revision: Revision) -> OpenRevision:
        """Read a revision's headers and make its fetch plan; no weights are read.

        Raises:
            CheckpointError: it contradicts itself, or has other tensors than the store's first revision.
            StoreMismatchError: its tokenizer reads the probe otherwise.
        """
        assert self._setup is not None
        checkpoint = self._first.pop(revision.name, None) or self._source.open(revision)
        self._under_way = checkpoint
        try:
            groups = self.groups.get(revision.name, self._setup.groups)
            return open_checkpoint(checkpoint, self._setup, groups, self.bounds)
        except BaseException:
            checkpoint.close()
            raise
        finally:
            self._under_way = None

    def first(self, groups: tuple[str, ...]) -> OpenRevision:
        """The fetch plan of the revision that the setup was made from, for some groups; it stays open."""
        assert self._setup is not None
        [checkpoint] = self._first.values()
        return open_checkpoint(checkpoint, self._setup, groups, self.bounds)

    def close(self) -> None:
        """Close the first revision, if nobody took it, and the one whose headers another thread still waits for."""
        under_way = self._under_way
        for checkpoint in (*self._first.values(), *([under_way] if under_way else [])):
            checkpoint.close()


def open_checkpoint(
    checkpoint: Checkpoint, setup: CollectionSetup, groups: tuple[str, ...], bounds: Bounds
) -> OpenRevision:
    """Check that a checkpoint is comparable with the others, and make its fetch plan."""
    _check_same_tensors(checkpoint, setup)
    _check_same_probe(checkpoint, setup)
    return OpenRevision(checkpoint, fetch_plan_of(checkpoint, setup, groups, bounds), groups, ShardHashes(checkpoint))


def fetch_plan_of(checkpoint: Checkpoint, setup: CollectionSetup, groups: Collection[str], bounds: Bounds) -> FetchPlan:
    """The fetch plan that reads the tensors that some groups need, and nothing else.

    Raises:
        ShapeError: its tensors contradict its config.
    """
    steps = plan_steps(
        checkpoint.tensors, _stages(checkpoint, setup, groups), setup.measured(groups), limit=bounds.load
    )
    shards: dict[str, list[TensorInfo]] = {file: [] for file in checkpoint.expected_sha256}
    for info in checkpoint.tensors.values():
        if info.file in shards:
            shards[info.file].append(info)
    return plan_fetch(steps, shards, bounds)


def _stages(checkpoint: Checkpoint, setup: CollectionSetup, groups: Collection[str]) -> Sequence[Stage]:
    if not setup.recorders_of(groups, Reads.ACTIVATIONS):
        return ()
    config = parse_config(checkpoint.config)
    check_shapes(config, checkpoint.tensors)
    return stages(config, until=setup.options.until)


def _check_same_tensors(checkpoint: Checkpoint, setup: CollectionSetup) -> None:
    found = {info.name for info in choose_tensors(checkpoint.tensors, setup.options.tensors)}
    different = sorted(found.symmetric_difference(setup.tensor_names))
    if different:
        where = "has" if different[0] in found else "lacks"
        raise CheckpointError(
            f"{checkpoint.revision.name} {where} {different[0]}, unlike the first revision of this store "
            f"({len(different)} tensors differ); collect it into a store of its own"
        )


def _check_same_probe(checkpoint: Checkpoint, setup: CollectionSetup) -> None:
    """A revision whose tokenizer reads the probe text otherwise is not comparable with the others."""
    if setup.probe is None or setup.options.tokens is not None:
        return
    if setup.tokenizer_id == checkpoint.file_id("tokenizer.json"):
        return
    expected = setup.attributes["probe"]
    if hashlib.sha256(checkpoint.read_file("tokenizer.json")).hexdigest() == expected["tokenizer_sha256"]:
        return
    probe = describe_probe(read_probe(checkpoint, setup.options, setup.config))
    if probe["sha256"] != expected["sha256"]:
        raise StoreMismatchError(
            f"{checkpoint.revision.name}'s tokenizer turns the probe text into other tokens (sha256 {probe['sha256'][:12]}) "
            f"than the store holds ({expected['sha256'][:12]}); collect it into a store of its own"
        )
