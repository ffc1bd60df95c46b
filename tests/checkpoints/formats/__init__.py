"""Formats of checkpoints: each compared with its own writer, and tested with hostile and half-fetched files."""
