"""Tables of weights that move: distances, angles and paths from sketches or from the weights themselves, and predictions."""
