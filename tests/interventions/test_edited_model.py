"""Every intervention against hooks on transformers' OLMo 2, and against what must be so."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from olmo_dynamics.errors import OptionError
from olmo_dynamics.interventions import EditableModel, Effect, edited_model, open_model
from olmo_dynamics.model import Olmo2, build_model, taps
from olmo_dynamics.names import NO_LAYER, Site
from olmo_dynamics.recorders import Context, LossRecorder, Observation
from tests.interventions.reference import losses, make_probe, run
from tests.model.drawing import configs, has_norm_bias, random_model, random_tokens, same_in_transformers, tiny_config

CONFIG = tiny_config()
PROBE = make_probe(CONFIG)
LAYERS = range(CONFIG.layers)
SITES = tuple(site for site in Site if site in {tap.site for tap in taps(build_model(CONFIG))})


@pytest.fixture(scope="module")
def model() -> Olmo2:
    return random_model(CONFIG)


@pytest.fixture(scope="module")
def tiny(model: Olmo2) -> EditableModel:
    return open_model(model)


@pytest.fixture(scope="module")
def theirs(model: Olmo2):
    return same_in_transformers(model)


def agree(effect: Effect, theirs, edits, probe=PROBE) -> None:
    """The effect is what hooks on transformers' model do, overall and in each domain."""
    before, before_by_domain = losses(run(theirs, probe, {}), probe)
    after, after_by_domain = losses(run(theirs, probe, edits), probe)
    assert effect.loss_before == pytest.approx(before, abs=1e-5)
    assert effect.loss_after == pytest.approx(after, abs=1e-5)
    assert effect.before_by_domain == pytest.approx(before_by_domain, abs=1e-5)
    assert effect.after_by_domain == pytest.approx(after_by_domain, abs=1e-5)
    assert effect.increase == effect.loss_after - effect.loss_before
    assert effect.increase_by_domain["code"] == effect.after_by_domain["code"] - effect.before_by_domain["code"]


def setting(features, values):
    def edit(x):
        return x.index_copy(-1, torch.tensor(features), values.expand(*x.shape[:-1], len(features)).to(x))

    return edit


@pytest.mark.parametrize("layer", [0, 2, None])
def test_ablating_to_zero_equals_hooks(tiny, theirs, layer):
    effect = tiny.ablate(PROBE, [5, 40], layer=layer)
    layers = LAYERS if layer is None else [layer]
    zero = setting([5, 40], torch.zeros(2))
    agree(effect, theirs, {(Site.RESIDUAL_OUT, each): zero for each in layers})
    assert abs(effect.increase) > 1e-3
    assert (effect.edit, effect.site, effect.layer) == ("2 features set to zero", Site.RESIDUAL_OUT, layer)


@pytest.mark.parametrize("layer", [1, None])
def test_ablating_to_the_mean_equals_hooks(tiny, theirs, layer):
    effect = tiny.ablate(PROBE, 7, layer=layer, fill="mean")
    layers = LAYERS if layer is None else [layer]
    seen = {}
    watch = {(Site.RESIDUAL_OUT, each): lambda x, each=each: seen.setdefault(each, x) for each in layers}
    run(theirs, PROBE, watch)
    means = {each: seen[each][torch.tensor(PROBE.mask)][:, 7].double().mean() for each in layers}
    agree(effect, theirs, {(Site.RESIDUAL_OUT, each): setting([7], means[each]) for each in layers})


def test_features_come_as_any_kind_of_number(tiny):
    one = tiny.ablate(PROBE, 4)
    assert tiny.ablate(PROBE, np.int64(4)) == tiny.ablate(PROBE, torch.tensor([4])) == one
    assert tiny.scale(PROBE, np.array([4]), factor=0).loss_after == one.loss_after


def test_each_feature_by_itself_is_the_same_as_one_at_a_time(tiny):
    together = tiny.ablate_each(PROBE, range(3, 6), layer=1, fill="mean")
    assert together == [tiny.ablate(PROBE, feature, layer=1, fill="mean") for feature in (3, 4, 5)]
    assert [effect.edit for effect in together] == [f"feature {feature} set to mean" for feature in (3, 4, 5)]


@pytest.mark.parametrize(
    ("site", "layer"),
    [
        (Site.EMBEDDING, NO_LAYER),
        (Site.QUERY, 0),
        (Site.ATTENTION_OUTPUT, 1),
        (Site.ATTENTION_OUTPUT_NORMED, 2),
        (Site.MLP_HIDDEN, 1),
        (Site.MLP_OUTPUT, 0),
        (Site.RESIDUAL_OUT, 1),
        (Site.FINAL_NORM, NO_LAYER),
        (Site.LOGITS, NO_LAYER),
    ],
)
def test_scaling_equals_hooks_at_every_site(tiny, theirs, site, layer):
    effect = tiny.scale(PROBE, [0, 3, 11], factor=-2.5, site=site.value, layer=None if layer == NO_LAYER else layer)
    factors = torch.ones(1).repeat(tiny._traced.width((site, layer))).index_fill(0, torch.tensor([0, 3, 11]), -2.5)
    agree(effect, theirs, {(site, layer): lambda x: x * factors})
    assert effect.edit == "3 features times -2.5"


def test_adding_a_vector_equals_hooks(tiny, theirs):
    vector = torch.linspace(-1, 1, CONFIG.hidden_size)
    effect = tiny.add(PROBE, vector, layer=1)
    agree(effect, theirs, {(Site.RESIDUAL_OUT, 1): lambda x: x + vector})


@pytest.mark.parametrize("features", [None, [2, 9]])
@pytest.mark.parametrize("layer", [1, None])
def test_patching_equals_hooks(tiny, theirs, layer, features):
    other = random_model(CONFIG, seed=1)
    effect = tiny.patch(PROBE, open_model(other), layer=layer, features=features)
    layers = LAYERS if layer is None else [layer]
    seen = {}
    watch = {(Site.RESIDUAL_OUT, each): lambda x, each=each: seen.setdefault(each, x) for each in layers}
    run(same_in_transformers(other), PROBE, watch)
    chosen = torch.tensor(list(range(CONFIG.hidden_size)) if features is None else features)
    edits = {
        (Site.RESIDUAL_OUT, each): lambda x, each=each: x.index_copy(-1, chosen, seen[each][..., chosen])
        for each in layers
    }
    agree(effect, theirs, edits)
    assert effect.edit == ("activation patched" if features is None else "2 features patched")


def test_patching_the_last_residual_whole_leaves_only_the_head_of_ones_own(tiny):
    other = random_model(CONFIG, seed=1)
    other.lm_head, other.model.norm = tiny.model.lm_head, tiny.model.model.norm
    donor = open_model(other)
    effect = tiny.patch(PROBE, donor, layer=CONFIG.layers - 1)
    assert effect.loss_after == donor.loss(PROBE).mean


def test_any_function_is_an_edit(tiny, theirs):
    def reversed_features(x):
        return x.flip(-1)

    effect = tiny.apply(PROBE, reversed_features, site="residual_out", layer=0)
    agree(effect, theirs, {(Site.RESIDUAL_OUT, 0): reversed_features})
    assert effect.edit == "reversed_features"


@settings(max_examples=8, deadline=None)
@given(config=configs(), seed=st.integers(0, 99), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_what_changes_nothing_changes_nothing_bit_for_bit(config, seed, dtype):
    tiny, probe = open_model(random_model(config, seed=seed, dtype=dtype)), make_probe(config, seed=seed)
    loss = tiny.loss(probe).mean
    features = range(config.hidden_size)
    same = [
        tiny.scale(probe, features, factor=1.0),
        tiny.patch(probe, tiny),
        tiny.patch(probe, tiny, features=0, layer=0),
        tiny.add(probe, torch.zeros(config.hidden_size)),
        tiny.apply(probe, torch.clone, site=Site.LOGITS),
    ]
    assert [effect.loss_after for effect in same] == [loss] * len(same)
    assert [effect.after_by_domain for effect in same] == [effect.before_by_domain for effect in same]


@settings(max_examples=8, deadline=None)
@given(config=configs(), seed=st.integers(0, 99))
def test_a_model_without_its_last_residual_guesses_evenly(config, seed):
    assume(not has_norm_bias(config))  # which remains
    tiny, probe = open_model(random_model(config, seed=seed)), make_probe(config, seed=seed)
    effect = tiny.ablate(probe, range(config.hidden_size), layer=config.layers - 1)
    assert effect.loss_after == pytest.approx(math.log(config.vocab_size), abs=1e-5)
    assert effect.loss_after == pytest.approx(tiny.ablate(probe, range(config.hidden_size)).loss_after)
    assert tiny.scale(probe, 0, factor=0.0).loss_after == tiny.ablate(probe, 0).loss_after


def test_losses_are_those_that_the_store_holds(tiny, model):
    recorder = LossRecorder().start(Context(probe=PROBE))
    with torch.no_grad():
        logits = model(torch.tensor(PROBE.token_ids))
    everything = {"rows": slice(0, 5), "positions": slice(0, PROBE.shape[1]), "columns": slice(0, logits.shape[-1])}
    recorder.observe(Observation(values=logits, site=Site.LOGITS, mask=PROBE.mask, **everything))
    recorded = {
        record.at["domain"]: float(record.values)
        for record in recorder.finish()
        if record.quantity.key == "loss/cross_entropy"
    }
    assert tiny.loss(PROBE).by_domain == pytest.approx(recorded, abs=1e-6)


def test_a_domain_without_a_scored_token_has_no_loss(tiny):
    mask = PROBE.mask.copy()
    mask[:2, 1:] = False
    found = tiny.loss(replace(PROBE, mask=mask))
    assert math.isnan(found.by_domain["code"])
    assert found.mean == found.by_domain["tables"]


def test_nothing_depends_on_how_many_sequences_go_together(tiny, monkeypatch):
    donor = open_model(random_model(CONFIG, seed=1))
    whole = tiny.patch(PROBE, donor, layer=1), tiny.ablate(PROBE, 3, fill="mean")
    monkeypatch.setattr(edited_model, "_TOKENS_AT_ONCE", 30)  # two sequences, then one
    parts = tiny.patch(PROBE, donor, layer=1), tiny.ablate(PROBE, 3, fill="mean")
    for one, other in zip(whole, parts, strict=True):
        assert one.after_by_domain == pytest.approx(other.after_by_domain, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reading_gives_what_a_hook_sees(dtype):
    model = random_model(CONFIG, dtype=dtype)
    tiny, token_ids = open_model(model), random_tokens(CONFIG, 2, 9)
    read = tiny.read(token_ids, site="mlp_output", layer=1)
    seen = []
    with model.model.layers[1].mlp.output.register_forward_hook(lambda _, __, x: seen.append(x)):
        model(token_ids)
    assert read.dtype == dtype
    assert not read.requires_grad
    assert torch.equal(read, seen[0])
    assert tiny.read(token_ids, site=Site.EMBEDDING).shape == (2, 9, CONFIG.hidden_size)


def test_the_model_stays_as_it_is():
    model = random_model(CONFIG)
    token_ids = random_tokens(CONFIG, 2, 9)
    logits, weights = model(token_ids), {name: each.clone() for name, each in model.state_dict().items()}
    first, second = open_model(model), open_model(model)
    with pytest.raises(ZeroDivisionError):
        first.apply(PROBE, lambda x: x / (1 // 0), layer=1)
    assert first.ablate(PROBE, 0) == second.ablate(PROBE, 0)
    assert torch.equal(model(token_ids), logits)
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(each, weights[name]) for name, each in model.state_dict().items())


def test_a_change_of_the_weights_is_seen():
    model = random_model(CONFIG)
    tiny = open_model(model)
    before = tiny.loss(PROBE).mean
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert tiny.scale(PROBE, 0, factor=2).loss_before == pytest.approx(math.log(CONFIG.vocab_size))
    assert before != pytest.approx(math.log(CONFIG.vocab_size))


def test_traces_of_ones_own_reach_every_site(tiny, theirs):
    token_ids = torch.tensor(PROBE.token_ids)
    with torch.no_grad(), tiny.traced.trace(token_ids):
        tiny.at("attention_output", 0).output *= 2
        stream = tiny.at("residual_out", 1).output.save()
        logits = tiny.traced.output.save()
    expected = run(theirs, PROBE, {(Site.ATTENTION_OUTPUT, 0): lambda x: 2 * x})
    assert stream.shape == (*PROBE.shape, CONFIG.hidden_size)
    assert logits.double().numpy() == pytest.approx(expected, abs=1e-4)


def test_a_printed_one_says_what_it_has(tiny):
    assert repr(tiny) == f"EditableModel(Olmo2 of 3 layers, at {', '.join(SITES)})"
    assert tiny.sites == SITES


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_effects_are_those_of_the_cpu(tiny):
    there = open_model(random_model(CONFIG).to("cuda"))
    for fill in ("zero", "mean"):
        assert there.ablate(PROBE, 3, fill=fill).increase == pytest.approx(
            tiny.ablate(PROBE, 3, fill=fill).increase, abs=1e-4
        )
    assert abs(there.patch(PROBE, tiny).increase) < 1e-4


WIDER = tiny_config(hidden_size=96)
SHALLOW = tiny_config(layers=1)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda tiny: tiny.ablate(PROBE, 0, site="nowhere"),
            f"site must be one of this model's (got 'nowhere'); choose from {', '.join(SITES)}",
        ),
        (
            lambda tiny: tiny.scale(PROBE, 0, factor=2, layer=3),
            "layer must be 0 to 2 at residual_out (got 3); give one of them, or leave it out for all",
        ),
        (
            lambda tiny: tiny.ablate(PROBE, 0, site="logits", layer=0),
            "layer must be left out at logits, which lies outside the blocks (got 0); leave it out",
        ),
        (
            lambda tiny: tiny.read(torch.zeros(1, 2, dtype=torch.int64), site="q"),
            "layer must be given at q (got none); give one of 0 to 2",
        ),
        (
            lambda tiny: tiny.ablate(PROBE, [3, 48]),
            "features of residual_out must be 0 to 47 (got 48); give one or several of them",
        ),
        (
            lambda tiny: tiny.patch(PROBE, tiny, features=-1),
            "features of residual_out must be 0 to 47 (got -1); give one or several of them",
        ),
        (
            lambda tiny: tiny.ablate_each(PROBE, []),
            "features of residual_out must be 0 to 47 (got none); give one or several of them",
        ),
        (
            lambda tiny: tiny.ablate(PROBE, 0, fill="median"),
            "fill must be 'zero' or 'mean' (got 'median'); choose one of them",
        ),
        (
            lambda tiny: tiny.add(PROBE, torch.zeros(47)),
            "vector must be [48], one number for each feature of residual_out (got [47]); give a vector of that width",
        ),
        (
            lambda tiny: tiny.patch(PROBE, open_model(random_model(WIDER))),
            "donor must be as wide at residual_out as the model, 48 features (got 96); patch between revisions of one run",
        ),
        (
            lambda tiny: tiny.patch(PROBE, open_model(random_model(SHALLOW))),
            "layer must be 0 to 0 at residual_out (got 2); give one of them, or leave it out for all",
        ),
        (
            lambda tiny: tiny.patch(PROBE, open_model(random_model(tiny_config(vocab_size=50)))),
            "token ids must be below the model's 50 (got 96); make the probe with this model's tokenizer",
        ),
        (
            lambda tiny: tiny.read(torch.zeros(2, dtype=torch.int64), site="embedding"),
            "token_ids must be [batch, positions] (got [2]); give a batch, even of one sequence",
        ),
        (
            lambda tiny: tiny.loss(make_probe(tiny_config(vocab_size=5000))),
            "token ids must be below the model's 97 (got 4986); make the probe with this model's tokenizer",
        ),
        (
            lambda _: open_model(torch.nn.Linear(2, 2)),
            "the model must have named sites (got Linear without one for its logits); open a model of od.load_model",
        ),
    ],
)
def test_impossible_requests_are_errors_of_one_line(tiny, ask, message):
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        ask(tiny)
