"""The store of the store's tests, for the tables' tests."""

from tests.store.conftest import filled

__all__ = ["filled"]
