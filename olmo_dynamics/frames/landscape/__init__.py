"""Tables of losses between checkpoints."""
