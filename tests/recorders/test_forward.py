from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from olmo_dynamics.names import NO_LAYER, Site
from olmo_dynamics.quantities import of_group
from olmo_dynamics.recorders import FORWARD_GROUPS, ForwardRecorders
from tests.recorders.material import Tokens

ROUTING = {Site.ROUTER_LOGITS, Site.CHOSEN_EXPERTS}
INPUT_NORMS = {Site.ATTENTION_INPUT, Site.MLP_INPUT}
OLMO2_SITES = tuple(site for site in Site if site not in ROUTING | INPUT_NORMS)
ALL_SITES = (*OLMO2_SITES, *ROUTING)  # of no real model: experts, and norms on outputs

LAYERS, SEQUENCES, POSITIONS, WIDTH, VOCAB = 3, 4, 6, 8, 20
EXPERTS, PER_TOKEN = 12, 3


@dataclass
class Seen:
    site: Site
    layer: int
    values: torch.Tensor
    rows: slice
    positions: slice
    columns: slice = field(default_factory=lambda: slice(0, None))


def probe():
    mask = np.arange(POSITIONS) < np.array([6, 4, 6, 2])[:, None]
    ids = np.random.default_rng(0).integers(0, 18, (SEQUENCES, POSITIONS))
    return Tokens(ids, 18, mask=mask, domain=np.array([0, 0, 1, 1]), domains=("code", "prose"))


def stages(*, rows=slice(0, SEQUENCES), at_once=2):
    """A forward pass' observations, stage by stage: every site of every layer, then slices of logits."""
    generator = torch.Generator().manual_seed(0)

    def whole(site, layer, width=WIDTH):
        return site, layer, torch.randn(SEQUENCES, POSITIONS, width, generator=generator) * 5

    def cut(site, layer, x, positions=POSITIONS):
        for start in range(rows.start, rows.stop, at_once):
            for place in range(0, POSITIONS, positions):
                there = slice(start, min(start + at_once, rows.stop)), slice(place, min(place + positions, POSITIONS))
                yield Seen(site, layer, x[there], *there)

    yield list(cut(*whole(Site.EMBEDDING, NO_LAYER)))
    for layer in range(LAYERS):
        in_block = [whole(site, layer, WIDTH if site.hidden_wide else EXPERTS) for site in Site if site.in_block]
        in_block = [(s, n, x.topk(PER_TOKEN).indices if s.is_choice else x) for s, n, x in in_block]
        yield [seen for each in in_block for seen in cut(*each)]
    norm, logits = whole(Site.FINAL_NORM, NO_LAYER), whole(Site.LOGITS, NO_LAYER, VOCAB)
    yield [*cut(*norm), *cut(*logits, positions=4)]


def keyed(records):
    keys = [(record.quantity.key, *sorted(record.at.items())) for record in records]
    assert len(set(keys)) == len(keys), "a number was given twice"
    return dict(zip(keys, (record.values for record in records), strict=True))


def assert_same(a, b):
    a, b = keyed(a), keyed(b)
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key], b[key], rtol=1e-9, atol=1e-12, err_msg=str(key))


def watch(recorders, **how):
    for stage in stages(**how):
        for seen in stage:
            recorders.observe(seen)
    return recorders


def recorders(groups=FORWARD_GROUPS):
    return ForwardRecorders(probe(), LAYERS, groups, available=ALL_SITES)


def test_harvesting_every_stage_gives_everything_once():
    harvested, apart = [], recorders()
    for stage in stages():
        for seen in stage:
            apart.observe(seen)
        harvested += apart.harvest()
    assert apart.records() == []
    assert_same(harvested, watch(recorders()).records())


def test_every_forward_quantity_is_recorded():
    found = {record.quantity for record in watch(recorders()).records()}
    assert found == {quantity for group in FORWARD_GROUPS for quantity in of_group(group)}


def test_harvest_gives_what_is_finished():
    seen = recorders()
    groups = []
    for stage in stages():
        for each in stage:
            seen.observe(each)
        groups.append({record.quantity.name for record in seen.harvest()})
    assert all(("llmint8_count" in names) == (number == LAYERS) for number, names in enumerate(groups))
    assert all(("cross_entropy" in names) == (number == LAYERS + 1) for number, names in enumerate(groups))


def test_harvest_of_one_layer():
    seen = watch(recorders())
    of_layer = seen.harvest(1)
    assert {record.at["layer"] for record in of_layer if "layer" in record.at} == {1}
    assert_same([*of_layer, *seen.records()], watch(recorders()).records())


@pytest.mark.parametrize("group", FORWARD_GROUPS)
def test_only_wanted_groups_are_recorded(group):
    seen = watch(recorders({group, "parameters"}))
    assert {record.quantity.group for record in seen.records()} == {group}


def test_sites_needed():
    assert recorders({"parameters"}).sites == frozenset()
    assert recorders({"loss"}).sites == {Site.LOGITS}
    assert recorders({"outliers"}).sites == {
        Site.EMBEDDING, Site.RESIDUAL_IN, Site.RESIDUAL_MIDDLE, Site.RESIDUAL_OUT,
    }  # fmt: skip
    assert recorders({"activations"}).sites == set(ALL_SITES) - {Site.LOGITS, Site.CHOSEN_EXPERTS}
    assert recorders({"routing"}).sites == ROUTING
    assert recorders().sites == set(ALL_SITES)


def test_routing_is_read_only_where_there_are_experts():
    dense = watch(ForwardRecorders(probe(), LAYERS, FORWARD_GROUPS, available=OLMO2_SITES))
    assert dense.sites == set(OLMO2_SITES)
    assert "routing" not in {record.quantity.group for record in dense.records()}


def test_outliers_are_read_after_input_norms_where_there_are_any():
    normed = ForwardRecorders(probe(), LAYERS, {"outliers"}, available=tuple(Site))
    assert normed.sites == {Site.EMBEDDING, Site.ATTENTION_INPUT, Site.MLP_INPUT, Site.RESIDUAL_OUT}


def test_indices_of_experts_are_not_measured_as_activations():
    assert Site.CHOSEN_EXPERTS not in ForwardRecorders(probe(), LAYERS, {"activations"}, available=tuple(Site)).sites


def test_halves_of_the_sequences_merge():
    one = watch(recorders(), rows=slice(0, 1))
    two = watch(recorders(), rows=slice(1, SEQUENCES), at_once=3)
    two.merge(one)
    assert_same(two.records(), watch(recorders()).records())


def test_a_pass_broken_off_still_gives_what_was_seen():
    seen = recorders()
    for each in [each for stage in stages() for each in stage][:-1]:
        seen.observe(each)
    records = keyed(seen.harvest())
    assert ("loss/cross_entropy", ("domain", "code")) not in records
    assert np.isfinite(keyed(seen.records())["loss/cross_entropy", ("domain", "code")])
