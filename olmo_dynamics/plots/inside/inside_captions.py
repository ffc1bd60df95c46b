"""Captions of the pictures of the inside of a model: how to read them, and what they do not show.

>>> from olmo_dynamics.plots.inside import inside_captions
>>> inside_captions.SINKS.sources
('Gu et al. 2024, arXiv:2410.10781',)
"""

from __future__ import annotations

from olmo_dynamics.plots.captions import Caption

_OLSSON = "Olsson et al. 2022, arXiv:2209.11895"
_LENS = "nostalgebraist 2020, interpreting GPT: the logit lens"
_OLMO2 = "OLMo 2, arXiv:2501.00656"
_MCCANDLISH = "McCandlish et al. 2018, arXiv:1812.06162"

ENTROPY = Caption(
    "How widely heads spread their attention, by layer. At the dashed line a head attends evenly to every token that it "
    "sees; at 0 it attends to one. A fall to near 0 while the loss is unstable is an entropy collapse; a slow fall of some "
    "heads is what learning looks like. The right panel follows the lowest head of each layer, which may be another one at "
    "each revision.",
    ("Zhai et al. 2023, arXiv:2303.06296",),
)

SINKS = Caption(
    "The share of windows and heads that put more than 0.3 of their attention on the first position, by layer; it is 0 "
    "where attention is even. In a sink the first position's value tends to be short (right, below the dashed line), so "
    "that attending to it adds little.",
    ("Gu et al. 2024, arXiv:2410.10781",),
)

LOGITS = Caption(
    "The logits of attention before its softmax. The largest one grows long before a run diverges, and values in the "
    "thousands are a warning; a normalisation of queries and keys bounds it. The largest of a probe grows with the probe: "
    "compare revisions, not probes.",
    ("Wortsman et al. 2023, arXiv:2309.14322",),
)

HEADS = Caption(
    "Each cell is one head. Normalised entropy is 1 where attention is even. Heads that attend to the first position "
    "(sinks) or to the previous token stand out as bright cells in the rows below. The colours of a row have one scale for "
    "all revisions, which may be narrow: read the numbers on it before the contrast.",
    ("Gu et al. 2024, arXiv:2410.10781", _OLSSON),
)

WRITES = Caption(
    "What attention and the MLP of each layer add to the residual stream: above, its size relative to the stream before it;"
    " below, its direction. A cosine above 0 strengthens what the stream holds, one below 0 erases it. In a stream that "
    "grows with depth, the same write counts for less in deep layers.",
    ("Elhage et al. 2021, a mathematical framework for transformer circuits",),
)

SHARES = Caption(
    "The share of the final logits' variance over the vocabulary that comes directly from each part. All shares sum to 1, but "
    "for what a bias of the final norm adds. Orange cells are negative: that part works against the prediction. What a part does "
    "through later layers is counted as theirs.",
    ("Elhage et al. 2021, a mathematical framework for transformer circuits",),
)

HEAD_WRITES = Caption(
    "The mean norm of what each head writes, before any output norm, so layers of OLMo 2 and Olmo 3 cannot be compared with"
    " each other, but the heads of a layer can. Dark heads write little, whatever they attend to.",
    ("Kobayashi et al. 2020, arXiv:2004.10102",),
)

HEAD_RANKS = Caption(
    "The stable rank of each head's slice of the attention projections: the sum of the squared singular values over the "
    "square of the largest. A head whose slice has a stable rank near 1 reads, or writes, little more than one direction. "
    "Heads that share keys and values have one cell in those rows.",
    ("Martin and Mahoney 2021, arXiv:1810.01075",),
)

LENS = Caption(
    "The prediction that the model would make if it stopped after a layer: its loss, how far it is from the final "
    "prediction, and how often its likeliest token is the final one. After the last layer it is the final prediction. Early"
    " layers need not speak the head's language, so a poor lens does not mean that nothing is known there.",
    (_LENS,),
)

INDUCTION = Caption(
    "Random tokens that are read twice. An induction head attends to what followed a token the first time: a score near 1. "
    "When such heads form, the loss of repeated tokens drops below that of random ones. Dotted lines are even attention and"
    " guessing. Below: the loss late in a window of the main probe minus the loss early; more negative is more learning "
    "from context. A rise of the score without a fall of the loss is no induction.",
    (_OLSSON,),
)

INDUCTION_HEADS = Caption(
    "The prefix-matching score of every head, on one scale of colours. The greatest number on the scale tells whether there"
    " are induction heads at all: near the score of even attention there are none, however bright a cell is.",
    (_OLSSON,),
)

GRADIENT_SIZE = Caption(
    "The norm of the loss gradient over all tensors: of one window of the probe, with the spread over windows, and of the "
    "probe as one batch, which is smaller since noise averages out. Compare revisions, not batches of other sizes; training"
    " clips a norm of its own batch.",
    ("OLMo, olmo/optim.py", _OLMO2),
)

GRADIENT_NORMS = Caption(
    "Each line is one tensor, dark for shallow layers and light for deep ones; grey lines lie outside the blocks. All "
    "panels have one axis, so roles can be compared; larger tensors have larger norms.",
    ("OLMo, olmo/optim.py",),
)

GROWTH = Caption(
    "How the residual stream, and the gradient with respect to it, grow from the first block to the last, per layer. Near 0"
    " is good: neither vanishes nor explodes. Gradients are followed from the first block to the last too, so those that "
    "grow on their way back are below 0. The two panels are different numbers: the norm of the mean is dominated by the "
    "direction that all tokens share.",
    (f"{_OLMO2}, section 3.2",),
)

NOISE = Caption(
    "The batch size in tokens at which the noise of the gradient equals the gradient. An arrow means that the probe is too "
    "small to bound it from above. Batches much below it are mostly noise; batches much above it save few steps. It is not "
    "the critical batch size itself.",
    (_MCCANDLISH,),
)

STREAM_GRADIENT = Caption(
    "The mean norm of the loss gradient with respect to the residual stream leaving each block. Level lines mean that the "
    "way back through the blocks keeps the gradient's size.",
    (f"{_OLMO2}, section 3.2",),
)

ROW_GRADIENTS = Caption(
    "Half of the rows have a gradient norm within the darker band, nine tenths within the lighter; the line is the median. "
    "Rows of the input embedding whose tokens the probe does not hold have no gradient and are left out.",
    (f"{_OLMO2}, section 3.4.2", "Takase et al. 2023, arXiv:2312.16903"),
)

MASSIVE = Caption(
    "The three largest magnitudes of the residual stream and its median, by layer. A few values thousands of times the "
    "median are massive activations; they begin in one early layer and stay. Where no line crosses the dashed border there "
    "are none by this rule, which was made for models whose stream is not normalised.",
    ("Sun et al. 2024, arXiv:2402.17762",),
)

MASSIVE_PLACES = Caption(
    "The features and positions of each layer's eight largest activations. Massive activations sit in one or two features "
    "of every layer, mostly at the first position or at delimiters. Point at a disc for its positions and token ids.",
    ("Sun et al. 2024, arXiv:2402.17762",),
)

POSITIONS = Caption(
    "Each line is one revision, dark for early and light for late ones. Lines that fall to the right learn from context; at"
    " the first positions only the tokens' frequencies help. A domain has few windows, so neighbouring points differ by "
    "chance.",
    ("Kaplan et al. 2020, arXiv:2001.08361",),
)

TOKENS = Caption(
    "Of all scored tokens of the probe, the share whose loss has fallen, stayed, risen or scattered up to each revision. "
    "The fit treats revisions as independent, which neighbours are not, and tests many tokens at once: read the shares, not"
    " single tokens. Below: tokens that the model once predicted clearly better than now.",
    ("Xia et al. 2022, arXiv:2212.09803", "Lin et al. 2024, arXiv:2404.07965"),
)

PREDICTIONS = Caption(
    "How sure the model is. The entropy of its predictions starts at that of guessing (dashed) and falls as it learns; "
    "entropy far below the cross-entropy is overconfidence. The softmax ignores a common shift of the logits, so their log-"
    "sum-exp is free to drift; a z-loss pulls it towards 0.",
    (_OLMO2, "OLMo-core, cross_entropy_loss"),
)

ROWS = Caption(
    "Rows of frequent tokens get a gradient at nearly every step, rows of rare ones seldom. Padding rows of the input "
    "embedding get none: weight decay alone moves them. In the head every row gets gradient, padding too, since the softmax"
    " pushes all columns down. Training may well have seen tokens that the probe does not hold.",
    (f"{_OLMO2}, section 3.4.2", "Takase et al. 2023, arXiv:2312.16903"),
)
