"""Open a prepared dataset from a program that is no run of Stoker's: a notebook, a plain PyTorch loop.

See docs/design/feed.md, "Use from elsewhere".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from stoker.core.clock import Clock, SystemClock
from stoker.core.home import Home
from stoker.core.node import node_name
from stoker.core.settings import load_settings
from stoker.feed.dataset import Dataset
from stoker.fleet.errands import require_leave
from stoker.intake.life import OPEN_ACT, find_dataset
from stoker.intake.permission import require_role
from stoker.intake.review_request import review_digest
from stoker.keys.destruction import reconcile_tombstones
from stoker.keys.memory import harden_process
from stoker.keys.open import open_backend
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.rewrap import with_moves
from stoker.keys.secret import SecretKey
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetRecord, Role
from stoker.store.cache import NodeCache
from stoker.store.objects import ObjectStore
from stoker.store.rewraps import StoredRewraps

NO_RUN: Final = "a program that is no run"
"""No run can have this name, so a review that names the runs it allows leaves such programs out."""

MAY_OPEN: Final = frozenset({Role.RESEARCHER, Role.ADMIN})


@contextmanager
def open_dataset(
    name: str,
    *,
    purpose: str,
    actor: str,
    home: Path | None = None,
    passphrase: Callable[[], str] | None = None,
    clock: Clock | None = None,
) -> Iterator[Dataset]:
    """The dataset `name`, `name@version` or a root, of the Stoker home at `home`, for Feed or Mixture.

    `home` None is `STOKER_HOME`, as for the commands. A researcher or admin may, while a review is in force
    for `purpose`; that is recorded, and asked again whenever keys are, once a minute. The process is hardened
    as a rank is: no core files, no tracing. Keys are used in this process: no key agent stands between, and
    its network is not closed. Raises UnknownDataset, NotAllowed, DatasetGone, and intake's refusals.
    """
    clock = clock or SystemClock()
    place = Home(home.absolute()) if home else Home.locate(os.environ, Path.cwd())
    place.prepare()
    settings = load_settings(place, Path.cwd()).value
    harden_process()
    with Ledger.open(settings.ledger_url(place), place.ledger_key_path, clock) as ledger:
        backend = open_backend(
            settings.keys_url(place), clock=clock, passphrase=passphrase, folder=place.keys_dir
        )
        reconcile_tombstones(ledger=ledger, backend=backend)
        require_role(ledger, actor, MAY_OPEN, "open a dataset in a program of their own")
        record = find_dataset(ledger.catalogue, name)
        ((_, review),) = require_leave(ledger, [record], purpose, clock, run=NO_RUN)
        detail = {
            "version": record.version,
            "root": record.root,
            "review": review.id,
            "purpose": review.purpose,
            "node": node_name(place),
        }
        with ledger.act(actor=actor, action=OPEN_ACT, subject=f"dataset/{record.name}", detail=detail):
            pass
        store = ObjectStore.open(settings.store_url(place))
        moved = with_moves(backend, StoredRewraps(lambda: store))
        keys = _KeysWithLeave(BackendKeySource(moved), ledger, record, purpose, clock)
        yield Dataset.open(
            store,
            NodeCache(place.cache_dir, store, settings.cache.limit_bytes),
            name=record.name,
            version=record.version,
            root=record.root,
            public_key=backend.signer("manifest").public_key,
            keys=keys,
            review_digest=review_digest(ledger.catalogue.review(record.review)),
            clock=clock,
        )


class _KeysWithLeave:
    """Keys of one dataset, for as long as a review allows its use."""

    def __init__(
        self, keys: BackendKeySource, ledger: Ledger, record: DatasetRecord, purpose: str, clock: Clock
    ) -> None:
        self._keys = keys
        self._ledger = ledger
        self._record = record
        self._purpose = purpose
        self._clock = clock

    def new_partition_key(self, kek: KekRef, purpose: Purpose) -> tuple[SecretKey, bytes]:
        return self._keys.new_partition_key(kek, purpose)

    def open_partition_key(self, kek: KekRef, wrapped: bytes, purpose: Purpose) -> SecretKey:
        require_leave(self._ledger, [self._record], self._purpose, self._clock, run=NO_RUN)
        return self._keys.open_partition_key(kek, wrapped, purpose)
