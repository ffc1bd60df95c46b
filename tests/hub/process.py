"""A local hub in a process of its own, so that measurements do not share an interpreter with it.

with HubProcess(publish) as hub:              # publish(hub: LocalHub) -> None, importable from the child
    hub.call(set_rate, 50e6)                  # runs set_rate(hub, 50e6) there
    HubSource("org/stack", endpoint=hub.endpoint)
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from tests.hub.server import LocalHub


class HubProcess:
    """Alive inside a `with`; `arguments` go to `publish` after the hub, and like it must be picklable."""

    def __init__(self, publish: Callable[..., object], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, publish, arguments), name="local hub", daemon=True)
        self.endpoint = ""

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Run `function(hub, *arguments)` in the hub's process and return its result, which must be picklable."""
        self._ours.send((function, arguments))
        failed, answer = self._ours.recv()
        if failed:
            raise RuntimeError(f"the hub's process failed:\n{answer}")
        return answer

    def __enter__(self) -> Self:
        self._process.start()
        self.endpoint = self.call(_endpoint)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ours.close()
        self._process.join()


def sent_spans(hub: LocalHub) -> list[tuple[str, int, int]]:
    """File, start and stop of every span of a weight file that was sent, in order of arrival; then the log is cleared."""
    found = [
        (request.parameters["response-content-disposition"].split('"')[1], request.range[0], request.range[1] or 0)
        for request in hub.requests
        if request.host == "cdn" and request.range
    ]
    hub.requests.clear()
    return found


def set_total_rate(hub: LocalHub, bytes_per_second: float | None) -> None:
    """Set the rate of all connections together."""
    hub.total_rate = bytes_per_second


def _endpoint(hub: LocalHub) -> str:
    return hub.endpoint


def _serve(pipe: Connection, publish: Callable[..., object], arguments: tuple[object, ...]) -> None:
    with LocalHub() as hub:
        published = False
        while True:
            try:
                function, given = pipe.recv()
            except EOFError:
                return
            try:
                if not published:
                    publish(hub, *arguments)
                    published = True
                pipe.send((False, function(hub, *given)))
            except Exception:
                pipe.send((True, traceback.format_exc()))
