"""Promise 3 broken on purpose: keys that are said to be gone, and are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stoker.core.clock import ManualClock
from stoker.keys.destruction import reconcile_tombstones
from stoker.keys.refs import KekRef
from stoker.keys.rewrap import rewrap_survivors
from stoker.keys.rotation import rotate_key
from stoker.ledger.records import TombstoneRecord
from stoker.store.rewraps import StoredRewraps
from support.key_death import destroy_at_once
from support.ledger_samples import tamper
from support.promise_home import DAY_S, PromiseHome, broken, failures, open_promise_home, promise


def claim(house: PromiseHome, kek: str) -> None:
    """The ledger says that the key is destroyed; nobody destroys it."""
    stone = TombstoneRecord(kek, "asker", "decider", house.clock.now_s())
    with house.ledger.act(
        actor="decider", action="key.destroy", subject=f"key/{kek}", detail={}
    ) as catalogue:
        catalogue.add_tombstone(stone)


def test_a_key_store_restored_from_a_copy_after_a_destruction_is_noticed(place: Path, tmp_path: Path) -> None:
    keys, copy = place / "home" / "keys", tmp_path / "copy of keys"
    shutil.copytree(keys, copy)
    with open_promise_home(place) as house:
        kek = house.dataset.kek
        house.destroy(kek)
        assert broken(house.verify()) == set()
    shutil.rmtree(keys)
    shutil.copytree(copy, keys)
    with open_promise_home(place) as house:
        report = house.verify(3)
        what = f"reading dataset text {house.dataset.version[:8]}, whose key is gone, from the"
        found = {check.tried: check.seen for check in failures(report, 3)}
        first = f"datasets/text/{house.dataset.version}/00000000.stk opened"
        assert found[f"{what} store"].startswith(first)
        assert found[f"{what} cache"] == first
        assert found["1 destroyed keys, ledger against key store"] == f"{kek} lives in the key store"
        reconcile_tombstones(ledger=house.ledger, backend=house.backend)
        assert broken(house.verify(3)) == set()


@pytest.mark.parametrize("whose", ["source", "dataset", "run"])
def test_a_key_that_was_never_really_destroyed_is_noticed(whose: str, house: PromiseHome) -> None:
    thing = {"source": house.source, "dataset": house.dataset, "run": house.run}[whose]
    claim(house, thing.kek)
    found = failures(house.verify(3), 3)
    assert any(check.tried.startswith(f"reading {whose} ") and "opened" in check.seen for check in found)
    assert f"{thing.kek} lives in the key store" in [check.seen for check in found]


def test_every_object_under_a_lost_key_is_tried_also_those_without_a_manifest(house: PromiseHome) -> None:
    """A source has shards, an index and a scan report; a run has checkpoints and their log."""
    house.destroy(house.source.kek)
    house.destroy(house.run.kek)
    report = house.verify(3)
    assert broken(report) == set()
    seen = {check.tried: check.seen for check in promise(report, 3).checks}
    source = f"reading source letters {house.source.version[:8]}, whose key is gone, from the store"
    assert seen[source] == "3 refused (key-destroyed)"
    assert seen[f"reading run {house.run.id}, whose key is gone, from the store"].endswith(
        " refused (key-destroyed)"
    )


def test_a_dataset_recorded_as_destroyed_whose_key_lives_is_noticed(house: PromiseHome) -> None:
    tamper(house.home.root, "UPDATE dataset SET state = 'destroyed'")
    seen = [check.seen for check in failures(house.verify(3), 3)]
    assert f"dataset text {house.dataset.version[:8]} is recorded as destroyed, its key" in seen[-1]
    assert any("opened" in each for each in seen)


def test_a_destruction_that_the_ledger_missed_is_noticed(house: PromiseHome) -> None:
    kek = KekRef.parse(house.dataset.kek)
    house.backend.request_destroy(kek, "asker")
    house.backend.destroy(kek, "decider")
    (check,) = failures(house.verify(3), 3)
    assert check.seen == f"{kek} is destroyed, and the ledger has no tombstone"


def test_a_key_that_outlives_its_dataset_is_noticed_before_and_after(place: Path, house: PromiseHome) -> None:
    tamper(house.home.root, "UPDATE dataset SET expires_s = expires_s - 10 * 86400.0")
    (check,) = failures(house.verify(3), 3)
    assert check.seen == (
        f"dataset text {house.dataset.version[:8]} expires before its key {house.dataset.kek} does"
    )
    with open_promise_home(place, ManualClock(house.clock.now_s() + 25 * DAY_S)) as later:
        found = failures(later.verify(3), 3)
    assert any("00000000.stk opened" in check.seen for check in found)


def test_a_lost_dataset_whose_objects_are_gone_too_is_no_finding(house: PromiseHome) -> None:
    house.destroy(house.dataset.kek)
    house.store.delete_prefix(f"datasets/text/{house.dataset.version}")
    report = house.verify(3, 4)
    assert broken(report) == set()
    assert any(check.seen == "its objects are gone too" for check in promise(report, 3).checks)


def test_an_object_that_cannot_even_be_tried_is_not_taken_for_refused(house: PromiseHome) -> None:
    house.destroy(house.dataset.kek)
    shard = house.home.store_dir / "datasets" / "text" / house.dataset.version / "00000000.stk"
    shard.write_bytes(b"something else")
    found = failures(house.verify(3), 3)
    assert "00000000.stk could not be tried" in found[0].seen


def test_a_death_without_a_recorded_proof_is_noticed_until_it_is_proved(house: PromiseHome) -> None:
    kek = house.dataset.kek
    destroy_at_once(kek, ledger=house.ledger, backend=house.backend)
    (check,) = failures(house.verify(3), 3)
    assert check.seen == f"there is none; run: stoker key prove {kek}"
    assert house.prove(kek).holds
    assert broken(house.verify(3)) == set()


def test_a_proof_that_does_not_hold_keeps_the_promise_broken(house: PromiseHome, tmp_path: Path) -> None:
    kek = house.dataset.kek
    destroy_at_once(kek, ledger=house.ledger, backend=house.backend)
    (tmp_path / "file").write_text("")
    assert not house.prove(kek, (tmp_path / "file" / "gone").as_uri()).holds
    (check,) = failures(house.verify(3), 3)
    assert "does not hold" in check.seen


def test_a_node_whose_cache_nobody_tried_is_named(house: PromiseHome) -> None:
    kek, detail = house.dataset.kek, {"node": "gpu-02-0a1b2c"}
    with house.ledger.act(actor="asker", action="dataset.open", subject="dataset/text", detail=detail):
        pass
    assert not house.destroy(kek).holds
    recorded, now = failures(house.verify(3), 3)
    assert "does not hold" in recorded.seen
    assert f"node cache gpu-02-0a1b2c: not reached from here; run there: stoker key prove {kek}" in now.seen


def test_a_registered_copy_is_tried_as_well(house: PromiseHome, tmp_path: Path) -> None:
    shutil.copytree(house.home.store_dir, tmp_path / "copy")
    house.home.settings_path.write_text(f'[store]\nreplicas = ["{(tmp_path / "copy").as_uri()}"]\n')
    house.destroy(house.dataset.kek)
    report = house.verify(3)
    assert broken(report) == set()
    (again,) = (each for each in promise(report, 3).checks if each.tried.endswith("on 5 replicas"))
    assert "copy 1: " in again.seen


@pytest.mark.parametrize("whose", ["source", "dataset", "run"])
def test_every_promise_is_kept_when_what_survived_was_moved_and_the_old_key_died(
    whose: str, house: PromiseHome
) -> None:
    kek = KekRef.parse({"source": house.source, "dataset": house.dataset, "run": house.run}[whose].kek)
    rotate_key(kek.scope, actor="decider", ledger=house.ledger, backend=house.backend)
    things = StoredRewraps(lambda: house.store)
    rewrap_survivors(kek, actor="decider", ledger=house.ledger, backend=house.backend, things=things)
    assert house.destroy(str(kek)).holds
    report = house.verify()
    assert broken(report) == set()
    assert not any(each.tried.startswith("reading ") for each in promise(report, 3).checks)
    assert house.destroy(str(KekRef(kek.scope, 2))).holds
    after = house.verify(3)
    assert broken(after) == set()
    assert any(each.tried.startswith(f"reading {whose} ") for each in promise(after, 3).checks)
