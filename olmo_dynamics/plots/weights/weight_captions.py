"""Captions of the pictures of weights: how to read them, and what they do not show.

>>> from olmo_dynamics.plots.weights import weight_captions
>>> weight_captions.PATH.sources[0]
'Antognini and Sohl-Dickstein 2018, arXiv:1806.08805'
"""

from __future__ import annotations

from olmo_dynamics.plots.captions import Caption

_SKETCH = "Charikar et al. 2002, count sketch, doi:10.1007/3-540-45465-9_59"
_ROTATION = "Kosson et al. 2024, rotational equilibrium, arXiv:2305.17212"

DISPLACEMENT = Caption(
    "The distance from the first revision, all tensors of a layer as one vector, over the size of that revision. Bands are 95 % "
    "intervals of the sketches. Distance adds up steps that cancel: of a random walk it grows like the square root of the steps. "
    "It does not say whether the model computes something else. Below a dashed line, if there is one, rounding to the published "
    "dtype alone makes such a distance.",
    (_SKETCH,),
)

ANGLE = Caption(
    "The angle between the weights and those of the first revision, which growing or shrinking does not change. At a right "
    "angle, 1.57, nothing of the first direction is left. In many dimensions two unrelated vectors are at one too, so a curve "
    "that levels off there no longer tells how far training goes on.",
    (_SKETCH,),
)

TURNS = Caption(
    "The cosine between the last two displacements: near 1, training moves on in one direction; near 0, each interval goes a new "
    "way; below 0, it turns back. Only equal intervals can be compared: on a logarithmic grid later intervals are longer, "
    "and their noise is averaged out. Bands are 95 % intervals.",
    (_SKETCH,),
)

PATH = Caption(
    "The two principal components of the revisions' weights; both axes have one scale. Their shares of the variance stand "
    "on the axes. A smooth curve is no evidence of structure: a random walk in many dimensions gives one too. "
    "Two points that are near here may be far apart in the components that are not drawn.",
    ("Antognini and Sohl-Dickstein 2018, arXiv:1806.08805", _SKETCH),
)

SIMILARITY = Caption(
    "The cosine between the weights of every two revisions, all tensors as one vector. Neighbours are similar because little "
    "happens between them: read the colours with the steps in mind, whose spacing is not even. Trainings from different seeds "
    "have a cosine near 0 even where they compute the same, since neurons can be permuted.",
    (_SKETCH,),
)

STABLE_RANK = Caption(
    "The sum of the squared singular values over the square of the largest, by layer and step. It falls when one direction "
    "outgrows the rest. A low stable rank is not a low rank: it says nothing about how many small directions there are.",
    ("Martin and Mahoney 2021, arXiv:1810.01075", "WeightWatcher"),
)

SINGULAR_VALUES = Caption(
    "Each line is one of the largest singular values of a matrix, the darkest the largest. Lines that leave the others are "
    "directions that training picks out. Values that are not proven to within 1 % are not drawn; the rest of the "
    "spectrum is not shown.",
    ("standard definition",),
)

OPTIMIZER = Caption(
    "The optimiser's own memory of the last steps, by layer. The update is the move of each weight in a step, over the learning "
    "rate. A signal-to-noise ratio near 1 means that gradients agree from step to step; small means that they are mostly "
    "noise. Where ε dominates, Adam behaves like momentum descent. It is one moment: between revisions anything may happen.",
    ("Kingma and Ba 2015, arXiv:1412.6980",),
)

ROTATION = Caption(
    "Solid: the measured angle between neighbouring revisions. Dashed: that of rotational equilibrium, from the learning rate "
    "and the weight decay alone. It is drawn for matrices that decay, after weight decay has had time to forget the "
    "beginning (2 Σ η λ of at least 3); it is exact only for weights whose scale is of no effect, uncorrelated gradients and a "
    "steady learning rate.",
    (_ROTATION,),
)

DECAY = Caption(
    "Rows of the input embedding that no token reaches get no gradient, so weight decay alone sets their size: it "
    "falls as the product of 1 - η λ (dashed), or stays where embeddings do not decay. Points are measured. A difference means "
    "another learning rate, another decay, tied embeddings, or weights that are not of the step. It says nothing about rows "
    "that are trained.",
    ("OLMo 2, section 3.4.2, arXiv:2501.00656",),
)
