"""A tokenizer.json in place of the one that a revision has, or lacks: a file, a folder that holds one, or a repo on the hub.

>>> len(read_tokenizer("allenai/OLMo-2-0425-1B"))  # doctest: +SKIP
7144000
"""

from __future__ import annotations

from pathlib import Path

from olmo_dynamics.checkpoints import open_source
from olmo_dynamics.errors import OptionError, UnknownSourceError

FILE = "tokenizer.json"


def read_tokenizer(given: str | Path) -> bytes:
    """Read a tokenizer.json; of a source of checkpoints (a repo, or REPO@REVISION), that of `main` or of its last revision.

    Raises:
        OptionError: there is no such file or source, or it has no tokenizer.json.
        SourceError: the source cannot be read.
    """
    path = Path(given).expanduser()
    path = path / FILE if (path / FILE).is_file() else path
    if path.is_file():
        return path.read_bytes()
    name, _, wanted = str(given).partition("@")
    try:
        source = open_source(name)
        names = [each.name for each in source.revisions()]
    except UnknownSourceError as error:
        raise OptionError(
            f"--tokenizer must be a tokenizer.json, a folder that holds one, or a repo (got {given}): {error}"
        ) from error
    chosen = source.find(wanted or ("main" if "main" in names else names[-1]))
    with source.open(chosen) as checkpoint:
        if FILE not in checkpoint.files:
            raise OptionError(f"--tokenizer: {name} has no {FILE} in {chosen.name}; give another repo, or a file")
        return checkpoint.read_file(FILE)
