"""Loops over float32 matrices: a first pass that sums and counts, and a second that makes order statistics exact."""
