"""Several stores as one, and differences between them over seeds."""
