"""Folders that hold the stores of several runs."""
