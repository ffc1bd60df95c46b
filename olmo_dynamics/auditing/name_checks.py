"""Checks of revision names: steps off the cadence, labels that the step contradicts, names unlike the others.

>>> from olmo_dynamics.checkpoints import known_run, parse_revision
>>> repo, revision = "allenai/OLMo-2-1124-7B", parse_revision("stage2-ingredient1-step11931-tokens50B")
>>> [finding.line for finding in find_label_faults(Evidence(repo, (revision,), known_run(repo)))]
["label: 50B (expected 51B, by the repo's rule (ceil))"]
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from olmo_dynamics.auditing.cadence import Cadence, find_cadence
from olmo_dynamics.auditing.evidence import Evidence
from olmo_dynamics.auditing.findings import Finding, Severity, some
from olmo_dynamics.checkpoints import KnownRun
from olmo_dynamics.errors import counted
from olmo_dynamics.names import Revision

MANY = 5
"""Fewest labels from which tokens per step are estimated if the run is not known."""

Part = tuple[int | None, str | None, str | None, str | None]
"""Stage, ingredient, seed and learning rate."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_LABEL = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMBT]?)", re.IGNORECASE)


def find_cadence_faults(evidence: Evidence) -> list[Finding]:
    """Steps missing between two saved ones, and extra steps, for each stage, ingredient and seed."""
    found = []
    for part, members in parts(evidence.revisions).items():
        steps = {revision.step: revision.name for revision in members if revision.step is not None}
        found += cadence_findings(find_cadence(list(steps)), steps, part_name(part))
    return found


def cadence_findings(cadence: Cadence, names: Mapping[int, str], part: str, place: str = "") -> list[Finding]:
    """Findings of one part's cadence; `names` maps each saved step to its name."""
    found, expected = [], f"{cadence.words}{f' in {part}' if part else ''}"
    if cadence.missing:
        found.append(Finding("cadence", Severity.DOUBTFUL, (), expected, f"no {_ranges(cadence)}", place))
    if cadence.extra:
        extra = tuple(names[step] for step in cadence.extra)
        found.append(
            Finding("cadence", Severity.NOTE, extra, expected, f"{counted(len(extra), 'step')} off the cadence", place)
        )
    return found


def parts(revisions: Iterable[Revision]) -> dict[Part, list[Revision]]:
    """Revisions with a step by stage, ingredient, seed and learning rate; side branches are left out."""
    found: dict[Part, list[Revision]] = defaultdict(list)
    for revision in revisions:
        if revision.step is not None and not revision.branch:
            found[revision.stage, revision.ingredient, revision.seed, revision.prefix].append(revision)
    return found


def part_name(part: Part) -> str:
    """`stage 2, ingredient 3`."""
    stage, ingredient, seed, prefix = part
    named = {"stage": stage, "ingredient": ingredient, "seed": seed}
    return ", ".join([*(f"{word} {value}" for word, value in named.items() if value), *([prefix] if prefix else [])])


def _ranges(cadence: Cadence) -> str:
    """Missing steps as `step191000..198000`, the longest ranges first."""
    spacing = max(stretch.spacing for stretch in cadence.stretches)
    ranges: list[list[int]] = []
    for step in cadence.missing:
        if ranges and step - ranges[-1][-1] <= spacing:
            ranges[-1].append(step)
        else:
            ranges.append([step])
    longest = sorted(ranges, key=lambda each: (-len(each), each[0]))
    words = [f"step{each[0]}" + (f"..{each[-1]}" if len(each) > 1 else "") for each in longest]
    return f"{some(words, 8)}: {len(cadence.missing)} steps" if len(cadence.missing) > 1 else words[0]


def find_label_faults(evidence: Evidence) -> list[Finding]:
    """Token labels that the step contradicts: by the repo's own rule if it is known, else by the other labels."""
    found = []
    for members in parts(evidence.revisions).values():
        labelled = [(revision, label) for revision in members if (label := label_tokens(revision)) is not None]
        rule = evidence.run.label_rule(evidence.source) if evidence.run else None
        if evidence.run and rule:
            found += [finding for revision, label in labelled
                      if (finding := _breaks_rule(revision, label, evidence.run, evidence.source))]  # fmt: skip
        else:
            found += _unlike_others(labelled)
    return found


def label_tokens(revision: Revision) -> int | None:
    """The tokens that a label stands for, rounded as the label is; None if there is no label."""
    found = _LABEL.fullmatch(revision.token_label or "")
    return int(float(found[1]) * _UNITS[found[2].upper()]) if found else None


def _breaks_rule(revision: Revision, label: int, run: KnownRun, repo: str) -> Finding | None:
    rule, stage = run.label_rule(repo), run.stage(revision.stage)
    if rule is None or stage is None or revision.step is None:
        return None
    expected = rule.billions(revision.step, stage.tokens_per_step)
    if label == expected * 10**9:
        return None
    close = abs(label - expected * 10**9) <= 10**9  # another rounding, not another step
    severity = Severity.NOTE if close else Severity.DOUBTFUL
    return Finding("label", severity, (revision.name,), f"{expected}B, by the repo's rule ({rule.rounding})",
                   f"{revision.token_label}")  # fmt: skip


def _unlike_others(labelled: Sequence[tuple[Revision, int]]) -> list[Finding]:
    """Labels far from tokens per step (the median over all labels of this part) times the step."""
    rates = [label / revision.step for revision, label in labelled if revision.step and label]
    if len(rates) < MANY:
        return []
    rate = median(rates)
    found = []
    for revision, label in labelled:
        unit = _UNITS[(revision.token_label or "")[-1:].upper().strip("0123456789")]
        tokens = rate * (revision.step or 0)
        if abs(label - tokens) > 1.5 * unit + 0.02 * tokens:
            expected = f"about {tokens / unit:.0f} of the label's unit, by the other labels"
            found.append(Finding("label", Severity.DOUBTFUL, (revision.name,), expected, f"{revision.token_label}"))
    return found


def find_name_faults(evidence: Evidence) -> list[Finding]:
    """Names without a stage if most have one, several names of one step, names without a step, and several seeds."""
    stepped = [revision for revision in evidence.revisions if revision.step is not None]
    staged = [revision for revision in stepped if revision.stage is not None]
    bare = tuple(revision.name for revision in stepped if revision.stage is None)
    other = tuple(revision.name for revision in evidence.revisions if revision.step is None and revision.name != "main")
    found = _same_step(stepped, unstaged_is_first=len(staged) > len(bare))
    if bare and len(staged) > len(bare):
        found.append(
            Finding("name", Severity.DOUBTFUL, bare, f"a stage, as in {staged[0].name}", "names without a stage")
        )
    if other and stepped:
        found.append(Finding("name", Severity.NOTE, other, "", "names without a step"))
    return found + _seeds(stepped)


def _seeds(stepped: Sequence[Revision]) -> list[Finding]:
    """A note if names tell several seeds: runs of their own, which share steps."""
    first: dict[str, str] = {}
    for revision in stepped:
        first.setdefault(revision.seed or "none", revision.name)
    if len(first) < 2:
        return []
    found = f"{len(first)} seeds ({some(list(first), 5)}), each a line of training of its own"
    return [Finding("name", Severity.NOTE, tuple(first.values()), "", found)]


def _same_step(stepped: Sequence[Revision], *, unstaged_is_first: bool) -> list[Finding]:
    groups: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for revision in stepped:
        stage = revision.stage or (1 if unstaged_is_first else None)
        part = stage, revision.ingredient, revision.seed, revision.prefix, revision.branch
        groups[*part, revision.step].append(revision.name)
    return [
        Finding("name", Severity.DOUBTFUL, tuple(names), "one name per step", "several names of one step")
        for names in groups.values()
        if len(names) > 1
    ]
