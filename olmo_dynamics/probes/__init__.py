"""The fixed text that every revision is shown, so that what differs between revisions is the model alone.

`load_probe` turns text or token files into a `Probe`: windows of token ids, what of them is real, which domain each
belongs to, and how many bytes each token stands for. With no file it takes the built-in texts, six domains of a few
hundred words written for this project.

    >>> probe = load_probe(Path("tokenizer.json").read_bytes(), length=256, vocab_size=100352)
    >>> probe.domains
    ('encyclopedia', 'narrative', 'dialogue', 'code', 'mathematics', 'tables')
"""

from olmo_dynamics.probes.loading import BUILT_IN, load_probe
from olmo_dynamics.probes.probe import Probe

__all__ = ["BUILT_IN", "Probe", "load_probe"]
