"""Products of the gradients of any two windows, of which no two are ever held at once: estimated from short summaries.

>>> products = WindowProducts(windows=2)
>>> for window, gradient in enumerate(torch.tensor([[3.0, 4.0], [4.0, 3.0]])):
...     products.add("model.norm.weight", window, gradient)
>>> products.close("model.norm.weight")
>>> products.gram
array([[25., 24.],
       [24., 25.]])

A summary has 1,024 components, each a sum of elements under random signs, on the device that the gradients are on. A tensor of at
most as many elements is summarised without loss. Of others, with B blocks of 1,024 elements, the products have a standard
error of about |x| |y| / 32.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

COMPONENTS = 1024
_BLOCKS = 4096  # with signs of their own; further blocks take them again, each flipped at random
_PIECE = COMPONENTS * _BLOCKS


class WindowProducts:
    """The sums over tensors of the products of windows' gradients; a tensor's summaries are held until it is closed."""

    def __init__(self, windows: int) -> None:
        self.gram: Float[np.ndarray, "windows windows"] = np.zeros((windows, windows))
        self._held: dict[str, Float[np.ndarray, "windows components"]] = {}

    def add(self, name: str, window: int, gradient: Float[Tensor, "*shape"]) -> None:
        """Add one window's gradient of a tensor."""
        held = self._held.setdefault(name, np.zeros((len(self.gram), COMPONENTS)))
        held[window] = _summary(gradient, zlib.crc32(name.encode())).cpu().numpy()

    def close(self, name: str) -> None:
        """Take the products of a tensor's windows, all of which have been added."""
        if name in self._held:
            held = self._held.pop(name)
            with np.errstate(invalid="ignore", over="ignore"):
                self.gram += held @ held.T


def _summary(gradient: Float[Tensor, "*shape"], seed: int) -> Float[Tensor, " components"]:
    flat = gradient.detach().reshape(-1)
    blocks = -(-len(flat) // COMPONENTS)
    flips = _signs(blocks, seed, flat.device)
    sums = flat.new_zeros(min(blocks, _BLOCKS), COMPONENTS)
    for number, piece in enumerate(torch.split(flat, _PIECE)):
        whole = piece if len(piece) % COMPONENTS == 0 else _padded(piece)
        rows = whole.view(-1, COMPONENTS)
        sums[: len(rows)].addcmul_(rows, flips[number * _BLOCKS :][: len(rows), None])
    return (sums * _table(flat.device)[: len(sums)]).double().sum(dim=0)


def _padded(piece: Float[Tensor, " elements"]) -> Float[Tensor, " more"]:
    return torch.nn.functional.pad(piece, (0, -len(piece) % COMPONENTS))


def _signs(count: int, seed: int, device: torch.device) -> Float[Tensor, " count"]:
    """The same signs on every device."""
    drawn = torch.randint(2, (count,), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    return (2 * drawn - 1).to(device=device, dtype=torch.float32)


@lru_cache(maxsize=2)
def _table(device: torch.device) -> Float[Tensor, "blocks components"]:
    return _signs(_PIECE, 0, device).view(_BLOCKS, COMPONENTS)
