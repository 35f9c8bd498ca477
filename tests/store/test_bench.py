"""The benchmark that the design page quotes runs and prints what it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "seal.py"


def test_the_sealing_benchmark_prints_its_figures() -> None:
    command = [sys.executable, BENCH, "--json", "--chunks", "8", "--rounds", "3"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result = json.loads(printed)
    assert set(result) == {"bench", "figures", "peers", "environment", "method"}
    for name in ("seal_to_raw_seal", "open_to_raw_open", "open_file_to_raw_open_file"):
        figure = result["figures"][name]
        assert figure["goal"] == "at least 0.9" and figure["value"] > 0
        assert figure["holds"] == (figure["value"] >= 0.9)
    assert result["figures"]["write_rate"]["goal"] is None
