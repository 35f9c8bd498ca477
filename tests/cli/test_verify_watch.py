"""`stoker verify --watch` through the real command: rounds, lines of JSON, metrics."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stoker.core.errors import EXIT_CANCELLED, EXIT_DONE, EXIT_FINDING, EXIT_USAGE
from stoker.promises.metrics import prometheus
from stoker.promises.promise import Check, VerifyReport, judged
from support.cli_home import CliHome, ended, wait_until

HomeAt = Callable[[str], CliHome]


@pytest.fixture
def home(home_at: HomeAt) -> CliHome:
    """A home with one prepared dataset, and no run: some promises are untried, none is broken."""
    return home_at("prepared")


def rounds(text: str) -> list[dict[str, Any]]:
    return [json.loads(line)["data"] for line in text.splitlines()]


def standings(report: dict[str, Any]) -> dict[int, str]:
    return {each["number"]: each["standing"] for each in report["promises"]}


def test_each_round_is_a_line_of_json_with_every_promise(home: CliHome) -> None:
    done = home.stoker("verify", "--watch", "--rounds", "2", "--every", "1", "--json", code=EXIT_DONE)
    first, second = rounds(done.out)
    assert sorted(standings(first)) == list(range(1, 9))
    assert standings(first) == standings(second)
    assert "not kept" not in standings(first).values()


def test_a_promise_that_breaks_while_watched_is_told_in_the_next_round(home: CliHome) -> None:
    process = home.start(
        "verify", "--watch", "--every", "1", "--rounds", "40", "--metrics", "m.prom", "--json"
    )
    wait_until((home.place / "m.prom").exists, process)
    assert 'stoker_promise_kept{number="4"} 1' in (home.place / "m.prom").read_text()
    shard = next(home.root.glob("store/sources/notes/*/*.stk"))
    body = bytearray(shard.read_bytes())
    body[-1] ^= 1
    shard.chmod(0o600)
    shard.write_bytes(body)
    wait_until(lambda: 'stoker_promise_kept{number="4"} 0' in (home.place / "m.prom").read_text(), process)
    process.send_signal(signal.SIGINT)
    done = ended(process)
    assert done.code == EXIT_CANCELLED
    told = [line for line in done.out.splitlines() if '"ok": true' in line or '"ok":true' in line]
    worth = [standings(json.loads(line)["data"])[4] for line in told]
    assert worth[0] == "kept"
    assert worth[-1] == "not kept"


def test_a_watch_for_people_names_what_does_not_hold_and_ends_with_a_finding(home: CliHome) -> None:
    shard = next(home.root.glob("store/sources/notes/*/*.stk"))
    shard.chmod(0o600)
    shard.write_bytes(shard.read_bytes()[:-1])
    done = home.stoker("verify", "--watch", "--rounds", "2", "--every", "1", code=EXIT_FINDING)
    lines = done.out.splitlines()
    assert "promises kept" in lines[0]
    assert any("4 NOT KEPT" in line and "notes" in line for line in lines[:4])


def test_metrics_in_a_folder_that_is_not_there_are_refused_before_anything_is_checked(home: CliHome) -> None:
    done = home.stoker("verify", "--metrics", "nowhere/m.prom", code=EXIT_USAGE)
    assert "there is no such folder" in done.err


def test_a_promise_that_was_not_tried_has_no_sample(tmp_path: Path) -> None:
    kept, broken, untried = (
        judged(1, [Check("a", True, "b")]),
        judged(2, [Check("a", True, "b"), Check("c", False, "d")]),
        judged(5, [], missing="no run"),
    )
    text = prometheus(VerifyReport((kept, broken, untried), 1.25), 1_700_000_000.5)
    assert [line for line in text.splitlines() if line.startswith("stoker_promise_kept{")] == [
        'stoker_promise_kept{number="1"} 1',
        'stoker_promise_kept{number="2"} 0',
    ]
    assert 'stoker_promise_checks{number="2",held="false"} 1' in text
    assert "stoker_verify_seconds 1.250" in text
    assert "stoker_verify_timestamp_seconds 1700000000.500" in text
