"""The groups of the model's inside in a collection: asked for by name, with options, in a pass that stops early."""

import re

import numpy as np
import pytest

import olmo_dynamics as od
from olmo_dynamics.errors import OptionError
from olmo_dynamics.progress import Progress
from olmo_dynamics.quantities.declaration import Status
from tests.runs import write_family_run

NAMES = ("step0-tokens0", "step10-tokens1B")


def collected(tmp_path, name, **options):
    run, tokens = tmp_path / "run", tmp_path / "tokens.npy"
    if not run.exists():
        write_family_run(run, NAMES, "olmo2")
        np.save(tokens, np.random.default_rng(0).integers(1, 300, (9, 64)))
    return od.collect(run, out=tmp_path / name, tokens=tokens, progress=Progress(), **options)


def test_a_collection_holds_the_groups_that_were_asked_for(tmp_path):
    store = collected(tmp_path, "s.zarr", record="loss,attention,writes,lens,induction", lens_tokens=520)
    assert store.groups == ("loss", "attention", "writes", "lens", "induction")
    row, loss = store.row("lens", NAMES[1]), store.row("loss", NAMES[1])
    assert (dict(store.group("lens").attributes), int(row["token_count"].max())) == ({"tokens": 520}, 520)
    assert (row["kl_to_final"][-1] < 1e-6).all()
    np.testing.assert_allclose(row["cross_entropy"][-1], loss["cross_entropy"], rtol=0.02)
    assert np.nansum(store.row("writes", NAMES[1])["logit_share"]) == pytest.approx(1, abs=1e-4)
    induction = store.row("induction", NAMES[1])
    assert all(np.isfinite(induction[name]) for name in ("first_half_loss", "second_half_loss", "in_context_score"))
    facts = {"seed": 0, "windows": 8, "repeated_tokens": 128, "early_position": 6, "late_position": 52}
    assert dict(store.group("induction").attributes) == facts
    status = store.row("attention", NAMES[1])["status"]
    assert (status[0] == Status.NOT_MEASURED).all()
    assert (status[1:] == Status.MEASURED).all()


def test_a_pass_that_stops_early_has_attention_and_no_lens(tmp_path):
    store = collected(tmp_path, "early.zarr", record="attention", until_layer=0)
    assert (store.row("attention", NAMES[0])["status"][1:] == Status.MEASURED).all()
    for group in ("lens", "induction"):
        message = f"{group} needs the whole forward pass, which is to end after layer 0; leave one out"
        with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
            collected(tmp_path, "none.zarr", record=group, until_layer=0)


def test_lens_tokens_without_the_lens_are_refused(tmp_path):
    message = "lens_tokens needs the group lens or writes; record it too, or leave lens_tokens out"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        collected(tmp_path, "none.zarr", record="loss", lens_tokens=600)
