"""The store of the store's tests, to be watched."""

from tests.store.conftest import filled

__all__ = ["filled"]
