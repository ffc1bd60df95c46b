"""The revisions of an activation feed, each opened again for every chunk, at the commit that it had at first.

>>> revisions = FedRevisions(source, "stage1:log4", options)  # doctest: +SKIP
>>> revisions.look(site="residual_out", layer=5)  # doctest: +SKIP
>>> revisions.open(revisions.chosen[0]).fetch_plan.nbytes  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from olmo_dynamics.checkpoints import Checkpoint, ShardHashes, Source
from olmo_dynamics.collection.feed.fed_site import FedSite
from olmo_dynamics.collection.feed.feed_options import FeedOptions
from olmo_dynamics.collection.fetch_plan import Bounds, FetchPlan, plan_fetch, plan_steps
from olmo_dynamics.collection.prefetch import OpenRevision
from olmo_dynamics.collection.selection import Selection, select_revisions
from olmo_dynamics.collection.setup.probe_windows import TOKENIZER, choose_probe, read_probe
from olmo_dynamics.errors import CheckpointError, OlmoDynamicsError, ProbeError, SelectionError
from olmo_dynamics.model import ModelConfig, check_shapes, model_sites, resolve_config, stages
from olmo_dynamics.names import Revision, Site, TensorInfo


class FedRevisions:
    """Revisions that are comparable at one site: of the same width there, with the same tokens for the same text.

    Attributes:
        chosen: the revisions, in training order.
        config: the first one's model.
        site: the place that is read.
        probe: the text as tokens, through the first one's tokenizer.
        weight_bytes: the bytes of the first one that a pass reads.
        notes: lines for the user.

    Raises:
        SelectionError: no revision is selected, or one that was named is in quarantine.
        OptionError: the model has no such site or layer.
        CheckpointError: the first revision cannot be read.
        ProbeError: the text cannot be read, or there is no tokenizer to read it with.
    """

    def __init__(
        self,
        source: Source,
        revisions: str | Collection[str],
        *,
        site: Site | str,
        layer: int | Sequence[int] | None,
        options: FeedOptions,
    ) -> None:
        self._source, self._options = source, options
        self._measure, self._bounds = options.measure, Bounds.of(options.limits.memory_bytes)
        self._pinned: dict[str, Revision] = {}
        source.limit_rate(options.limits.bytes_per_second)
        selected = select_revisions(
            source, revisions, quarantine=options.quarantine, include_quarantined=options.include_quarantined
        )
        self.chosen = _whole(selected, revisions)
        with source.open(self.chosen[0]) as checkpoint:
            with naming(self.chosen[0].name):
                self.config = _model(checkpoint)
            self.site = FedSite.of(site, layer, self.config)
            self._check_tokenizer_exists(checkpoint)
            self.probe, windows = choose_probe(checkpoint, self._measure, self.config)
            self.weight_bytes = self._fetch_plan(checkpoint, self.config, hashed=False).nbytes
            self._tokenizer_id = checkpoint.file_id(TOKENIZER) if self._reads_tokenizers(checkpoint) else ""
        left_out = (selected.summary,) if selected.left_out else ()
        self.notes = (*source.notes, *selected.notes, *left_out, *windows)

    @property
    def bounds(self) -> Bounds:
        """Bytes that may be fetched and not yet used."""
        return self._bounds

    def open(self, revision: Revision) -> OpenRevision:
        """Read a revision's headers, check that it is comparable, and make its fetch plan; weights are hashed the first time.

        Raises:
            CheckpointError: it contradicts itself, or is not comparable with the first.
            ProbeError: its tokenizer reads the text otherwise.
        """
        is_first_time = revision.name not in self._pinned
        checkpoint = self._source.open(self._pinned.get(revision.name, revision))
        try:
            with naming(revision.name):
                config = _model(checkpoint)
                self._check_model(config)
                self._check_tokenizer(checkpoint, config)
                plan = self._fetch_plan(checkpoint, config, hashed=is_first_time)
        except BaseException:
            checkpoint.close()
            raise
        self._pinned[revision.name] = checkpoint.revision
        hashes = ShardHashes(checkpoint) if is_first_time else None
        return OpenRevision(checkpoint, plan, groups=(), hashes=hashes, config=config)

    def _fetch_plan(self, checkpoint: Checkpoint, config: ModelConfig, *, hashed: bool) -> FetchPlan:
        steps = plan_steps(checkpoint.tensors, stages(config, until=self.site.until), measured=())
        shards: dict[str, list[TensorInfo]] = {file: [] for file in checkpoint.expected_sha256 if hashed}
        for info in checkpoint.tensors.values():
            if info.file in shards:
                shards[info.file].append(info)
        return plan_fetch(steps, shards, self._bounds)

    def _check_model(self, config: ModelConfig) -> None:
        """Check that a model has the site, and knows the text's tokens."""
        if config == self.config:
            return
        largest, window = int(self.probe.token_ids.max()), self.probe.shape[1]
        advice = f"as {self.chosen[0].name} has; leave the revision out, or feed it by itself"
        if self.site.site not in model_sites(config):
            raise CheckpointError(f"the model must have the site {self.site.site} (got {config.model_type}), {advice}")
        if config.layers <= max(self.site.layers):
            raise CheckpointError(
                f"the model must have layer {max(self.site.layers)} (got {config.layers} layers), {advice}"
            )
        width = self.site.width(self.config)
        if self.site.width(config) != width:
            raise CheckpointError(f"{self.site.site} must be {width} wide (got {self.site.width(config)}), {advice}")
        if config.vocab_size <= largest:
            raise CheckpointError(
                f"the vocabulary must hold token id {largest} (got {config.vocab_size} ids), {advice}"
            )
        if config.max_positions < window:
            raise CheckpointError(f"the model must have {window} positions (got {config.max_positions}), {advice}")

    def _reads_tokenizers(self, checkpoint: Checkpoint) -> bool:
        """True if a revision's own tokenizer reads the text."""
        shared = self._measure.token_files or self._measure.tokenizer is not None
        return not shared and TOKENIZER in checkpoint.files

    def _check_tokenizer_exists(self, checkpoint: Checkpoint) -> None:
        given = self._measure.token_files or self._measure.tokenizer is not None
        if not given and TOKENIZER not in checkpoint.files:
            raise ProbeError(
                f"{checkpoint.revision.name} must have a tokenizer.json to read text with; give one with tokenizer=FILE or "
                "REPO, or token ids with tokens=FILE"
            )

    def _check_tokenizer(self, checkpoint: Checkpoint, config: ModelConfig) -> None:
        """Check that a revision's tokenizer turns the text into the same tokens; one without reads the first one's."""
        if not self._reads_tokenizers(checkpoint) or checkpoint.file_id(TOKENIZER) == self._tokenizer_id:
            return
        probe = read_probe(checkpoint, self._measure, config, window=self.probe.shape[1])
        if probe.sha256 != self.probe.sha256:
            raise ProbeError(
                f"the tokenizer must turn the text into the tokens of {self.chosen[0].name}; give tokenizer=FILE or REPO for "
                "all revisions, or token ids with tokens=FILE"
            )


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Let the error of a revision name it."""
    try:
        yield
    except OlmoDynamicsError as error:
        if name in str(error):
            raise
        raise type(error)(f"{name}: {error}") from None


def _model(checkpoint: Checkpoint) -> ModelConfig:
    config = resolve_config(checkpoint.config, checkpoint.tensors)
    check_shapes(config, checkpoint.tensors)
    return config


def _whole(selected: Selection, revisions: str | Collection[str]) -> tuple[Revision, ...]:
    """The selected revisions whose weights are all their own.

    Raises:
        SelectionError: one that was named is in quarantine, or there is no other.
    """
    named = {term.strip() for term in (revisions.split(",") if isinstance(revisions, str) else revisions)}
    excluded = {**selected.left_out, **{name: "; ".join(each.reasons) for name, each in selected.partly.items()}}
    for name in [name for name in excluded if name in named]:
        raise SelectionError(
            f"{name} must not be in quarantine to be fed ({selected.file}: {excluded[name]}); leave it out, or give "
            "include_quarantined=True"
        )
    kept = tuple(each for each in selected.revisions if each.name not in excluded)
    if not kept:
        raise SelectionError(
            f"all selected revisions are in quarantine ({selected.file}); give include_quarantined=True"
        )
    return kept
