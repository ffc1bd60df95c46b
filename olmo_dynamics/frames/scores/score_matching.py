"""Scores matched to the revisions that they were measured on: by name, then by commit, then by run and step.

    >>> joined = od.join_scores(store, "evals_v1.csv.gz")                                   # doctest: +SKIP
    >>> joined.scores.filter(task="lambada_openai", metric="acc").select("step", "value")   # doctest: +SKIP
    >>> joined.left_out.group_by("reason").len()                                            # doctest: +SKIP

Nothing is guessed: a score without an exact match is left out, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.joining.joined_store import JoinedStore
from olmo_dynamics.frames.recorded import RecordedStore
from olmo_dynamics.frames.scores.score_files import read_scores
from olmo_dynamics.frames.scores.score_tables import plain

_PUBLISHED_AS = {"pythia-1b-bf16": "pythia-1b"}
"""Names in published tables of scores, and the run that they mean."""

_KEY = ("source", "revision", "task", "setting", "metric")
_COMMIT = r"^[0-9a-f]{40}$"


@dataclass(frozen=True)
class JoinedScores:
    """Scores of a store's revisions.

    `scores` has one row per score that was matched, with `source` and the store's `revision` and `step`; `conflict` is true where
    the table holds several values under one source, revision, task, setting and metric. `left_out` has the other rows, with
    `reason`.
    """

    scores: pl.DataFrame
    left_out: pl.DataFrame

    @property
    def conflicts(self) -> pl.DataFrame:
        """The keys with several values, and these values."""
        rows = self.scores.filter("conflict")
        return rows.group_by(_KEY, maintain_order=True).agg(values=pl.col("value").unique().sort())


def join_scores(store: RecordedStore | Iterable[RecordedStore], table: str | Path | pl.DataFrame) -> JoinedScores:
    """Join scores to the revisions of a store, or of several.

    A score belongs to the revision that it names exactly, else to that with its commit, else to the only one with its run and
    step. A run is named by its source or by the last part of it; a table that names no model is that of the store's run.

    Args:
        store: one store, joined stores, or several of different runs.
        table: a file or a folder of scores (results of lm-evaluation-harness 0.3 or 0.4, metrics-all.jsonl of OLMES, an export of
            Weights & Biases, a plain table), or a frame with the columns task, metric, value and others of those returned.

    Returns:
        The scores with their revisions, and those left out with their reasons. Scores of one key with different values are
        marked, not averaged; rows that repeat a score exactly stay.

    Raises:
        OptionError: the table cannot be read, or no store is given.
    """
    stores = [store] if isinstance(store, RecordedStore) else list(store)
    if not stores:
        raise OptionError("join_scores() needs at least one store (got none)")
    held = pl.concat([part for each in stores for part in _revisions(each)])
    scores = plain(table) if isinstance(table, pl.DataFrame) else read_scores(table)
    found = match_scores(scores, held.drop("shown"))
    shown = held.select("source", "revision", "shown")
    named = found.scores.join(shown, on=["source", "revision"], how="left", maintain_order="left")
    return replace(found, scores=named.with_columns(revision="shown").drop("shown"))


def _revisions(store: RecordedStore) -> Iterator[pl.DataFrame]:
    """The revisions of each run by the names that scores give them, and as the store shows them."""
    runs = [(run.store, run.joined) for run in store.runs] if isinstance(store, JoinedStore) else [(store, str)]
    for each, shown in runs:
        source = pl.lit(str(each.attributes["source"])).alias("source")
        rows = each.table("revisions").select(source, "revision", "commit", "step")
        yield rows.with_columns(shown=pl.Series(map(shown, rows["revision"]), dtype=pl.String))


def match_scores(scores: pl.DataFrame, revisions: pl.DataFrame) -> JoinedScores:
    """Match a table of scores to revisions, given as source, revision, commit and step."""
    written = pl.when(pl.col("named").str.contains(_COMMIT)).then("named")
    rows = scores.rename({"revision": "named"}).with_columns(
        source=_source(revisions["source"].unique().to_list()), commit=pl.coalesce("commit", written)
    )
    by_name = revisions.select("source", named="revision", by_name="revision")
    rows = rows.join(by_name, on=["source", "named"], how="left", maintain_order="left")
    for key in ("commit", "step"):
        rows = rows.join(_by(revisions, key), on=["source", key], how="left", maintain_order="left")
    rows = rows.with_columns(_matched().alias("revision")).with_columns(_reason().alias("reason"))
    found = rows.filter(pl.col("reason").is_null()).drop("step", "commit")
    found = found.join(revisions, on=["source", "revision"], how="left", maintain_order="left")
    others = [name for name in scores.columns if name not in ("revision", "step", "commit")]
    several = pl.col("value").n_unique().over(_KEY) > 1
    left_out = rows.filter(pl.col("reason").is_not_null()).drop("revision").rename({"named": "revision"})
    return JoinedScores(
        found.select("source", "revision", "step", *others).with_columns(several.alias("conflict")),
        left_out.select(*scores.columns, "reason"),
    )


def _source(sources: list[str]) -> pl.Expr:
    """The source that a score's model names; a table without models is that of the only source."""
    last = [source.rstrip("/").rsplit("/", 1)[-1] for source in sources]
    names = {name: source for name, source in zip(last, sources, strict=True) if last.count(name) == 1}
    names |= {source: source for source in sources}
    names |= {alias: names[run] for alias, run in _PUBLISHED_AS.items() if run in names and alias not in names}
    named = pl.col("model").replace_strict(names, default=None, return_dtype=pl.String)
    return pl.when(pl.col("model").is_null()).then(pl.lit(sources[0])).otherwise(named) if len(sources) == 1 else named


def _by(revisions: pl.DataFrame, key: str) -> pl.DataFrame:
    """The revision of each commit or step, null if several have it."""
    known = revisions.filter(pl.col(key).is_not_null() & (pl.col(key).cast(pl.String) != ""))
    alone = pl.when(pl.len() == 1).then(pl.col("revision").first())
    return known.group_by("source", key).agg(alone.alias(f"by_{key}"), pl.len().alias(f"of_{key}"))


def _matched() -> pl.Expr:
    """The revision; the step decides only where neither a name nor a commit is given."""
    by_step = pl.when(pl.col("named").is_null() & pl.col("commit").is_null()).then("by_step")
    return pl.coalesce("by_name", "by_commit", by_step)


def _reason() -> pl.Expr:
    """The reason for leaving a score out; null if it is matched."""
    commit, step = pl.col("commit").is_not_null(), pl.col("step").is_not_null() & pl.col("named").is_null()
    return (
        pl.when(pl.col("source").is_null())
        .then(pl.lit("another run"))
        .when(pl.col("setting") == "intervention")
        .then(pl.lit("another model: an intervention"))
        .when(pl.col("revision").is_not_null())
        .then(None)
        .when(commit & (pl.col("of_commit") > 1))
        .then(pl.lit("several revisions have this commit"))
        .when(commit)
        .then(pl.lit("no revision has this commit"))
        .when(step & (pl.col("of_step") > 1))
        .then(pl.lit("several revisions have this step"))
        .when(step)
        .then(pl.lit("no revision has this step"))
        .when(pl.col("named").is_not_null())
        .then(pl.lit("no revision has this name"))
        .otherwise(pl.lit("no revision, commit or step is named"))
    )
