"""Captions of the pictures of experts: how to read them, and what they do not show.

>>> from olmo_dynamics.plots.experts import expert_captions
>>> expert_captions.CO_ACTIVATION.sources
('OLMoE, section 5, arXiv:2409.02060',)
"""

from __future__ import annotations

from olmo_dynamics.plots.captions import Caption

_OLMOE = "OLMoE, section 5, arXiv:2409.02060"

MARGIN = Caption(
    "Each line is one layer. The margin is how far the last chosen expert's logit lies above the first that is not chosen: "
    "where it is small, a little change of the weights sends tokens elsewhere.",
    (_OLMOE,),
)

CHURN = Caption(
    "Each line is one layer: the share of a token's experts that change up to the next revision. It grows with the steps "
    "between revisions, so only points at equal distances can be compared; random routing would be at 1 - k / E.",
    (_OLMOE,),
)

CO_ACTIVATION = Caption(
    "Each cell is the share of the tokens of expert i that are sent to expert j too, for the experts with the largest shares. "
    "All pairs of a token's experts count; the published figure counts those that are neighbours in rank, about k / 2 times "
    "fewer. Bright cells are pairs that work together, and dark rows experts that work with anyone.",
    (_OLMOE,),
)

ACROSS_LAYERS = Caption(
    "Each cell is the share of the tokens of expert i of a layer that a later layer sends to expert j, for the experts with the "
    "largest shares. Bright cells are paths that tokens take through the layers.",
    (_OLMOE,),
)

VOCABULARY = Caption(
    "How far a token id decides its first expert, in one revision: 1 if every occurrence of an id goes to one expert. Ids that "
    "occur less than 10 times are left out, since an id that occurs once is at 1 whatever the router does. Early layers know "
    "only the token that is read; where the line of the predicted next token meets it, routing looks ahead.",
    (_OLMOE,),
)

VOCABULARY_OF_EXPERTS = Caption(
    "The same by expert, in the middle layer: the mean over the ids whose most frequent expert it is. An expert without a dot "
    "is no id's most frequent one.",
    (_OLMOE,),
)

VOCABULARY_IN_TIME = Caption(
    "How far token ids decide their first expert, over training; each line is one layer. Lines that rise early in one panel "
    "and late in another mean that routing follows the one kind of token before it follows the other.",
    (_OLMOE,),
)

LIKENESS = Caption(
    "The cosine between the weights of two experts of the middle layer, and between the rows of the router that score them. "
    "Unrelated weights are near 0. Experts that do the same with their units in another order look unrelated too.",
)

LIKENESS_IN_TIME = Caption(
    "The mean cosine between the weights of two experts, each line one layer and each panel one matrix. It falls where experts "
    "that began alike come to differ, and rises where all follow the same direction.",
)
