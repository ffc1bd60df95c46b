"""An audit of a store: bit-equal steps and steps out of line are found, and nothing in a clean run or in frozen tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from olmo_dynamics import quantities
from olmo_dynamics.auditing import Audit, audit
from olmo_dynamics.auditing.outlying import count_tests, find_outlying, threshold
from olmo_dynamics.auditing.recorded_steps import find_in_store
from olmo_dynamics.checkpoints import parse_revision
from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.quantities.declaration import Record
from olmo_dynamics.recorders.parameters import measure_tensor
from olmo_dynamics.store import Axis, Layout, Store
from tests.auditing.conftest import lines
from tests.store.synthetic import ATTRIBUTES

SIDE = 320  # 102,400 elements
EMBEDDING, HEAD, MATRIX = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.mlp.up_proj.weight"
LAST = 13_000
Weights = dict[str, dict[str, np.ndarray]]


def trained(frozen: tuple[str, ...] = (), last: int = LAST) -> Weights:
    """Steps and `main` of a run whose weights shrink and move; frozen tensors do neither."""
    rng = np.random.default_rng(0)
    first = {name: rng.standard_normal((SIDE, SIDE), dtype=np.float32) for name in (EMBEDDING, HEAD, MATRIX)}
    moved = {name: 1e-2 * rng.standard_normal((SIDE, SIDE), dtype=np.float32) for name in first}
    run = {
        f"step{step}": {
            name: first[name] if name in frozen else (1 - step / 80_000) * first[name] + step / 1000 * moved[name]
            for name in first
        }
        for step in range(1000, last + 1, 1000)
    }
    return run | {"main": run[f"step{last}"]}


@cache
def measured(tensor: str, content: bytes) -> list[Record]:
    """The records of a tensor; tests share most of them."""
    return measure_tensor(
        np.frombuffer(content, np.uint8), TensorInfo(tensor, "F32", (SIDE, SIDE), "f", 0, len(content))
    )


def recorded(folder: Path, run: Weights) -> Store:
    """A store of the statistics of weights."""
    names = [EMBEDDING, HEAD, MATRIX]
    coordinates = {"layer": np.array([-1, -1, 0]), "expert": np.array([-1] * 3),
                   "role": np.array(["embed_tokens", "lm_head", "up_proj"])}  # fmt: skip
    axes = [Axis("tensor", np.array(names), coordinates), Axis("feature", np.arange(SIDE)),
            Axis("quantile", np.array(quantities.QUANTILES))]  # fmt: skip
    layout = Layout({axis.name: axis for axis in axes}, [quantities.GROUPS["parameters"]])
    store = Store.create(folder / "s.zarr", layout=layout, attributes=ATTRIBUTES | {"probe": None}, probe_arrays={})
    with store.lock():
        for name, weights in run.items():
            records = [record for tensor, values in weights.items() for record in measured(tensor, values.tobytes())]
            store.append(parse_revision(name), records, dtype="F32", weights_sha256=name)
    return store


AuditRun = Callable[..., Audit]


@pytest.fixture
def audit_run(tmp_path: Path) -> AuditRun:
    return lambda run, **options: audit(recorded(tmp_path, run), **options)


def faults(found: Audit) -> list[tuple[str, str, tuple[str, ...]]]:
    return [each for each in lines(found) if each[0] != "note"]


def test_a_clean_run_with_a_frozen_tensor_gives_notes_alone(audit_run: AuditRun) -> None:
    found = audit_run(trained(frozen=(HEAD,)))
    assert [line for _, line, _ in lines(found)] == [
        f"duplicate: never changes in run, not trained: {HEAD}",
        f"test: 55 values compared with their neighbours' (no value beyond both neighbours by {threshold(55):.3g} times the "
        "run's own scatter and 1%); a sound run gets a false alarm in at most 1% of audits, for independent noise with tails "
        "up to those of Student's t of 4 degrees of freedom",
        "test: statistics of 3 tensors of at least 100,000 elements compared bit by bit at 14 revisions",
    ]
    assert {severity for severity, _, _ in lines(found)} == {"note"} and not found.quarantine.revisions


def test_the_final_shard_under_an_earlier_step_is_found_twice(audit_run: AuditRun, tmp_path: Path) -> None:
    run = trained()
    run["step8000"] = run["step8000"] | {EMBEDDING: run["main"][EMBEDDING]}
    found = audit_run(run, quarantine=tmp_path / "q.json")
    wrong, doubtful = faults(found)
    assert wrong == (
        "wrong",
        f"duplicate: bit-equal statistics of 1 of 3 trained tensors ({EMBEDDING}) (expected different weights at different "
        "steps)",
        ("step8000", f"step{LAST}", "main"),
    )
    norms = [np.linalg.norm(run[f"step{step}"][EMBEDDING].astype(float)) for step in (8000, 7000, 9000)]
    between = f"{EMBEDDING}: L2 norm {norms[0]:.5g} between {norms[1]:.5g} and {norms[2]:.5g}"
    assert doubtful[1].startswith(f"out of line: {between} (the worst of 2 values) (expected no value beyond both ")
    assert doubtful[2] == ("step8000",)
    entry = json.loads((tmp_path / "q.json").read_text())["revisions"]
    assert entry == {"step8000": {"reasons": [wrong[1]], "state": "", "tensors": [EMBEDDING]}}


def test_weights_that_differ_in_the_sign_of_zeros_are_equal(audit_run: AuditRun) -> None:
    run = trained(last=5000)
    for values in run["step2000"].values():
        values[0, :7] = 0.0
    run["step3000"] = {
        name: np.where(values == 0, np.float32(-0.0), values) for name, values in run["step2000"].items()
    }
    found = audit_run(run)
    [wrong] = faults(found)
    assert wrong[1].startswith("duplicate: bit-equal statistics of 3 of 3 trained tensors (")
    assert wrong[2] == ("step2000", "step3000")
    assert {name: entry.is_whole for name, entry in found.quarantine.revisions.items()} == {
        "step2000": True, "step3000": True,
    }  # fmt: skip


def test_steps_at_rate_0_may_be_equal(tmp_path: Path) -> None:
    run = trained(last=5000)
    run["step4000"] = run["step5000"]
    store = recorded(tmp_path, run)
    assert [finding.kind for finding in find_in_store(store)] == ["duplicate", "test", "test"]
    rates = {step: 0.0 if step > 4000 else 1e-3 for step in range(1, 5001)}
    assert [finding.kind for finding in find_in_store(store, rates=lambda: rates)] == ["test", "test"]


def test_a_store_takes_no_lists_and_needs_statistics_of_weights(tmp_path: Path) -> None:
    store = recorded(tmp_path, {})
    with pytest.raises(OptionError) as caught:
        audit(store.path, headers="all")
    assert str(caught.value) == (
        f"--lists and --headers need a repo or a folder of revisions (got the store {store.path}); audit org/tiny with them"
    )
    other = Layout({"domain": Axis("domain", np.array(["a"]))}, [quantities.GROUPS["loss"].only(["cross_entropy"])])
    without = Store.create(tmp_path / "o.zarr", layout=other, attributes=ATTRIBUTES, probe_arrays={})
    with pytest.raises(OptionError) as caught:
        audit(without)
    assert str(caught.value) == (
        f"{without.path} must hold the group parameters to be audited (it holds loss); collect --record parameters adds it"
    )


@pytest.mark.parametrize("revisions", [12, 40])
@pytest.mark.parametrize("tails", ["normal", "student"])
def test_the_false_alarm_rate_holds_on_smooth_runs_with_noise(revisions: int, tails: str) -> None:
    rng = np.random.default_rng(revisions)
    steps, alarms, runs = np.unique(np.geomspace(1, 143_000, revisions).astype(int)), 0, 200
    place = np.log1p(steps)[:, np.newaxis]
    for _ in range(runs):
        trend = rng.uniform(-1, 1) * np.log1p(np.exp(place * rng.uniform(0.1, 0.5))) + 0.1 * np.sin(
            place * rng.uniform(0.1, 0.5, 20) + rng.uniform(0, 6, 20)
        )
        shape = trend.shape
        noise = rng.standard_normal(shape) if tails == "normal" else rng.standard_t(4, shape)
        values = np.exp(trend + 10 ** rng.uniform(-4, -1) * noise)
        alarms += len(find_outlying(steps, values, tests=count_tests(values), false_alarms=0.05)) > 0
    assert alarms <= 0.05 * runs


def test_the_threshold_is_the_tail_of_the_height_of_noise() -> None:
    noise = np.random.default_rng(1).standard_t(4, (400_000, 3))
    beyond = np.minimum(np.abs(noise[:, 1] - noise[:, 0]), np.abs(noise[:, 1] - noise[:, 2]))
    sided = (noise[:, 1] - noise[:, 0]) * (noise[:, 1] - noise[:, 2]) > 0
    for tests in (2, 10, 50):
        share = np.mean(sided & (beyond > threshold(tests, 0.05)))
        assert share == pytest.approx(0.05 / tests, rel=0.12)


def test_the_real_step_is_found_among_its_neighbours(shared: Path) -> None:
    facts = json.loads((shared / "data" / "audit_cases" / "pythia_205_206.json").read_text())["pythia-12b"]
    [key] = [name for name in facts if name.startswith("median_input_embedding_L2")]
    known = {int(step): values[0] for step, values in facts[key].items()}
    steps = np.arange(40, 70) * 1000
    sound = [step for step in known if step not in (50_000, 58_000, 143_000)]
    norms = np.interp(steps, sound, [known[step] for step in sound])
    norms[steps <= 49_000] += (49_000 - steps[steps <= 49_000]) * 1.85e-6
    values = np.array([known.get(int(step), norm) for step, norm in zip(steps, norms, strict=True)])[:, np.newaxis]
    noisy = values * np.random.default_rng(0).lognormal(0, 3e-4, values.shape)
    found = find_outlying(steps, noisy, tests=150 * 300)
    assert steps[found[:, 0]].tolist() == [50_000, 58_000]
