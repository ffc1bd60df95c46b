"""Activation feeds: aligned batches of several revisions for sparse autoencoders, crosscoders and probes.

| module | holds |
|---|---|
| `activation_feed` | the iterable that users get, and its plan |
| `activation_batch` | one batch |
| `fed_site` | the place that is read, checked against the model |
| `fed_revisions` | the revisions, checked against one another |
| `chunks` | the windows that pass together, and their activations |
| `revision_pass` | one chunk's way through one revision |
"""

from olmo_dynamics.collection.feed.activation_batch import ActivationBatch
from olmo_dynamics.collection.feed.activation_feed import ActivationFeed, FeedPlan
from olmo_dynamics.collection.feed.feed_options import FeedKeywords, FeedOptions

__all__ = ["ActivationBatch", "ActivationFeed", "FeedKeywords", "FeedOptions", "FeedPlan"]
