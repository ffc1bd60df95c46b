"""HTTP: ranged reads of remote files, retries, rate limits, and the hub's JSON answers."""
