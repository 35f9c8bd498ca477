"""Every benchmark runs at its smallest size and prints what DESIGN's readers expect. Speed is not judged."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCHES = sorted(ROOT.glob("bench/*.py"))
NAMES = [path.stem for path in BENCHES]
TORCHS_OWN = "torchinductor_"
"""Begins the name of an empty folder that torch makes, whether anything is compiled or not."""


def start(bench: Path, temporary: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    temporary.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, str(bench), *arguments],
        cwd=temporary.parent,
        env={"PATH": os.environ["PATH"], "HOME": str(temporary.parent), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@pytest.mark.parametrize("bench", BENCHES, ids=NAMES)
def test_the_json_object_has_the_shape_of_the_design(bench: Path, tmp_path: Path) -> None:
    done = start(bench, tmp_path / "tmp", "--quick", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert list(result) == ["bench", "figures", "peers", "environment", "method"]
    assert result["bench"] == bench.stem
    assert result["method"]
    assert {"date", "commit", "python", "processor", "cpus"} <= set(result["environment"])
    assert {"load_before", "load_after", "took_s"} <= set(result["environment"])
    assert all(isinstance(each, str) and each for each in result["peers"].values())
    assert result["figures"]
    for name, figure in result["figures"].items():
        missing = figure["value"] is None
        assert set(figure) == {"value", "unit", "goal", "holds"} | ({"reason"} if missing else set()), name
        assert figure["reason"] if missing else is_number(figure["value"]), name
        assert figure["unit"], name
        assert figure["goal"] is None or figure["goal"].startswith(("at least ", "at most ")), name
        assert figure["holds"] is None, f"{name}: a small run judges no goal"
    assert any(is_number(figure["value"]) for figure in result["figures"].values())
    left = [path.name for path in (tmp_path / "tmp").iterdir()]
    assert [name for name in left if not (name.startswith(TORCHS_OWN) or name.endswith("_filelock"))] == [], (
        "something stays behind"
    )


def test_without_json_the_same_figures_are_a_table(tmp_path: Path) -> None:
    bench = ROOT / "bench/seal.py"
    small = ("--megabytes", "1", "--rounds", "2")
    shown = start(bench, tmp_path / "tmp", *small)
    figures = json.loads(start(bench, tmp_path / "tmp", *small, "--json").stdout)["figures"]
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("seal   cryptography ")
    named = [line.split()[0] for line in lines[1 : 1 + len(figures) // 3]]
    assert named == [name for name in figures if not name.endswith(("_q1", "_q3"))]


@pytest.mark.parametrize("size", ["0", "-1", "many"])
def test_a_size_that_measures_nothing_is_refused(size: str, tmp_path: Path) -> None:
    done = start(ROOT / "bench/seal.py", tmp_path / "tmp", "--rounds", size)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--rounds" in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_is_on_the_page(name: str) -> None:
    assert f"`python bench/{name}.py`" in (ROOT / "docs/bench/README.md").read_text()
