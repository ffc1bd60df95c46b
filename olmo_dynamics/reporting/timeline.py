"""The head of a report: sentences about the run and the measurement, and the timeline of its training.

>>> run_sentences(Drawn(open_store("olmo2-1b.zarr")))[0]  # doctest: +SKIP
'38 revisions of allenai/OLMo-2-0425-1B (olmo2), in 2 stages, step 0 to 1,907,359 …'
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import polars as pl

from olmo_dynamics.errors import OlmoDynamicsError, counted
from olmo_dynamics.frames import JoinedStore, RecordedStore, per_revision
from olmo_dynamics.frames.curves import METRICS_FILE, metrics
from olmo_dynamics.frames.lineage import run_folder
from olmo_dynamics.frames.weights.predictions import rates_of
from olmo_dynamics.plots import AnyChart
from olmo_dynamics.plots.lines import LINE, POSITIONS, time_column, with_line
from olmo_dynamics.plots.pages.timeline_chart import timeline_chart
from olmo_dynamics.reporting.drawing import Drawn

_POINTS = 400  # of a curve of learning rates


def run_sentences(drawn: Drawn, origin: str = "") -> list[str]:
    """The run, its revisions, its origin if this package knows it, and what was measured on which probe."""
    facts, store = drawn.chosen, drawn.store
    runs = len(store.runs) if isinstance(store, JoinedStore) else 1
    of = f"{counted(facts.height, 'revision')} of {source_name(store)} ({drawn.attributes['model_type']})"
    stages = facts["stage"].drop_nulls().n_unique() if "stage" in facts.columns else 0
    parts = [of if runs == 1 else f"{of}: {counted(runs, 'run')}"]
    parts += [f"{stages} stages"] if stages > 1 else []
    named = with_line(facts)
    through = time_column(named, "step")
    steps, tokens = facts[through].drop_nulls(), facts[time_column(named, "tokens")].drop_nulls()
    if len(steps):
        last = f" ({_tokens(int(tokens.to_numpy().max()))})" if len(tokens) and tokens.to_numpy().max() else ""
        low, high = int(steps.to_numpy().min()), int(steps.to_numpy().max())
        parts.append((f"steps {low:,} to {high:,}" if low < high else f"step {low:,}") + last)
        parts += ["counted through all stages"] if through in POSITIONS.values() else []
    probe = drawn.attributes.get("probe") or {}
    groups = ", ".join(name.replace("_", " ") for name in drawn.groups)
    on = f" on a probe of {probe['tokens']:,} tokens in {counted(len(probe['domains']), 'domain')}" if probe else ""
    return [f"{', '.join(parts)}{'; ' + origin if origin else ''}.", f"Measured{on}: {groups}."]


def source_name(store: RecordedStore) -> str:
    """The repo of a store's run, or of a folder on this machine its last two names."""
    source = str(store.attributes["source"])
    return "/".join(Path(source).parts[-2:]) if Path(source).is_absolute() else source


def _tokens(count: int) -> str:
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if count >= size:
            return f"{count / size:.3g} {letter} tokens"
    return f"{count:,} tokens"


def timeline(drawn: Drawn) -> AnyChart | None:
    """Stages, learning rate, batch and measured revisions; None for a store whose revisions have no steps."""
    if not drawn.over_time:
        return None
    marks = with_line(drawn.chosen.filter(pl.col("step").is_not_null()))
    x = time_column(marks, drawn.choice.x)
    marks = marks.filter(pl.col(x).is_not_null())
    names = [
        name
        for name in ("revision", LINE, "step", "tokens", "position_step", "position_tokens")
        if name in marks.columns
    ]
    kept = marks.select(names)
    if marks[x].n_unique() < 2:
        return None
    rates = None
    with suppress(OlmoDynamicsError, OSError, KeyError):
        rates = _rates(drawn, marks, x)
    return timeline_chart(kept, rates=rates, batches=_batches(marks, x), x=x, style=drawn.style)


def _batches(marks: pl.DataFrame, x: str) -> pl.DataFrame:
    """Tokens per step between neighbouring revisions of a line, at both ends of each interval."""
    steps, tokens = pl.col("step"), pl.col("tokens")
    known = marks.filter(tokens.is_not_null()).sort(LINE, "step", maintain_order=True)
    apart = known.with_columns(((tokens - tokens.shift(1)) / (steps - steps.shift(1))).over(LINE).alias("batch"))
    held = apart.with_columns(pl.col("batch").backward_fill().over(LINE).round_sig_figs(3))
    times = [name for name in ("step", "tokens", *POSITIONS.values()) if name in held.columns]
    return held.filter(pl.col("batch").is_finite()).select(*times, LINE, "batch")


def _rates(drawn: Drawn, marks: pl.DataFrame, x: str) -> pl.DataFrame | None:
    """The learning rate along the training: of a published schedule or the run's metrics, or as the optimiser's state has it."""
    if isinstance(drawn.store, JoinedStore):
        return None
    found = [
        rows
        for line in marks.partition_by(LINE, maintain_order=True)
        if (rows := _line_rates(drawn, line, x)) is not None
    ]
    if found:
        return pl.concat(found)
    if "optimizer" not in drawn.groups:
        return None
    held = with_line(per_revision(drawn.store, "optimizer")).filter(pl.col("learning_rate").is_finite())
    times = [name for name in ("step", "tokens", *POSITIONS.values()) if name in held.columns]
    return held.select(*times, LINE, "learning_rate") if x in times and not held.is_empty() else None


def _line_rates(drawn: Drawn, line: pl.DataFrame, x: str) -> pl.DataFrame | None:
    """The rates of one line at evenly spaced steps, moved to where its stage begins."""
    known = rates_of(drawn.store, line["stage"][0])
    if known is None:
        return _logged_rates(drawn, line, x)
    steps = known.first + 1 + np.arange(len(known.rates))
    measured = line["step"].to_numpy()
    inside = (steps >= measured.min()) & (steps <= measured.max())
    if not inside.any():
        return None
    places = np.flatnonzero(inside)
    places = places[np.unique(np.linspace(0, len(places) - 1, _POINTS).round().astype(int))]
    return _placed(line, steps[places], known.rates[places], x)


def _logged_rates(drawn: Drawn, line: pl.DataFrame, x: str) -> pl.DataFrame | None:
    folder = run_folder(drawn.store)
    if folder is None or not (folder / METRICS_FILE).is_file():
        return None
    logged = metrics(folder).drop_nulls(["step", "learning_rate"]).sort("step")
    if logged.is_empty():
        return None
    kept = np.unique(np.linspace(0, logged.height - 1, _POINTS).round().astype(int))
    return _placed(line, logged["step"].to_numpy()[kept], logged["learning_rate"].to_numpy()[kept], x)


def _placed(line: pl.DataFrame, steps: np.ndarray, rates: np.ndarray, x: str) -> pl.DataFrame:
    """Rates at their place on the time axis, which is that of the line's revisions."""
    known = line.filter(pl.col(x).is_not_null()).sort("step")
    columns = {"step": steps.astype(np.int64)}
    for name in ("tokens", *POSITIONS.values()):
        if name in known.columns and known[name].is_not_null().all():
            across = np.interp(steps, known["step"].to_numpy(), known[name].to_numpy().astype(np.float64))
            columns[name] = across.round().astype(np.int64)
    named = pl.DataFrame({**columns, LINE: [line[LINE][0]] * len(steps), "learning_rate": rates})
    return named.with_columns(pl.col("learning_rate").round_sig_figs(4))
