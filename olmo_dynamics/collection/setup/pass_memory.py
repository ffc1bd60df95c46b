"""The memory of a recorded pass beside its weights: the streams, the activations in flight, and what recorders keep of a layer.

>>> pass_bytes(config, [(8, 512)], Compute(threads=2), sites)  # doctest: +SKIP
118222848
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from olmo_dynamics.model import Compute, ModelConfig
from olmo_dynamics.model.parts import cut
from olmo_dynamics.model.stream import PARTS, sequences_at_once
from olmo_dynamics.names import Site

_KEPT_AT_MOST = 2 << 20  # 2 MiB of listed magnitudes of one part at one site, and about as much of a table of counts
_CODES_BYTES = 2 * (64 << 10) * 8 // 4  # two histograms of 16-bit codes, of whose pages a quarter are touched


def pass_bytes(
    config: ModelConfig, shapes: Sequence[tuple[int, int]], compute: Compute, sites: Collection[Site]
) -> int:
    """The bytes at the most of the passes over probes of these shapes, of which recorders read these sites.

    The streams of all probes are held; one of the probes at a time is in flight.
    """
    size = int(compute.dtype.itemsize)
    streams = sum(sequences * positions for sequences, positions in shapes) * config.hidden_size * size
    return streams + max(
        (_in_flight(config, shape, compute) + _kept(config, shape, compute, sites) for shape in shapes), default=0
    )


def _in_flight(config: ModelConfig, shape: tuple[int, int], compute: Compute) -> int:
    """The activations of all threads, each with a part of the probe in a block or in the head."""
    sequences, positions = shape
    parts = cut(sequences, PARTS)
    most = int(parts[0].stop)
    in_block, in_head = (
        min(most, each) * positions for each in sequences_at_once(compute, config.hidden_size, positions)
    )
    size = int(compute.dtype.itemsize)
    block = in_block * (4 * config.intermediate_size + 3 * config.hidden_size + 3 * config.query_width) * size
    head = in_head * (2 * config.hidden_size * size + compute.columns_at_once * (size + 4))
    return min(compute.threads or 1, len(parts)) * max(block, head)


def _kept(config: ModelConfig, shape: tuple[int, int], compute: Compute, sites: Collection[Site]) -> int:
    """The sums of one layer's sites, of all parts and then of all of them together."""
    sequences, positions = shape
    parts = cut(sequences, PARTS)
    tokens = int(parts[0].stop) * positions
    widths = [_width(config, site) for site in sites if site.is_measured and site.in_block]
    if compute.dtype.itemsize == 2:
        return (len(parts) + 1) * len(widths) * _CODES_BYTES
    return len(parts) * sum(min(tokens * width * 4, _KEPT_AT_MOST) for width in widths)


def _width(config: ModelConfig, site: Site) -> int:
    if site is Site.KEY:
        return config.kv_width
    if site in (Site.QUERY, Site.QUERY_ROTATED):
        return config.query_width
    return config.intermediate_size if site is Site.MLP_HIDDEN else config.hidden_size
