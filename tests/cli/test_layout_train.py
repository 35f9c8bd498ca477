"""`stoker train` runs the layout that a run file names, and refuses before launch one that does not fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stoker.core.errors import ConfigError
from stoker.spec.layout import InvalidLayout
from support.cli_home import CliHome

HomeAt = Callable[[str], CliHome]

TWO_HEADS = ("model.heads=2", "model.kv_heads=2", "train.precision=fp32", "launch.ranks=2")


def losses(home: CliHome, *overrides: str) -> list[float]:
    run = home.data("train", "run.toml", *TWO_HEADS, *overrides)["run"]
    return [event["loss"] for event in home.events(run, "step")]


def test_two_local_ranks_train_as_one_whether_they_share_samples_matrices_or_sequences(
    home_at: HomeAt,
) -> None:
    home = home_at("prepared")
    shards = losses(home)
    assert len(shards) > 2
    assert losses(home, "layout.tp=2") == pytest.approx(shards, rel=1e-3)
    assert losses(home, "layout.cp=2") == pytest.approx(shards, rel=1e-3)


def test_a_layout_that_does_not_fit_the_dataset_is_refused_with_the_nearest_and_nothing_starts(
    home_at: HomeAt,
) -> None:
    home = home_at("prepared")
    before = home.contents()
    error = home.refused_json(InvalidLayout, "train", "run.toml", "launch.ranks=3", "layout.cp=3")
    assert "cp is 3 and a sequence has 32 tokens; 2 · cp = 6 (each rank has two pieces)" in error["message"]
    assert error["hint"].startswith("The nearest layout that fits: ") or "No layout fits" in error["hint"]
    said = home.refused(ConfigError, "train", "run.toml", "launch.ranks=2", "layout.tp=3")
    assert "with dp_shard 0, for what is left, the product must divide it." in said
    assert home.contents() == before
    assert home.runs() == []
