"""Revisions opened for a collection: each found comparable with the others, its fetch plan made.

>>> with closing(Opener(source, CollectOptions(), Bounds.of(1 << 30))) as opener:  # doctest: +SKIP
...     setup = opener.set_up(revisions)
...     opened = opener.open(revisions[0])
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from olmo_dynamics.auditing.quarantine import QuarantineEntry
from olmo_dynamics.checkpoints import Checkpoint, ShardHashes, Source
from olmo_dynamics.collection.exclusion import excluded_tensors
from olmo_dynamics.collection.fetch_plan import Bounds, FetchPlan, plan_fetch, plan_states, plan_steps, read_again
from olmo_dynamics.collection.options import CollectOptions
from olmo_dynamics.collection.prefetch import OpenRevision
from olmo_dynamics.collection.setup import CollectionSetup, Held, describe_probe, read_probe
from olmo_dynamics.collection.setup.fitting import fitted_config
from olmo_dynamics.collection.setup.probe_windows import TOKENIZER
from olmo_dynamics.collection.setup.revision_state import RevisionState, find_state
from olmo_dynamics.collection.setup.typical import TypicalRevision
from olmo_dynamics.collection.setup.weight_notes import weight_notes
from olmo_dynamics.errors import StoreMismatchError
from olmo_dynamics.model import ModelConfig, stages
from olmo_dynamics.model.backward import stages_back
from olmo_dynamics.names import Revision, TensorInfo
from olmo_dynamics.probes.tokenizer import ProbeTokenizer
from olmo_dynamics.quantities.declaration import Reads
from olmo_dynamics.recorders.facts import facts_to_store


class Opener:
    """Opens a run's revisions, some of them to decide what holds for all; none is opened twice.

    Attributes:
        bounds: how much may be fetched ahead.
        groups: the groups to measure of a revision, by its name, where they are not all that the setup records.
        partly: the revisions of which some tensors are excluded.
    """

    def __init__(self, source: Source, options: CollectOptions, bounds: Bounds) -> None:
        self.bounds = bounds
        self.groups: Mapping[str, tuple[str, ...]] = {}
        self.partly: Mapping[str, QuarantineEntry] = {}
        self._source, self._options = source, options
        self._open: dict[str, Checkpoint] = {}  # for the setup, and not measured yet
        self._typical = ""
        self._under_way: Checkpoint | None = None
        self._setup: CollectionSetup | None = None

    @property
    def source(self) -> Source:
        """The run."""
        return self._source

    @property
    def setup(self) -> CollectionSetup:
        """The facts that hold for all revisions, once `set_up` has found it, or `adopt` was given it."""
        assert self._setup is not None
        return self._setup

    @property
    def mapped(self) -> bool:
        """True if weights are read in place, on this machine, and not copied."""
        return self._source.kind in ("folder", "memory", "cache")

    def set_up(self, revisions: Sequence[Revision], held: Held | None = None) -> CollectionSetup:
        """Make the setup from a revision that looks like most of a sample, or that fits the store to be continued.

        Raises:
            OlmoDynamicsError: none of them can be used; the first one's error.
        """
        search = TypicalRevision(self._source, self._options, held, self._open)
        self._typical, setup = search.find(revisions)
        notes = weight_notes(self._open[self._typical], setup, mapped=self.mapped)
        self._setup = replace(setup, notes=(*setup.notes, *notes))
        return self._setup

    def adopt(
        self,
        setup: CollectionSetup,
        groups: Mapping[str, tuple[str, ...]],
        partly: Mapping[str, QuarantineEntry],
    ) -> None:
        """Open revisions for a setup that another process has made."""
        self._setup, self.groups, self.partly = setup, groups, partly

    def open(self, revision: Revision) -> OpenRevision:
        """Read a revision's headers and make its fetch plan; no weights are read.

        Raises:
            CheckpointError: it contradicts itself, or its numbers have no place in the store.
            StoreMismatchError: its tokenizer reads the probe otherwise.
        """
        setup = self.setup
        checkpoint = self._open.pop(revision.name, None) or self._source.open(revision)
        self._under_way = checkpoint
        try:
            groups = self.groups.get(revision.name, setup.groups)
            return open_checkpoint(checkpoint, setup, groups, self.bounds, self.partly.get(revision.name))
        except BaseException:
            checkpoint.close()
            raise
        finally:
            self._under_way = None

    def first(self, groups: tuple[str, ...]) -> OpenRevision:
        """The fetch plan of the revision that the setup was made from, for some groups; it stays open."""
        return open_checkpoint(self._open[self._typical], self.setup, groups, self.bounds)

    def close(self) -> None:
        """Close the revisions that nobody took, and the one whose headers another thread still waits for."""
        under_way = self._under_way
        for checkpoint in (*self._open.values(), *([under_way] if under_way else [])):
            checkpoint.close()


def open_checkpoint(
    checkpoint: Checkpoint,
    setup: CollectionSetup,
    groups: tuple[str, ...],
    bounds: Bounds,
    partly: QuarantineEntry | None = None,
) -> OpenRevision:
    """Check that a checkpoint is comparable with the others, and make its fetch plan; `partly` excludes some of its tensors."""
    groups, state, notes = _with_state(checkpoint, setup, groups)
    config = fitted_config(checkpoint, setup, groups)
    _check_same_probe(checkpoint, setup, config)
    excluded = excluded_tensors(checkpoint, partly)
    fetch_plan = fetch_plan_of(checkpoint, setup, groups, bounds, config, state, excluded)
    return OpenRevision(checkpoint, fetch_plan, groups, ShardHashes(checkpoint), config, state, notes, excluded)


def _with_state(
    checkpoint: Checkpoint, setup: CollectionSetup, groups: tuple[str, ...]
) -> tuple[tuple[str, ...], RevisionState | None, tuple[str, ...]]:
    """The groups that a revision can be measured for, its optimiser's state where one reads it, and a line if it has none."""
    readers = setup.recorders_of(groups, Reads.OPTIMIZER)
    if not readers:
        return groups, None, ()
    state, reason = find_state(checkpoint, asked=setup.options.asked)
    if state is not None:
        return groups, state, ()
    lost = [group.name for each in readers for group in each.groups if group.name in groups]
    note = f"{', '.join(lost)} is not recorded: {reason}"
    return tuple(each for each in groups if each not in lost), None, (note,)


def fetch_plan_of(
    checkpoint: Checkpoint,
    setup: CollectionSetup,
    groups: Collection[str],
    bounds: Bounds,
    config: ModelConfig | None,
    state: RevisionState | None = None,
    excluded: Collection[str] = (),
) -> FetchPlan:
    """The fetch plan that reads the tensors that some groups need, and nothing else; none of the excluded ones."""
    passes = stages(config, until=setup.options.until) if config is not None and setup.runs_model(groups) else ()
    measured = [name for name in setup.measured(groups) if name not in excluded]
    steps = plan_steps(checkpoint.tensors, passes, measured, limit=bounds.step)
    if state is not None:
        kept = [name for name in setup.measured(groups, Reads.OPTIMIZER) if name not in excluded]
        moments = {name: state.moments_of(name) for name in kept}
        steps += plan_states(moments, limit=bounds.step)
    shards: dict[str, list[TensorInfo]] = {file: [] for file in checkpoint.expected_sha256}
    for info in checkpoint.tensors.values():
        if info.file in shards:
            shards[info.file].append(info)
    plan = plan_fetch(steps, shards, bounds)
    if config is None or not setup.recorders_of(groups, Reads.GRADIENTS):
        return plan
    return read_again(plan, stages_back(config), checkpoint.tensors, passes[0].tensors, bounds)


def _check_same_probe(checkpoint: Checkpoint, setup: CollectionSetup, config: ModelConfig | None) -> None:
    """A revision whose tokenizer reads the probe text otherwise is not comparable with the others; one without reads theirs."""
    if setup.options.tokenizer is not None or TOKENIZER not in checkpoint.files:
        return
    if setup.tokenizer_id == checkpoint.file_id(TOKENIZER):
        return
    if setup.tokenizer is not None:
        _check_same_tasks(checkpoint, setup)
    if setup.probe is None or setup.options.tokens:
        return
    expected = setup.attributes["probe"]
    if hashlib.sha256(checkpoint.read_file(TOKENIZER)).hexdigest() == expected["tokenizer_sha256"]:
        return
    probe = describe_probe(read_probe(checkpoint, setup.options, config, window=setup.probe.shape[1]))
    if probe["sha256"] != expected["sha256"]:
        raise StoreMismatchError(
            f"{checkpoint.revision.name}'s tokenizer turns the probe text into other tokens (sha256 {probe['sha256'][:12]}) "
            f"than the store holds ({expected['sha256'][:12]}); collect it into a store of its own"
        )


def _check_same_tasks(checkpoint: Checkpoint, setup: CollectionSetup) -> None:
    """A revision whose tokenizer reads a recorder's own text otherwise is not comparable with the others."""
    context = replace(setup.context, tokenizer=ProbeTokenizer(checkpoint.read_file(TOKENIZER)))
    for recorder in setup.recorders:
        if recorder.needs_tokenizer and facts_to_store(recorder.start(context)) != facts_to_store(
            recorder.start(setup.context)
        ):
            raise StoreMismatchError(
                f"{checkpoint.revision.name}'s tokenizer turns the text of {recorder.group.name} into other tokens than the "
                "store holds; collect it into a store of its own"
            )
