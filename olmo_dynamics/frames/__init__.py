"""Results as tables: polars frames made of a store, and a run's revisions.

>>> from olmo_dynamics.frames import open_store
>>> open_store("olmo2-1b.zarr").table("parameters")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from olmo_dynamics.errors import unknown_name
from olmo_dynamics.frames.averages import macro_average
from olmo_dynamics.frames.batch_sizes.critical_batch import critical_batch_sizes
from olmo_dynamics.frames.curves import metrics
from olmo_dynamics.frames.experts import (
    Choices,
    churn,
    co_activation,
    domain_specialisation,
    expert_balance,
    expert_counts,
    expert_tokens,
    most_together,
    pool_experts,
    saturation,
    token_counts,
    vocabulary_specialisation,
)
from olmo_dynamics.frames.inside.memorised import memorisation, memorisation_test
from olmo_dynamics.frames.inside.per_revision import per_revision
from olmo_dynamics.frames.inside.row_gradients import row_gradients
from olmo_dynamics.frames.inside.token_classes import token_classes
from olmo_dynamics.frames.inside.uniform_attention import uniform_attention, uniform_prefix_matching
from olmo_dynamics.frames.joining.joined_store import JoinedStore
from olmo_dynamics.frames.joining.open_stores import join, open_store
from olmo_dynamics.frames.landscape.interpolated import barriers
from olmo_dynamics.frames.lineage import Forest, forest
from olmo_dynamics.frames.logs.training_logs import TrainingLogs, join_logs, read_logs
from olmo_dynamics.frames.outlier_births import births
from olmo_dynamics.frames.recorded import RecordedStore, export
from olmo_dynamics.frames.rules import Findings, StoreFinding, findings
from olmo_dynamics.frames.scores.score_matching import JoinedScores, join_scores
from olmo_dynamics.frames.scores.score_relations import RankCorrelation, beside_score, rank_correlation
from olmo_dynamics.frames.seeds.seed_comparison import SeedComparison, compare
from olmo_dynamics.frames.similarity_pairs import similarity
from olmo_dynamics.frames.tables import table, table_names
from olmo_dynamics.frames.thinning import thin
from olmo_dynamics.frames.weights.distances import between, displacement
from olmo_dynamics.frames.weights.first_moment import moment_cosine
from olmo_dynamics.frames.weights.predictions import embedding_decay, rotation
from olmo_dynamics.frames.weights.weight_pairs import pairwise
from olmo_dynamics.frames.weights.weight_path import trajectory

__all__ = [
    "Choices",
    "Findings",
    "Forest",
    "JoinedScores",
    "JoinedStore",
    "RankCorrelation",
    "RecordedStore",
    "SeedComparison",
    "StoreFinding",
    "TrainingLogs",
    "barriers",
    "beside_score",
    "between",
    "births",
    "churn",
    "co_activation",
    "compare",
    "critical_batch_sizes",
    "displacement",
    "domain_specialisation",
    "embedding_decay",
    "expert_balance",
    "expert_counts",
    "expert_tokens",
    "export",
    "findings",
    "forest",
    "join",
    "join_logs",
    "join_scores",
    "macro_average",
    "memorisation",
    "memorisation_test",
    "metrics",
    "moment_cosine",
    "most_together",
    "open_store",
    "pairwise",
    "per_revision",
    "pool_experts",
    "rank_correlation",
    "read_logs",
    "rotation",
    "row_gradients",
    "saturation",
    "similarity",
    "table",
    "table_names",
    "thin",
    "token_classes",
    "token_counts",
    "trajectory",
    "uniform_attention",
    "uniform_prefix_matching",
    "vocabulary_specialisation",
]


def __dir__() -> list[str]:
    return sorted(__all__)


if not TYPE_CHECKING:  # a type checker would take any name for known

    def __getattr__(name):
        raise unknown_name(__name__, name, __all__)
