"""Gradients of a probe's loss, with one stage's weights at a time: forward, keeping the stream between blocks, and back.

    >>> from olmo_dynamics.model import build_model, init_weights, parse_config
    >>> config = parse_config({"model_type": "olmo2", "hidden_size": 64, "num_hidden_layers": 2,
    ...                        "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100})
    >>> model = build_model(config, device="cpu")
    >>> init_weights(model, seed=0)
    >>> weights = model.state_dict()
    >>> gradients = BackwardPass(config, torch.tensor([[5, 17, 42]]), torch.tensor([[True, True, False]]))
    >>> for stage in stages(config):
    ...     gradients.run_forward(gradients.prepare(stage, weights))
    ...     if stage.name == HEAD:
    ...         gradients.run_head(gradients.prepare(stage, weights), GradientObserver(lambda seen: print(seen.name)))
    lm_head.weight
    model.norm.weight

Each window is one gradient batch: its loss is the mean cross-entropy over its scored tokens. All is computed in float32. A
block is run again for each window before the way back through it, so that one window's activations inside one block are all that
autograd holds; experts are those that the forward pass chose.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from olmo_dynamics.model.backward.vocabulary_loss import VocabularyLoss
from olmo_dynamics.model.build import expected_shapes
from olmo_dynamics.model.config import ModelConfig
from olmo_dynamics.model.parts import slices
from olmo_dynamics.model.sites import Tap, taps
from olmo_dynamics.model.stream import (
    EMBEDDING,
    HEAD,
    Compute,
    Observer,
    Prepared,
    SiteValues,
    Stage,
    StreamedPass,
    stages,
)
from olmo_dynamics.names import NO_LAYER, Site

ACTIVATION = "activation"
"""The name, beside a gradient at a site, of the activation that it belongs to."""

_EMBEDDING_WEIGHT, _HEAD_WEIGHT = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True, slots=True, eq=False)
class TensorGradient:
    """The gradient of one window's loss (`rows` is the window) or of the whole probe's (all of them) for a tensor.

    Of the embedding and the head, `columns` are the rows of the vocabulary that `values` holds; of others it is all of them.
    """

    name: str
    values: Float[Tensor, "*shape"]
    rows: slice
    columns: slice


def _ignore(_: object) -> None:
    """Look at nothing."""


@dataclass(frozen=True, slots=True)
class GradientObserver:
    """Two functions: one is shown gradients of tensors, the other gradients at sites. They must not keep the memory."""

    of_tensor: Callable[[TensorGradient], None] = _ignore
    of_site: Callable[[SiteValues], None] = _ignore


def stages_back(config: ModelConfig) -> tuple[Stage, ...]:
    """The stages behind the head, in the order of the way back; an embedding that is no head as well needs no weights."""
    blocks = [stage for stage in stages(config) if stage.layer != NO_LAYER]
    return (*reversed(blocks), Stage(EMBEDDING, NO_LAYER, (_EMBEDDING_WEIGHT,) if config.tied_embeddings else ()))


class BackwardPass(StreamedPass):
    """A streamed pass that goes back: `run_forward` for every stage, `run_head` for the head, then `run_back`.

    It holds the stream at every border between layers, `[sequences, positions, hidden]` in float32, and sums of the
    gradients of one stage's `tensors` (all of them unless given). `scored` marks the positions whose next token is scored;
    windows without any have no gradient, and are not shown.
    """

    def __init__(
        self,
        config: ModelConfig,
        token_ids: Int[Tensor, "sequences positions"],
        scored: Bool[Tensor, "sequences positions"],
        *,
        sites: Collection[Site] = (),
        tensors: Collection[str] | None = None,
        compute: Compute | None = None,
    ) -> None:
        compute = replace(compute or Compute(), dtype=torch.float32)
        super().__init__(config, token_ids, sites=sites, compute=compute)
        self._tensors = frozenset(expected_shapes(config) if tensors is None else tensors)
        self._scored = scored.to(self.token_ids.device)
        counts = scored.sum(dim=1).tolist()
        self._windows = [window for window, count in enumerate(counts) if count]
        self._shares = [count / max(1, sum(counts)) for count in counts]
        self._borders: list[Float[Tensor, "sequences positions hidden"]] = []
        self._losses: dict[int, VocabularyLoss] = {}
        self._chosen: dict[int, Int[Tensor, "sequences positions chosen"]] = {}
        for tap in taps(self._model):
            if tap.site is Site.CHOSEN_EXPERTS:
                assert config.experts is not None
                self._chosen[tap.layer] = self.token_ids.new_zeros(*token_ids.shape, config.experts.per_token)
                tap.register_forward_hook(self._same_experts)

    def run_forward(self, prepared: Prepared) -> None:
        """Carry every window through one stage, and keep the stream behind it; the head is left to `run_head`."""
        if prepared.stage.name == HEAD:
            return
        self.run(self._wide(prepared), _ignore)
        self._borders.append(self.residual if len(self._borders) == self.config.layers else self.residual.clone())

    def run_head(self, prepared: Prepared, show: GradientObserver) -> None:
        """The loss, its gradient with respect to the head, the final norm and the stream that enters it."""
        with self._trained(self._wide(prepared), show) as sums:
            weight = self._model.head_weight.detach()
            for window in self._windows:
                self._losses[window] = self._loss(window, weight)
            self.residual = torch.zeros_like(self._borders[-1])  # from here on: the loss's gradient
            for columns in slices(len(weight), self.compute.columns_at_once):
                for window, loss in self._losses.items():
                    logits = loss.of_logits(columns)
                    self.residual[window, self._scored[window]] += logits @ weight[columns]
                    self._show_logits(window, columns, logits, show)
                    if not self.config.tied_embeddings and _HEAD_WEIGHT in self._tensors:
                        sums.add(_HEAD_WEIGHT, window, logits.T @ loss.hidden, columns)
                sums.finish()
            for window in self._windows:
                self._back(window, self._model.finish, sums)
            for loss in self._losses.values():
                loss.let_go()
        self._borders.pop()
        if not self.config.tied_embeddings:
            self._losses.clear()

    def run_back(self, prepared: Prepared, show: GradientObserver) -> None:
        """The gradient with respect to one block's weights and the stream that enters it; at last, to the embedding."""
        stage = prepared.stage
        if stage.name == EMBEDDING:
            self._embedding(self._wide(prepared), show)
            return
        block, rope = self._model.model.layers[stage.layer], self._ropes[stage.layer]
        with self._trained(self._wide(prepared), show) as sums:
            for window in self._windows:
                self._back(window, lambda x: block(x, rope), sums)
        if stage.layer:  # that before block 0 is the embedding's output
            self._borders.pop()
        self._chosen.pop(stage.layer, None)

    def _back(self, window: int, part: Callable[[Tensor], Tensor], sums: _Sums) -> None:
        """Run a part of the model for one window with autograd, and turn the gradient behind it into that before it."""
        rows = slice(window, window + 1)
        x = self._borders[-1][rows].detach().requires_grad_()
        with self._watching.during(_watching_gradients(sums.show), rows, slice(0, x.shape[1]), 0):
            y = part(x)
        sums.window = window
        torch.autograd.backward(y, self.residual[rows])
        assert x.grad is not None
        self.residual[rows] = x.grad

    @torch.no_grad()
    def _loss(self, window: int, weight: Float[Tensor, "vocab hidden"]) -> VocabularyLoss:
        x = self._borders[-1][window : window + 1]
        with self._watching.during(_ignore, slice(window, window + 1), slice(0, x.shape[1]), 0):
            hidden = self._model.finish(x)[0]
        scored = self._scored[window]
        targets = self.token_ids[window].roll(-1)[scored]
        return VocabularyLoss(hidden[scored], weight, targets, columns_at_once=self.compute.columns_at_once)

    def _show_logits(self, window: int, columns: slice, logits: Tensor, show: GradientObserver) -> None:
        if Site.LOGITS not in self.sites:
            return
        whole = logits.new_zeros(1, self.token_ids.shape[1], logits.shape[1])
        whole[0, self._scored[window]] = logits
        rows, positions = slice(window, window + 1), slice(0, whole.shape[1])
        show.of_site(SiteValues(Site.LOGITS, NO_LAYER, whole, rows, positions, columns))

    def _embedding(self, prepared: Prepared, show: GradientObserver) -> None:
        """Each window's gradient at the embedding, and with respect to its rows; of a tied one, from both of its uses."""
        for window in self._windows if Site.EMBEDDING in self.sites else ():
            rows, whole = slice(window, window + 1), slice(0, self.residual.shape[1])
            values, beside = self.residual[rows], {ACTIVATION: self._borders[-1][rows]}
            show.of_site(
                SiteValues(Site.EMBEDDING, NO_LAYER, values, rows, whole, slice(0, values.shape[-1]), beside=beside)
            )
        self._borders.pop()
        if _EMBEDDING_WEIGHT not in self._tensors:
            return
        for loss in self._losses.values():
            loss.lend(prepared.weights[_EMBEDDING_WEIGHT])
        sums = _Sums(self._shares, show)
        with self._all_threads():
            for rows in slices(self.config.vocab_size, self.compute.columns_at_once):
                for window in self._windows:
                    sums.add(_EMBEDDING_WEIGHT, window, self._of_rows(window, rows), rows)
                sums.finish()

    def _of_rows(self, window: int, rows: slice) -> Float[Tensor, "rows hidden"]:
        ids, gradient = self.token_ids[window], self.residual[window]
        read = (ids >= rows.start) & (ids < rows.stop)
        found = gradient.new_zeros(rows.stop - rows.start, gradient.shape[1])
        found.index_add_(0, ids[read] - rows.start, gradient[read])
        if window in self._losses:
            loss = self._losses[window]
            found += loss.of_logits(rows).T @ loss.hidden
        return found

    def _same_experts(self, tap: Tap, _: object, chosen: Int[Tensor, "batch positions chosen"]) -> Tensor:
        """The forward hook of a choice of experts: kept in the forward pass, and made again on the way back."""
        held = self._chosen[tap.layer][self._watching.rows]
        if torch.is_grad_enabled():
            return held
        held.copy_(chosen)
        return chosen

    def _wide(self, prepared: Prepared) -> Prepared:
        """The stage in float32, from the weights as they were stored."""
        if all(weight.dtype is torch.float32 for weight in prepared.weights.values()):
            return prepared
        prepared.wait()
        return Prepared(prepared.stage, {name: each.float() for name, each in prepared.stored.items()})

    @contextmanager
    def _all_threads(self) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    @contextmanager
    def _trained(self, prepared: Prepared, show: GradientObserver) -> Iterator[_Sums]:
        """The model holds the stage's weights; gradients of those asked for are shown as autograd finds them, and summed."""
        sums = _Sums(self._shares, show)
        apart = (_HEAD_WEIGHT, _EMBEDDING_WEIGHT)
        with self._lent(prepared), self._all_threads():
            for name in self._tensors.intersection(prepared.stage.tensors).difference(apart):
                parameter = self._model.get_parameter(name).requires_grad_()
                parameter.register_post_accumulate_grad_hook(self._taking(name, sums))  # type: ignore[no-untyped-call]
            yield sums
        sums.finish()

    def _taking(self, name: str, sums: _Sums) -> Callable[[Tensor], None]:
        def take(parameter: Tensor) -> None:
            assert parameter.grad is not None
            sums.add(name, sums.window, parameter.grad, slice(0, len(parameter)))
            parameter.grad = None

        return take


class _Sums:
    """The gradients of a stage's tensors: each window's is shown, and they are summed to those of the whole probe's loss.

    `window` is the one that autograd is at, since its hooks may run in a thread of its own.
    """

    def __init__(self, shares: Sequence[float], show: GradientObserver) -> None:
        self.show, self.window = show, 0
        self._shares = shares
        self._totals: dict[str, tuple[Tensor, slice]] = {}

    def add(self, name: str, window: int, gradient: Tensor, columns: slice) -> None:
        """Show one window's gradient, and add its share."""
        gradient = gradient.detach()
        self.show.of_tensor(TensorGradient(name, gradient, slice(window, window + 1), columns))
        if len(self._shares) == 1:  # it is the whole probe's as well
            return
        if name in self._totals:
            self._totals[name][0].add_(gradient, alpha=self._shares[window])
        else:
            self._totals[name] = (gradient * self._shares[window], columns)

    def finish(self) -> None:
        """Show the whole probe's gradients, and let them go."""
        while self._totals:
            name = next(iter(self._totals))
            total, columns = self._totals.pop(name)
            self.show.of_tensor(TensorGradient(name, total, slice(0, len(self._shares)), columns))


def _watching_gradients(show: GradientObserver) -> Observer:
    """An observer of activations that has their gradients shown once autograd has found them."""

    def watch(seen: SiteValues) -> None:
        if not seen.values.requires_grad:
            return
        activation = seen.values.detach()
        place = replace(seen, values=activation, beside={ACTIVATION: activation})
        seen.values.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: show.of_site(replace(place, values=gradient))
        )

    return watch
