"""A model that leaves by a reviewer's release, and one that comes back as another run's first weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file

from stoker.core.clock import SystemClock
from stoker.core.home import Home
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import AuditEntry
from stoker.train.exchange.contents import folder_digest
from stoker.train.exchange.errors import ReleaseRefused, WeightsUnfit
from support.cli_home import CliHome

HomeAt = Callable[[str], CliHome]


@pytest.fixture
def home(home_at: HomeAt) -> CliHome:
    """A home with one run that finished."""
    return home_at("trained")


def run_of(home: CliHome) -> str:
    (run,) = home.runs()
    return run


def unmeasured(home: CliHome) -> str:
    """A further run, of which nobody measured whether it knows its data by heart."""
    before = home.runs()
    home.stoker("train", "run.toml", "train.steps=2", "evaluate.exposure_candidates=0")
    (run,) = set(home.runs()) - set(before)
    return run


def last_act(home: CliHome, action: str) -> AuditEntry:
    house = Home(home.root)
    with Ledger.open(f"sqlite:///{house.ledger_path}", house.ledger_key_path, SystemClock()) as ledger:
        return ledger.audit.acts([action])[-1]


def test_what_nobody_measured_goes_only_when_a_reviewer_released_it(home: CliHome) -> None:
    run = unmeasured(home)
    command = ("export", run, "--out", "out")
    release = ("run", "release", run, "--reason")
    said = home.refused(ReleaseRefused, *command)
    assert "nobody measured whether it knows text by heart" in said
    assert f"stoker run release {run}" in said
    answer = home.data(*release, "a model of two steps knows nothing", by="decider")
    assert (answer["released"], answer["by"], answer["step"]) == (True, "decider", 2)
    exported = home.data(*command)
    assert exported["released_by"] == "decider"
    card = (home.place / "out/README.md").read_text()
    assert "a model of two steps knows nothing" in card
    assert "not measured" in card
    assert last_act(home, "run.export").detail["release"] == last_act(home, "run.release").index
    assert home.log_holds()


def test_a_run_begins_with_the_weights_that_left_and_says_so(home: CliHome) -> None:
    run = run_of(home)
    home.stoker("export", run, "--out", "out")
    before = home.runs()
    home.stoker("train", "run.toml", "train.steps=1", "train.learning_rate=1e-9", "train.init_from=out")
    (second,) = set(home.runs()) - set(before)
    begun = last_act(home, "run.start").detail["first_weights"]
    assert begun == folder_digest(home.place / "out")
    home.stoker("export", second, "--out", "again-out")
    one, two = (load_file(home.place / name / "model.safetensors") for name in ("out", "again-out"))
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=1e-6), name
    assert begun in (home.place / "again-out/README.md").read_text()
    said = home.refused(WeightsUnfit, "train", "run.toml", "train.init_from=out", "model.ffn_width=96")
    assert "ffn_width is 64 there and 96 here" in said
    assert len(home.runs()) == 2
    assert home.log_holds()
