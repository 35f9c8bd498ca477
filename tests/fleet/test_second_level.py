"""A run with a second store for its checkpoints: copied as it goes, brought back when the first is lost."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.ledger.records import RunOutcome
from stoker.store.objects import ObjectStore
from stoker.train.checkpoint_errors import CheckpointLost
from support.run_house import SPEC, RunHouse, run_house

COMMITTING_RANK = Path(__file__).parents[1] / "support/committing_rank.py"
DIES = [{"rank": 0, "attempt": 1, "at_step": 5, "do": "signal", "signal": 9}]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[RunHouse]:
    with run_house(tmp_path / "home") as found:
        yield found


def ranks(house: RunHouse, deeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Fake ranks whose checkpoints are real."""
    path = house.home.root / "committing.json"
    path.write_text(json.dumps(deeds))
    return {"rank_command": (sys.executable, str(COMMITTING_RANK), "--deeds", str(path))}


def contents(place: Path) -> set[str]:
    return {key for key in ObjectStore.open(place.as_uri()).list("runs") if "/log/" in key or "part-" in key}


def test_checkpoints_are_copied_and_a_run_whose_first_store_is_lost_goes_on(
    house: RunHouse, tmp_path: Path
) -> None:
    near, far = house.home.store_dir, tmp_path / "far"
    spec = replace(SPEC, train=replace(SPEC.train, checkpoint_copy=far.as_uri()))
    done = house.start(replace(spec, launch=replace(spec.launch, restarts=0)), **ranks(house, DIES))
    assert done.outcome is RunOutcome.FAILED
    copied = contents(far)
    assert copied and copied == contents(near)
    shutil.rmtree(near / "runs")
    resumed = house.resume(done.run, **ranks(house, []))
    assert resumed.outcome is RunOutcome.FINISHED
    assert resumed.last_checkpoint_step == resumed.last_step == SPEC.train.steps
    assert contents(far) == contents(near)


def test_what_neither_store_has_ends_the_run_and_says_so(house: RunHouse, tmp_path: Path) -> None:
    near, far = house.home.store_dir, tmp_path / "far"
    spec = replace(SPEC, train=replace(SPEC.train, checkpoint_copy=far.as_uri()))
    done = house.start(replace(spec, launch=replace(spec.launch, restarts=0)), **ranks(house, DIES))
    shutil.rmtree(near / "runs")
    shutil.rmtree(far / "runs")
    lost = house.resume(done.run, **ranks(house, []))
    assert lost.outcome is RunOutcome.FAILED and lost.error is not None
    assert lost.error.exit_code == CheckpointLost.exit_code
    assert "step 4 is whole in neither store" in lost.error.message
