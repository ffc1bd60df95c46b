"""Gradients of a streamed backward pass: those of transformers' autograd."""

from __future__ import annotations

import math
import weakref
from collections import defaultdict
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from olmo_dynamics.checkpoints.formats.families.neox_names import published_name
from olmo_dynamics.model import MODEL_TYPES, Compute, expected_shapes, model_sites, stages, taps
from olmo_dynamics.model.backward import BackwardPass, GradientObserver, stages_back
from olmo_dynamics.model.stream import HEAD
from olmo_dynamics.names import Site
from tests.model.drawing import configs, distance, random_model, random_tokens, same_in_transformers, tiny_config

PADDING = 3


def streamed(model, ids, mask, *, sites=(), tensors=None, **compute):
    """Every gradient, whole: of tensors by name and window (None: the probe), and of sites by place and window."""
    scored = torch.zeros_like(mask)
    scored[:, :-1] = mask[:, :-1] & mask[:, 1:]
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found, at_sites = defaultdict(dict), defaultdict(dict)

    def keep_tensor(seen):
        window = seen.rows.start if seen.rows.stop - seen.rows.start == 1 else None
        whole = found[seen.name].setdefault(window, torch.full(shapes[seen.name], torch.nan))
        assert whole[seen.columns].isnan().all(), "seen twice"
        whole[seen.columns] = seen.values

    def keep_site(seen):
        at_sites[seen.site, seen.layer][seen.rows.start] = [
            each.clone() for each in (seen.values, *seen.beside.values())
        ]

    passed = BackwardPass(model.config, ids, scored, sites=sites, tensors=tensors, compute=Compute(**compute))
    show = GradientObserver(keep_tensor, keep_site)
    weights = model.state_dict()
    for stage in stages(model.config):
        prepared = passed.prepare(stage, weights)
        passed.run_forward(prepared)
        if stage.name == HEAD:
            passed.run_head(prepared, show)
    for stage in stages_back(model.config):
        passed.run_back(passed.prepare(stage, weights), show)
    return found, at_sites


def of_transformers(model, ids, mask):
    """Gradients of each window's mean loss, and of the whole probe's (None), by our names."""
    theirs = same_in_transformers(model)
    found = defaultdict(dict)
    losses = [F.cross_entropy(theirs(ids[w : w + 1, : int(n)]).logits[0, :-1], ids[w, 1 : int(n)], reduction="sum")
              for w, n in enumerate(mask.sum(1))]  # fmt: skip
    counts = mask.sum(1) - 1
    for window, loss in [*((w, loss / counts[w]) for w, loss in enumerate(losses)), (None, sum(losses) / counts.sum())]:
        theirs.zero_grad()
        loss.backward(retain_graph=True)
        for name, parameter in theirs.named_parameters():
            for ours, gradient in apart(model.config, name, parameter.grad):
                found[ours][window] = gradient.clone()
    return found


def apart(config, name, gradient):
    """A parameter of transformers as ours: experts are apart, gate above up; queries, keys and values of each head."""
    if config.model_type == "gpt_neox":
        names = [ours for ours in expected_shapes(config) if published_name(ours) == name]
        parts = gradient.unflatten(0, (config.heads, len(names), -1)).unbind(1) if len(names) > 1 else [gradient]
        yield from zip(names, (part.reshape(-1, *gradient.shape[1:]) for part in parts), strict=True)
        return
    layer, _, role = name.partition(".experts.")
    if not role:
        yield name, gradient
        return
    for expert, each in enumerate(gradient):
        parts = zip(("gate_proj", "up_proj"), each.chunk(2), strict=True) if role == "gate_up_proj" else [(role, each)]
        for part, values in parts:
            yield f"{layer}.experts.{expert}.{part}.weight", values


def masked(config, windows=3, positions=9):
    mask = torch.ones(windows, positions, dtype=torch.bool)
    mask[-1, positions - PADDING :] = False
    return random_tokens(config, windows, positions), mask


def assert_equal_gradients(model, ids, mask, **options):
    ours, _ = streamed(model, ids, mask, **options)
    theirs = of_transformers(model, ids, mask)
    assert set(ours) == set(theirs) == set(model.state_dict())
    total = {w: sum(float(each[w].double().square().sum()) for each in theirs.values()) ** 0.5 for w in (None, 0, 1, 2)}
    for name, of_windows in theirs.items():
        assert set(ours[name]) == set(of_windows)
        for window, gradient in of_windows.items():
            apart = float((ours[name][window] - gradient).double().norm())
            assert apart <= 1e-5 * float(gradient.double().norm()) + 1e-7 * total[window], (name, window)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", MODEL_TYPES)
def test_gradients_are_those_of_transformers(family, tied):
    model = random_model(tiny_config(family, tied_embeddings=tied))
    assert_equal_gradients(model, *masked(model.config), columns_at_once=40)


@pytest.mark.slow
@settings(max_examples=25)
@given(configs(), st.integers(0, 5))
def test_gradients_of_random_models_are_those_of_transformers(config, seed):
    model = random_model(config, seed=seed)
    assert_equal_gradients(model, *masked(config), columns_at_once=20)


def test_gradients_at_sites_are_those_of_autograd():
    model = random_model(tiny_config("olmo3"))
    ids, mask = masked(model.config)
    ids, mask = ids[:2], mask[:2]
    sites = [site for site in model_sites(model.config) if site not in (Site.CHOSEN_EXPERTS, Site.ROUTER_LOGITS)]
    _, ours = streamed(model, ids, mask, sites=sites, tensors=())
    for window in range(2):
        seen = {}
        handles = [tap.register_forward_hook(partial(keep_gradient, seen)) for tap in taps(model)]
        logits = model(ids[window : window + 1])
        F.cross_entropy(logits[0, :-1], ids[window, 1:]).backward()
        for handle in handles:
            handle.remove()
        assert set(ours) == set(seen)
        for place, x in seen.items():
            gradient, *activation = ours[place][window]
            assert distance(gradient, x.grad) <= 1e-5, place
            assert all(distance(each, x) <= 1e-5 for each in activation), place  # logits come without


def keep_gradient(seen, tap, _, x):
    seen[tap.site, tap.layer] = x
    x.retain_grad()


class Live(TorchDispatchMode):
    """The most bytes of tensors that live at once, of those made while it lasts."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                self.note(tensor.untyped_storage())
        return found

    def note(self, storage):
        if storage not in self.known:
            self.known[storage] = True
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.drop, storage.nbytes())

    def drop(self, nbytes):
        self.now -= nbytes


def test_at_most_three_layers_and_the_stream_are_held():
    config = tiny_config(layers=10, hidden_size=96, intermediate_size=512, vocab_size=97)
    ids, scored = random_tokens(config, 6, 8), torch.ones(6, 8, dtype=torch.bool)
    scored[:, -1] = False
    shapes = expected_shapes(config)
    stored = {name: torch.full((1,), 0.01).expand(shape) for name, shape in shapes.items()}
    layer = 4 * sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("model.layers.3."))
    stream = 4 * 6 * 8 * 96
    passed = BackwardPass(config, ids, scored, compute=Compute(threads=1))
    with Live() as live:
        for stage in stages(config):
            prepared = passed.prepare(stage, {name: stored[name].clone() for name in stage.tensors})
            passed.run_forward(prepared)
            if stage.name == HEAD:
                passed.run_head(prepared, GradientObserver())
        for stage in stages_back(config):
            prepared = passed.prepare(stage, {name: stored[name].clone() for name in stage.tensors})
            passed.run_back(prepared, GradientObserver())
    assert 2 * layer < live.most < 3 * layer + 13 * stream  # that at 11 borders, its gradient, and the head's inputs
