"""Counts of tokens and of pairs of neighbours: made from files of token ids, or read from a file of counts.

>>> counts = CountsFile("pretraining.npz").read(known=100_278, columns=100_352)  # doctest: +SKIP
>>> counts.tokens  # doctest: +SKIP
3896000000
"""

from olmo_dynamics.probes.counting.counts_file import CountsFile
from olmo_dynamics.probes.counting.token_counts import TokenCounts

__all__ = ["CountsFile", "TokenCounts"]
