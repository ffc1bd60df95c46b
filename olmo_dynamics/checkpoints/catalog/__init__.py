"""The catalogue of revisions: names and their order, selection expressions, known runs, and official lists of checkpoints."""
