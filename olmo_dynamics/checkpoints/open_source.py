"""Opening a source by its name: the address of a checkpoint or a bucket, a folder, or a hub repo.

>>> open_source("allenai/OLMo-2-0425-1B").kind
'hub'

Where HF_HUB_OFFLINE is set, a repo is read from the Hugging Face cache; a path into that cache is read as the repo it holds.
"""

from __future__ import annotations

import re
from pathlib import Path

from olmo_dynamics.checkpoints.catalog.known_runs import known_run
from olmo_dynamics.checkpoints.folder import FolderSource
from olmo_dynamics.checkpoints.source import Source
from olmo_dynamics.errors import UnknownSourceError, did_you_mean
from olmo_dynamics.files import is_bucket

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_HUB_PREFIX = "hf://"
_REPO_FOLDER = "models--"  # as the Hugging Face cache names the folder of a repo


def open_source(name: str | Path) -> Source:
    """Open the source of that name: the address of a checkpoint or a bucket, an existing folder, or a hub repo.

    A name such as `runs/a` whose folder `runs` exists is a path, unless it is that of a known run or the Hugging Face cache
    has it; `hf://runs/a` is a repo in any case.

    Raises:
        UnknownSourceError: the name is none of these.
    """
    if is_bucket(name):
        from olmo_dynamics.checkpoints.bucket_source import BucketSource

        return BucketSource(str(name))
    if str(name).startswith(("https://", "http://")):
        from olmo_dynamics.checkpoints.web import WebSource

        return WebSource(str(name))
    if name and Path(name).expanduser().is_dir():
        return _open_folder(Path(name).expanduser()) or FolderSource(name)
    repo_id = str(name).removeprefix(_HUB_PREFIX)
    if isinstance(name, str) and _HUB_NAME.fullmatch(repo_id) and not any(word in repo_id for word in ("--", "..")):
        if name != repo_id or not Path(name).parent.is_dir() or _is_known(name):
            return _open_repo(repo_id)
        raise _no_folder(name, f"; if it is a hub repo, write {_HUB_PREFIX}{name}")
    raise _no_folder(str(name))


def _open_folder(folder: Path) -> Source | None:
    """The repo in the Hugging Face cache that a path leads to; None for other folders.

    Raises:
        UnknownSourceError: the folder is a whole cache.
    """
    whole = folder.resolve()
    if not any(part.startswith(_REPO_FOLDER) for part in whole.parts[-3:]):
        repos = [each.name.removeprefix(_REPO_FOLDER).replace("--", "/") for each in whole.glob(f"{_REPO_FOLDER}*")]
        if not repos:
            return None
        raise UnknownSourceError(
            f"{folder} is a Hugging Face cache of {len(repos)} models; give one of them, such as "
            f"{folder / (_REPO_FOLDER + sorted(repos)[0].replace('/', '--'))}"
        )
    from olmo_dynamics.checkpoints.hub_cache import CacheSource

    return CacheSource.at(whole)


def _open_repo(repo_id: str) -> Source:
    from huggingface_hub import is_offline_mode

    from olmo_dynamics.checkpoints.hub import HubSource
    from olmo_dynamics.checkpoints.hub_cache import CacheSource

    cached = CacheSource.of_repo(repo_id)
    return cached if is_offline_mode() and cached.exists else HubSource(repo_id)


def _is_known(repo_id: str) -> bool:
    """True if a name is that of a known run, or was downloaded before."""
    from olmo_dynamics.checkpoints.hub_cache import CacheSource

    return known_run(repo_id) is not None or CacheSource.of_repo(repo_id).exists


def _no_folder(name: str, remark: str = "") -> UnknownSourceError:
    """The error about a name that is neither a folder nor a repo, with the folders beside it of a similar name."""
    parent = Path(name).expanduser().parent
    beside = [each.name for each in parent.iterdir() if each.is_dir()] if name and parent.is_dir() else []
    return UnknownSourceError(
        "a source must be a folder of checkpoints or a hub repo such as allenai/OLMo-2-0425-1B "
        f"(got {name!r}); check the spelling and the working directory{remark}{did_you_mean(Path(name).name, beside)}"
    )
