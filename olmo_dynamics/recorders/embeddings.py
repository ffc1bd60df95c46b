"""Statistics of embedding rows: of tokens by how often the probe uses them, and of padding.

    >>> raw = np.ones((4, 2), np.float32).reshape(-1).view(np.uint8)
    >>> info = TensorInfo("model.embed_tokens.weight", "F32", (4, 2), "f", 0, 32)
    >>> records = measure_embedding(raw, info, token_counts=np.array([5, 1, 0, 0]), tokenizer_size=3)

Rows fall in three kinds: of ids that the probe uses (split in ten by how often it does), of ids the tokenizer has but the
probe never uses, and padding rows that no id reaches. A padding row gets no gradient, so its norm obeys weight decay alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from olmo_dynamics.names import TensorInfo
from olmo_dynamics.quantities import GROUPS, QUANTILES, find
from olmo_dynamics.quantities.declaration import Reads, Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.kernels.order_statistics import quantiles_of
from olmo_dynamics.recorders.kernels.tensor_stats import TensorStats, measurable, tensor_stats

DECILES = 10


def measure_embedding(
    raw: UInt8[np.ndarray, " bytes"],
    info: TensorInfo,
    *,
    token_counts: Int[np.ndarray, " vocab"] | None,
    tokenizer_size: int,
) -> list[Record]:
    """Every quantity of the group `embeddings` for one [vocab, hidden] tensor; no record if it is empty or holds no floats.

    `token_counts` is how often the probe uses each id; without it, the quantities that need it are NaN.

    Raises:
        CheckpointError: there are more or fewer bytes than the tensor's shape needs.
    """
    if not measurable(info) or len(info.shape) != 2:
        return []
    found = tensor_stats(raw, info, column_sums=True)
    return embedding_records(found, info, token_counts=token_counts, tokenizer_size=tokenizer_size)


def embedding_records(
    found: TensorStats, info: TensorInfo, *, token_counts: Int[np.ndarray, " vocab"] | None, tokenizer_size: int
) -> list[Record]:
    """The records of an embedding whose statistics are known already, with its columns' sums."""
    vocab, hidden = info.shape
    squares = found.axes.row_squares
    known = np.arange(vocab) < tokenizer_size
    row_l2 = np.sqrt(squares)
    with np.errstate(over="ignore", invalid="ignore"):
        values = {
            "row_l2": row_l2.astype(np.float32),
            "row_l2_quantile": quantiles_of(QUANTILES, row_l2),
            "row_rms": _rms(squares, hidden),
            "decile_rms": np.array([_rms(squares[ids], hidden) for ids in _deciles(token_counts)]),
            "unseen_rms": _rms(squares[known & _unseen(token_counts, vocab)], hidden),
            "padding_rms": _rms(squares[~known], hidden),
            "mean_row_l2": np.linalg.norm(found.axes.column_sums / vocab),
            "status": np.uint8(Status.MEASURED if found.finite else Status.NONFINITE),
        }
    at: dict[str, str | int | float] = {"embedding": info.name}
    return [Record(find(f"embeddings/{name}"), np.asarray(value), at) for name, value in values.items()]


class EmbeddingRecorder(Recorder):
    """The group `embeddings`: the input embedding and the head."""

    group = GROUPS["embeddings"]
    reads = Reads.WEIGHTS
    column_sums = True
    needs_probe = True

    def __init__(self) -> None:
        self._records: list[Record] = []

    def selects(self, info: TensorInfo) -> bool:
        """True for tensors with a row for each token id."""
        return info.role in ("embed_tokens", "lm_head") and len(info.shape) == 2

    def labels(self) -> Mapping[str, Sequence[str | int | float]]:
        """Tenths of the token ids that the probe uses."""
        return {"decile": range(1, DECILES + 1)}

    def observe(self, seen: Observation) -> None:
        """Add one embedding."""
        probe, info = self.context.probe, seen.tensor
        assert probe is not None
        assert info is not None
        counts = np.bincount(probe.token_ids[probe.mask], minlength=info.shape[0])
        self._records += embedding_records(seen.stats, info, token_counts=counts, tokenizer_size=probe.tokenizer_size)

    def finish(self) -> list[Record]:
        """The records of both embeddings."""
        return self._records


def _rms(squares: Float[np.ndarray, " rows"], hidden: int) -> float:
    """The RMS of the elements of rows, from their sums of squares; NaN for no rows."""
    return math.sqrt(squares.sum() / (len(squares) * hidden)) if len(squares) else math.nan


def _deciles(counts: Int[np.ndarray, " vocab"] | None) -> list[np.ndarray]:
    """The ids that were seen, rarest first (then by id), in ten groups as equal as possible."""
    if counts is None:
        return [np.empty(0, np.int64)] * DECILES
    rarest_first = np.argsort(counts, kind="stable")
    return np.array_split(rarest_first[counts[rarest_first] > 0], DECILES)


def _unseen(counts: Int[np.ndarray, " vocab"] | None, vocab: int) -> Bool[np.ndarray, " vocab"]:
    return np.zeros(vocab, dtype=bool) if counts is None else counts == 0
