"""Runs, stores and forests as notebooks and terminals show them."""
