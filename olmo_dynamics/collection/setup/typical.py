"""The revision that a new store is laid out for: one that looks like most of a sample.

A store has one place for each tensor, layer and token, for all of its revisions. So that a single odd revision does not decide
them, the first, the last and then others are opened until two agree, nine at most. The shape that most of them have is taken,
and the settings of the earliest revision that has it. A store that is continued keeps its own: a revision that fits it is
looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from olmo_dynamics.checkpoints import Checkpoint, Source
from olmo_dynamics.collection.options import CollectOptions
from olmo_dynamics.collection.setup.collection_setup import CollectionSetup
from olmo_dynamics.collection.setup.fitting import choose_tensors, known_config
from olmo_dynamics.collection.setup.held import Held
from olmo_dynamics.collection.setup.making import make_setup, needs_config
from olmo_dynamics.collection.setup.probe_windows import tokenizer_id
from olmo_dynamics.collection.setup.revision_state import read_state
from olmo_dynamics.errors import CheckpointError, DiskFullError, StoreError
from olmo_dynamics.names import Revision

SAMPLE = 9
"""Revisions opened at most to find two that agree, or one that fits a store."""

PATIENCE = 3
"""Failures for another reason than the checkpoint's own, such as the network, before the first of them is raised."""

Shape = tuple[object, ...]

Found = TypeVar("Found")


@dataclass
class TypicalRevision:
    """The search for one revision, and the checkpoints that it left open, by name."""

    source: Source
    options: CollectOptions
    held: Held | None
    opened: dict[str, Checkpoint] = field(default_factory=dict)
    _failures: list[Exception] = field(default_factory=list)

    def find(self, revisions: Sequence[Revision]) -> tuple[str, CollectionSetup]:
        """The name of the revision, which stays open, and the setup made from it.

        Raises:
            OlmoDynamicsError: no revision can be used; the first one's error.
        """
        found = self._of_store(revisions) if self.held else self._of_most(revisions)
        if found is not None:
            return found
        if self._failures:
            raise self._failures[0]
        raise CheckpointError(f"{self.source.name}: no revision was chosen; select at least one")

    def _of_store(self, revisions: Sequence[Revision]) -> tuple[str, CollectionSetup] | None:
        """The first revision that fits the store, of those that are still to measure if one of them does.

        Where none does, the first that can be used: the store says what differs, or keeps windows that no revision has
        positions for.
        """
        assert self.held is not None
        done = self.held.completed(self.options.groups)
        to_do = [each for each in revisions if each.name not in done]
        measured = [each for each in revisions if each.name in done]
        first: tuple[str, CollectionSetup] | None = None
        tried = 0
        for revision in [*to_do[:1], *measured[:1], *to_do[1:], *measured[1:]]:
            setup = self._tried(revision, self._make)
            if setup is None:
                continue
            tried += 1
            fits = self.held.fits(setup.layout, setup.attributes["probe"]) and setup.has_positions
            if fits and (setup.optimizer or not self._needs_state):
                return revision.name, setup
            first = first or (revision.name, setup)
            if tried == SAMPLE or revision.name in done:
                break
        return first

    def _of_most(self, revisions: Sequence[Revision]) -> tuple[str, CollectionSetup] | None:
        votes: dict[Shape, list[Revision]] = {}
        for revision in _ends_first(revisions):
            shape = self._tried(revision, self._shape)
            if shape is None:
                continue
            votes.setdefault(shape, []).append(revision)
            agreed = len(votes[shape]) == 2 and (shape[0] or not self._needs_state)
            if agreed or sum(map(len, votes.values())) == SAMPLE:
                break
        order = {revision.name: place for place, revision in enumerate(revisions)}

        def rank(shape: Shape) -> tuple[int, ...]:
            first = min(order[each.name] for each in votes[shape])
            return not shape[0], -len(votes[shape]), -len(shape), first

        # those with an optimiser's state, if one is to be read; of as many, one whose model is known, and then the earliest
        for shape in sorted(votes, key=rank):
            for revision in sorted(votes[shape], key=lambda each: order[each.name]):
                setup = self._tried(revision, self._make)
                if setup is not None:
                    return revision.name, setup
        return None

    def _tried(self, revision: Revision, use: Callable[[Checkpoint], Found]) -> Found | None:
        """The result for a revision; None if it cannot be used.

        Raises:
            OlmoDynamicsError: failures that are not the checkpoint's own have been too many; the first one's error.
        """
        try:
            if revision.name not in self.opened:
                self.opened[revision.name] = self.source.open(revision)
            return use(self.opened[revision.name])
        except (DiskFullError, StoreError):
            raise
        except Exception as error:
            if revision.name in self.opened:
                self.opened.pop(revision.name).close()
            self._failures.append(error)
            if sum(not isinstance(each, CheckpointError) for each in self._failures) >= PATIENCE:
                raise self._failures[0] from None
            return None

    def _make(self, checkpoint: Checkpoint) -> CollectionSetup:
        return make_setup(checkpoint, self.options, source=self.source.name, held=self.held)

    def _shape(self, checkpoint: Checkpoint) -> Shape:
        """The facts that decide where a revision's measurements lie."""
        chosen = choose_tensors(checkpoint.tensors, self.options.tensors)
        config = known_config(checkpoint, needed=needs_config(checkpoint, self.options))
        tensors = tuple(sorted((info.name, info.shape) for info in chosen))
        tokenizer = tokenizer_id(checkpoint, self.options)
        with_state = self._needs_state and read_state(checkpoint) is not None
        if config is None:
            return (with_state, tokenizer, tensors)
        sizes = (
            config.hidden_size,
            config.layers,
            config.heads,
            config.kv_heads,
            config.vocab_size,
            config.max_positions,
        )
        return (with_state, config.model_type, config.has_head, *sizes, config.experts, tokenizer, tensors)

    @property
    def _needs_state(self) -> bool:
        """True if the optimiser's state is asked for, so that a revision without it is not typical."""
        return self.options.asked and self.options.reads_state


def _ends_first(revisions: Sequence[Revision]) -> Iterator[Revision]:
    """The first, the last, the middle, and then the others in order."""
    ends = dict.fromkeys((0, len(revisions) - 1, len(revisions) // 2)) if revisions else {}
    return (revisions[place] for place in dict.fromkeys((*ends, *range(len(revisions)))))
