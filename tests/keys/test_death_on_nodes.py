"""A death is proved on every node's cache, each on the node itself; no cache is passed over in silence."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.core.clock import iso_utc
from stoker.core.home import Home
from stoker.core.node import node_name
from stoker.core.settings import CacheSettings
from stoker.keys.death import DeathProof, Outcome, Trial
from stoker.keys.open import open_backend
from stoker.keys.refs import KekRef
from stoker.ledger.records import DatasetRecord
from stoker.promises.nodes import cache_of
from stoker.store.cache import NodeCache
from support.key_life import DAY_S, KeyLife
from support.life_home import life_home


@pytest.fixture
def here(tmp_path: Path) -> Iterator[KeyLife]:
    with life_home(tmp_path) as house:
        yield KeyLife(house)


def another(here: KeyLife, place: Path) -> KeyLife:
    """A node with a home and a cache of its own, which shares ledger, keys and store."""
    home = Home(place).prepare()
    cache = NodeCache(home.cache_dir, here.house.store, 1 << 30)
    return replace(here, house=replace(here.house, home=home, cache=cache))


def began(life: KeyLife, action: str = "run.start") -> str:
    """A run began on the node, or a program opened a dataset: its name."""
    node = node_name(life.house.home)
    with life.house.ledger.act(actor="asker", action=action, subject="run/r", detail={"node": node}):
        return node


def killed(life: KeyLife) -> tuple[DatasetRecord, KekRef]:
    record, _ = life.house.tokens(days=100.0)
    kek = KekRef.parse(record.kek)
    life.request(kek)
    life.emergency(kek)
    return record, kek


def caches(proof: DeathProof) -> dict[str, Trial]:
    return {trial.replica: trial for trial in proof.trials if trial.replica.startswith("node cache ")}


@pytest.mark.parametrize("action", ["run.start", "run.resume", "dataset.open"])
def test_a_node_that_was_not_reached_is_named_and_nothing_is_proved(
    here: KeyLife, tmp_path: Path, action: str
) -> None:
    node = began(another(here, tmp_path / "there"), action)
    _, kek = killed(here)
    proof = here.prove(kek)
    assert not proof.holds
    trial = caches(proof)[cache_of(node)]
    assert trial.outcome is Outcome.UNTRIED
    assert trial.seen == f"not reached from here; run there: stoker key prove {kek}"
    (failed,) = here.sweep().failed
    assert node in failed.detail


def test_what_each_node_tried_itself_counts_on_all_of_them(here: KeyLife, tmp_path: Path) -> None:
    there = another(here, tmp_path / "there")
    began(here)
    node = began(there)
    record, _ = here.house.tokens(days=100.0)
    kek = KekRef.parse(record.kek)
    there.cache(record)
    here.request(kek)
    here.emergency(kek)
    assert not here.prove(kek).holds
    here.house.clock.advance(DAY_S)
    tried_s = here.house.clock.now_s()
    proof = there.prove(kek)
    assert proof.holds, "this node was tried the day before"
    assert caches(proof)[cache_of(node)].refused == {"key-destroyed": 1}
    assert caches(proof)[here.node_cache].tried_s == tried_s - DAY_S
    here.house.clock.advance(DAY_S)
    again = here.prove(kek)
    assert again.holds
    assert caches(again)[cache_of(node)].tried_s == tried_s, "when it was tried, not when it was repeated"
    assert caches(again)[cache_of(node)].seen.endswith(f"tried there at {iso_utc(tried_s)}")
    assert [each.did for each in here.sweep().done] == []


def test_what_opened_on_another_node_is_not_forgotten_here(here: KeyLife, tmp_path: Path) -> None:
    """The other node still has a key store from before."""
    there = another(here, tmp_path / "there")
    node = began(there)
    record, _ = here.house.tokens(days=100.0)
    kek = KekRef.parse(record.kek)
    there.cache(record)
    shutil.copytree(here.house.home.keys_dir, tmp_path / "kept")
    here.request(kek)
    here.emergency(kek)
    kept = open_backend((tmp_path / "kept").as_uri(), clock=here.house.clock, passphrase=None)
    there.house = replace(there.house, backend=kept)
    assert caches(there.prove(kek))[cache_of(node)].outcome is Outcome.OPENED
    proof = here.prove(kek)
    assert caches(proof)[cache_of(node)].outcome is Outcome.OPENED
    assert not proof.holds


def test_nodes_can_be_declared_before_they_do_anything_and_retired_afterwards(
    here: KeyLife, tmp_path: Path
) -> None:
    there = another(here, tmp_path / "there")
    (there.house.home.root / "node").write_text("gpu-07-0a1b2c\n")
    _, kek = killed(here)
    here.caches = there.caches = CacheSettings(nodes=("gpu-07",))
    assert caches(here.prove(kek))["node cache gpu-07"].outcome is Outcome.UNTRIED
    assert there.prove(kek).holds
    assert caches(here.prove(kek))["node cache gpu-07-0a1b2c"].outcome is Outcome.ABSENT
    began(there)
    here.caches = CacheSettings(nodes=("gpu-07", "gpu-08"), retired=("gpu-08", "gpu-07-0a1b2c"))
    proof = here.prove(kek)
    assert proof.holds
    assert set(caches(proof)) == {here.node_cache}


def test_a_node_is_not_asked_for_its_own_trial_of_another_key(here: KeyLife, tmp_path: Path) -> None:
    there = another(here, tmp_path / "there")
    node = began(there)
    _, first = killed(here)
    assert there.prove(first).holds
    _, second = killed(here)
    assert caches(here.prove(first))[cache_of(node)].outcome is Outcome.ABSENT
    assert caches(here.prove(second))[cache_of(node)].outcome is Outcome.UNTRIED
