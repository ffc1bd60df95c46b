"""The nodes of a cluster: how many workers they have room for, and whether each can measure a source.

>>> nodes = [ClusterNode("a1", "10.0.0.1", cpus=16, gpus=2), ClusterNode("b2", "10.0.0.2", cpus=8, gpus=0)]
>>> WorkerSize.of(nodes, threads=4, on_gpu=False).workers(nodes)
6
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from olmo_dynamics.errors import EngineError


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node that is alive."""

    key: str
    address: str
    cpus: int
    gpus: int

    @classmethod
    def of(cls, table: Iterable[Mapping[str, Any]]) -> list[Self]:
        """The nodes that are alive, of a table as `ray.nodes()` gives it."""
        return [
            cls(
                each["NodeID"],
                each["NodeManagerAddress"],
                int(each["Resources"].get("CPU", 0)),
                int(each["Resources"].get("GPU", 0)),
            )
            for each in table
            if each["Alive"]
        ]


@dataclass(frozen=True, slots=True)
class WorkerSize:
    """The CPUs and GPUs of one worker, which measures one revision at a time."""

    cpus: int
    gpus: int = 0

    @classmethod
    def of(cls, nodes: Sequence[ClusterNode], *, threads: int | None, on_gpu: bool) -> Self:
        """As many CPUs as threads are asked for; else those of the smallest node, or its part of them for each GPU.

        Raises:
            EngineError: no node has as much.
        """
        shares = [node.cpus // max(1, node.gpus * on_gpu) for node in nodes if node.cpus and (node.gpus or not on_gpu)]
        size = cls(threads or max(1, min(shares, default=1)), int(on_gpu))
        if not size.workers(nodes):
            needed = f"{size.cpus} CPUs" + (" and a GPU" if on_gpu else "")
            largest = max((node.cpus for node in nodes), default=0)
            raise EngineError(
                f"a worker needs a node with {needed} (got {len(nodes)} nodes: the largest has {largest} CPUs, and all together "
                f"have {sum(node.gpus for node in nodes)} GPUs); lower --threads, or add a node"
            )
        return size

    def on(self, node: ClusterNode) -> int:
        """The workers that a node has room for."""
        by_cpus = node.cpus // self.cpus
        return min(by_cpus, node.gpus // self.gpus) if self.gpus else by_cpus

    def workers(self, nodes: Iterable[ClusterNode]) -> int:
        """The workers that all nodes have room for."""
        return sum(map(self.on, nodes))


class Seen(NamedTuple):
    """The package and the folder as a process sees them; no version where the package is not installed."""

    version: str
    sources_sha256: str
    has_folder: bool


def looking() -> Callable[[str], tuple[str, str, bool]]:
    """A function that looks at the package and a folder (empty for none), and that needs no part of this package itself."""

    def look(folder: str) -> tuple[str, str, bool]:
        import hashlib
        from importlib import metadata, util
        from pathlib import Path

        has_folder = not folder or Path(folder).is_dir()
        try:
            version = metadata.version("olmo-dynamics")
            spec = util.find_spec("olmo_dynamics")
        except metadata.PackageNotFoundError:
            return "", "", has_folder
        digest = hashlib.sha256()
        root = Path(spec.origin).parent if spec and spec.origin else Path()
        for path in sorted(root.rglob("*.py")) if root.name else ():
            if "_notebooks" not in path.parts:
                digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
        return version, digest.hexdigest(), has_folder

    return look


def counting() -> type:
    """The class of the actor that counts bytes; a nested one needs no part of this package."""

    class Counter:
        def __init__(self) -> None:
            self._totals: dict[str, int] = {}

        def add(self, name: str, nbytes: int) -> None:
            self._totals[name] = self._totals.get(name, 0) + nbytes

        def totals(self) -> dict[str, int]:
            return self._totals

    return Counter


def check_seen(seen: Seen, here: Seen, address: str, *, source: str, folder: str) -> None:
    """Check that a node sees the same package and the same folder as this process.

    Raises:
        EngineError: it does not; the message says how to mend it.
    """
    if seen.version != here.version:
        found = f"runs {seen.version}" if seen.version else "has none"
        raise EngineError(
            f"every worker must run olmo_dynamics {here.version}, as this process does (node {address} {found}); "
            f"install it there: pip install 'olmo-dynamics[ray]=={here.version}'"
        )
    if seen.sources_sha256 != here.sources_sha256:
        raise EngineError(
            f"every worker must run the same olmo_dynamics {here.version} as this process (the source files of node {address} "
            "are others); install the same there"
        )
    if not seen.has_folder:
        raise EngineError(
            f"{source} must be visible on every worker as {folder} (node {address} sees no such folder); mount it there under "
            "the same path, or collect from a hub repo"
        )
