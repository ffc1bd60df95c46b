"""Loops over activations in bfloat16, whose 16-bit codes are counted and compared as they are."""
