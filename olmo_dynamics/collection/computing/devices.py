"""The engine and the device of a collection, checked before anything is read.

>>> check_place("local", None, "cpu")
>>> check_place("slurm", None, "cpu")
Traceback (most recent call last):
olmo_dynamics.errors.OptionError: engine must be local or ray (got 'slurm')
"""

from __future__ import annotations

import torch

from olmo_dynamics.errors import OptionError

ENGINES = ("local", "ray")
"""Where revisions are measured: in this process, or by the workers of a Ray cluster."""


def check_place(engine: str, address: str | None, device: str) -> None:
    """Check that an engine, the address of its cluster, and the device fit together.

    Raises:
        OptionError: they do not, or this process is to compute on a GPU that it does not have.
    """
    if engine not in ENGINES:
        raise OptionError(f"engine must be {' or '.join(ENGINES)} (got {engine!r})", option="engine")
    if engine == "local":
        if address is not None:
            raise OptionError(f"address needs the engine ray (got {address!r}); leave it out", option="address")
        require_device(device)
    elif _device(device).index is not None:
        raise OptionError(
            f"device must be cpu or cuda, since Ray gives each worker a GPU of its own (got {device!r})",
            option="device",
        )


def require_device(device: str) -> None:
    """Check that this process can compute on a device.

    Raises:
        OptionError: it is no device, or there is no such GPU.
    """
    if _device(device).type == "cuda" and not torch.cuda.is_available():
        raise OptionError(f"device {device!r} needs a CUDA GPU, and torch sees none here; use --device cpu")


def _device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError:
        raise OptionError(f"device must be cpu, cuda or cuda:N; got {name!r}", option="device") from None
