"""While these tests run, the shapes in the model room's signatures are checked at every call, on one thread."""

from collections.abc import Iterator

import pytest
import torch
from jaxtyping import install_import_hook

SHAPED = [
    f"olmo_dynamics.model.{module}"
    for module in (
        "blocks",
        "language_model",
        "layers",
        "olmo1",
        "olmo2",
        "olmo3",
        "olmoe",
        "rope",
        "sites",
        "stream",
        "weights",
    )
]

install_import_hook(SHAPED, "beartype.beartype")


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices this small gain nothing from a second thread, and lose much to one that is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
