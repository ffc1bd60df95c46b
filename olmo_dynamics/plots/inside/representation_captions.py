"""Captions of the pictures of representations: how to read them, and what they do not show.

>>> from olmo_dynamics.plots.inside import representation_captions
>>> representation_captions.RANKS.sources[0]
'Garrido et al. 2023, RankMe, arXiv:2210.02885'
"""

from __future__ import annotations

from olmo_dynamics.plots.captions import Caption

_CKA = ("Kornblith et al. 2019, arXiv:1905.00414", "Song et al. 2012, doi:10.5555/2188385.2343691")

RANKS = Caption(
    "The dimensions that a sample of tokens uses, dark for shallow layers and light for deep ones. RankMe is of vectors as they "
    "are: a shared direction or a massive feature lowers it. The participation ratio is of centred vectors, and counts the "
    "dimensions over which their variance is spread. Neither is above the number of tokens or the width, and neither says "
    "what the dimensions are for.",
    ("Garrido et al. 2023, RankMe, arXiv:2210.02885",),
)

REVISIONS = Caption(
    "The similarity of the stream leaving one layer between every two revisions: 1 where they differ by a rotation and a scale "
    "alone, near 0 where they are independent. A block of high similarity is a time of little change. Spacing is not even in "
    "time. A few massive tokens can hold most of the similarity. Standard errors are those of sketching, not of the choice of "
    "tokens.",
    _CKA,
)

LAYERS = Caption(
    "The similarity between every two layers of one revision. The stream is a sum, so neighbours are similar by construction; "
    "blocks and borders between them are what to look for. High similarity does not mean that two layers compute the same.",
    _CKA,
)

ANISOTROPY = Caption(
    "The mean cosine of two different tokens at each layer, without features whose RMS exceeds 10 times the median. Near 0, "
    "tokens point in all directions; near 1, they share one. With massive features it would be near 1 whatever the rest does.",
    ("Ethayarajh 2019, arXiv:1909.00512",),
)
