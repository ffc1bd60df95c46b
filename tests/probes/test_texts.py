"""The built-in texts are what they say: six domains, readable, and true where they can be checked."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from importlib.resources import files
from pathlib import Path

import pytest

from olmo_dynamics.probes import BUILT_IN

FOLDER = files("olmo_dynamics.probes").joinpath("texts")


def read(domain: str) -> str:
    return FOLDER.joinpath(f"{domain}.txt").read_text(encoding="utf-8")


def test_six_files_and_no_other() -> None:
    assert sorted(entry.name for entry in FOLDER.iterdir()) == sorted(f"{domain}.txt" for domain in BUILT_IN)
    assert BUILT_IN == ("encyclopedia", "narrative", "dialogue", "code", "mathematics", "tables")


@pytest.mark.parametrize("domain", BUILT_IN)
def test_each_is_500_to_700_words(domain: str) -> None:
    text = read(domain)
    assert 500 <= len(text.split()) <= 700
    assert text.endswith("\n")
    assert "\r" not in text


@pytest.mark.parametrize(
    ("arguments", "code", "output"),
    [
        (["2 * (3 + x) ** 2", "x=1.5"], 0, "40.5"),
        (["-2 ** 2 + 2 ** 3 ** 2"], 0, "508"),
        (["max(1, sqrt(16), 3) % 3"], 0, "1"),
        (["1 $ 2"], 1, "error: unexpected '$' at column 3"),
        (["(1"], 1, "error: expected ')' but found the end at column 3"),
    ],
)
def test_the_code_runs(tmp_path: Path, arguments: list[str], code: int, output: str) -> None:
    source = read("code")
    compile(source, "code.txt", "exec")
    program = tmp_path / "calc.py"
    program.write_text(source, encoding="utf-8")
    done = subprocess.run([sys.executable, program, "--", *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, (done.stdout or done.stderr).strip()) == (code, output)


def test_the_tables_are_well_formed() -> None:
    text = read("tables")
    station = json.loads(text[text.index("{\n") : text.index("\n}\n") + 2])
    assert len(station["readings"]) == 3
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {row.count("|") for row in rows if "Moon" in row or "Jupiter" in row} == {7}
    orders = [line.rsplit(",", 4) for line in text.splitlines() if line.startswith("102")]
    assert len(orders) == 6
    assert all(int(quantity) * Decimal(price) == Decimal(total) for _, quantity, price, _, total in orders)


def test_the_mathematics_adds_up() -> None:
    text = read("mathematics")
    assert text.count(r"\[") == text.count(r"\]")
    assert text.count("$") % 2 == 0
    assert text.count("{") == text.count("}")
    for m in range(2, 12):
        expected = [k * (m - k) for k in range(m + 1)]
        assert all(2 * expected[k] == 2 + expected[k - 1] + expected[k + 1] for k in range(1, m))
