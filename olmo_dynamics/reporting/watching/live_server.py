"""A server of the live page, on 127.0.0.1 alone, made of the standard library.

>>> with LiveServer("cache/demo/store.zarr") as server:  # doctest: +SKIP
...     print(server.url)
...     server.serve()
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from olmo_dynamics.errors import OptionError
from olmo_dynamics.reporting.watching.live_access import PAGE, Access
from olmo_dynamics.reporting.watching.live_page import live_page
from olmo_dynamics.reporting.watching.live_view import LiveView

LOOPBACK = "127.0.0.1"
_SECONDS = 20.0  # that a request may take to arrive
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",
}


class LiveServer:
    """The live page of a store or run; `url` is its address, with a token that only its reader knows.

    It answers GET alone, takes no path from a request, reads the store without a lock and writes nothing.

    Raises:
        OptionError: the port is taken, or is none.
        StoreError: there is no such folder, nor one in which it could be made.
    """

    def __init__(self, path: str | Path, *, port: int = 0) -> None:
        view, access = LiveView(path), Access()
        handler = type("Handler", (_Handler,), {"view": view, "access": access, "page": live_page(str(path))})
        try:
            self._server = _Server((LOOPBACK, port), handler)
        except (OSError, OverflowError) as error:
            raise OptionError(f"port must be free, or 0 for any (got {port}: {error})", option="port") from error
        self.url = f"http://{LOOPBACK}:{self._server.server_address[1]}/{access.token}/"

    def serve(self) -> None:
        """Answer requests until the process is interrupted, or `stop` is called in another thread."""
        self._server.serve_forever(poll_interval=0.1)

    def stop(self) -> None:
        """End `serve`."""
        self._server.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """A server whose readers may leave at any time."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what went wrong, unless a reader closed the page."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    view: LiveView
    access: Access
    page: str
    timeout = _SECONDS

    def answer(self) -> None:
        """Refuse the request, or send the page or the state."""
        refused = self.access.refusal(self.command, self.path, _titled(self.headers.items()))
        if refused is not None:
            self._send(refused[0], "text/plain", refused[1])
        elif self.access.asked(self.path) == PAGE:
            self._send(200, "text/html", self.page)
        else:
            self._send(
                200, "application/json", json.dumps(self.view.state(self.access.fields(self.path)), allow_nan=False)
            )

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = answer  # noqa: N815

    def version_string(self) -> str:
        """The name of this server, without versions of others."""
        return "olmo-dyn"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing: addresses hold the token."""

    def _send(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {
            **_HEADERS,
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _titled(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by their names as browsers spell them: case does not count."""
    return {name.title(): text for name, text in headers}
