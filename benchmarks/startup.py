"""Time to start: the bare interpreter, the import, the help of the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.interleave import report_timing

METHODS = ("import olmo_dynamics", "olmo-dyn --help", "python -c pass")


def run(method: str) -> float:
    commands = {
        METHODS[0]: [sys.executable, "-c", "import olmo_dynamics"],
        METHODS[1]: [str(Path(sys.executable).parent / "olmo-dyn"), "--help"],
        METHODS[2]: [sys.executable, "-c", "pass"],
    }
    return float(subprocess.run(commands[method], check=True, stdout=subprocess.DEVNULL).returncode)


if __name__ == "__main__":
    report_timing(lambda: run(sys.argv[1]))
