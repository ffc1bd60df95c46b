"""Commands that train: forks of a run, and the data that its steps read."""
