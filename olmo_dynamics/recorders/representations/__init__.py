"""Representations of a sample of tokens: dimensions in use, directions, and sketches by which any two can be compared."""
