"""The command that publishes stores, and the option of all that reach buckets."""
