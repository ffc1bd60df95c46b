"""The facts that a recorder is told of a pass: the model, its sites, and the tokens that are read.

>>> probe = PlainProbe(np.array([[3, 1, 4, 1, 5]]), tokenizer_size=6)
>>> Context(probe=probe, layers=2).whole, probe.domains
(True, ('own',))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int64

from olmo_dynamics.model import ModelConfig
from olmo_dynamics.names import Site
from olmo_dynamics.probes.tokenizer import ProbeTokenizer


@runtime_checkable
class ProbeTokens(Protocol):
    """The token ids that a recorder's forward pass reads: `olmo_dynamics.probes.Probe` is one."""

    @property
    def token_ids(self) -> Int64[np.ndarray, "sequences positions"]:
        """Token ids."""

    @property
    def mask(self) -> Bool[np.ndarray, "sequences positions"]:
        """True for real tokens, False for padding on the right."""

    @property
    def domain(self) -> Int64[np.ndarray, " sequences"]:
        """The place in `domains` of each sequence's domain."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of domains."""

    @property
    def token_bytes(self) -> Int64[np.ndarray, "sequences positions"]:
        """UTF-8 bytes of each token; -1 where unknown."""

    @property
    def tokenizer_size(self) -> int:
        """The number of ids that the tokenizer knows; columns from there on are padding."""


@dataclass(frozen=True, eq=False)
class PlainProbe:
    """A recorder's own probe, made of token ids alone: every token is real, and its text is unknown.

    >>> probe = PlainProbe(np.random.default_rng(5).integers(0, 320, (4, 64)), tokenizer_size=320)
    >>> probe.mask.shape, probe.domains
    ((4, 64), ('own',))
    """

    token_ids: Int64[np.ndarray, "sequences positions"]
    tokenizer_size: int
    domains: tuple[str, ...] = ("own",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", np.asarray(self.token_ids))

    @property
    def mask(self) -> Bool[np.ndarray, "sequences positions"]:
        """True everywhere."""
        return np.ones(self.token_ids.shape, dtype=bool)

    @property
    def domain(self) -> Int64[np.ndarray, " sequences"]:
        """The first domain."""
        return np.zeros(len(self.token_ids), dtype=np.int64)

    @property
    def token_bytes(self) -> Int64[np.ndarray, "sequences positions"]:
        """Unknown."""
        return np.full(self.token_ids.shape, -1)


@dataclass(frozen=True, eq=False)
class Context:
    """Facts that hold for a whole pass through one revision.

    Attributes:
        config: the model; None where its type is unknown, so that only weights can be read.
        probe: the tokens of the forward pass; None without one.
        sites: the sites that the model has, in the order of the forward pass.
        layers: the blocks that the forward pass runs through.
        whole: True if it runs through all blocks of the model, and the head.
        tokenizer: the tokenizer of the model, where a recorder needs one.
        optimizer: the name of the optimiser whose state is read, such as `AdamW`; empty where none is.
    """

    config: ModelConfig | None = None
    probe: ProbeTokens | None = None
    sites: tuple[Site, ...] = ()
    layers: int = 0
    whole: bool = True
    optimizer: str = ""
    tokenizer: ProbeTokenizer | None = None
