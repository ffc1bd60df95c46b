"""Formats of checkpoints: each against what its own writer reads, and against hostile and half-fetched files."""
