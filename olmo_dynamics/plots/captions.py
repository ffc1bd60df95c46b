"""Captions: the meaning of each picture in two or three sentences, and the sources of its quantity.

>>> from olmo_dynamics.plots import captions
>>> captions.LOSS.sources
('Paloma, arXiv:2312.10523',)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from olmo_dynamics.quantities.declaration import Quantity


@dataclass(frozen=True, slots=True)
class Caption:
    """Instructions for reading a picture, and the works that define its quantity."""

    text: str
    sources: tuple[str, ...] = ()

    def of(self, quantity: Quantity) -> Caption:
        """This caption with the source and the note of the quantity that is drawn."""
        text = f"{self.text} {quantity.note}".strip()
        known = _work(quantity.source) in {_work(source) for source in self.sources} | {"standard definition"}
        return replace(self, text=text, sources=self.sources if known else (*self.sources, quantity.source))


def _work(source: str) -> str:
    """A key that identifies a work: its arXiv number, or else its first two words."""
    number = re.search(r"arXiv:[0-9.]+[0-9]", source)
    return number.group() if number else " ".join(source.replace(",", " ").split()[:2])


_BLOG = "Merrill 2024, Ai2 blog on OLMo's checkpoints"
_GROWTH = "Merrill et al. 2021, parameter norm growth, arXiv:2010.09697"
_OLMO2 = "OLMo 2, section 3.4.2, arXiv:2501.00656"

WEIGHT_CURVES = Caption(
    "Each line is one tensor, dark for shallow layers and light for deep ones; grey lines lie outside the blocks. The root "
    "mean square does not depend on a tensor's size, so panels and layers can be compared; the L2 norm also grows with size.",
    (_BLOG, _GROWTH),
)

NORMS_PANEL = Caption(
    "The map and the curves show the same numbers. Drag across the map to zoom the curves to those steps, and click a "
    "row, a line or a legend entry to follow one layer in both.",
    (_BLOG, _GROWTH),
)

MAP = Caption(
    "Each cell is one layer at one revision, the shallowest layer at the bottom; a cell reaches half-way to its "
    "neighbours in time. Look for the layers that change first, and for changes that move up or down the stack.",
    (_BLOG,),
)

DEPTH = Caption(
    "Each line is one revision, dark for early and light for late ones. Every block adds to the residual "
    "stream, so it grows with depth. Where sublayer outputs are normalised, as in OLMo 2, it starts close to the square "
    "root of twice the depth for any width; training bends the line away from that.",
    (_BLOG, "OLMo 2, arXiv:2501.00656"),
)

ACTIVATION_OUTLIERS = Caption(
    "High values mean that few features carry most of the activation. For the kurtosis over features, 1 means that all "
    "features are equally strong, and the width of the stream means that a single one is active.",
    ("He et al. 2024, arXiv:2405.19279", _BLOG),
)

BIRTHS = Caption(
    "In the upper panel, every row is a feature of the residual stream that becomes an outlier, from its first step on. Discs "
    "grow with the number of places (inputs of a layer's attention or MLP) that it reaches, and lighten with its magnitude. "
    "Drag over them: the lower panel shows which layers those features reach at those steps. The rule was calibrated on "
    "other models, whose activations have another scale: read when and where, not how many.",
    ("Dettmers et al. 2022, LLM.int8, arXiv:2208.07339",),
)

EMBEDDINGS = Caption(
    "Half of the vocabulary's rows have a norm within the darker band, nine tenths within the lighter; the line is the "
    "median. Weight decay on embeddings shrinks rows, and small embeddings make for large gradients in the first layers.",
    (_OLMO2, "Takase et al. 2023, arXiv:2312.16903"),
)

FAN = Caption(
    "Bands hold the stated share of a tensor's elements, around their median. Bands that keep their proportions mean a "
    "distribution that only changes scale; outer bands that spread faster than inner ones mean heavier tails.",
    ("standard definition",),
)

LOSS = Caption(
    "Each line is one domain of the probe text, named at its end; a thick line is the mean over domains. Cross-entropy is in "
    "nats per token and depends on the tokenizer; bits per byte can be compared between tokenizers. The probe is small: "
    "differences between neighbouring revisions may be noise.",
    ("Paloma, arXiv:2312.10523",),
)

BRANCHES = Caption(
    "Each line is one run: the parent in ink, its forks in colours. The picture runs from shortly before "
    "the first fork, which a ring marks, to shortly after the last fork's end. "
    "Runs that see the same batches rise and fall together: compare lines, not steps.",
    ("standard definition",),
)

_OLMOE = "OLMoE, section 5, arXiv:2409.02060"

LOAD_IMBALANCE = Caption(
    "How much more the busiest expert of a layer is used than the average one, on the probe. The map and the curves show "
    "the same numbers: drag across the map to zoom the curves, and click a layer to follow it in both.",
    (_OLMOE,),
)

ROUTER_LOGITS = Caption(
    "Each line is one layer, dark for shallow ones and light for deep ones. The router's logits are free to grow or to "
    "drift together; a z-loss on them pulls this towards zero.",
    (_OLMOE,),
)

EXPERT_LOAD = Caption(
    "Each row is one expert of a layer, its colour how often tokens of the probe are sent to it, relative to the average "
    "expert: 1 means its fair share, 0 that the probe never reaches it. A row that stays bright or dark is an expert whose "
    "share no longer changes.",
    (_OLMOE,),
)

SATURATION = Caption(
    "Each line is one layer: the share of a token's experts that it is also sent to at the end of training. Curves that rise "
    "early mean that routing settles long before the weights do. The dashed line is what random routing would give; the "
    "reference itself is at 1.",
    (_OLMOE,),
)

SPECIALISATION = Caption(
    "Each bar is one expert: the share of a domain's tokens that are sent to it, in three layers. If routing did not depend on "
    "the domain, all bars would reach the dashed line. Bars far above it are experts specialised in the domain.",
    (_OLMOE,),
)
