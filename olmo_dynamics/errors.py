"""The exception tree: every error that a user can meet and fix.

    OlmoDynamicsError                 exit code 2, one line: what must hold, what was given, how to fix it
    ├── OptionError                   an invalid argument
    ├── SourceError                   a source of checkpoints that cannot be used
    │   ├── UnknownSourceError        no such repo or folder
    │   ├── UnknownRevisionError      no such revision (near names are shown)
    │   ├── AccessError               gated or private: how to log in
    │   ├── NetworkError              no answer, or an answer that kept breaking off
    │   └── SelectionError            an expression that is invalid or matches nothing
    ├── CheckpointError               a checkpoint that contradicts itself
    │   ├── HeaderError               a safetensors header that is too large, truncated, overlapping or out of bounds
    │   ├── IndexFileError            an index naming a missing shard or a path outside the repo
    │   ├── IntegrityError            a weight file whose bytes do not have the published hash
    │   ├── ConfigError               a config that is not valid, or asks for what is not implemented
    │   ├── ShapeError                tensor shapes that contradict the config
    │   └── ConformanceError          a forward pass that differs from transformers'
    ├── UnknownModelError             a model type whose forward pass is not implemented
    ├── ProbeError                    a text or token file that cannot be used as model input
    ├── StoreError                    a store that is not ours, or was made with other settings
    │   ├── StoreMismatchError        another probe, dtype, run or layout version
    │   ├── StoreDamagedError         bytes that do not have their checksum, or are missing
    │   └── StoreBusyError            another process is writing it
    ├── EngineError                   a cluster that cannot be used, or workers that lack something
    ├── TrainingError                 a run that cannot start or continue
    │   └── DivergedError             a loss or gradient that is not finite
    └── DiskFullError                 no space left; finished work is kept

Every message is one line that says what must hold, what was given and how to fix it:

    >>> raise OptionError("--batch must be BxT such as 8x512 (got '8by512')")
    Traceback (most recent call last):
    olmo_dynamics.errors.OptionError: --batch must be BxT such as 8x512 (got '8by512')
"""

from collections.abc import Collection, Iterable
from difflib import get_close_matches


class OlmoDynamicsError(Exception):
    """An error that the user can fix; the command line prints it as one line and exits with 2."""


class OptionError(OlmoDynamicsError):
    """An invalid argument.

    `typed` is the message in the command line's words: its own, or the message with its first word as an option.

        >>> OptionError("max_memory must be at least one byte; got 0", option="max_memory").typed
        '--max-memory must be at least one byte; got 0'
    """

    def __init__(self, message: str = "", *, option: str = "", typed: str = "") -> None:
        super().__init__(message)
        spelled = f"--{option.replace('_', '-')}{message.removeprefix(option)}" if option else message
        self.typed = typed or spelled


class SourceError(OlmoDynamicsError):
    """A source of checkpoints that cannot be used."""


class UnknownSourceError(SourceError):
    """No such repo or folder."""


class UnknownRevisionError(SourceError):
    """No such revision in a source that exists."""


class AccessError(SourceError):
    """A gated or private repo."""


class NetworkError(SourceError):
    """No answer from the hub, or one that kept breaking off."""


class SelectionError(SourceError):
    """A selection expression that is invalid, or that matches nothing."""


class CheckpointError(OlmoDynamicsError):
    """A checkpoint whose files contradict themselves or each other."""


class HeaderError(CheckpointError):
    """A safetensors header that is too large, truncated, overlapping or out of bounds."""


class IndexFileError(CheckpointError):
    """A shard index that names a missing file, or one outside the repo."""


class IntegrityError(CheckpointError):
    """A weight file whose bytes do not have the published hash."""


class ConfigError(CheckpointError):
    """A config with a value that is not valid, that contradicts another, or that asks for what is not implemented."""


class ShapeError(CheckpointError):
    """Tensor shapes that contradict the config."""


class ConformanceError(CheckpointError):
    """A forward pass that differs from that of transformers for the same weights."""


class UnknownModelError(OlmoDynamicsError):
    """A model type whose forward pass is not implemented."""


class ProbeError(OlmoDynamicsError):
    """A text or token file that cannot be used as model input."""


class StoreError(OlmoDynamicsError):
    """A store that cannot be used as requested."""


class StoreMismatchError(StoreError):
    """A store made from another run, probe, dtype or layout version."""


class StoreDamagedError(StoreError):
    """A store whose files are missing, cut, or do not have their checksums."""


class StoreBusyError(StoreError):
    """A store that another process is writing."""


class EngineError(OlmoDynamicsError):
    """A cluster that cannot be used, or whose workers cannot measure what they are given."""


class DiskFullError(OlmoDynamicsError):
    """No space left on the disk."""


class TrainingError(OlmoDynamicsError):
    """A training run that cannot start, or cannot continue."""


class DivergedError(TrainingError):
    """A loss or gradient that is not finite."""


def near_names(name: str, known: Iterable[str], count: int = 5, *, cutoff: float = 0.5) -> list[str]:
    """At most `count` known names like `name`: those that begin with it first, then by similarity (0 to 1) above `cutoff`.

    >>> near_names("step10", ["main", "step1-tokens1B", "step10-tokens2B"])
    ['step10-tokens2B', 'step1-tokens1B']
    """
    pool = list(known)
    continued = [other for other in pool if other.startswith(name)] if name else []
    similar = get_close_matches(name, pool, n=count, cutoff=cutoff)
    return list(dict.fromkeys([*continued, *similar]))[:count]


def did_you_mean(name: str, known: Iterable[str], count: int = 3, *, cutoff: float = 0.6) -> str:
    """The end of a message about an unknown name: the known names near it, or nothing.

    >>> "unknown option shedule" + did_you_mean("shedule", ["schedule", "steps"])
    "unknown option shedule; did you mean 'schedule'?"
    """
    *others, last = list(map(repr, near_names(name, known, count, cutoff=cutoff))) or [""]
    return f"; did you mean {', '.join(others)}{' or ' if others else ''}{last}?" if last else ""


def counted(count: int, noun: str) -> str:
    """A number of things, with their noun in the singular or plural.

    >>> counted(1, "step"), counted(23, "step")
    ('1 step', '23 steps')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def unknown_name(module: str, name: str, known: Iterable[str]) -> AttributeError:
    """The error of a module that lacks a name, with the names of its own that are near.

    >>> unknown_name("olmo_dynamics.plots", "trajectry", ["trajectory"])
    AttributeError("module 'olmo_dynamics.plots' has no attribute 'trajectry'; did you mean 'trajectory'?")
    """
    return AttributeError(f"module {module!r} has no attribute {name!r}{did_you_mean(name, known)}")


def reject_unknown(given: Iterable[str], known: Collection[str]) -> None:
    """Refuse names that no option has.

    Raises:
        OptionError: a name is unknown; the message shows the nearest known names.
    """
    for name in given:
        if name not in known:
            raise OptionError(f"unknown option {name!r}{did_you_mean(name, known, cutoff=0.7)}")


def __dir__() -> list[str]:
    return sorted(name for name, value in globals().items() if name[0] != "_" and value.__module__ == __name__)
