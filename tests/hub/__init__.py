"""A faithful local hub for tests: see README.md beside this file.

from tests.hub import Fault, LocalHub
"""

from tests.hub.answers import Request
from tests.hub.faults import Fault
from tests.hub.repository import Commit, Content, Repository
from tests.hub.server import LocalHub

__all__ = ["Commit", "Content", "Fault", "LocalHub", "Repository", "Request"]
