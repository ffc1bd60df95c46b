"""Logs of a training run as a table on the axis of our own tables, and joined to what a store holds.

>>> logs = od.read_logs("metrics.jsonl", run="allenai/OLMo-2-0425-1B", stage=1)  # doctest: +SKIP
>>> logs.table.select("step", "tokens", "loss", "gradient_norm")                 # doctest: +SKIP
>>> od.join_logs(store, logs).select("revision", "step", "learning_rate")        # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from olmo_dynamics.checkpoints.catalog.known_runs import known_run
from olmo_dynamics.checkpoints.catalog.positions import with_positions
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.logs.log_files import read_log
from olmo_dynamics.frames.logs.log_names import plain_names, unit_of
from olmo_dynamics.frames.recorded import RecordedStore
from olmo_dynamics.names import Revision

_KEY = ["run", "step"]
_POSITIONS = ("position_step", "position_tokens")


@dataclass(frozen=True)
class TrainingLogs:
    """The logs of one or several runs.

    `table` has one row per run and step: `run`, `step`, `tokens`, `position_step`, `position_tokens` (null where unknown), then
    one column per metric, under a plain name where it has one (`loss`, `gradient_norm`, `learning_rate`,
    `tokens_per_second_per_device`, …) and under its own elsewhere. `units` gives each metric's unit, `published` the names that
    it had in the files. `conflicts` lists each run, step and metric with several different values, and these values; such a cell
    of the table is null.
    """

    table: pl.DataFrame
    units: dict[str, str]
    published: dict[str, tuple[str, ...]]
    conflicts: pl.DataFrame


def read_logs(*paths: str | Path, run: str | None = None, stage: int | None = None) -> TrainingLogs:
    """Read logs that trainers wrote: files of one run, or a file that names its runs.

    The forms are CSV exports of Weights & Biases (`_step`, or `Step` with columns `RUN - METRIC`) and other tables with a column
    `step`, metrics of OLMo and OLMo-core as JSON or JSON lines, transformers' `trainer_state.json`, and console logs of OLMo,
    OLMo-core and Open Instruct (OLMoE).

    Args:
        paths: the files.
        run: the name of the run in files that name none. If it is a known public run (`olmo-dyn runs`), tokens and positions
            are computed from its batch; otherwise tokens are those logged.
        stage: the stage of training that the steps count in.

    Raises:
        OptionError: no file is given, or one cannot be read.
    """
    if not paths:
        raise OptionError("read_logs() needs at least one file (got none)")
    parts = [_plain(read_log(path)) for path in paths]
    long = pl.concat(parts).with_columns(pl.col("run").fill_null(pl.lit(run, pl.String)))
    columns = long["metric"].unique(maintain_order=True).to_list()
    values = long.group_by(*_KEY, "metric", maintain_order=True).agg(values=pl.col("value").unique().sort())
    alone = pl.col("values").list.len() == 1
    single = values.filter(alone).with_columns(value=pl.col("values").list.first()).drop("values")
    wide = single.pivot("metric", index=_KEY, values="value")
    every = long.select(_KEY).unique(maintain_order=True).join(wide, on=_KEY, how="left", nulls_equal=True)
    metrics = [name for name in columns if name != "tokens"]
    named = long.group_by("metric").agg(pl.col("published").unique().sort())
    published = {name: tuple(found) for name, found in named.iter_rows()}
    return TrainingLogs(
        _placed(every, metrics, stage).sort(_KEY),
        {name: " or ".join(dict.fromkeys(map(unit_of, published[name]))) for name in metrics},
        {name: published[name] for name in metrics},
        values.filter(~alone),
    )


def _plain(long: pl.DataFrame) -> pl.DataFrame:
    """The numbers of one file under plain names, beside the published ones."""
    names = plain_names(long["metric"].unique().to_list())
    taken = set(names.values())
    own = {name: f"{name} (as published)" for name in long["metric"].unique() if name in taken and name not in names}
    return long.with_columns(published="metric", metric=pl.col("metric").replace(own | names))


def _placed(wide: pl.DataFrame, metrics: list[str], stage: int | None) -> pl.DataFrame:
    """The table with tokens and positions: those of the run's facts if it is known, else the tokens that are logged."""
    logged = [pl.col("tokens").cast(pl.Int64)] if "tokens" in wide.columns else [pl.lit(None, pl.Int64).alias("tokens")]
    unknown = [pl.lit(None, pl.Int64).alias(name) for name in _POSITIONS]
    table = wide.select(
        *_KEY, *logged, *unknown, *(pl.col(name) if name in wide.columns else _empty(name) for name in metrics)
    )
    parts = []
    for part in table.partition_by("run", maintain_order=True):
        known = known_run(part["run"][0] or "")
        parts.append(part if known is None else _with_facts(part, stage))
    return pl.concat(parts)


def _with_facts(part: pl.DataFrame, stage: int | None) -> pl.DataFrame:
    """The rows of a known run with tokens and positions of its batch, for the steps of one stage."""
    facts = known_run(part["run"][0])
    assert facts is not None
    steps = [Revision(str(step), stage=stage, step=step) for step in part["step"]]
    counted = [Revision(each.name, stage=stage, step=each.step, tokens=facts.tokens_at(each)) for each in steps]
    found = with_positions(counted, facts, whole=False)
    columns = {name: [getattr(each, name) for each in found] for name in ("tokens", *_POSITIONS)}
    computed = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.Int64))
    return part.with_columns(
        pl.coalesce(computed["tokens"], "tokens").alias("tokens"), *(computed[name] for name in _POSITIONS)
    )


def _empty(name: str) -> pl.Expr:
    return pl.lit(None, pl.Float64).alias(name)


def join_logs(store: RecordedStore, logs: TrainingLogs) -> pl.DataFrame:
    """The revisions of a store, each with the metrics logged at its step.

    A row of the logs belongs to the revision with its position in the whole training, where both are known, else to that with
    its step; a step that several revisions of the store have belongs to none. Logs that name a run belong to the store whose
    source is that run, or ends in it (`pythia-1b`).

    Returns:
        One row per revision: the columns of the table `revisions` and one per metric, null where nothing is logged.

    Raises:
        OptionError: the logs are of other runs, or of several.
    """
    source = str(store.attributes["source"])
    runs = logs.table["run"].unique().to_list()
    mine = [run for run in runs if run is None or run in (source, source.rstrip("/").rsplit("/", 1)[-1])]
    if len(mine) != 1:
        given = ", ".join(str(run) for run in runs if run) or "several"
        raise OptionError(
            f"the logs must be of one run, that of {source} (got {given}); give read_logs() run={source!r}"
        )
    rows = logs.table.filter(pl.col("run").eq_missing(pl.lit(mine[0], pl.String)))
    revisions = store.table("revisions")
    placed = rows["position_step"].null_count() == 0 and "position_step" in revisions.columns
    key = "position_step" if placed else "step"
    metrics = rows.select(key, *logs.units).unique(key, keep="none")
    alone = revisions.filter(pl.col(key).is_not_null()).filter(pl.col(key).is_unique()).select("revision", key)
    found = alone.join(metrics, on=key).drop(key)
    return revisions.join(found, on="revision", how="left", maintain_order="left")
