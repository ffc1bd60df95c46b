"""The requests that a live page answers: those of the browser in which its address was opened, and no others.

A page of another site can make a browser send requests to this machine, and can have its own name resolve to 127.0.0.1. So the
address holds a random token, `Host` must name this machine, and a request that another page made is refused.

>>> access = Access("secret")
>>> access.refusal("GET", "/secret/", {"Host": "127.0.0.1:8000"})
>>> access.refusal("GET", "/secret/", {"Host": "evil.example"})
(403, 'Host must be 127.0.0.1 or localhost')
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from secrets import token_urlsafe
from urllib.parse import parse_qsl, urlsplit

PAGE, STATE = "", "state"
"""The two things that can be asked for: the page, and the state of what it shows."""

_HOSTS = frozenset({"127.0.0.1", "localhost"})
_LONGEST = 4096  # letters of a request's target
_MOST_FIELDS = 32
_OWN_SITE = ("same-origin", "none")  # "none": typed, or opened from a terminal

Refusal = tuple[int, str]
"""The status of an answer, and its words."""


@dataclass(frozen=True)
class Access:
    """The token of one server, and the checks of its requests."""

    token: str = field(default_factory=lambda: token_urlsafe(32))

    def refusal(self, method: str, target: str, headers: Mapping[str, str]) -> Refusal | None:
        """The reason to refuse a request; None if there is none."""
        host = headers.get("Host") or ""
        checks = (
            (method == "GET", (405, "only GET is answered")),
            (len(target) <= _LONGEST, (414, f"an address must have at most {_LONGEST} letters")),
            (_name_of(host) in _HOSTS, (403, "Host must be 127.0.0.1 or localhost")),
            (headers.get("Origin") in (None, f"http://{host}"), (403, "Origin must be this page")),
            (headers.get("Sec-Fetch-Site", "none") in _OWN_SITE, (403, "a request must come from this page")),
            (self.asked(target) is not None, (404, "there is no such page")),
        )
        return next((refusal for is_met, refusal in checks if not is_met), None)

    def asked(self, target: str) -> str | None:
        """The thing that an address asks for; None if its token is wrong, or it asks for anything else."""
        try:
            parts = urlsplit(target).path.split("/")
        except ValueError:
            return None
        if len(parts) != 3 or parts[0] or not hmac.compare_digest(parts[1].encode(), self.token.encode()):
            return None
        return parts[2] if parts[2] in (PAGE, STATE) else None

    def fields(self, target: str) -> dict[str, str]:
        """The fields of an address; none if there are more than a page sends."""
        try:
            return dict(parse_qsl(urlsplit(target).query, max_num_fields=_MOST_FIELDS))
        except ValueError:
            return {}


def _name_of(host: str) -> str:
    """The name in a `Host` header, without its port: a tunnel may give the page another."""
    name, _, port = host.partition(":")
    return name.lower() if not port or port.isdigit() else ""
