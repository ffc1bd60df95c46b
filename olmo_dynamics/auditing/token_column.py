"""Checks of the token column in an official list, against the steps and the batch.

Within a stage every row must have `begin + step x tokens per step`. A stage begins where the one before ended: at the known
step from which it started, else at the list's own last row. A row of averaged ingredients may count the tokens of one
ingredient or of all.

    >>> from olmo_dynamics.checkpoints import known_run
    >>> run, begin = known_run("allenai/OLMo-2-1124-7B"), "https://a.example/step"
    >>> rows = (ListedRow(2, 1000, f"{begin}1000/", stage=1, tokens=4_194_304_000),
    ...         ListedRow(3, 2000, f"{begin}2000/", stage=1, tokens=8_388_608_000),
    ...         ListedRow(4, 3000, f"{begin}3000/", stage=1, tokens=8_388_608_000))
    >>> [finding.found for finding in find_token_faults(OfficialList("a.csv", rows), run)]
    ['8388608000 tokens in line 4']
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from olmo_dynamics.auditing.findings import Finding, Severity
from olmo_dynamics.checkpoints import KnownRun
from olmo_dynamics.checkpoints.catalog.known_runs import TrainingStage
from olmo_dynamics.checkpoints.catalog.official_lists import ListedRow, OfficialList
from olmo_dynamics.errors import counted


def find_token_faults(listed: OfficialList, run: KnownRun) -> list[Finding]:
    """Contradictions in the token column, stage by stage."""
    stages: dict[int, list[ListedRow]] = defaultdict(list)
    for row in listed.rows:
        if row.tokens is not None and row.stage is not None:
            stages[row.stage].append(row)
    found = []
    for number, rows in sorted(stages.items()):
        stage = run.stage(number)
        if stage is not None:
            begin = _begin(rows, stage)
            found += _single_rows(listed, rows, stage, begin)
            found += _late(listed, stage, begin, _expected_begin(stage, stages, run))
            found += _merged_rows(listed, rows, stage, begin)
    return found


def _begin(rows: Sequence[ListedRow], stage: TrainingStage) -> int:
    """The tokens at step 0 of a stage, as most of its rows imply."""
    begins = Counter((row.tokens or 0) - row.step * stage.tokens_per_step for row in rows if not row.merged)
    return begins.most_common(1)[0][0] if begins else 0


def _expected_begin(stage: TrainingStage, stages: Mapping[int, Sequence[ListedRow]], run: KnownRun) -> int | None:
    """The tokens at which the stage should begin, None if they are not known."""
    if stage.number <= 1:
        return 0
    before = stages.get(stage.number - 1, ())
    parent = run.stage(stage.number - 1)
    if stage.number == 2 and parent is not None and stage.start is not None:
        return stage.start * parent.tokens_per_step
    merged = [row.tokens for row in before if row.merged and row.tokens is not None]
    return max(merged or [row.tokens for row in before if row.tokens is not None], default=None)


def _single_rows(listed: OfficialList, rows: Sequence[ListedRow], stage: TrainingStage, begin: int) -> list[Finding]:
    """Rows whose tokens are not on the line of their stage."""
    return [
        _finding(listed, row.name, f"{begin + row.step * stage.tokens_per_step} tokens, in line with the stage's other rows",
                 f"{row.tokens} tokens in line {row.line}")
        for row in rows
        if not row.merged and row.tokens != begin + row.step * stage.tokens_per_step
    ]  # fmt: skip


def _late(listed: OfficialList, stage: TrainingStage, begin: int, expected: int | None) -> list[Finding]:
    """A stage whose column does not begin where the stage before ended."""
    if expected is None or begin == expected:
        return []
    steps, rest = divmod(abs(begin - expected), stage.tokens_per_step)
    size = counted(steps, "step") if not rest else f"{abs(begin - expected)} tokens"
    found = f"the column of stage {stage.number} is {size} {'late' if begin < expected else 'ahead'}"
    if begin > expected and stage.start is not None and stage.number == 2:
        found += f": it continues from step {_parent_step(listed, begin)} of stage 1, though the stage started at {stage.start}"
    return [_finding(listed, f"stage{stage.number}", f"{expected} tokens at its step 0", found)]


def _parent_step(listed: OfficialList, tokens: int) -> int:
    """The step of stage 1 that has that many tokens, by the list's own batch."""
    first = [row for row in listed.rows if row.stage == 1 and row.step and row.tokens]
    return tokens * first[-1].step // (first[-1].tokens or 1)


def _merged_rows(listed: OfficialList, rows: Sequence[ListedRow], stage: TrainingStage, begin: int) -> list[Finding]:
    found = []
    for row in rows:
        if not row.merged or row.tokens is None:
            continue
        alone = row.step * stage.tokens_per_step
        parts = (row.ingredient or "").count("+") + 1
        if row.tokens - begin not in (alone, parts * alone):
            off = (begin + parts * alone - row.tokens) // stage.tokens_per_step
            found.append(_finding(listed, row.name, f"{begin + alone} or {begin + parts * alone} tokens",
                                  f"{row.tokens} tokens, {off} steps fewer than all its ingredients"))  # fmt: skip
    return found


def _finding(listed: OfficialList, name: str, expected: str, found: str) -> Finding:
    return Finding("list", Severity.DOUBTFUL, (name,), expected, found, place=listed.name)
