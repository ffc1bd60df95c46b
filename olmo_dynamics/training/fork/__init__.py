"""Training on from a published checkpoint: options, plan, provenance, and the run itself."""
