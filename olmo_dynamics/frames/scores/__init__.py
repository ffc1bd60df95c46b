"""Scores of public evaluations, joined to the revisions of a store."""
