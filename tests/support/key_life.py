"""The life of keys on a small real house: a sealed dataset, its key store, ledger, store and node cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stoker.core.home import Home
from stoker.core.node import node_name
from stoker.core.settings import CacheSettings, Settings, StorePlace
from stoker.feed.dataset import Dataset
from stoker.intake.review_request import review_digest
from stoker.keys.backend import KekInfo, KeyBackend
from stoker.keys.death import DeathProof, Replica, prove_death
from stoker.keys.destruction import (
    approve_destruction,
    carry_out_destruction,
    destroy_in_emergency,
    request_destruction,
    withdraw_destruction,
)
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef
from stoker.keys.rewrap import RewrapReport, rewrap_survivors, with_moves, without_moves
from stoker.keys.rotation import rotate_key
from stoker.keys.sweep import SweepReport, sweep
from stoker.ledger.records import DatasetRecord
from stoker.promises.house import OpenHouse
from stoker.promises.nodes import cache_of
from stoker.promises.replicas import replicas_of
from stoker.store.rewraps import StoredRewraps
from support.life_home import LifeHome

DAY_S = 86_400.0


@dataclass
class KeyLife:
    """`house` has the people asker (researcher), decider (reviewer) and hands (operator)."""

    house: LifeHome
    copies: tuple[str, ...] = ()
    caches: CacheSettings = field(default_factory=CacheSettings)

    @property
    def things(self) -> StoredRewraps:
        return StoredRewraps(lambda: self.house.store)

    @property
    def backend(self) -> KeyBackend:
        """As a face opens it: what was moved opens too."""
        return with_moves(self.house.backend, self.things)

    @property
    def replicas(self) -> tuple[Replica, ...]:
        house = self.house
        return replicas_of(
            store=lambda: house.store,
            cache=house.cache,
            backend=self.backend,
            home=house.home,
            ledger=house.ledger,
            settings=Settings(store=StorePlace(replicas=self.copies), cache=self.caches),
        )

    @property
    def node_cache(self) -> str:
        """What this node's cache is called in a proof."""
        return cache_of(node_name(self.house.home))

    def request(self, kek: KekRef, by: str = "asker", **how: float) -> None:
        request_destruction(
            kek,
            actor=by,
            ledger=self.house.ledger,
            backend=self.backend,
            replicas=self.replicas,
            reason="the project ended",
            **how,
        )

    def approve(self, kek: KekRef, by: str = "decider") -> KekInfo:
        return approve_destruction(kek, actor=by, ledger=self.house.ledger, backend=self.backend)

    def withdraw(self, kek: KekRef, by: str) -> KekInfo:
        return withdraw_destruction(kek, actor=by, ledger=self.house.ledger, backend=self.backend)

    def carry_out(self, kek: KekRef, by: str = "hands") -> KekInfo:
        return carry_out_destruction(kek, actor=by, ledger=self.house.ledger, backend=self.backend)

    def emergency(self, kek: KekRef, by: str = "decider", reason: str = "a leak") -> KekInfo:
        return destroy_in_emergency(
            kek, actor=by, reason=reason, ledger=self.house.ledger, backend=self.backend
        )

    def prove(self, kek: KekRef, by: str = "hands") -> DeathProof:
        return prove_death(
            kek,
            actor=by,
            ledger=self.house.ledger,
            backend=without_moves(self.backend),
            replicas=self.replicas,
            clock=self.house.clock,
        )

    def rotate(self, kek: KekRef, by: str = "hands") -> KekRef:
        done = rotate_key(kek.scope, actor=by, ledger=self.house.ledger, backend=self.backend)
        assert done.after is not None
        return KekRef.parse(done.after)

    def rewrap(self, kek: KekRef, by: str = "hands", *, dry_run: bool = False) -> RewrapReport:
        return rewrap_survivors(
            kek,
            actor=by,
            ledger=self.house.ledger,
            backend=self.backend,
            things=self.things,
            dry_run=dry_run,
        )

    def sweep(self, by: str = "hands", *, dry_run: bool = False) -> SweepReport:
        return sweep(
            actor=by,
            ledger=self.house.ledger,
            backend=self.backend,
            clock=self.house.clock,
            replicas=self.replicas,
            dry_run=dry_run,
        )

    def read(self, record: DatasetRecord) -> np.ndarray:
        """Every sample of the training split, from the store alone."""
        house = self.house
        dataset = Dataset.open(
            house.store,
            None,
            name=record.name,
            version=record.version,
            root=record.root,
            public_key=house.backend.signer("manifest").public_key,
            keys=BackendKeySource(self.backend),
            review_digest=review_digest(house.ledger.catalogue.review(record.review)),
        )
        return np.concatenate(list(dataset.token_split("train").sequential()))

    def cache(self, record: DatasetRecord) -> str:
        """One shard in the node's cache."""
        key = self.house.objects(record)[0]
        self.house.cache.fetch(key, self.house.store.size(key)).close()
        return key

    def acts(self, kek: KekRef) -> list[tuple[str, str]]:
        """Who did what to the KEK, in order."""
        entries = self.house.ledger.audit.entries()
        return [(each.actor, each.action) for each in entries if each.subject == f"key/{kek}"]

    def open_house(self, home: Home | None = None) -> OpenHouse:
        house = self.house
        return OpenHouse(
            home or house.home, house.ledger, self.backend, house.store, house.cache, house.clock
        )


def replace_folder(there: Path, by: Path) -> None:
    """What an operator does who restores a backup: the old folder goes, the copy comes."""
    import shutil

    shutil.rmtree(there)
    shutil.copytree(by, there)
