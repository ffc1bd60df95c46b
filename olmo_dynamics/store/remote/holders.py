"""Processes that hold a lock, as a lock's text names them: number, start and machine.

>>> is_gone_here(describe_process())
False
"""

from __future__ import annotations

import os
import socket
from pathlib import Path


def describe_process() -> str:
    """This process as a lock names it: its number, its start and its machine."""
    return f"{os.getpid()} {_started(os.getpid())} {socket.gethostname()}"


def parts_of(holder: str) -> tuple[str, str, str]:
    """The number, start and machine of a process; empty where the text names none."""
    pid, _, rest = holder.partition(" ")
    started, _, host = rest.partition(" ")
    return pid, started, host


def is_gone_here(holder: str) -> bool:
    """True if a process ran on this machine and has ended; False too where this machine cannot tell."""
    pid, started, host = parts_of(holder)
    if host != socket.gethostname() or not pid.isdigit() or os.name == "nt":  # asking would end the process on Windows
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # it lives, as another user
    now = _started(int(pid))
    return bool(started and now) and now != started  # a number that was given again, as after a container's restart


def _started(pid: int) -> str:
    """The start of a process, in the kernel's ticks since boot; empty where the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
