"""Built-in recorders behind one: each sees its sites, and parts merge to the whole."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import NO_LAYER, Site
from olmo_dynamics.quantities import find, of_group
from olmo_dynamics.quantities.declaration import Group, Quantity, Reads, Record
from olmo_dynamics.recorders import Context, Recorder, RecorderSet
from tests.recorders.material import OF_VALUES, Tokens, shown

ROUTING = {Site.ROUTER_LOGITS, Site.CHOSEN_EXPERTS}
INPUT_NORMS = {Site.ATTENTION_INPUT, Site.MLP_INPUT}
OLMO2_SITES = tuple(site for site in Site if site not in ROUTING | INPUT_NORMS)
ALL_SITES = (*OLMO2_SITES, *ROUTING)  # of no real model: experts, and norms on outputs

FORWARD_GROUPS = [group.name for each in OF_VALUES if each.reads is Reads.ACTIVATIONS for group in each().groups]
UNREAD = {Site.RESIDUAL_IN, Site.QUERY_ROTATED}
"""Sites that no built-in recorder reads."""

LAYERS, SEQUENCES, POSITIONS, WIDTH, VOCAB = 3, 4, 6, 8, 20
EXPERTS, PER_TOKEN = 12, 3


def probe():
    mask = np.arange(POSITIONS) < np.array([6, 4, 6, 2])[:, None]
    ids = np.random.default_rng(0).integers(0, 18, (SEQUENCES, POSITIONS))
    return Tokens(ids, 18, mask=mask, domain=np.array([0, 0, 1, 1]), domains=("code", "prose"))


def stages(*, rows=slice(0, SEQUENCES), at_once=2):
    """The observations of a forward pass, stage by stage: every site of every layer, then slices of logits."""
    mask = probe().mask
    generator = torch.Generator().manual_seed(0)

    def whole(site, layer, width=WIDTH):
        return site, layer, torch.randn(SEQUENCES, POSITIONS, width, generator=generator) * 5

    def cut(site, layer, x, positions=POSITIONS):
        for start in range(rows.start, rows.stop, at_once):
            for place in range(0, POSITIONS, positions):
                there = slice(start, min(start + at_once, rows.stop)), slice(place, min(place + positions, POSITIONS))
                yield shown(site, layer, x[there], mask[there], *there)

    yield NO_LAYER, list(cut(*whole(Site.EMBEDDING, NO_LAYER)))
    for layer in range(LAYERS):
        in_block = [whole(site, layer, WIDTH if site.hidden_wide else EXPERTS) for site in Site if site.in_block]
        in_block = [(s, n, x.topk(PER_TOKEN).indices if s.is_choice else x) for s, n, x in in_block]
        yield layer, [seen for each in in_block for seen in cut(*each)]
    norm, logits = whole(Site.FINAL_NORM, NO_LAYER), whole(Site.LOGITS, NO_LAYER, VOCAB)
    yield NO_LAYER, [*cut(*norm), *cut(*logits, positions=4)]


def keyed(records):
    keys = [(record.quantity.key, *sorted(record.at.items())) for record in records]
    assert len(set(keys)) == len(keys), "a number was given twice"
    return dict(zip(keys, (record.values for record in records), strict=True))


def assert_same(a, b):
    a, b = keyed(a), keyed(b)
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key], b[key], rtol=1e-9, atol=1e-12, err_msg=str(key))


def recorders(groups=None, sites=ALL_SITES):
    context = Context(None, probe(), sites, LAYERS)
    return RecorderSet([each() for each in OF_VALUES], context, groups, {Reads.ACTIVATIONS})


def watch(recorders, **how):
    for _, stage in stages(**how):
        for seen in stage:
            recorders.observe(seen)
    return recorders


def test_finishing_layer_by_layer_gives_everything_once():
    finished, apart = [], recorders()
    for layer, stage in stages():
        for seen in stage:
            apart.observe(seen)
        finished += apart.finish_layer(layer)
    finished += apart.finish()
    assert_same(finished, watch(recorders()).finish())


def test_every_forward_quantity_is_recorded():
    found = {record.quantity for record in watch(recorders()).finish()}
    assert found == {quantity for group in FORWARD_GROUPS for quantity in of_group(group)}


def test_a_layer_gives_its_own_records_and_the_end_gives_the_rest():
    seen, of_stages = recorders(), []
    for layer, stage in stages():
        for each in stage:
            seen.observe(each)
        of_stages.append(seen.finish_layer(layer))
    names = [{record.quantity.name for record in records} for records in of_stages]
    assert all("rms" in found for found in names)
    assert not {"llmint8_count", "cross_entropy"} & set().union(*names)
    assert {"llmint8_count", "cross_entropy"} <= {record.quantity.name for record in seen.finish()}


def test_finishing_one_layer_drops_it_and_no_other():
    seen = watch(recorders())
    of_layer = seen.finish_layer(1)
    entering = Site.RESIDUAL_IN.value  # the statistics of the stream that enters the next block come with it
    assert {record.at["layer"] for record in of_layer if record.at.get("site") != entering} == {1}
    assert {record.at["layer"] for record in of_layer if record.at.get("site") == entering} == {2}
    assert seen.finish_layer(1) == []
    assert_same([*of_layer, *seen.finish()], watch(recorders()).finish())


@pytest.mark.parametrize("group", FORWARD_GROUPS)
def test_only_the_groups_asked_for_are_recorded(group):
    seen = watch(recorders({group, "parameters"}))
    assert {record.quantity.group for record in seen.finish()} == {group}


def test_sites_needed():
    assert recorders({"parameters"}).sites == frozenset()
    assert recorders({"loss"}).sites == {Site.LOGITS}
    assert recorders({"outliers"}).sites == {Site.EMBEDDING, Site.RESIDUAL_MIDDLE, Site.RESIDUAL_OUT}
    assert recorders({"activations"}).sites == set(ALL_SITES) - UNREAD - {Site.LOGITS, Site.CHOSEN_EXPERTS}
    assert recorders({"routing"}).sites == ROUTING | {Site.LOGITS}
    assert recorders().sites == set(ALL_SITES) - UNREAD


def test_the_stream_that_enters_a_block_is_the_one_that_left_the_last():
    found = keyed(watch(recorders()).finish())
    for layer in range(LAYERS):
        site, before = (Site.RESIDUAL_OUT, layer - 1) if layer else (Site.EMBEDDING, NO_LAYER)
        for name in ("feature_rms", "kurtosis", "status"):
            entering, left = (
                found[f"activations/{name}", ("layer", at), ("site", where)]
                for where, at in ((Site.RESIDUAL_IN, layer), (site, before))
            )
            np.testing.assert_array_equal(entering, left)
        maxima = found["outliers/feature_abs_max", ("input", "attention_input"), ("layer", layer)]
        left = found["activations/feature_abs_max", ("layer", before), ("site", site)]
        np.testing.assert_array_equal(maxima, left)


def test_routing_is_read_only_where_there_are_experts():
    dense = watch(recorders(sites=OLMO2_SITES))
    assert dense.sites == set(OLMO2_SITES) - UNREAD
    assert "routing" not in {record.quantity.group for record in dense.finish()}


def test_outliers_are_read_after_input_norms_where_there_are_any():
    normed = recorders({"outliers"}, sites=tuple(Site))
    assert normed.sites == {Site.EMBEDDING, Site.ATTENTION_INPUT, Site.MLP_INPUT, Site.RESIDUAL_OUT}


def test_indices_of_experts_are_not_measured_as_activations():
    assert Site.CHOSEN_EXPERTS not in recorders({"activations"}, sites=tuple(Site)).sites


def test_halves_of_the_sequences_merge():
    one = watch(recorders(), rows=slice(0, 1))
    two = watch(recorders(), rows=slice(1, SEQUENCES), at_once=3)
    two.merge(one)
    assert_same(two.finish(), watch(recorders()).finish())


@settings(max_examples=8, deadline=None)
@given(st.sets(st.integers(1, SEQUENCES - 1)), st.integers(1, SEQUENCES), st.randoms(use_true_random=False))
def test_parts_of_the_sequences_merge_in_any_order(cuts, at_once, random):
    parts = [slice(*pair) for pair in pairwise([0, *sorted(cuts), SEQUENCES])]
    random.shuffle(parts)
    merged = recorders()
    for rows in parts:
        merged.merge(watch(merged.fresh(), rows=rows, at_once=at_once))
    assert_same(merged.finish(), watch(recorders()).finish())


def test_a_pass_broken_off_still_gives_what_was_seen():
    seen = recorders()
    for each in [each for _, stage in stages() for each in stage][:-1]:
        seen.observe(each)
    records = [record for layer in range(NO_LAYER, LAYERS) for record in seen.finish_layer(layer)]
    assert ("loss/cross_entropy", ("domain", "code")) not in keyed(records)
    assert np.isfinite(keyed(seen.finish())["loss/cross_entropy", ("domain", "code")])


class Own(Recorder):
    """A recorder whose methods do as they are told."""

    group = Group("own", ("layer",), "Told.", (Quantity("mean"),))
    sites = frozenset({Site.RESIDUAL_OUT})

    def __init__(self, give):
        self.give = give

    def observe(self, seen):
        if self.give == "fail":
            raise ZeroDivisionError("no tokens")

    def merge(self, other):
        raise KeyError(0)

    def finish_layer(self, layer):
        return self.give(self) if callable(self.give) else self.give


def shown_to(own):
    seen = RecorderSet([own], Context(sites=(Site.RESIDUAL_OUT,), layers=1))
    seen.observe(shown(Site.RESIDUAL_OUT, 0, np.ones((1, 2, 3))))
    return seen


def test_an_error_in_a_recorder_names_it():
    with pytest.raises(ZeroDivisionError, match=r"^no tokens\nin Own \(group own\)$"):
        shown_to(Own("fail"))
    seen = shown_to(Own(()))
    with pytest.raises(KeyError) as error:
        seen.merge(seen)
    assert error.value.__notes__ == ["in Own (group own)"]
    with pytest.raises(
        OptionError, match=r"^group own declares no quantity 'median'; it has mean; did you mean 'mean'\?\nin Own"
    ):
        shown_to(Own(lambda own: (own.record("median", 1.0, layer=0) for _ in range(1)))).finish()


def test_what_is_no_record_of_its_group_is_refused():
    must = "^finish_layer of Own [(]group own[)] must give records"
    with pytest.raises(OptionError, match=rf"{must} \(got None\); yield self\.record\(\.\.\.\)$"):
        shown_to(Own(None)).finish()
    with pytest.raises(OptionError, match=rf"{must} \(got 1\.5\); yield self\.record\(\.\.\.\)$"):
        shown_to(Own([1.5])).finish()
    foreign = Record(find("logits/lse_mean"), np.asarray(42.0))
    with pytest.raises(OptionError, match=rf"{must} of this group \(got one of logits/lse_mean\)$"):
        shown_to(Own([foreign])).finish()


def test_one_record_alone_is_as_good_as_a_row_of_one():
    [record] = shown_to(Own(lambda own: own.record("mean", 2.0, layer=0))).finish()
    assert (record.quantity.key, float(record.values), record.at) == ("own/mean", 2.0, {"layer": 0})
