"""Branches of a run at several batch sizes, and the critical batch size that they show."""
