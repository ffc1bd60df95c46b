"""moto's server of buckets, one request at a time: its check of a condition and the write after it are two steps.

Run as `python -m tests.remote.bucket_server PORT`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple


class OneAtATime:
    """An application that answers a request when the one before is answered."""

    def __init__(self, answer: Any) -> None:
        self._answer, self._turn = answer, threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self._turn:
            return list(self._answer(environ, start_response))


if __name__ == "__main__":
    application = OneAtATime(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True)
