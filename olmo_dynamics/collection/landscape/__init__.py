"""Losses between checkpoints."""

from olmo_dynamics.collection.landscape.interpolation import PathLosses, path_losses, path_shares

__all__ = ["PathLosses", "path_losses", "path_shares"]
