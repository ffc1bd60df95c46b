"""The exception tree: everything a user can meet and mend.

    OlmoDynamicsError                 exit code 2: one line saying what was wanted, what came, what to do
    ├── OptionError                   an argument that cannot mean anything
    ├── SourceError                   where checkpoints come from
    │   ├── UnknownSourceError        no such repo or folder
    │   ├── UnknownRevisionError      no such revision (near names are shown)
    │   ├── AccessError               gated or private: how to log in
    │   ├── NetworkError              no answer, or the answer kept breaking off
    │   └── SelectionError            an expression that cannot be read or matches nothing
    ├── CheckpointError               a checkpoint that contradicts itself
    │   ├── HeaderError               a safetensors header that is too large, truncated, overlapping or out of bounds
    │   ├── IndexFileError            an index naming a missing shard or a path outside the repo
    │   ├── IntegrityError            a weight file whose bytes have not the hash that is published of it
    │   ├── ShapeError                tensor shapes that contradict the config
    │   └── ConformanceError          a forward pass that differs from transformers'
    ├── UnknownModelError             a model type whose forward pass we do not know
    ├── ProbeError                    a text or token file that cannot be read to a model
    ├── StoreError                    a store that is not ours, or was made with other settings
    │   ├── StoreMismatchError        another probe, dtype, run or layout version
    │   └── StoreBusyError            another process is writing it
    ├── DiskFullError                 no room left; what was finished stays
    └── TrainingError                 a run that cannot start or go on
        └── DivergedError             a loss or gradient that is not finite

Every message names what was wanted, what came and what to do, in one line:

    >>> raise OptionError("batch must be BxT such as 8x512; got '8by512'")
    Traceback (most recent call last):
    olmo_dynamics.errors.OptionError: batch must be BxT such as 8x512; got '8by512'
"""


class OlmoDynamicsError(Exception):
    """Anything the user can mend; the command line prints it as one line and exits with 2."""


class OptionError(OlmoDynamicsError):
    """An argument that cannot mean anything."""


class SourceError(OlmoDynamicsError):
    """Something about where checkpoints come from."""


class UnknownSourceError(SourceError):
    """No such repo or folder."""


class UnknownRevisionError(SourceError):
    """No such revision in a source that exists."""


class AccessError(SourceError):
    """A gated or private repo."""


class NetworkError(SourceError):
    """No answer from the hub, or one that kept breaking off."""


class SelectionError(SourceError):
    """A selection expression that cannot be read, or that matches nothing."""


class CheckpointError(OlmoDynamicsError):
    """A checkpoint whose files contradict themselves or each other."""


class HeaderError(CheckpointError):
    """A safetensors header that is too large, truncated, overlapping or out of bounds."""


class IndexFileError(CheckpointError):
    """A shard index that names a missing file, or one outside the repo."""


class IntegrityError(CheckpointError):
    """A weight file whose bytes do not have the published hash."""


class ShapeError(CheckpointError):
    """Tensor shapes that contradict the config."""


class ConformanceError(CheckpointError):
    """A forward pass of ours that differs from transformers' of the same weights."""


class UnknownModelError(OlmoDynamicsError):
    """A model type whose forward pass is not implemented here."""


class ProbeError(OlmoDynamicsError):
    """A text or token file that cannot be read to a model."""


class StoreError(OlmoDynamicsError):
    """A store that cannot be used as asked."""


class StoreMismatchError(StoreError):
    """A store made from another run, probe, dtype or layout version."""


class StoreBusyError(StoreError):
    """A store that another process is writing."""


class DiskFullError(OlmoDynamicsError):
    """No room left on the disk."""


class TrainingError(OlmoDynamicsError):
    """A training run that cannot start, or cannot go on."""


class DivergedError(TrainingError):
    """A loss or gradient that is not finite."""
