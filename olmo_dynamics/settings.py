"""The only reader of environment variables.

    >>> from olmo_dynamics.settings import cache_dir
    >>> cache_dir().name
    'olmo_dynamics'

`OLMO_DYNAMICS_CACHE` moves the cache (lists of revisions, compiled kernels). Everything in it may be deleted.
Variables of the Hugging Face hub (`HF_TOKEN`, `HF_ENDPOINT`, `HF_HOME`, proxies) are read by huggingface_hub itself.
"""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

_TORCHRUN = (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"))


@dataclass(frozen=True)
class Launch:
    """The place of this process among those that torchrun started."""

    rank: int
    local_rank: int  # among those of this machine
    processes: int


def launched() -> Launch:
    """Read torchrun's `RANK`, `LOCAL_RANK` and `WORLD_SIZE`; without them, one process of one."""
    rank, local_rank, processes = (int(os.environ.get(*each)) for each in _TORCHRUN)
    return Launch(rank, local_rank, processes)


def wait_without_spinning() -> None:
    """Let idle compute threads sleep, unless the user has set it otherwise; takes effect before torch is imported.

    OpenMP's threads spin at barriers by default, which on a machine shared with others costs several times the work.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def wake_on_interrupt() -> None:
    """Let Ctrl-C end a wait for another thread: importing polars makes the system restart such waits, unseen by Python."""
    if hasattr(signal, "siginterrupt"):  # not on Windows
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.siginterrupt(each, True)


def stop_as_interrupted() -> None:
    """Let SIGTERM, with which schedulers ask a program to stop, do what Ctrl-C does; call it in the main thread."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def adopt_hub_token(token: str) -> None:
    """Let requests of this process show the hub token of the process that gave it work; without one, nothing changes."""
    if token:
        os.environ["HF_TOKEN"] = token


def cache_dir() -> Path:
    """The folder for things that can be rebuilt: `OLMO_DYNAMICS_CACHE`, else `$XDG_CACHE_HOME/olmo_dynamics`."""
    chosen = os.environ.get("OLMO_DYNAMICS_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "olmo_dynamics"


def variable(name: str) -> str:
    """A variable that a storage provider defines, such as `AWS_ENDPOINT_URL`; empty if it is not set."""
    return os.environ.get(name, "").strip()


def allow_http() -> None:
    """Let this process, and those that it starts, send requests to storage by plain http to any host: `AWS_ALLOW_HTTP`."""
    os.environ["AWS_ALLOW_HTTP"] = "true"


def is_http_allowed() -> bool:
    """True if requests to storage may be sent by plain http to any host."""
    return variable("AWS_ALLOW_HTTP").lower() in ("1", "true", "yes")
