"""The training state and recipe that a published checkpoint holds, read for a fork to continue."""
