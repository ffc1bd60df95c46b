"""The order in which a run reads its data, and its position there, so that a fork continues where its parent stopped.

>>> DataOrder(kind="olmo", seed=6198, skipped=640).skipped
640
"""

from __future__ import annotations

from dataclasses import dataclass

from olmo_dynamics.errors import OptionError

FIRST_EPOCH = {"olmo": 0, "olmo-core": 1, "shuffled": 1, "sequential": 0}
"""The known orders, and the number of the first pass over the data in each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataOrder:
    """The order of instances, and the position where this run began: `skipped` instances into epoch `epoch`.

    Batches are numbered from that position, so a fork may change its batch size in the middle of an epoch.
    """

    kind: str
    seed: int = 0
    epoch: int = 0
    skipped: int = 0
    block: int = 1  # instances that stay together: OLMo-core's chunk size

    def __post_init__(self) -> None:
        if self.kind not in FIRST_EPOCH:
            raise OptionError(f"order must be one of {', '.join(FIRST_EPOCH)} (got {self.kind!r})")
        for name, least in (("seed", 0), ("epoch", FIRST_EPOCH[self.kind]), ("skipped", 0), ("block", 1)):
            if getattr(self, name) < least:
                raise OptionError(f"order {self.kind}: {name} must be at least {least} (got {getattr(self, name)})")
