"""Setup: everything that holds for all revisions of a store, decided before the first of them is measured.

| module | decides |
|---|---|
| `typical` | the revision that the store is laid out for: one that looks like most of a sample |
| `making` | recorders, compute dtype, axes and attributes, from that revision and from the store to continue |
| `probe_windows` | the probe's tokens, in windows that the model has positions for |
| `fitting` | the model of each further revision, or why it does not fit the store |
"""

from olmo_dynamics.collection.setup.collection_setup import CollectionSetup
from olmo_dynamics.collection.setup.fitting import choose_tensors
from olmo_dynamics.collection.setup.held import Held
from olmo_dynamics.collection.setup.making import make_setup
from olmo_dynamics.collection.setup.probe_windows import describe_probe, read_probe

__all__ = ["CollectionSetup", "Held", "choose_tensors", "describe_probe", "make_setup", "read_probe"]
