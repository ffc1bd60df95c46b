"""Fixtures shared by every room's tests."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import beartype  # noqa: F401 - before nnsight, which gives every object a method that this import would trip over
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

settings.register_profile(
    "shared machine", deadline=None
)  # how long an example takes says nothing of whether it is right
settings.load_profile("shared machine")

# While tests run, the shapes in the signatures of these modules are checked at every call.
SHAPED = {
    "interventions": ("edits", "effects", "tracing"),
    "model": ("blocks", "language_model", "layers", "families.gpt_neox", "families.llama", "families.olmo1",
              "families.olmo2", "families.olmo3", "families.olmoe", "families.olmo_ladder", "rope", "sites", "stream", "weights"),
    "recorders": ("experts.choice_counts", "experts.predicted_tokens", "experts.vocabulary",
                  "activations", "embeddings", "losses", "massive", "outliers", "parameters", "routing",
                  "kernels.accumulators", "kernels.logit_sums", "kernels.magnitude_histogram", "kernels.moments",
                  "kernels.order_statistics", "kernels.tensor_stats", "kernels.tensor_stats_gpu", "kernels.token_codes"),
    "training": ("data.batch", "data.instances", "data.masks", "data.mixture", "data.sampler", "data.shuffle", "gradients",
                 "loss", "objective", "routing", "trainer"),
}  # fmt: skip
install_import_hook(
    [f"olmo_dynamics.{room}.{module}" for room, modules in SHAPED.items() for module in modules], "beartype.beartype"
)

MEMORY = Path("/dev/shm")
ROOT = Path(__file__).resolve().parents[1]
REVISIONS = ("stage1-step0-tokens0B", "stage1-step10-tokens1B", "stage1-step100-tokens1B", "main")


def pytest_configure() -> None:
    """Put the folders of tests in memory where there is room: stores are thousands of small files."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 << 30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four fp32 OLMo 2 revisions written by transformers; read it, never change it."""
    from tests.runs import write_run

    return write_run(tmp_path_factory.mktemp("runs") / "tiny", REVISIONS)


@contextmanager
def _of_all_workers(factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A folder that all worker processes of this test run share, held by one of them at a time."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        yield folder


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small demo with `run` and `corpus`, made once in a test run; copy it, never change it."""
    from olmo_dynamics.experiments.demo import SMALL, pretrain

    with _of_all_workers(tmp_path_factory, "small-run") as folder:
        pretrain(folder, size=SMALL)
        return folder


@pytest.fixture(scope="session")
def small_demo(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small demo with all that it writes, made once in a test run; copy it, never change it."""
    from olmo_dynamics.experiments.demo import SMALL, run_demo

    with _of_all_workers(tmp_path_factory, "small-demo") as folder:
        if not (folder / "report.html").is_file():  # written last
            shutil.copytree(small_run, folder, dirs_exist_ok=True)
            run_demo(folder, size=SMALL, quiet=True)
        return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real inputs beside the checkout; the test is skipped where it is absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder of real inputs is not beside this checkout")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _no_flushes() -> Iterator[None]:
    """Let files reach the disk when they do, since no test cuts the power; `test_flushes` sees the calls and their order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: os.fstat(descriptor) and None)
        yield


@pytest.fixture(scope="session")
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New folders for caches, by a count: pytest itself would look at all earlier ones for each."""
    folder, compiled = tmp_path_factory.mktemp("caches"), ROOT / "cache" / "olmo_dynamics" / "numba"
    compiled.mkdir(parents=True, exist_ok=True)

    def caches() -> Iterator[Path]:
        for number in count():
            cache = folder / str(number)
            cache.mkdir()
            (cache / "numba").symlink_to(compiled)
            yield cache

    return caches()


@pytest.fixture(autouse=True)
def _own_cache(_caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache, nor another test's; only compiled kernels are shared."""
    monkeypatch.setenv("OLMO_DYNAMICS_CACHE", str(next(_caches)))
