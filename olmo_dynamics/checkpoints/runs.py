"""What is publicly known of the OLMo runs: batch sizes, what `main` is, which published revisions are at fault.

The facts lie in `runs.toml` beside this module, one entry for the repos that share a training run.

    >>> run = known_run("allenai/OLMo-2-0425-1B")
    >>> run.tokens_at(parse_revision("stage1-step10000-tokens21B"))
    20971520000

Sources: the configs and launch scripts in allenai/OLMo and allenai/OLMo-core, the lists of checkpoints there, the model
cards, and the issues and discussions each fault names.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from olmo_dynamics.names import Revision

WITHOUT_STAGE = 0
"""The stage of a run whose revision names carry none."""

FAULT_KINDS = ("duplicate", "missing", "rewritten", "label", "name")
"""Identical bytes under several names, a gap, weights replaced after publication, a token label that breaks the repo's
own rule, and a name that is unlike the others."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of training and its batch: sequences and positions of one optimiser step."""

    number: int
    sequences: int
    positions: int

    def __post_init__(self) -> None:
        if self.number < 0 or self.sequences < 1 or self.positions < 1:
            raise ValueError(f"a stage needs a number >= 0 and a batch of at least 1x1; got {self}")

    @property
    def tokens_per_step(self) -> int:
        """Tokens one optimiser step reads."""
        return self.sequences * self.positions


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with published revisions: which, in which of the run's repos, what, and who reported it.

    `revisions` holds terms of the selection language (exact names, globs, `step200000..251000`); for the kind `missing`
    they name what is not there.
    """

    kind: str
    what: str
    revisions: tuple[str, ...]
    repos: tuple[str, ...]
    reference: str = ""

    def __post_init__(self) -> None:
        if self.kind not in FAULT_KINDS:
            raise ValueError(f"a fault's kind is one of {', '.join(FAULT_KINDS)}; got {self.kind!r}")
        if not (self.what and self.revisions and self.repos):
            raise ValueError(f"a fault says what is wrong with which revisions of which repos; got {self}")


@dataclass(frozen=True, slots=True)
class KnownRun:
    """One published training run: its repos, its batch by stage, its tokenizer, what `main` is, what is at fault."""

    title: str
    repos: tuple[str, ...]
    model_type: str
    parameters: int
    tokenizer: str
    tokenizer_size: int
    stages: tuple[Stage, ...] = ()
    main: str = ""
    main_revision: str = ""  # the other name of the weights in `main`, where it has one
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        if not self.title or not self.repos or any(repo.count("/") != 1 for repo in self.repos):
            raise ValueError(f"a run needs a title and repos such as org/name; got {self.title!r}, {self.repos}")
        if min(self.parameters, self.tokenizer_size) < 1:
            raise ValueError(f"{self.title}: parameters and tokenizer_size must be positive")
        if len({stage.number for stage in self.stages}) != len(self.stages):
            raise ValueError(f"{self.title}: a stage is declared twice")
        if stray := {repo for fault in self.faults for repo in fault.repos} - set(self.repos):
            raise ValueError(f"{self.title}: faults of repos that are not its own: {sorted(stray)}")

    def tokens_at(self, revision: Revision) -> int | None:
        """Tokens seen up to a revision: step x tokens per step; from stage 2 on, tokens seen within that stage.

        None where the step does not tell: no step, a stage whose batch is not known, merged ingredients (`1+2` is an
        average of two runs), and side branches (any suffix), whose recipe is their own.
        """
        if revision.step is None or revision.suffix or "+" in (revision.ingredient or ""):
            return None
        stage = self.stage(revision.stage)
        return revision.step * stage.tokens_per_step if stage else None

    def stage(self, number: int | None) -> Stage | None:
        """The stage of that number (None: names without a stage), or None if its batch is not known."""
        wanted = WITHOUT_STAGE if number is None else number
        return next((stage for stage in self.stages if stage.number == wanted), None)


def known_run(source: str) -> KnownRun | None:
    """The run published under a hub repo id, in any case (`allenai/Olmo-2-0425-1b`), or None."""
    wanted = source.casefold()
    return next((run for run in known_runs() if wanted in (repo.casefold() for repo in run.repos)), None)


@cache
def known_runs() -> tuple[KnownRun, ...]:
    """Every run we know of, in the file's order.

    Raises ValueError if `runs.toml` contradicts itself.
    """
    runs = parse_runs(files(__package__).joinpath("runs.toml").read_text(encoding="utf-8"))
    repos = [repo.casefold() for run in runs for repo in run.repos]
    if twice := sorted({repo for repo in repos if repos.count(repo) > 1}):
        raise ValueError(f"repos that belong to two runs: {', '.join(twice)}")
    return runs


def parse_runs(text: str) -> tuple[KnownRun, ...]:
    """The runs that a TOML text declares; ValueError or TypeError if a field is missing, unknown or contradictory."""
    return tuple(_run(fields) for fields in tomllib.loads(text)["run"])


def _run(fields: dict[str, Any]) -> KnownRun:
    repos = tuple(fields.pop("repos"))
    stages = tuple(Stage(int(number), *batch) for number, batch in fields.pop("batch", {}).items())
    faults = tuple(_fault(fault, repos) for fault in fields.pop("fault", []))
    return KnownRun(repos=repos, stages=stages, faults=faults, **fields)


def _fault(fields: dict[str, Any], repos: tuple[str, ...]) -> Fault:
    return Fault(
        revisions=tuple(fields.pop("revisions")),
        repos=tuple(fields.pop("repos", repos)),
        **fields,
    )
