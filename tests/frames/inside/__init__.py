"""Tables of the inside of a model."""
