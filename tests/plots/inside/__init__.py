"""Plots of the inside of a model."""
