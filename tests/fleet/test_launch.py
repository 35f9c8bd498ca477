"""Starting runs and going on with them: permission first, records throughout, fake ranks at the end of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.core.canonical import digest_of
from stoker.core.errors import Busy
from stoker.core.events import EventKind, read_events
from stoker.core.ids import RunId
from stoker.core.isolation import IsolationState, probe
from stoker.core.result import envelope, plain
from stoker.fleet.attempt_lock import held_lock
from stoker.fleet.errors import BadRunFolder, DatasetGone, NotResumable
from stoker.fleet.faults import KillRank
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.store_hands import HANDS
from stoker.fleet.summary import read_run
from stoker.intake.errors import OtherPurpose, ReviewRevoked
from stoker.intake.review import revoke_review
from stoker.keys.refs import KekRef
from stoker.keys.states import KekState
from stoker.ledger.errors import UnknownDataset, UnknownRun
from stoker.ledger.records import DatasetState, RunOutcome
from stoker.promises.acts import read_acts
from stoker.promises.house import OpenHouse
from stoker.promises.isolation import check_isolation
from stoker.promises.runs import told_runs
from stoker.spec.run import IsolationPolicy
from stoker.store.cache import NodeCache
from stoker.store.handed import STORE_FD_NAME
from stoker.store.objects import ObjectStore
from support.run_house import SPEC, RunHouse, another_version, run_house
from support.watching import Watching


@pytest.fixture
def house(tmp_path: Path) -> Iterator[RunHouse]:
    with run_house(tmp_path / "home") as found:
        yield found


def waiting_at(step: int) -> list[dict[str, object]]:
    """Both ranks of the first attempt stand still before step `step`, so that a fault surely finds them."""
    return [{"do": "stand_still", "rank": rank, "at_step": step, "attempt": 1} for rank in (0, 1)]


def revoke(house: RunHouse) -> None:
    revoke_review(
        house.review.id,
        reason="no longer",
        revoked_by="decider",
        ledger=house.ledger,
        backend=house.backend,
        clock=house.clock,
    )


def nothing_was_begun(house: RunHouse) -> bool:
    return not house.ledger.catalogue.runs() and not list(house.home.runs_dir.iterdir())


def test_a_run_is_recorded_from_its_start_to_its_end(house: RunHouse) -> None:
    summary = house.start(origins={"train.steps": "run.toml"})
    assert (summary.outcome, summary.error) == (RunOutcome.FINISHED, None)
    assert (summary.last_step, summary.steps_planned, summary.last_checkpoint_step) == (6, 6, 6)
    assert [figure.name for figure in summary.evaluations] == ["model"]
    assert summary.sample == "def one(): pass"
    record = house.ledger.catalogue.run(summary.run)
    assert (record.outcome, record.started_by, record.dataset_root) == (
        RunOutcome.FINISHED,
        "asker",
        "7" * 64,
    )
    assert [each.step for each in house.ledger.catalogue.checkpoints(summary.run)] == [2, 4, 6]
    assert house.actions() == ["run.start", "run.lease", *["run.checkpoint"] * 3, "run.end"]
    assert house.ledger.audit.verify().findings == ()
    *_, end = house.ledger.audit.entries()
    told = RunFolder.of(house.home.runs_dir, summary.run).events.read_bytes()
    assert end.detail["events_sha256"] == hashlib.sha256(told).hexdigest()
    saved = json.loads(RunFolder.of(house.home.runs_dir, summary.run).run_file.read_text())
    assert saved["spec"] == plain(SPEC)
    assert saved["spec_digest"] == digest_of(plain(SPEC)) == record.spec_digest
    assert saved["origins"] == {"train.steps": "run.toml"}


def test_summary_and_report_can_be_shown_as_json(house: RunHouse) -> None:
    summary = house.start(faults=[KillRank(1, 3)], deeds=waiting_at(4))
    report = read_run(house.home, house.ledger, summary.run)
    assert json.loads(envelope(summary))["kind"] == "run_summary"
    assert json.loads(envelope(report))["data"]["lineage"]["decided_by"] == "decider"


def test_the_report_tells_kill_and_recovery(house: RunHouse) -> None:
    summary = house.start(faults=[KillRank(rank=1, at_step=3)], deeds=waiting_at(4))
    report = read_run(house.home, house.ledger, summary.run)
    (recovery,) = report.recoveries
    assert (recovery.attempt, recovery.rank, recovery.what) == (1, 1, "ended by signal 9")
    assert recovery.injected
    assert (recovery.step, recovery.resume_step) == (3, 2)
    times = [recovery.failed_s, recovery.detected_s, recovery.ready_s, recovery.next_step_s]
    assert times == sorted(times, key=lambda value: value or 0.0)
    assert [point.step for point in report.steps if point.stands] == list(range(1, 7))
    assert [(point.step, point.attempt) for point in report.steps if not point.stands] == [(3, 1)]
    assert report.goodput.failures == 1
    assert (report.lineage.source, report.lineage.review) == ("text", house.review.id)


def test_a_run_has_a_key_of_its_own(house: RunHouse) -> None:
    summary = house.start()
    kek = KekRef.parse(house.ledger.catalogue.run(summary.run).kek)
    assert kek.scope == f"run/{summary.run}"
    assert house.backend.info(kek).state is KekState.ACTIVE


def test_ranks_get_keys_of_the_lease_and_no_others(house: RunHouse) -> None:
    """Rank 0 seals under the run's own key; rank 1 tries to seal under the dataset's and is refused."""
    ask = {"do": "connect", "at_step": "start", "attempt": 1}
    summary = house.start(
        deeds=[{**ask, "rank": 0, "kek": "own"}, {**ask, "rank": 1, "kek": house.dataset.kek, "after_s": 0.2}]
    )
    folder = RunFolder.of(house.home.runs_dir, summary.run)
    assert json.loads(folder.rank_log(1, 0).read_text())["wrapped_bytes"] > 32
    assert "LeaseRefused" in folder.rank_log(1, 1).read_text()


def test_no_process_starts_without_a_review_in_force(house: RunHouse) -> None:
    revoke(house)
    with pytest.raises(ReviewRevoked):
        house.start()
    assert nothing_was_begun(house)


def test_a_review_for_another_purpose_does_not_do(house: RunHouse) -> None:
    with pytest.raises(OtherPurpose):
        house.start(replace(SPEC, purpose="marketing"))
    assert nothing_was_begun(house)


def test_an_unknown_dataset_is_named(house: RunHouse) -> None:
    with pytest.raises(UnknownDataset, match="txet"):
        house.start(replace(SPEC, dataset="txet"))


def test_a_destroyed_dataset_is_refused(house: RunHouse) -> None:
    with house.ledger.act(actor="asker", action="test", subject="dataset/text", detail={}) as catalogue:
        catalogue.set_dataset_state(house.dataset.root, DatasetState.DESTROYED)
    with pytest.raises(DatasetGone, match="destroyed"):
        house.start()
    assert nothing_was_begun(house)


def test_an_expired_dataset_is_refused(tmp_path: Path) -> None:
    with run_house(tmp_path / "home", dataset_lives_s=-1.0) as house:
        with pytest.raises(DatasetGone, match="expired"):
            house.start()
        assert nothing_was_begun(house)


def test_the_newest_live_version_is_trained_on(house: RunHouse) -> None:
    newer = another_version(house.dataset)
    with house.ledger.act(actor="asker", action="test", subject="dataset/text", detail={}) as catalogue:
        catalogue.add_dataset(newer)
    first = house.start()
    with house.ledger.act(actor="asker", action="test", subject="dataset/text", detail={}) as catalogue:
        catalogue.set_dataset_state(newer.root, DatasetState.DESTROYED)
    second = house.start()
    roots = [house.ledger.catalogue.run(summary.run).dataset_root for summary in (first, second)]
    assert roots == [newer.root, house.dataset.root]


class RevokingProgress(Watching):
    """Revokes the review as soon as a step is done: the moment at which something else happens."""

    def __init__(self, house: RunHouse) -> None:
        self._house: RunHouse | None = house

    def describe(self, text: str) -> None:
        if self._house is not None:
            revoke(self._house)
            self._house = None


def test_a_review_revoked_during_the_run_ends_it_at_the_next_attempt(house: RunHouse) -> None:
    summary = house.start(progress=RevokingProgress(house), faults=[KillRank(1, 3)], deeds=waiting_at(4))
    assert summary.outcome is RunOutcome.FAILED
    assert summary.error is not None
    assert summary.error.exit_code == ReviewRevoked.exit_code
    assert house.actions().count("run.lease") == 1
    with pytest.raises(ReviewRevoked):
        house.resume(summary.run)


def test_a_failed_run_goes_on_from_its_last_checkpoint(house: RunHouse) -> None:
    always = [{"do": "exit", "rank": 0, "at_step": 5, "attempt": "any", "code": 57, "report": True}]
    failed = house.start(deeds=always)
    assert failed.outcome is RunOutcome.FAILED
    assert failed.error is not None
    assert failed.error.exit_code == 57
    assert house.ledger.catalogue.run(failed.run).outcome is RunOutcome.FAILED
    summary = house.resume(failed.run)
    assert (summary.run, summary.outcome) == (failed.run, RunOutcome.FINISHED)
    report = read_run(house.home, house.ledger, failed.run)
    assert [(p.step, p.attempt) for p in report.steps if p.stands] == [
        (n, 1 if n < 5 else 2) for n in range(1, 7)
    ]
    assert house.actions()[-4:] == ["run.resume", "run.lease", "run.checkpoint", "run.end"]


def test_a_finished_run_does_not_go_on(house: RunHouse) -> None:
    summary = house.start()
    with pytest.raises(NotResumable, match="finished"):
        house.resume(summary.run)


def test_an_unknown_run_is_named(house: RunHouse) -> None:
    with pytest.raises(UnknownRun, match="r-00"):
        house.resume(RunId("r-00"))
    with pytest.raises(UnknownRun):
        read_run(house.home, house.ledger, RunId("r-00"))


def test_a_run_without_its_folder_says_so(house: RunHouse) -> None:
    summary = house.start()
    folder = RunFolder.of(house.home.runs_dir, summary.run)
    folder.events.unlink()
    with pytest.raises(BadRunFolder, match=r"events\.jsonl"):
        read_run(house.home, house.ledger, summary.run)


def test_a_run_is_supervised_once(house: RunHouse) -> None:
    """A second supervisor is refused while the first holds the run's lock."""
    from stoker.core.atomic import exclusive

    failed = house.start(
        replace(SPEC, launch=replace(SPEC.launch, ranks=1, restarts=0)),
        deeds=[{"do": "signal", "rank": 0, "at_step": 3, "attempt": 1, "signal": 9}],
    )
    assert failed.outcome is RunOutcome.FAILED
    with exclusive(house.home.locks_dir / f"run-{failed.run}.lock", "test"), pytest.raises(Busy):
        house.resume(failed.run)
    assert house.ledger.catalogue.run(failed.run).outcome is RunOutcome.FAILED


def test_a_run_that_asks_for_no_isolation_is_told_as_open_with_the_reason(house: RunHouse) -> None:
    """Nobody pretends: the probe is red before a key is leased, in the events, the report and promise 5."""
    summary = house.start(SPEC)
    assert summary.isolation.state is IsolationState.OPEN
    reason = "isolation was not asked for"
    report = read_run(house.home, house.ledger, summary.run)
    assert report.probe is not None
    assert (report.probe.state, report.probe.reason) == (IsolationState.OPEN, reason)
    told = read_events(RunFolder.of(house.home.runs_dir, summary.run).events).events
    kinds = [event.kind for event in told]
    assert kinds.index(EventKind.ISOLATION_PROBED) < kinds.index(EventKind.RANK_SPAWNED)
    backend, store = house.backend, ObjectStore.open(house.home.store_dir.as_uri())
    cache = NodeCache(house.home.cache_dir, store, 1 << 20)
    runs = told_runs(OpenHouse(house.home, house.ledger, backend, store, cache, house.clock))
    (check, *_) = check_isolation(runs, read_acts(house.ledger), probe(None)).checks
    assert not check.held
    assert f"had its keys while open: {reason}" in check.seen


def test_ranks_are_told_a_stores_password_only_where_they_reach_it_themselves(
    house: RunHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store by memory stands for any that is no folder; these ranks do not use theirs."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    show = [{"do": "show", "rank": 0, "at_step": "start", "attempt": 1}]
    seen = {}
    for isolation in (IsolationPolicy.OFF, IsolationPolicy.REQUIRED):
        spec = replace(SPEC, launch=replace(SPEC.launch, isolation=isolation))
        url = "https://account.example/container" if isolation is IsolationPolicy.OFF else "memory:///"
        summary = house.start(spec, deeds=show, store_url=url)
        assert summary.outcome is RunOutcome.FINISHED
        log = RunFolder.of(house.home.runs_dir, summary.run).rank_log(1, 0)
        seen[isolation] = set(json.loads(log.read_text().splitlines()[0])["environment"])
    assert "AWS_SECRET_ACCESS_KEY" in seen[IsolationPolicy.OFF]
    isolated = seen[IsolationPolicy.REQUIRED]
    assert "AWS_SECRET_ACCESS_KEY" not in isolated
    assert {name for name in isolated if name.startswith(STORE_FD_NAME)} == {
        f"{STORE_FD_NAME}{number}" for number in range(HANDS)
    }


def test_nothing_of_a_run_lives_on(house: RunHouse) -> None:
    summary = house.start(faults=[KillRank(0, 2)], deeds=waiting_at(3))
    folder = RunFolder.of(house.home.runs_dir, summary.run)
    assert held_lock(folder) is None
    kinds = [event.kind for event in read_events(folder.events).events]
    assert kinds[-1] is EventKind.RUN_ENDED
