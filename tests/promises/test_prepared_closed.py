"""Promise 5 of preparations: what read documents had no network, or it is not kept and says where."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.core.isolation import Isolation, IsolationState
from stoker.intake import closed
from stoker.promises.promise import Standing
from support.promise_home import failures, open_promise_home, promise


def test_the_log_says_on_which_node_and_how_closed_tasks_were_done(tmp_path: Path) -> None:
    with open_promise_home(tmp_path) as house:
        house.found()
        house.approve(house.bring_letters("letters", count=12))
        house.prepare("text", "letters")
        (told,) = [e.detail for e in house.ledger.audit.entries() if e.action == "dataset.prepare"]
        ((_, state, _),) = told["rooms"]
        assert state == IsolationState.ISOLATED
        house.train()
        found = promise(house.verify(5), 5)
        assert found.standing is Standing.KEPT
        (check,) = [each for each in found.checks if "preparations" in each.tried]
        assert check.seen == "none of them had a network"


def test_a_node_that_could_not_close_its_tasks_is_red(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's word is put in its mouth; what follows from it is real."""
    refused = Isolation(IsolationState.REFUSED, "a network namespace was refused: Operation not permitted")
    monkeypatch.setattr(closed, "isolate", lambda **_: refused)
    with open_promise_home(tmp_path) as house:
        house.found()
        house.approve(house.bring_letters("letters", count=12))
        house.prepare("text", "letters")
        (check,) = failures(house.verify(5), 5)
        assert "refused, a network namespace was refused" in check.seen
