"""Stores that are not folders: their locks, and the access to them by zarr."""
