"""Losses between checkpoints."""

from olmo_dynamics.collection.landscape.interpolation import InterpolateKeywords, PathLosses, path_losses, path_shares

__all__ = ["InterpolateKeywords", "PathLosses", "path_losses", "path_shares"]
