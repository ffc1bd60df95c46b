"""Recorders of the model's inside: attention patterns, writes to the stream, the logit lens, and induction."""
