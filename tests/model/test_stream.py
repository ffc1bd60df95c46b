"""The streamed pass: the resident model, with a layer's weights at a time."""

import gc
import weakref
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from olmo_dynamics.errors import OptionError
from olmo_dynamics.model import (
    MODEL_TYPES,
    Compute,
    ModelConfig,
    Prepared,
    SiteValues,
    StreamedPass,
    expected_shapes,
    load_model_weights,
    stages,
    taps,
    to_tensor,
)
from olmo_dynamics.model.parts import cut, slices
from olmo_dynamics.model.stream import PARTS
from olmo_dynamics.names import NO_LAYER, Site, TensorInfo
from tests.model.drawing import configs, distance, random_model, random_tokens, same_in_transformers, tiny_config

Seen = dict[tuple[Site, int], Tensor]


def run_streamed(config: ModelConfig, weights: dict[str, Tensor], token_ids: Tensor, **options: object) -> Seen:
    """Every observation, put back together into `[sequences, positions, width]`."""
    seen: Seen = {}

    def keep(observation: SiteValues) -> None:
        values = observation.values
        place = (observation.site, observation.layer)
        unseen = torch.nan if values.is_floating_point() else -1
        width = config.vocab_size if observation.site is Site.LOGITS else values.shape[-1]
        whole = seen.setdefault(place, torch.full((*token_ids.shape, width), unseen, dtype=values.dtype))
        part = whole[observation.rows, observation.positions, observation.columns]
        assert part.shape == values.shape
        assert (part.isnan() | (part == -1)).all(), "seen twice"
        part.copy_(values)

    sites = options.pop("sites", tuple(Site))
    streamed = StreamedPass(config, token_ids, sites=sites, compute=Compute(**options))
    for stage in stages(config):
        streamed.run(streamed.prepare(stage, weights), keep)
    return seen


def together(sequences: int, at_once: int) -> list[int]:
    """The number of sequences that a streamed pass runs together, each time."""
    parts = (part.stop - part.start for part in cut(sequences, PARTS))
    return [rows.stop - rows.start for length in parts for rows in slices(length, at_once)]


def run_resident(model: torch.nn.Module, token_ids: Tensor, at_once: int) -> Seen:
    parts: dict[tuple[Site, int], list[Tensor]] = {}
    handles = [
        tap.register_forward_hook(lambda tap, _, x: parts.setdefault((tap.site, tap.layer), []).append(x))
        for tap in taps(model)
    ]
    with torch.inference_mode():
        for rows in token_ids.split(together(len(token_ids), at_once)):
            model(rows)
    for handle in handles:
        handle.remove()
    return {place: torch.cat(values) for place, values in parts.items()}


def assert_everywhere(ours: Seen, theirs: Seen, equal) -> None:
    assert sorted(ours) == sorted(theirs)
    for place in ours:
        assert equal(ours[place], theirs[place]), place


@pytest.mark.parametrize(
    "family",  # test_weights_are_cast_to_the_compute_dtype compares one config of each family as exactly
    [
        pytest.param(each, marks=[pytest.mark.slow] if each in ("llama", "gpt_neox", "olmo_ladder") else [])
        for each in MODEL_TYPES
    ],
)
@settings(max_examples=8, deadline=None)
@given(data=st.data(), sequences=st.integers(1, 20), positions=st.integers(1, 12), at_once=st.integers(1, 3))
def test_every_site_is_bit_for_bit_the_resident_model(family, data, sequences, positions, at_once):
    config = data.draw(configs(family))
    model = random_model(config)
    token_ids = random_tokens(config, sequences, positions)
    streamed = run_streamed(config, model.state_dict(), token_ids, sequences_at_once=at_once)
    assert_everywhere(streamed, run_resident(model, token_ids, at_once), torch.equal)


@settings(max_examples=20, deadline=None)
@given(config=configs(), at_once=st.integers(1, 4), columns=st.sampled_from([1, 7, 64, 2048]))
def test_nothing_depends_on_how_the_batch_is_cut(config, at_once, columns):
    model = random_model(config, dtype=torch.float64)
    token_ids = random_tokens(config, 4, 10)
    cut = run_streamed(
        config,
        model.state_dict(),
        token_ids,
        dtype=torch.float64,
        sequences_at_once=at_once,
        columns_at_once=columns,
    )
    assert_everywhere(cut, run_resident(model, token_ids, 4), lambda a, b: distance(a, b) <= 1e-12)


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_logits_are_transformers_logits(family):
    model = random_model(tiny_config(family))
    token_ids = random_tokens(model.config, 3, 9)
    logits = run_streamed(model.config, model.state_dict(), token_ids)[Site.LOGITS, NO_LAYER]
    with torch.no_grad():
        assert distance(logits, same_in_transformers(model)(token_ids).logits) <= 1e-5


@pytest.mark.parametrize("family", MODEL_TYPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_weights_are_cast_to_the_compute_dtype(family, dtype):
    stored = random_model(tiny_config(family), dtype=torch.bfloat16)
    model = random_model(tiny_config(family), dtype=dtype)
    load_model_weights(model, stored.state_dict())
    token_ids = random_tokens(model.config, 2, 7)
    seen = run_streamed(model.config, stored.state_dict(), token_ids, dtype=dtype, sequences_at_once=2)
    resident = run_resident(model, token_ids, 2)
    logits = seen.pop((Site.LOGITS, NO_LAYER))
    assert logits.dtype == dtype
    assert torch.equal(logits, resident.pop((Site.LOGITS, NO_LAYER)))
    assert {values.dtype for (site, _), values in seen.items() if not site.is_choice} == {dtype}
    assert_everywhere(seen, resident, torch.equal)


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_padding_on_the_right_changes_nothing_before_it(family):
    model = random_model(tiny_config(family), dtype=torch.float64)
    token_ids = random_tokens(model.config, 2, 9)
    padded = token_ids.clone()
    padded[1, 5:] = 0
    weights = model.state_dict()
    whole = run_streamed(model.config, weights, padded, dtype=torch.float64)
    alone = run_streamed(model.config, weights, token_ids[1:, :5], dtype=torch.float64)
    for place, values in alone.items():
        assert distance(whole[place][1:, :5], values) <= 1e-12
        assert whole[place].isfinite().all()


def test_only_the_requested_sites_are_observed():
    model = random_model(tiny_config())
    token_ids = random_tokens(model.config, 2, 5)
    seen = run_streamed(model.config, model.state_dict(), token_ids, sites={Site.MLP_HIDDEN, Site.FINAL_NORM})
    assert list(seen) == [*((Site.MLP_HIDDEN, layer) for layer in range(3)), (Site.FINAL_NORM, NO_LAYER)]


def test_logits_come_in_slices_of_the_vocabulary():
    model = random_model(tiny_config(vocab_size=1000))
    shapes = []
    compute = Compute(columns_at_once=300, threads=1)
    streamed = StreamedPass(model.config, random_tokens(model.config, 2, 11), sites=[Site.LOGITS], compute=compute)
    for stage in stages(model.config):
        ready = streamed.prepare(stage, model.state_dict())
        streamed.run(ready, lambda observation: shapes.append(tuple(observation.values.shape)))
    assert shapes == [(1, 11, 300), (1, 11, 300), (1, 11, 300), (1, 11, 100)] * 2


def take(weights: dict[str, Tensor], names: Iterable[str]) -> tuple[dict[str, Tensor], list[weakref.ref[Tensor]]]:
    """Own copies of some weights, and what tells whether they live."""
    taken = {name: weights[name].clone() for name in names}
    return taken, [weakref.ref(tensor) for tensor in taken.values()]


@pytest.mark.parametrize("family", ["olmo2", pytest.param("olmoe", marks=pytest.mark.slow)])
def test_a_stage_lets_its_weights_go(family):
    model = random_model(tiny_config(family))
    streamed = StreamedPass(model.config, random_tokens(model.config, 2, 5))
    for stage in stages(model.config):
        weights, alive = take(model.state_dict(), stage.tensors)
        storages = {tensor.untyped_storage().data_ptr() for tensor in weights.values()}
        streamed.run(streamed.prepare(stage, weights), lambda observation: None)
        del weights
        gc.collect()
        assert [reference() for reference in alive] == [None] * len(alive)
        living = (thing for thing in gc.get_objects() if type(thing) in (Tensor, torch.nn.Parameter))
        held = {tensor.untyped_storage().data_ptr() for tensor in living if tensor.device.type == "cpu"}
        assert not held & storages


def test_an_observer_that_fails_leaves_no_weights_behind_and_no_way_on():
    model = random_model(tiny_config())
    token_ids = random_tokens(model.config, 2, 5)
    streamed = StreamedPass(model.config, token_ids, sites=[Site.EMBEDDING])
    stage = stages(model.config)[0]
    weights, alive = take(model.state_dict(), stage.tensors)

    def fail(observation: SiteValues) -> None:
        raise ArithmeticError("no")

    with pytest.raises(ArithmeticError, match="no"):
        streamed.run(streamed.prepare(stage, weights), fail)
    del weights
    gc.collect()
    assert [reference() for reference in alive] == [None]
    message = r"^stages must run in order, next is block 0 \(got embedding\); start a new StreamedPass$"
    with pytest.raises(OptionError, match=message):
        streamed.run(streamed.prepare(stage, model.state_dict()), fail)


def test_weights_may_be_read_only_bytes_of_a_file(tmp_path):
    model = random_model(tiny_config(), dtype=torch.bfloat16)
    mapped = {}
    for number, (name, tensor) in enumerate(model.state_dict().items()):
        path = tmp_path / str(number)
        path.write_bytes(tensor.view(torch.uint8).numpy().tobytes())
        raw = np.memmap(path, mode="r")
        mapped[name] = to_tensor(raw, TensorInfo(name, "BF16", tuple(tensor.shape), path.name, 0, raw.nbytes))
    token_ids = random_tokens(model.config, 2, 5)
    seen = run_streamed(model.config, mapped, token_ids, dtype=torch.bfloat16)
    resident = run_resident(model, token_ids, 2)
    assert torch.equal(seen[Site.RESIDUAL_OUT, 2], resident[Site.RESIDUAL_OUT, 2])


@settings(max_examples=20, deadline=None)
@given(config=configs())
def test_stages_name_every_tensor_in_the_order_of_use(config):
    found = stages(config)
    assert [stage.name for stage in found] == ["embedding", *(f"block {n}" for n in range(config.layers)), "head"]
    assert [stage.layer for stage in found] == [NO_LAYER, *range(config.layers), NO_LAYER]
    named = [name for stage in found for name in stage.tensors]
    assert set(named) == set(expected_shapes(config))
    twice = ["model.embed_tokens.weight"] if config.tied_embeddings else []
    assert sorted(named) == sorted([*expected_shapes(config), *twice])


@pytest.mark.parametrize(("until", "blocks"), [(0, 0), (2, 2), (3, 3), (9, 3)])
def test_stages_until_a_layer_have_no_head(until, blocks):
    config = tiny_config()
    assert stages(config, until=until) == stages(config)[: 1 + blocks]


def test_stages_out_of_order_are_refused():
    config = tiny_config()
    streamed = StreamedPass(config, random_tokens(config, 1, 3))
    message = r"^stages must run in order, next is embedding \(got block 1\); start a new StreamedPass$"
    with pytest.raises(OptionError, match=message):
        streamed.run(Prepared(stages(config)[2], {}), lambda observation: None)


def test_a_finished_pass_is_refused():
    model = random_model(tiny_config())
    streamed = StreamedPass(model.config, random_tokens(model.config, 1, 3), sites=())
    for stage in stages(model.config):
        streamed.run(streamed.prepare(stage, model.state_dict()), lambda observation: None)
    message = r"^stages must run in order, next is no further stage \(got head\); start a new StreamedPass$"
    with pytest.raises(OptionError, match=message):
        streamed.run(Prepared(stages(model.config)[-1], {}), lambda observation: None)


@pytest.mark.parametrize("name", ["threads", "sequences_at_once", "columns_at_once"])
def test_nothing_at_once_is_refused(name):
    message = rf"^{name} must be at least 1 \(got 0\); give a larger number, or leave it out$"
    with pytest.raises(OptionError, match=message):
        Compute(**{name: 0})


@pytest.mark.parametrize("family", MODEL_TYPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("sequences", [1, 5])
def test_threads_change_no_bit(family, dtype, sequences):
    model = random_model(tiny_config(family), dtype=dtype)
    token_ids = random_tokens(model.config, sequences, 40)
    before = torch.get_num_threads()
    one, two = (run_streamed(model.config, model.state_dict(), token_ids, dtype=dtype, threads=n) for n in (1, 2))
    assert_everywhere(one, two, torch.equal)
    assert torch.get_num_threads() == before


def test_an_exception_in_a_thread_is_raised():
    config = tiny_config()
    streamed = StreamedPass(config, random_tokens(config, 4, 3), compute=Compute(threads=2))
    stage = stages(config)[0]

    def fail(observation: SiteValues) -> None:
        if observation.part == 2:
            raise ArithmeticError("part 2")

    with pytest.raises(ArithmeticError, match=r"^part 2$"):
        streamed.run(streamed.prepare(stage, random_model(config).state_dict()), fail)


def test_weights_in_the_compute_dtype_are_not_copied():
    config = tiny_config()
    weights = random_model(config, dtype=torch.bfloat16).state_dict()
    streamed = StreamedPass(config, random_tokens(config, 1, 3), compute=Compute(dtype=torch.bfloat16))
    for stage in stages(config):
        ready = streamed.prepare(stage, weights)
        assert all(ready.weights[name].data_ptr() == weights[name].data_ptr() for name in stage.tensors)
