"""Whole studies: each is a function that goes from nothing to a folder of results."""
