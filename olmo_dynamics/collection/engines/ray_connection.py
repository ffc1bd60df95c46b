"""The connection to a Ray cluster: its address, and the token that it may ask for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from olmo_dynamics.collection.engines.interruption import handlers, restore
from olmo_dynamics.errors import EngineError


def show_token() -> None:
    """Let Ray show this user's token to any cluster: Ray itself shows it only where no address is given.

    A cluster that was started where a token was known refuses whoever shows none; others do not look at it.
    """
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if named or (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def connect(ray: Any, address: str | None) -> None:
    """Connect Ray to the cluster at an address, or to one of this machine, or to one that is started here.

    Raises:
        EngineError: there is no such cluster, or it asks for a token that is not known here.
    """
    before = handlers()  # Ray sets its own
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    except Exception as error:
        reason = " ".join(str(error).split())
        place = f" at {address}" if address else ""
        if type(error).__name__ == "AuthenticationError":
            raise EngineError(
                f"the Ray cluster{place} asks for its token; copy ~/.ray/auth_token of its head node to this machine, "
                "or set RAY_AUTH_TOKEN, and set RAY_AUTH_MODE=token"
            ) from None
        if not address:
            raise EngineError(
                f"Ray must start or be found on this machine ({reason}); run it again when it is less busy"
            ) from None
        raise EngineError(
            f"a Ray cluster of the same Ray and Python version must answer{place} ({reason}); start one with `ray start --head`, "
            "or leave --address out"
        ) from None
    finally:
        restore(before)
