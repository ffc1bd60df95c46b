"""The tokens of a probe whose representations are measured: evenly spaced, real ones, window by window.

    >>> from olmo_dynamics.recorders.context import PlainProbe
    >>> probe = PlainProbe(np.zeros((3, 5), dtype=np.int64), tokenizer_size=1)
    >>> sample = token_sample(Context(probe=probe), most=4)
    >>> sample.rows, sample.positions
    (array([0, 1, 1, 2]), array([0, 0, 4, 4]))

The sample depends on the probe alone, so revisions, layers and models that read the same token ids have the same sample.
"""

from __future__ import annotations

import numpy as np

from olmo_dynamics.errors import OptionError
from olmo_dynamics.recorders.context import Context
from olmo_dynamics.recorders.inside.lens_sample import LensSample, evenly_spaced
from olmo_dynamics.recorders.kernels.gram_sketch import LEAST_TOKENS

GRAM_TOKENS = 2048
"""The most tokens of a sample, unless another number is given."""


def token_sample(context: Context, most: int) -> LensSample:
    """The sample of a pass's probe; empty where there is none."""
    mask = np.zeros((1, 1), dtype=bool) if context.probe is None else context.probe.mask
    rows, positions = np.nonzero(mask)
    places = evenly_spaced(len(rows), most)
    return LensSample(rows[places], positions[places])


def check_gram_tokens(tokens: int) -> int:
    """The number of tokens, if they can be compared.

    Raises:
        OptionError: there are fewer than 4.
    """
    if not isinstance(tokens, int) or tokens < LEAST_TOKENS:
        raise OptionError(f"gram tokens must be a whole number of at least {LEAST_TOKENS} (got {tokens!r})")
    return tokens
