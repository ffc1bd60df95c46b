"""The experts that each token of a probe is sent to, of several revisions: from a store, or from published outputs.

>>> outputs = [{"input_ids": [5, 9], "predicted_token_ids": [9, 7], "exp_ids": [[[0], [2]], [[1], [0]]]}]
>>> found = Choices.of_outputs({"main": outputs}, experts=3)  # two tokens, k = 2, one layer
>>> found.chosen.shape, found.ids("true").tolist()
((1, 1, 2, 2), [[9, -1]])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from olmo_dynamics.checkpoints.catalog.revision_names import parse_revision, sort_key
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.grid import LEADING, Grid
from olmo_dynamics.store import Store

VOCABULARIES = ("input", "predicted", "true")
"""The token ids that choices are counted by: the token read, the most probable next one, and the next one in the text."""

NONE = -1
"""The expert, and the token id, where there is none."""

_TEXT = ("revision", "ingredient", "seed", "line")


@dataclass(frozen=True, eq=False)
class Choices:
    """The chosen experts of each token, the most probable first, and what is known of the tokens.

    Attributes:
        chosen: [revision, layer, token, k]; -1 where nothing was seen.
        leading: the leading columns of a table, one row per revision.
        layers: the number of each layer.
        experts: the number of experts of a layer.
        token_ids: [token], the ids read.
        follows: [token], True where the next token of the row above is the next one in the text.
        domains: [token], the domain of each.
        predicted: [revision, token], the most probable next ids, -1 where unknown; None if they were not recorded.
    """

    chosen: np.ndarray
    leading: pl.DataFrame
    layers: tuple[int, ...]
    experts: int
    token_ids: np.ndarray
    follows: np.ndarray
    domains: np.ndarray
    predicted: np.ndarray | None = None

    @classmethod
    def of(cls, source: Store | Choices) -> Choices:
        """The choices themselves, or those that a store holds.

        Raises:
            OptionError: the store has no group `routing`.
        """
        return source if isinstance(source, Choices) else cls._of_store(source)

    @classmethod
    def of_outputs(
        cls, outputs: Mapping[str, Sequence[Mapping[str, Any]]], *, experts: int, layers: Sequence[int] | None = None
    ) -> Choices:
        """The choices in the lines of `c4_results.jsonl` that the script published with OLMoE writes, by revision's name.

        Each line has `input_ids`, `predicted_token_ids` and `exp_ids` [token][k][layer]. `experts` is their number; `layers`
        are those of the last axis, by default from 0.

        Raises:
            OptionError: there is no revision, or the revisions read different tokens.
        """
        if not outputs:
            raise OptionError("outputs must hold at least one revision (got none)")
        names = sorted(outputs, key=lambda name: sort_key(parse_revision(name)))
        ids = [[np.asarray(line["input_ids"]) for line in outputs[name]] for name in names]
        if any(len(each) != len(ids[0]) or not all(map(np.array_equal, each, ids[0])) for each in ids):
            raise OptionError("the revisions must have read the same tokens (got different input_ids)")
        chosen = [
            np.concatenate([np.asarray(line["exp_ids"], dtype=np.int16) for line in outputs[name]]) for name in names
        ]
        predicted = [
            np.concatenate([np.asarray(line["predicted_token_ids"]) for line in outputs[name]]) for name in names
        ]
        stacked = np.stack(chosen).transpose(0, 3, 1, 2)
        return cls(
            stacked,
            _leading(names),
            tuple(range(stacked.shape[1]) if layers is None else layers),
            experts,
            np.concatenate(ids[0]),
            np.concatenate([np.arange(len(line)) < len(line) - 1 for line in ids[0]]),
            np.full(stacked.shape[2], "all"),
            np.stack(predicted),
        )

    @property
    def per_token(self) -> int:
        """k, the experts of a token."""
        return int(self.chosen.shape[-1])

    def ids(self, kind: str) -> np.ndarray:
        """The token ids of one kind, [revision, token]; -1 where there is none.

        Raises:
            OptionError: the kind is unknown, or predicted tokens were not recorded.
        """
        if kind not in VOCABULARIES:
            raise OptionError(f"kind must be {', '.join(VOCABULARIES[:-1])} or {VOCABULARIES[-1]} (got {kind!r})")
        if kind == "predicted":
            if self.predicted is None:
                raise OptionError("the predicted tokens were not recorded; collect the store again with --back-fill")
            return self.predicted
        following = np.where(self.follows, np.roll(self.token_ids, -1), NONE)
        return np.broadcast_to(
            self.token_ids if kind == "input" else following, (len(self.chosen), len(self.token_ids))
        )

    def at_layer(self, layer: int) -> np.ndarray:
        """The choices of one layer, [revision, token, k].

        Raises:
            OptionError: there are no choices of that layer.
        """
        if layer not in self.layers:
            raise OptionError(f"layer must be one of {', '.join(map(str, self.layers))} (got {layer})")
        found: np.ndarray = self.chosen[:, self.layers.index(layer)]
        return found

    @classmethod
    def _of_store(cls, store: Store) -> Choices:
        if "routing" not in store.groups:
            raise OptionError(
                f"{store.path} must have the group routing; collect a model with experts with --record routing"
            )
        grid, probe = Grid(store), store.probe()
        mask, labels = probe["mask"].astype(bool), store.axis("layer").labels
        blocks = np.flatnonzero(labels >= 0)
        chosen = grid.array("routing", "chosen_experts")[:, blocks][:, :, mask]
        follows = np.zeros_like(mask)
        follows[:, :-1] = mask[:, :-1] & mask[:, 1:]
        names = store.axis("sequence").coordinates["domain_of_sequence"]
        held = "predicted_token" in store.group("routing")
        return cls(
            chosen,
            grid.leading,
            tuple(labels[blocks].tolist()),
            len(store.axis("expert")),
            probe["token_id"][mask].astype(np.int64),
            follows[mask],
            np.broadcast_to(names[:, None], mask.shape)[mask],
            grid.array("routing", "predicted_token")[:, mask] if held else None,
        )


def _leading(names: Sequence[str]) -> pl.DataFrame:
    revisions = [parse_revision(name) for name in names]
    columns = {each: [getattr(one, "name" if each == "revision" else each) for one in revisions] for each in LEADING}
    dtypes = {each: pl.String if each in _TEXT else pl.Int64 for each in LEADING}
    return pl.DataFrame(columns, schema=dtypes)


def unplaced(count: int, revision: str) -> pl.DataFrame:
    """The leading columns of `count` rows of a published table, of which only the revision is known."""
    return _leading([revision])[np.zeros(count, dtype=np.int64)]
