"""The life of a dataset: finding it, its uses, its standing, an earlier expiry, and who may."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.intake.errors import DatasetEnded, NotAllowed
from stoker.intake.life import RunStanding, Standing, Uses, expire_dataset, find_dataset, standing_of
from stoker.intake.sampling import sample_dataset
from stoker.keys.agent import KeyAgent
from stoker.keys.agent_client import AgentKeySource
from stoker.keys.caller import Caller, key_sockets
from stoker.keys.errors import KeyExpired
from stoker.keys.lease import Lease
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.ledger.errors import LedgerRefused, LedgerUnusable, UnknownDataset
from stoker.ledger.records import DatasetRecord, DatasetState, RunOutcome
from support.ledger_samples import tamper
from support.life_home import DAY_S, LifeHome, life_home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[LifeHome]:
    with life_home(tmp_path) as made:
        yield made


def expire(home: LifeHome, record: DatasetRecord, at_s: float, by: str = "asker", **more: bool) -> object:
    return expire_dataset(
        record, at_s, actor=by, ledger=home.ledger, backend=home.backend, clock=home.clock, **more
    )


# -- finding


def test_a_dataset_is_found_by_name_version_and_root(home: LifeHome) -> None:
    first, _ = home.tokens(samples=20)
    second, _ = home.tokens(samples=30)
    catalogue = home.ledger.catalogue
    assert find_dataset(catalogue, "text") == second
    assert find_dataset(catalogue, f"text@{first.version[:12]}") == first
    assert find_dataset(catalogue, f"text@{first.root[:12]}") == first
    assert find_dataset(catalogue, first.root) == first
    assert find_dataset(catalogue, f"text@{first.version}") == first


def test_a_name_that_leads_nowhere_or_to_several_says_which_there_are(home: LifeHome) -> None:
    records = [home.tokens(samples=20)[0] for _ in range(17)]
    catalogue = home.ledger.catalogue
    firsts = [record.version[0] for record in records]
    twice = next(digit for digit in firsts if firsts.count(digit) > 1)
    with pytest.raises(UnknownDataset, match=r"versions of dataset text begin with") as several:
        find_dataset(catalogue, f"text@{twice}")
    assert "Give more digits" in several.value.hint
    for wrong in ("text@zzzz", "text@", "text@../x"):
        with pytest.raises(UnknownDataset, match="has no version or root that begins with") as none:
            find_dataset(catalogue, wrong)
        assert records[-1].version[:8] in none.value.hint
    for unknown in ("txet", "f" * 64, "txet@0"):
        with pytest.raises(UnknownDataset):
            find_dataset(catalogue, unknown)


# -- uses


def test_the_last_use_is_the_newest_sign_of_any_run_sample_or_export(home: LifeHome) -> None:
    own, _ = home.tokens()
    part, _ = home.tokens("other")
    unused, _ = home.tokens("unused")
    finished = home.run(own, outcome=RunOutcome.FINISHED)
    ended_s = home.clock.now_s()
    home.clock.advance(100.0)
    live = home.run(own, RunStanding.LIVE, parts=[part.root])
    home.watch.signs[live] = home.clock.now_s() + 50.0
    uses = Uses(home.ledger, home.watch)
    assert uses.last_s(unused) is None
    assert uses.of(unused) == ()
    assert [(use.what, use.name, use.outcome) for use in uses.of(own)] == [
        ("run", finished, "finished"),
        ("run", live, "running"),
    ]
    assert uses.of(own)[0].last_s == ended_s
    assert uses.last_s(own) == uses.last_s(part) == home.clock.now_s() + 50.0
    home.clock.advance(500.0)
    look(home, part, "decider")
    uses = Uses(home.ledger, home.watch)
    assert uses.last_s(part) == home.clock.now_s()
    assert uses.of(part)[-1].what == "sample"
    assert uses.of(part)[-1].by == "decider"


def test_a_run_that_lost_its_supervisor_is_shown_as_such(home: LifeHome) -> None:
    record, _ = home.tokens()
    home.run(record, RunStanding.ABANDONED)
    home.run(record, RunStanding.ELSEWHERE)
    outcomes = [use.outcome for use in Uses(home.ledger, home.watch).of(record)]
    assert outcomes == ["running, abandoned", "running, elsewhere"]


def look(home: LifeHome, record: DatasetRecord, by: str) -> None:
    sample_dataset(
        record,
        split=None,
        count=1,
        seed=1,
        purpose=None,
        characters=10,
        actor=by,
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        clock=home.clock,
    )


# -- expiring


@pytest.mark.parametrize("by", ["asker", "decider", "boss"])
def test_who_prepared_it_a_reviewer_and_an_admin_bring_its_end_forward(home: LifeHome, by: str) -> None:
    record, _ = home.tokens()
    at_s = home.clock.now_s() + 100.0
    expire(home, record, at_s, by)
    assert home.now(record) == replace(record, expires_s=at_s)
    assert home.backend.info(KekRef.parse(record.kek)).expires_s == at_s
    (act,) = home.acts("dataset.expire")
    assert (act["actor"], act["before_s"], act["expires_s"]) == (by, record.expires_s, at_s)
    assert home.ledger.audit.verify().holds
    assert standing_of(home.now(record), at_s - 1.0) is Standing.LIVE
    assert standing_of(home.now(record), at_s) is Standing.EXPIRED


@pytest.mark.parametrize("by", ["other", "hands", "watcher"])
def test_nobody_else_may_and_is_told_who(home: LifeHome, by: str) -> None:
    record, _ = home.tokens()
    with pytest.raises(NotAllowed, match=f"{by} is .* may not end dataset text") as refused:
        expire(home, record, home.clock.now_s(), by)
    assert "asker, who prepared it, a reviewer or an admin may" in refused.value.hint
    assert home.now(record) == record
    assert home.acts("dataset.expire") == []


def test_an_expiry_is_never_put_back(home: LifeHome) -> None:
    record, _ = home.tokens()
    for not_earlier in (record.expires_s, record.expires_s + DAY_S):
        with pytest.raises(LedgerRefused, match=r"expires at .* already"):
            expire(home, record, not_earlier)
    assert home.now(record) == record
    assert home.backend.info(KekRef.parse(record.kek)).expires_s == record.expires_s


def test_what_is_over_cannot_expire_again(home: LifeHome) -> None:
    record, _ = home.tokens()
    expire(home, record, 0.0)
    assert home.now(record).expires_s == home.clock.now_s()
    with pytest.raises(DatasetEnded, match="expired at"):
        expire(home, home.now(record), 0.0)
    gone, _ = home.tokens("gone")
    home.destroy(gone)
    with pytest.raises(DatasetEnded, match="is destroyed"):
        expire(home, home.now(gone), 0.0)


def test_a_dry_run_changes_nothing(home: LifeHome) -> None:
    record, _ = home.tokens()
    size = home.ledger.audit.size
    expire(home, record, 0.0, dry_run=True)
    assert (home.now(record), home.ledger.audit.size) == (record, size)
    assert home.backend.info(KekRef.parse(record.kek)).expires_s == record.expires_s


def test_a_record_that_was_changed_outside_stoker_ends_nothing(home: LifeHome) -> None:
    record, _ = home.tokens()
    tamper(home.home.root, ("UPDATE dataset SET prepared_by = 'other'", ()))
    with pytest.raises(LedgerUnusable, match="changed outside Stoker"):
        expire(home, home.now(record), 0.0, "other")
    assert home.backend.info(KekRef.parse(record.kek)).expires_s == record.expires_s


def test_when_the_key_store_refuses_the_record_stays_as_it_was(home: LifeHome) -> None:
    record, _ = home.tokens()
    home.backend.request_destroy(KekRef.parse(record.kek), "asker")
    home.backend.destroy(KekRef.parse(record.kek), "decider")  # the ledger does not know yet
    from stoker.keys.errors import KeyDestroyed

    with pytest.raises(KeyDestroyed):
        expire(home, record, home.clock.now_s() + 5.0)
    assert home.now(record) == record
    assert home.ledger.audit.verify().holds


def test_a_rank_with_a_lease_gets_no_key_of_an_expired_dataset(home: LifeHome) -> None:
    """As in a live run: the agent serves a rank over a socket while another process expires the dataset."""
    record, _ = home.tokens()
    kek = KekRef.parse(record.kek)
    key, wrapped = BackendKeySource(home.backend).new_partition_key(kek, Purpose.DATASET)
    key.wipe()
    lease = Lease("r/1", "run/r", frozenset({kek}), frozenset(), "research", home.clock.now_s() + 300.0)
    agent = KeyAgent(home.backend, lease, home.clock)
    (ours, theirs), caller = key_sockets(), Caller.this_process()
    serving = threading.Thread(target=agent.serve, args=(ours, caller))
    serving.start()
    try:
        rank = AgentKeySource.of(theirs, caller)
        rank.open_partition_key(kek, wrapped, Purpose.DATASET).wipe()
        expire(home, record, 0.0)
        with pytest.raises(KeyExpired, match=str(kek)):
            rank.open_partition_key(kek, wrapped, Purpose.DATASET)
    finally:
        agent.close()
        serving.join()
        theirs.close()


def test_every_standing_has_its_state() -> None:
    assert {state.value for state in DatasetState} < {standing.value for standing in Standing}
