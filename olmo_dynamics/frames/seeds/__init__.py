"""Differences between trainings over seeds, and the tests of whether they differ."""
