"""One revision as transformers computes it, in eager attention: every site, pattern, write and gradient of a probe."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.model import LanguageModel, ModelConfig, build_model, load_model_weights
from olmo_dynamics.recorders.inside.lens_sample import LensSample
from tests.model.drawing import same_in_transformers
from tests.model.test_backward import apart
from tests.recorders.inside.material import attention_in_transformers

Array = np.ndarray


class Seen:
    """A probe read by transformers' model; arrays are float64, [sequences, positions, width] at sites."""

    def __init__(
        self, model: LanguageModel, store: RecordedStore, state: Any, dtype: torch.dtype = torch.float32
    ) -> None:
        self.model, self.ours = model, model if dtype is torch.float32 else _rounded(model, dtype)
        self.rounding = 1e-4 if dtype is torch.float32 else 0.1  # of logits
        self.config: ModelConfig = model.config
        probe = store.probe()
        self.token_ids, self.mask, self.domain = probe["token_id"], probe["mask"].astype(bool), probe["domain"]
        self.domains = [str(each) for each in store.axis("domain").labels]
        self.tokenizer_size = int(store.attributes["probe"]["tokenizer_size"])
        self.state = state
        self.weights = {name: each.double().numpy() for name, each in model.state_dict().items()}
        self.sample = LensSample.of(self.mask, 512)

    @property
    def before_norm(self) -> bool:
        """True for the families that normalise what a sublayer reads, rather than what it writes."""
        return self.config.model_type not in ("olmo2", "olmo3")

    @property
    def logits(self) -> Array:
        return self.sites["logits", -1]

    @cached_property
    def sites(self) -> dict[tuple[str, int], Array]:
        """Every site by name and layer."""
        return self._forward(self.token_ids)

    @cached_property
    def attention(self) -> list[dict[str, Array]]:
        """Logits, weights, values and visible keys of each layer."""
        return attention_in_transformers(self.ours, torch.tensor(self.token_ids))

    @cached_property
    def router_logits(self) -> list[Array]:
        """The experts' scores, by layer."""
        theirs = same_in_transformers(self.ours)
        with torch.no_grad():
            found = theirs(torch.tensor(self.token_ids), output_router_logits=True).router_logits
        return [each.view(*self.mask.shape, -1).double().numpy() for each in found]

    @cached_property
    def windows(self) -> list[Window]:
        """The backward pass of each window, in float32 and of the whole batch, since float32 rounds by the shape of a product."""
        theirs, ids = same_in_transformers(self.model), torch.tensor(self.token_ids)
        lengths = self.mask.sum(1).tolist()
        return [Window(self.config, theirs, ids, row, length) for row, length in enumerate(lengths)]

    def losses(self, token_ids: Array) -> Array:
        """-ln p of each token of other windows at its own place, NaN at the first."""
        logits = self._forward(token_ids)["logits", -1][:, :-1]
        chosen = np.take_along_axis(logits, token_ids[:, 1:, None], axis=-1)[..., 0]
        return np.pad(np.logaddexp.reduce(logits, axis=-1) - chosen, ((0, 0), (1, 0)), constant_values=np.nan)

    @torch.no_grad()
    def _forward(self, token_ids: Array) -> dict[tuple[str, int], Array]:
        theirs, hooks = same_in_transformers(self.ours, "eager"), Hooks(self.config.heads)
        neox, stack = self.config.model_type == "gpt_neox", theirs.base_model
        hooks.after(theirs.get_input_embeddings(), "embedding")
        hooks.after(stack.final_layer_norm if neox else stack.norm, "final_norm")
        hooks.after(theirs.lm_head, "logits")
        for layer, block in enumerate(stack.layers):
            hooks.before(block, "residual_in", layer)
            hooks.after(block.mlp, "mlp_output", layer)
            hooks.after(block, "residual_out", layer)
            self._attention(hooks, block, layer)
            self._norms(hooks, block, layer)
            if self.config.experts is None:
                hooks.before(block.mlp.dense_4h_to_h if neox else block.mlp.down_proj, "mlp_hidden", layer)
        theirs(torch.tensor(token_ids))
        return hooks.seen

    def _attention(self, hooks: Hooks, block: nn.Module, layer: int) -> None:
        neox = self.config.model_type == "gpt_neox"
        projection = block.attention.dense if neox else block.self_attn.o_proj
        hooks.before(projection, "heads", layer)
        hooks.after(projection, "attention_output", layer)
        if neox:
            block.attention.query_key_value.register_forward_hook(partial(hooks.keep_apart, layer))
        for site in () if neox else ("q", "k"):
            part = "norm" if hasattr(block.self_attn, f"{site}_norm") else "proj"
            clip = None if self.config.norms else self.config.clip_qkv  # the ladder's norms follow its clipping
            hooks.after(getattr(block.self_attn, f"{site}_{part}"), site, layer, clip)

    def _norms(self, hooks: Hooks, block: nn.Module, layer: int) -> None:
        if self.before_norm:
            hooks.after(block.input_layernorm, "attention_input", layer)
            if not self.config.parallel_residual:
                hooks.before(block.post_attention_layernorm, "residual_middle", layer)
            hooks.after(block.post_attention_layernorm, "mlp_input", layer)
        else:
            hooks.after(block.post_attention_layernorm, "attention_output_normed", layer)
            hooks.before(block.mlp, "residual_middle", layer)
            hooks.after(block.post_feedforward_layernorm, "mlp_output_normed", layer)


class Hooks:
    """Values that modules of transformers take and give, in float64, by site and layer."""

    def __init__(self, heads: int) -> None:
        self.heads = heads
        self.seen: dict[tuple[str, int], Array] = {}

    def keep(self, site: str, layer: int, value: Any, clip: float | None = None) -> None:
        found = (value[0] if isinstance(value, tuple) else value).double().numpy().copy()
        self.seen[site, layer] = found if clip is None else np.clip(found, -clip, clip)

    def keep_apart(self, layer: int, module: nn.Module, inputs: Any, fused: Tensor) -> None:
        """Queries and keys of a fused projection."""
        queries, keys, _ = fused.unflatten(-1, (self.heads, -1)).chunk(3, dim=-1)
        self.keep("q", layer, queries.flatten(2))
        self.keep("k", layer, keys.flatten(2))

    def after(self, module: nn.Module, site: str, layer: int = -1, clip: float | None = None) -> None:
        module.register_forward_hook(lambda module, inputs, output: self.keep(site, layer, output, clip))

    def before(self, module: nn.Module, site: str, layer: int) -> None:
        module.register_forward_pre_hook(lambda module, inputs: self.keep(site, layer, inputs))


class Window:
    """One window's gradients, of its mean loss: of every tensor by name, and of the stream leaving each layer."""

    def __init__(self, config: ModelConfig, model: Any, ids: Tensor, row: int, length: int) -> None:
        states: list[Tensor] = []

        def keep(module: object, inputs: object, output: Any) -> None:
            states.append(output[0] if isinstance(output, tuple) else output)
            states[-1].retain_grad()

        model.zero_grad()
        modules = (model.get_input_embeddings(), *model.base_model.layers)
        handles = [module.register_forward_hook(keep) for module in modules]
        F.cross_entropy(model(ids).logits[row, : length - 1], ids[row, 1:length]).backward()
        for handle in handles:
            handle.remove()
        self.gradients: dict[str, Array] = {}
        for name, parameter in model.named_parameters():
            for ours, gradient in apart(config, name, parameter.grad):
                self.gradients[ours] = gradient.double().numpy()
        windows = [(each[row, :length], each.grad[row, :length]) for each in states]
        self.stream = {layer: values.detach().double().numpy() for layer, (values, _) in enumerate(windows, start=-1)}
        self.stream_gradients = {layer: grad.double().numpy() for layer, (_, grad) in enumerate(windows, start=-1)}


def _rounded(model: LanguageModel, dtype: torch.dtype) -> LanguageModel:
    """The same model in another dtype."""
    rounded = build_model(model.config, dtype=dtype)
    load_model_weights(rounded, model.state_dict())
    return rounded
