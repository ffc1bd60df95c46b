"""Recorders of tasks: scores of answers by their log-likelihood."""
