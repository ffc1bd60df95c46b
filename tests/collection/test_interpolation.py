"""Losses along the line between two checkpoints, beside transformers with mixed state dicts in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

import olmo_dynamics as od
from olmo_dynamics import plots
from olmo_dynamics.errors import CheckpointError, OptionError
from olmo_dynamics.frames import barriers
from olmo_dynamics.frames.landscape.interpolated import ALL_TOKENS
from olmo_dynamics.progress import Progress
from tests.conftest import REVISIONS
from tests.plots.drawing import drawn, subtitle
from tests.runs import edit_config, write_family_run, write_revision

FIRST, SECOND = REVISIONS[0], REVISIONS[-1]
SHARES = [0.0, 0.3, 0.5, 1.0]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two domains of token ids, of different sizes."""
    folder, drawing = tmp_path_factory.mktemp("ids"), np.random.default_rng(0)
    paths = {name: folder / f"{name}.npy" for name in ("prose", "code")}
    for (name, path), rows in zip(paths.items(), (3, 2), strict=True):
        np.save(path, drawing.integers(0, 300, (rows, 24)).astype(np.uint16) + (name == "code"))
    return paths


def interpolated(run: Path, files: dict[str, Path], first: str, second: str, **options: object) -> pl.DataFrame:
    return od.interpolate(run, first, second, tokens=list(files.values()), progress=Progress(), **options)


def of_transformers(
    run: Path, first: str, second: str, ids: np.ndarray, dtype: torch.dtype = torch.float64
) -> list[float]:
    """The mean loss at each share, by transformers in float64 but for its norms and rotations, which are float32."""
    models = [AutoModelForCausalLM.from_pretrained(run / name, dtype=dtype) for name in (first, second)]
    states = [dict(model.state_dict()) for model in models]
    tokens, losses = torch.from_numpy(ids.astype(np.int64)), []
    mixture = AutoModelForCausalLM.from_pretrained(run / first, dtype=dtype)
    for share in SHARES:
        mixture.load_state_dict({name: (1 - share) * states[0][name] + share * states[1][name] for name in states[0]})
        with torch.no_grad():
            logs = torch.log_softmax(mixture(tokens).logits[:, :-1], dim=-1)
        losses.append(float(-logs.gather(-1, tokens[:, 1:, None]).mean()))
    return losses


@pytest.mark.parametrize(("dtype", "within"), [("float64", 5e-8), ("float32", 2e-6)])
def test_losses_are_those_of_transformers(tiny_run: Path, files: dict[str, Path], dtype: str, within: float) -> None:
    curve = interpolated(tiny_run, files, FIRST, SECOND, points=SHARES, dtype=dtype)
    assert curve["share"].unique().sort().to_list() == SHARES
    assert curve.select("start", "end").unique().rows() == [(FIRST, SECOND)]
    expected = {name: of_transformers(tiny_run, FIRST, SECOND, np.load(path)) for name, path in files.items()}
    for name, losses in expected.items():
        np.testing.assert_allclose(curve.filter(domain=name)["cross_entropy"], losses, rtol=within)
    assert curve.filter(share=0.0)["scored_tokens"].to_list() == [69, 46, 115]
    pooled = (69 * np.array(expected["prose"]) + 46 * np.array(expected["code"])) / 115
    whole = curve.filter(domain=ALL_TOKENS)
    np.testing.assert_allclose(whole["cross_entropy"], pooled, rtol=within)
    [found] = barriers(whole).to_dicts()
    assert found["barrier"] == pytest.approx(pooled.max() - (pooled[0] + pooled[-1]) / 2, abs=1e-5)
    assert found["midpoint_gap"] == pytest.approx(pooled[2] - min(pooled[0], pooled[-1]), abs=1e-5)

    chart = plots.interpolation(curve)
    assert drawn(chart)["line"] >= 3
    assert f"Barrier (nat/token): {FIRST} → {SECOND}: {found['barrier']:.3g}" in subtitle(chart)
    assert subtitle(chart).endswith("4 points, 115 scored tokens.")


def test_equal_checkpoints_have_no_barrier_at_all(tiny_run: Path, files: dict[str, Path]) -> None:
    curve = od.interpolate(
        (tiny_run, 1), (str(tiny_run), REVISIONS[1]), points=3, tokens=list(files.values()), progress=Progress()
    )
    assert barriers(curve).select("barrier", "chord_barrier", "midpoint_gap").unique().rows() == [(0.0, 0.0, 0.0)]


def test_a_tied_embedding_is_mixed_once_and_serves_both_ends(tmp_path: Path, files: dict[str, Path]) -> None:
    from transformers import Olmo2Config, Olmo2ForCausalLM

    from tests.runs import TINY

    for seed, name in enumerate((FIRST, SECOND)):
        torch.manual_seed(seed)
        Olmo2ForCausalLM(Olmo2Config(**TINY | {"tie_word_embeddings": True})).save_pretrained(tmp_path / name)
    curve = interpolated(tmp_path, files, FIRST, SECOND, points=SHARES, dtype="float64")
    expected = of_transformers(tmp_path, FIRST, SECOND, np.load(files["prose"]))
    np.testing.assert_allclose(curve.filter(domain="prose")["cross_entropy"], expected, rtol=5e-8)


def test_experts_are_mixed_too(tmp_path: Path, files: dict[str, Path]) -> None:
    run = write_family_run(tmp_path, (FIRST, SECOND), "olmoe")
    curve = interpolated(run, files, FIRST, SECOND, points=[0.3, 0.5])
    expected = of_transformers(run, FIRST, SECOND, np.load(files["prose"]), torch.float32)
    np.testing.assert_allclose(curve.filter(domain="prose")["cross_entropy"], expected, rtol=2e-6)


def test_errors_say_what_must_hold(tiny_run: Path, tmp_path: Path, files: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match=r"^points must be at least 2, the two ends \(got 1\)$"):
        interpolated(tiny_run, files, FIRST, SECOND, points=1)
    with pytest.raises(OptionError, match=r"^points must be shares of the way from 0 to 1 \(got 1\.5\)$"):
        interpolated(tiny_run, files, FIRST, SECOND, points=[0.5, 1.5])
    with pytest.raises(OptionError, match=r"^unknown option 'btach'; did you mean 'batch'\?$"):
        interpolated(tiny_run, files, FIRST, SECOND, btach="2x8")
    with pytest.raises(OptionError, match=r'^write interpolate\(run, "step0", "step100"\), or interpolate\('):
        od.interpolate(tiny_run, FIRST)
    write_revision(tmp_path / "main", 0)
    edit_config(tmp_path / "main", rms_norm_eps=1e-5)
    message = r"must be of one model to be interpolated; their norm_eps are 1e-06 and 1e-05$"
    with pytest.raises(CheckpointError, match=message):
        od.interpolate((tiny_run, FIRST), (tmp_path, "main"), tokens=list(files.values()), progress=Progress())
