"""Taps: where activations are read and edited."""

import subprocess
import sys

import pytest
import torch

from olmo_dynamics.errors import OptionError
from olmo_dynamics.model import MODEL_TYPES, Tap, build_model, find_tap
from olmo_dynamics.names import NO_LAYER, Site
from tests.model.drawing import random_model, random_tokens, tiny_config
from tests.model.test_families import seen_by_ours

QUERIES = (Site.QUERY, Site.QUERY_ROTATED)


def test_a_tap_returns_what_it_is_given():
    x = torch.zeros(1, 2, 3)
    assert Tap(Site.QUERY, 1)(x) is x


def test_taps_add_nothing_to_a_state_dict():
    names = build_model(tiny_config()).state_dict()
    assert len(names) == 3 * 11 + 3
    assert all(name.endswith(".weight") for name in names)


def test_taps_are_found_by_site_and_layer_and_by_plain_attributes():
    model = build_model(tiny_config())
    block = model.model.layers[2]
    assert find_tap(model, Site.RESIDUAL_MIDDLE, 2) is block.residual_middle
    assert find_tap(model, Site.KEY, 2) is block.self_attn.key
    assert find_tap(model, Site.MLP_OUTPUT, 2) is block.mlp.output
    assert find_tap(model, Site.LOGITS) is model.logits


def test_a_printed_tap_says_where_it_is():
    assert str(Tap(Site.QUERY, 1)) == "Tap(q, layer 1)"
    assert str(Tap(Site.LOGITS, NO_LAYER)) == "Tap(logits)"


@pytest.mark.parametrize(
    ("site", "layer", "message"),
    [
        (Site.QUERY, 3, r"^site and layer must name a place in the model \(got q of layer 3\); its layers are 0 to 2$"),
        (
            Site.LOGITS,
            0,
            r"^site and layer must name a place in the model \(got logits of layer 0\); it lies outside the blocks$",
        ),
    ],
)
def test_a_place_that_is_not_there_is_refused(site, layer, message):
    with pytest.raises(OptionError, match=message):
        find_tap(build_model(tiny_config()), site, layer)


def test_a_site_of_another_family_is_refused():
    message = (
        r"^site must be one that the model has, embedding, residual_in, attention_input, q, k, q_rotated, "
        r"attention_output, residual_middle, mlp_input, mlp_hidden, mlp_output, residual_out, final_norm, logits "
        r"\(got router_logits\)$"
    )
    with pytest.raises(OptionError, match=message):
        find_tap(build_model(tiny_config("olmo")), Site.ROUTER_LOGITS, 0)


def test_every_site_of_a_block_is_as_wide_as_it_says():
    for family in MODEL_TYPES:
        model = random_model(tiny_config(family))
        for (site, layer), values in seen_by_ours(model, random_tokens(model.config, 1, 3)).items():
            assert site.in_block is (layer != NO_LAYER)
            by_chance = site in QUERIES or (site is Site.KEY and model.config.kv_heads == model.config.heads)
            assert site.hidden_wide is (values.shape[-1] == 48) or by_chance
            assert site.is_choice is not values.is_floating_point()


def test_the_package_is_imported_lazily():
    code = (
        "import sys, olmo_dynamics.model as model; model.parse_config; assert 'torch' not in sys.modules; "
        "model.build_model; assert 'torch' in sys.modules; assert set(model.__all__) <= set(dir(model))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error():
    import olmo_dynamics.model as door

    with pytest.raises(AttributeError, match=r"^module 'olmo_dynamics\.model' has no attribute 'Olmo4'$"):
        _ = door.Olmo4
