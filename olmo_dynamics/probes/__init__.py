"""Probes: the fixed text that every revision reads, so that revisions differ in the model alone.

`load_probe` turns text or token files into a `Probe`: windows of token ids with their mask, domains, and the number of
bytes of each token. Without a file it takes the built-in texts, six domains of a few hundred words written for this
project.

    >>> probe = load_probe(Path("tokenizer.json").read_bytes(), length=256, vocab_size=100352)  # doctest: +SKIP
    >>> probe.domains  # doctest: +SKIP
    ('encyclopedia', 'narrative', 'dialogue', 'code', 'mathematics', 'tables')
"""

from olmo_dynamics.probes.builder import BUILT_IN, load_probe
from olmo_dynamics.probes.probe import Probe

__all__ = ["BUILT_IN", "Probe", "load_probe"]


def __dir__() -> list[str]:
    return sorted(__all__)
