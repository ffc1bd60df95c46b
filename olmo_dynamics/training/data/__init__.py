"""The tokens that a step reads: files, their order, batches, and the labels that count."""
