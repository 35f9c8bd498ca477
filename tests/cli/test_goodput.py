"""`stoker goodput` on runs of fake ranks: text, JSON, Prometheus, a time to begin at, and wrong words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stoker.cli.goodput import duration_s
from stoker.cli.main import cli
from stoker.core.errors import EXIT_USAGE, StokerError
from support.run_house import RunHouse, run_house


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunHouse]:
    """A home in which one run was killed once and finished, and another finished."""
    with run_house(tmp_path_factory.mktemp("home")) as house:
        house.start(deeds=[{"do": "signal", "rank": 1, "at_step": 3, "attempt": 1, "signal": 9}])
        house.start()
        yield house


def goodput(house: RunHouse, *words: str) -> Result:
    return CliRunner().invoke(cli, ["goodput", *words, "--home", str(house.home.root)], standalone_mode=False)


def test_the_account_of_a_run_adds_up_and_says_what_it_failed_of(house: RunHouse) -> None:
    run = house.ledger.catalogue.runs()[0].id
    data = json.loads(goodput(house, run, "--json").stdout)["data"]
    (told,) = data["runs"]
    assert sum(told["goodput"]["seconds"].values()) == pytest.approx(told["goodput"]["wall_s"])
    assert told["failures"] == [["system_software", "process"]]
    (row,) = data["by_component"]
    assert row["low"] < row["per_1000_node_days"] < row["high"]
    text = goodput(house, run).stdout
    assert "system software" in text
    assert "mean time to failure, bounds at 95 %" in text


def test_the_fleet_is_all_runs_together_and_a_lost_folder_is_named(house: RunHouse) -> None:
    data = json.loads(goodput(house, "--fleet", "--json").stdout)["data"]
    walls = [run["goodput"]["wall_s"] for run in data["runs"]]
    assert len(walls) == 2
    assert sum(data["node_seconds"].values()) == pytest.approx(sum(walls))
    assert data["failures"] == 1
    second = house.ledger.catalogue.runs()[1].id
    events = Path(house.home.runs_dir) / second / "events.jsonl"
    hidden = events.rename(events.with_suffix(".away"))
    try:
        part = json.loads(goodput(house, "--fleet", "--json").stdout)["data"]
        assert (len(part["runs"]), second in part["skipped"][0]) == (1, True)
        assert isinstance(goodput(house, second).exception, StokerError)
    finally:
        hidden.rename(events)


def test_what_was_spent_before_the_time_asked_for_does_not_count(house: RunHouse) -> None:
    assert json.loads(goodput(house, "--fleet", "--since", "1w", "--json").stdout)["data"]["failures"] == 1
    none = json.loads(goodput(house, "--fleet", "--since", "0s", "--json").stdout)["data"]
    assert (none["runs"], none["ettr"]) == ([], None)


def test_prometheus_gets_the_same_figures(house: RunHouse) -> None:
    text = goodput(house, "--fleet", "--prometheus").stdout
    assert 'stoker_failures{kind="system_software",component="process"} 1' in text
    assert text.count("# TYPE stoker_node_seconds gauge") == 1


@pytest.mark.parametrize(
    "words", [(), ("r-1", "--fleet"), ("--fleet", "--since", "soon"), ("--fleet", "--since", "7")]
)
def test_words_that_say_nothing_are_refused(house: RunHouse, words: tuple[str, ...]) -> None:
    error = goodput(house, *words).exception
    assert getattr(error, "exit_code", None) == EXIT_USAGE


def test_a_time_is_a_number_and_its_unit() -> None:
    assert [duration_s(text) for text in ("90s", "1.5m", "12h", "7d", "2w")] == [
        90.0,
        90.0,
        43_200.0,
        604_800.0,
        1_209_600.0,
    ]
