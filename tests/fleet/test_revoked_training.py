"""A review revoked while a real run trains: real data, two ranks of torch, a real lease."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.core.errors import StokerError
from stoker.core.events import EventKind
from stoker.core.ids import RunId
from stoker.fleet.errands import HouseErrands
from stoker.fleet.launch import resume_run, start_run
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.summary import RunSummary
from stoker.intake.errors import ReviewRevoked
from stoker.intake.review import revoke_review
from stoker.keys.errors import LeaseRefused
from stoker.ledger.records import RunOutcome
from stoker.promises.promise import Standing
from stoker.spec.model import ModelSpec
from stoker.spec.run import EvaluateSpec, IsolationPolicy, LaunchSpec, RunSpec, TrainSpec
from stoker.train.checkpoint_errors import PeerLost
from support import watched_worker
from support.fake_house import told
from support.promise_home import PURPOSE, RECIPE, PromiseHome, failures, open_promise_home, promise
from support.watching import Watching

K = EventKind
STEPS = 30
SPEC = RunSpec(
    dataset="text",
    purpose=PURPOSE,
    model=ModelSpec(layers=1, width=16, heads=2, kv_heads=1, ffn_width=24),
    train=TrainSpec(steps=STEPS, global_batch=2, warmup_steps=2, checkpoint_every_steps=2),
    launch=LaunchSpec(ranks=2, restarts=2, isolation=IsolationPolicy.REQUIRED, lease_s=6.0),
    evaluate=EvaluateSpec(baselines=False, sample_tokens=0, exposure_candidates=0),
)
"""Its lease is renewed every two seconds; its samples are long: chunks are opened in all of its steps."""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[PromiseHome]:
    with open_promise_home(tmp_path) as found:
        found.found()
        found.approve(found.bring_letters("letters", count=80))
        found.prepare("text", "letters", replace(RECIPE, sequence_tokens=2048))
        yield found


class Revoking(Watching):
    """A progress display that revokes the review of the dataset when some steps are done."""

    def __init__(self, home: PromiseHome, after_steps: int) -> None:
        self._home, self._left = home, after_steps
        self.done = False

    def describe(self, text: str) -> None:
        self._left -= 1
        if self._left <= 0 and not self.done:
            home, self.done = self._home, True
            revoke_review(
                home.review.id,
                reason="the subjects have objected",
                revoked_by="decider",
                ledger=home.ledger,
                backend=home.backend,
                clock=home.clock,
            )


def arguments(home: PromiseHome, progress: object) -> dict[str, Any]:
    return {
        "home": home.home,
        "ledger": home.ledger,
        "backend": home.backend,
        "store_url": home.home.store_dir.as_uri(),
        "actor": "asker",
        "progress": progress,
        "clock": home.clock,
        "rank_command": (sys.executable, "-P", watched_worker.__file__),
    }


def renewals_after(revoking: Revoking, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What became of each renewal that was asked for after the revocation: an error's id, or nothing."""
    found: list[str] = []
    asking = HouseErrands.lease_expiry_s

    def spied(self: HouseErrands) -> float:
        if not revoking.done:
            return asking(self)
        try:
            expiry_s = asking(self)
        except StokerError as error:
            found.append(error.id)
            raise
        found.append("renewed")
        return expiry_s

    monkeypatch.setattr(HouseErrands, "lease_expiry_s", spied)
    return found


def step_numbers(folder: RunFolder, attempt: int) -> list[int]:
    return [int(event.number("step")) for event in told(folder, K.STEP) if event.attempt == attempt]


def ended_by_revocation(home: PromiseHome, monkeypatch: pytest.MonkeyPatch) -> tuple[RunSummary, RunFolder]:
    """The first half: the run trains, loses its review at once, and ends."""
    revoking = Revoking(home, after_steps=10)
    renewals = renewals_after(revoking, monkeypatch)
    summary = start_run(SPEC, **arguments(home, revoking))
    folder = RunFolder.of(home.home.runs_dir, summary.run)
    assert summary.outcome is RunOutcome.FAILED
    assert summary.error is not None, summary
    assert summary.error.exit_code == ReviewRevoked.exit_code, summary.error
    assert renewals == ["review-revoked"], "the very next renewal is refused, and it is the last"
    return summary, folder


def require_nothing_opened_afterwards(folder: RunFolder) -> None:
    (ended,) = told(folder, K.LEASE_ENDED)
    asked = watched_worker.asked_of(folder.attempt(1))
    first, *_ = told(folder, K.STEP)
    opened = [each.at_s for each in asked if each.opened]
    assert any(at_s > first.mono_s for at_s in opened), "chunks are opened while it trains"
    # The lease was ended before this was told, so nothing that was asked for later may have been opened.
    assert max(opened) < ended.mono_s
    # One rank may be in a collective already when the other finds the lease over: it loses its peer then.
    errors = {event.text("error_id") for event in told(folder, K.RANK_ERROR)}
    assert LeaseRefused.id in errors
    assert errors <= {LeaseRefused.id, PeerLost.id}
    codes = {int(event.number("exit_code")) for event in told(folder, K.RANK_EXITED)}
    assert LeaseRefused.exit_code in codes
    assert codes <= {LeaseRefused.exit_code, PeerLost.exit_code, 0}, "0 with a signal: it was killed"
    assert max(step_numbers(folder, 1)) < STEPS


def test_a_review_revoked_while_torch_trains_ends_the_run_and_a_new_one_lets_it_go_on(
    home: PromiseHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, folder = ended_by_revocation(home, monkeypatch)
    require_nothing_opened_afterwards(folder)
    saved = summary.last_checkpoint_step
    assert saved is not None and saved >= 4
    with pytest.raises(ReviewRevoked):
        resume_run(RunId(summary.run), **arguments(home, Revoking(home, STEPS + 1)))
    assert not folder.attempt(2).exists(), "without a review nothing is begun, let alone leased"
    verified = home.verify(4)
    assert promise(verified, 4).standing is Standing.KEPT, failures(verified, 4)
    committed = home.ledger.catalogue.checkpoints(summary.run)

    home.approve(home.source)
    again = resume_run(RunId(summary.run), **arguments(home, Revoking(home, STEPS + 1)))
    assert (again.outcome, again.error, again.last_step) == (RunOutcome.FINISHED, None, STEPS)
    assert step_numbers(folder, 2) == list(range(saved + 1, STEPS + 1))
    starts = told(folder, K.ATTEMPT_STARTED)
    assert [int(event.number("resume_step")) for event in starts] == [0, saved]
    later = home.ledger.catalogue.checkpoints(summary.run)
    assert later[: len(committed)] == committed
    assert later[-1].step == STEPS
    verified = home.verify(1, 4, 5, 7)
    assert {each.number: failures(verified, each.number) for each in verified.promises} == {
        1: [],
        4: [],
        5: [],
        7: [],
    }
