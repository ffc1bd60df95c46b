"""Loops that work on sixteen 32-bit numbers at once."""
