"""`stoker prepare --on`: what is printed beforehand, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stoker.intake.task_errors import UnusableExecutor
from support.cli_home import PREPARE, CliHome

HomeAt = Callable[[str], CliHome]


@pytest.fixture
def home(home_at: HomeAt) -> CliHome:
    return home_at("approved")


def test_a_dry_run_prints_the_batch_script_and_does_nothing(home: CliHome) -> None:
    before = home.contents()
    script = home.data(*PREPARE, "--on", "slurm", "--tasks", "3", "--dry-run")["script"]
    assert script.startswith("#!/bin/bash\n#SBATCH --job-name=stoker-VERSION\n#SBATCH --array=0-2\n")
    assert f"{home.root}/tasks/VERSION/PHASE.json" in script
    assert home.stoker(*PREPARE, "--on", "slurm", "--tasks", "3", "--dry-run").out == script
    assert home.contents() == before


def test_a_dry_run_of_anything_else_is_a_mistake_of_usage(home: CliHome) -> None:
    assert "--on slurm" in home.stoker(*PREPARE, "--dry-run", code=2).err


def test_without_slurm_it_says_so_and_goes_on_here(home: CliHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home.place))
    said = home.refused(UnusableExecutor, *PREPARE, "--on", "slurm")
    assert "Slurm's commands are not on this machine's PATH" in said
    assert home.data(*PREPARE, "--tasks", "1")["resumed"] is True
