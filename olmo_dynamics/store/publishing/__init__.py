"""Copies of stores, for others to read: in a bucket, a folder or a .zip file."""

from olmo_dynamics.store.publishing.copying import Copied, copy_store

__all__ = ["Copied", "copy_store"]
