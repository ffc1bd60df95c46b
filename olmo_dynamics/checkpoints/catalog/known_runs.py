"""Public facts of known runs: stages, batches, seeds, places of native checkpoints, faults of revisions.

The facts are in `known_runs.toml` beside this module, one entry for the repos that share a training run.

    >>> from olmo_dynamics.checkpoints import parse_revision
    >>> run = known_run("allenai/OLMo-2-0425-1B")
    >>> run.tokens_at(parse_revision("stage1-step10000-tokens21B"))
    20971520000

Sources: the configs and launch scripts in allenai/OLMo and allenai/OLMo-core, the lists of checkpoints there, the model
cards, and the issues and discussions that each fault names.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.resources import files
from typing import Any

from olmo_dynamics.checkpoints.catalog.published_schedules import PublishedSchedule
from olmo_dynamics.checkpoints.catalog.run_parts import Phase, Replicate
from olmo_dynamics.errors import UnknownSourceError
from olmo_dynamics.names import Revision

WITHOUT_STAGE = 0
"""The stage number of a run whose revision names have no stage."""

FAULT_KINDS = ("duplicate", "missing", "rewritten", "label", "name", "list")
"""Identical bytes under several names, a gap, weights replaced after publication, a token label that breaks the repo's
own rule, a name that is unlike the others, and a mistake in an official list of native checkpoints."""

ROUNDINGS: dict[str, Callable[[Fraction], int]] = {"floor": math.floor, "ceil": math.ceil, "round": round}
"""Ways in which repos round token counts to whole billions."""


@dataclass(frozen=True, slots=True)
class TrainingStage:
    """A stage of training: sequences and positions of one optimiser step, and the stage's first and last step.

    `start` is the step of the stage before from which it started, `steps` its own last step, `seed` that of its data
    order; None if it is not certain.
    """

    number: int
    sequences: int
    positions: int
    start: int | None = None
    steps: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.number < 0 or self.sequences < 1 or self.positions < 1:
            raise ValueError(
                f"a stage must have a number of at least 0 and a batch of at least 1x1 (got stage {self.number} of "
                f"{self.sequences}x{self.positions})"
            )

    @property
    def tokens_per_step(self) -> int:
        """Tokens read by one optimiser step."""
        return self.sequences * self.positions


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One of several runs of a stage that are averaged or chosen from: its name, its seed, its last step."""

    stage: int
    name: str
    seed: int | None = None
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of published revisions: its kind, a description, the revisions, the run's repos, and a reference.

    `revisions` holds terms of the selection language (exact names, globs, `step200000..251000`); for the kind `missing`
    they name revisions that do not exist, for the kind `list` rows of the official list.
    """

    kind: str
    what: str
    revisions: tuple[str, ...]
    repos: tuple[str, ...]
    reference: str = ""

    def __post_init__(self) -> None:
        if self.kind not in FAULT_KINDS:
            raise ValueError(f"a fault's kind must be one of {', '.join(FAULT_KINDS)} (got {self.kind!r})")
        if not (self.what and self.revisions and self.repos):
            raise ValueError(f"a fault must have a description, revisions and repos (got {self})")


@dataclass(frozen=True, slots=True)
class LabelRule:
    """A rule for the token labels in revision names: rounding, and tokens per step if they are not the batch's."""

    rounding: str
    repos: tuple[str, ...]
    tokens_per_step: int | None = None

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"a label's rounding must be one of {', '.join(ROUNDINGS)} (got {self.rounding!r})")

    def billions(self, step: int, batch_tokens: int) -> int:
        """The number that the label of a step should have, in billions of tokens."""
        return ROUNDINGS[self.rounding](Fraction(step * (self.tokens_per_step or batch_tokens), 10**9))


@dataclass(frozen=True, slots=True)
class NativeStore:
    """A place of native checkpoints: below `base` itself, or below its sub-folders `directories` (one per restart)."""

    base: str
    directories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.base.startswith("https://") or not self.base.endswith("/"):
            raise ValueError(f"a native store must be an https address that ends in / (got {self.base!r})")

    def holds(self, url: str) -> bool:
        """True if a checkpoint directory's address is in this store."""
        if not self.directories:
            return url.startswith(self.base)
        return url.startswith(self.base) and url.removeprefix(self.base).split("/")[0] in self.directories


@dataclass(frozen=True, slots=True)
class KnownRun:
    """One published training run: its repos, stages, seeds, native store, tokenizer, the weights in `main`, and its faults."""

    title: str
    repos: tuple[str, ...]
    model_type: str
    parameters: int | None = None
    tokenizer: str = ""
    tokenizer_size: int | None = None
    stages: tuple[TrainingStage, ...] = ()
    ingredients: tuple[Ingredient, ...] = ()
    replicates: tuple[Replicate, ...] = ()
    schedules: tuple[PublishedSchedule, ...] = ()
    labels: tuple[LabelRule, ...] = ()
    native: tuple[NativeStore, ...] = ()
    lists: tuple[str, ...] = ()  # file names of the official lists of its native checkpoints
    main: str = ""
    main_revision: str = ""  # the other name of the weights in `main`, where it has one
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    phases: tuple[Phase, ...] = ()
    rerun_of: str = ""  # the repo of the run whose first steps it repeats

    def __post_init__(self) -> None:
        if not self.title or not self.repos or any(repo.count("/") != 1 for repo in self.repos):
            raise ValueError(f"a run must have a title and repos such as org/name (got {self.title!r}, {self.repos})")
        if min(count for count in (1, self.parameters, self.tokenizer_size) if count is not None) < 1:
            raise ValueError(f"{self.title}: parameters and tokenizer_size must be positive")
        if len({stage.number for stage in self.stages}) != len(self.stages):
            raise ValueError(f"{self.title}: a stage is declared twice")
        if stray_stages := {each.stage for each in self.schedules} - {stage.number for stage in self.stages}:
            raise ValueError(f"{self.title}: schedules of stages without a batch: {sorted(stray_stages)}")
        named = {repo for fault in self.faults for repo in fault.repos}
        named |= {repo for rule in self.labels for repo in rule.repos} | {phase.repo for phase in self.phases}
        if stray := named - set(self.repos):
            raise ValueError(f"{self.title}: faults, labels or phases name repos that are not its own: {sorted(stray)}")

    def tokens_at(self, revision: Revision) -> int | None:
        """Tokens seen up to a revision: step x tokens per step; from stage 2 on, tokens seen within that stage.

        None if the step does not tell: no step, a stage of unknown batch, merged ingredients (`1+2` is an average of two
        runs), and side branches, which have their own recipe.
        """
        if revision.step is None or revision.branch or "+" in (revision.ingredient or ""):
            return None
        stage = self.stage(revision.stage)
        return revision.step * stage.tokens_per_step if stage else None

    def stage(self, number: int | None) -> TrainingStage | None:
        """The stage of that number (None: names without a stage), or None if its batch is not known."""
        stored = WITHOUT_STAGE if number is None else number
        return next((stage for stage in self.stages if stage.number == stored), None)

    def schedule(self, number: int | None) -> PublishedSchedule | None:
        """The learning rates of the stage of that number (None: names without a stage), or None if they are not known."""
        stored = WITHOUT_STAGE if number is None else number
        return next((schedule for schedule in self.schedules if schedule.stage == stored), None)

    def label_rule(self, repo: str) -> LabelRule | None:
        """The rule for the token labels of that repo of the run, None if it is not known."""
        folded = repo.casefold()
        return next((rule for rule in self.labels if folded in (each.casefold() for each in rule.repos)), None)

    def faults_of(self, repo: str) -> tuple[Fault, ...]:
        """The known faults of that repo of the run."""
        folded = repo.casefold()
        return tuple(fault for fault in self.faults if folded in (each.casefold() for each in fault.repos))

    def owns(self, url: str) -> bool:
        """True if a native checkpoint's address is in one of the run's stores."""
        return any(store.holds(url) for store in self.native)


def known_run(source: str) -> KnownRun | None:
    """The run published under a hub repo id, in any case (`allenai/Olmo-2-0425-1b`), or None."""
    return _by_repo().get(source.casefold())


@cache
def _by_repo() -> dict[str, KnownRun]:
    return {repo.casefold(): run for run in known_runs() for repo in run.repos}


def find_run(name: str) -> KnownRun:
    """The run of that repo or title, in any case, or the only run with a repo or title that contains `name`.

    Raises:
        UnknownSourceError: no run has this name, or several have.
    """
    folded = name.casefold()
    words = {run: [run.title.casefold(), *(repo.casefold() for repo in run.repos)] for run in known_runs()}
    exact = [run for run, own in words.items() if folded in own or folded in (each.partition("/")[2] for each in own)]
    found = exact or [run for run, own in words.items() if any(folded in each for each in own)]
    if len(found) != 1:
        titles = ", ".join(run.title for run in found or known_runs())
        problem = f"{name!r} may be any of" if found else f"no known run is called {name!r}; there are"
        raise UnknownSourceError(f"{problem} {titles}")
    return found[0]


@cache
def known_runs() -> tuple[KnownRun, ...]:
    """Every known run, in the file's order.

    Raises:
        ValueError: `known_runs.toml` contradicts itself.
    """
    runs = parse_runs(files(__package__).joinpath("known_runs.toml").read_text(encoding="utf-8"))
    repos = [repo.casefold() for run in runs for repo in run.repos]
    if twice := sorted({repo for repo in repos if repos.count(repo) > 1}):
        raise ValueError(f"repos that belong to two runs: {', '.join(twice)}")
    return runs


def parse_runs(text: str) -> tuple[KnownRun, ...]:
    """The runs that a TOML text declares.

    Raises:
        KeyError: a field is missing.
        TypeError: a field is unknown or missing.
        ValueError: fields contradict each other.
    """
    whole = tomllib.loads(text)
    return tuple(_run(fields, whole.get("values", {})) for fields in whole["run"])


def _run(fields: dict[str, Any], lists: dict[str, list[str]]) -> KnownRun:
    repos = _repos(fields, lists)
    return KnownRun(
        repos=repos,
        stages=_stages(fields),
        ingredients=tuple(Ingredient(**each) for each in fields.pop("ingredient", [])),
        replicates=tuple(Replicate(**each) for each in fields.pop("replicate", [])),
        schedules=tuple(PublishedSchedule(**each) for each in fields.pop("schedule", [])),
        labels=tuple(LabelRule(**_listed(each, repos)) for each in fields.pop("label", [])),
        native=tuple(
            NativeStore(each["base"], tuple(each.get("directories", ()))) for each in fields.pop("native", [])
        ),
        faults=tuple(_fault(fault, repos) for fault in fields.pop("fault", [])),
        lists=tuple(fields.pop("lists", ())),
        phases=tuple(Phase(**each) for each in fields.pop("phase", [])),
        notes=tuple(fields.pop("notes", ())),
        **fields,
    )


def _repos(fields: dict[str, Any], lists: dict[str, list[str]]) -> tuple[str, ...]:
    """The repos that are listed, or those that a pattern makes with each of its values."""
    if "pattern" not in fields:
        return tuple(fields.pop("repos"))
    pattern, values = fields.pop("pattern"), fields.pop("values")
    return tuple(pattern.replace("*", value) for value in (lists[values] if isinstance(values, str) else values))


def _stages(fields: dict[str, Any]) -> tuple[TrainingStage, ...]:
    """Stages from the tables `batch`, `start`, `steps` and `seed`, each keyed by the stage's number."""
    batches = fields.pop("batch", {})
    others = {name: fields.pop(name, {}) for name in ("start", "steps", "seed")}
    if stray := sorted({number for table in others.values() for number in table} - set(batches)):
        raise ValueError(f"{fields['title']}: stages without a batch: {', '.join(stray)}")
    return tuple(
        TrainingStage(int(number), *batch, **{name: table.get(number) for name, table in others.items()})
        for number, batch in batches.items()
    )


def _fault(fields: dict[str, Any], repos: tuple[str, ...]) -> Fault:
    return Fault(revisions=tuple(fields.pop("revisions")), **_listed(fields, repos))


def _listed(fields: dict[str, Any], repos: tuple[str, ...]) -> dict[str, Any]:
    return {**fields, "repos": tuple(fields.get("repos", repos))}
