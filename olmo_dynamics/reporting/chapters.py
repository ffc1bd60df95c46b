"""The chapters of a report, in their order, and the groups that each of them holds.

>>> chapter_of("spectra"), chapter_of("silent")
('Weights', 'Own measurements')
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from olmo_dynamics.plots.page import Section

FORKS, OWN = "Forks", "Own measurements"

CHAPTERS = {
    "Loss": ("loss", "tokens", "ngram", "evaluation"),
    "Weights": ("parameters", "sketches", "spectra"),
    "Residual stream": ("activations", "outliers", "writes", "representations"),
    "Attention": ("attention", "head_spectra", "induction"),
    "Embedding and head": ("embeddings", "logits", "lens"),
    "Routing": ("routing", "experts"),
    "Optimiser and gradients": ("optimizer", "gradients", "gradient_stream", "gradient_rows"),
    OWN: (),
    FORKS: (),
}
"""The groups of each chapter, in the order of a report."""


def chapter_of(group: str) -> str:
    """The chapter of a group; that of a recorder of one's own if no other has it."""
    return next((name for name, groups in CHAPTERS.items() if group in groups), OWN)


def in_chapters(sections: Iterable[Section]) -> list[Section]:
    """The sections in the order of their chapters, and within one in their own."""
    order = list(CHAPTERS)
    return sorted(sections, key=lambda section: order.index(section.chapter))


def within(chapter: str, sections: Iterable[Section]) -> list[Section]:
    """The sections as those of a chapter."""
    return [replace(section, chapter=chapter) for section in sections]
