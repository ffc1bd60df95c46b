import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np

from olmo_dynamics.recorders.kernels.jit import jit


def test_sums_and_ieee_values():
    @jit
    def total(values):
        result = 0.0
        for i in range(len(values)):
            result += values[i]
        return result

    assert total(np.arange(10.0)) == 45
    assert total(np.array([1.0, np.inf])) == np.inf
    assert np.isnan(total(np.array([1.0, np.nan])))


def test_numbas_settings_are_left_as_they_were():
    before = numba.config.CACHE_DIR
    jit(lambda x: x)
    assert before == numba.config.CACHE_DIR


def run(code: str, cache: Path) -> str:
    environment = {**os.environ, "OLMO_DYNAMICS_CACHE": str(cache)}
    environment.pop("NUMBA_CACHE_DIR", None)
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout


COUNT_ZEROS = """
import numpy as np
from olmo_dynamics.recorders.kernels.elements import CODES, count_codes
histogram = np.zeros(CODES, np.int64)
count_codes(np.zeros(3, np.uint16), histogram)
print(histogram[0], sum(count_codes.stats.cache_hits.values()))
"""


def test_compiled_code_is_kept_in_the_cache_folder(tmp_path):
    assert run(COUNT_ZEROS, tmp_path) == "3 0\n"
    assert list(tmp_path.glob("numba/*/**/*.nbi"))
    assert run(COUNT_ZEROS, tmp_path) == "3 1\n"


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert run(COUNT_ZEROS, tmp_path / "file") == "3 0\n"
