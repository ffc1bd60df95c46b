"""Whole studies made of the rooms below: each is a function that goes from nothing to a folder of results."""
