"""Findings: what is striking in a store, in plain sentences with numbers; each rule by which they are found is a module.

>>> findings(open_store("olmo2-1b.zarr"))[0].sentence  # doctest: +SKIP
'Feature 137 of the residual stream stays an outlier after blocks 2 to 15 since step 10,000: …'
"""

from olmo_dynamics.frames.rules.store_finding import Findings, StoreFinding
from olmo_dynamics.frames.rules.strongest import findings

__all__ = ["Findings", "StoreFinding", "findings"]
