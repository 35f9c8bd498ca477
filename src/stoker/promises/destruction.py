"""Promise 3: what a destroyed or expired key sealed cannot be read, from the store nor from the cache."""

from __future__ import annotations

import tempfile
from pathlib import Path

from stoker.core.errors import StokerError
from stoker.core.ids import new_version_id
from stoker.keys.errors import KeyDestroyed, KeyExpired
from stoker.keys.open import open_backend
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import Purpose
from stoker.keys.states import KekState
from stoker.promises.house import OpenHouse, SealedThing
from stoker.promises.promise import Check, PromiseReport, judged
from stoker.store.header import StreamKind, StreamLabel
from stoker.store.manifest import Manifest
from stoker.store.ranges import BytesSource, RangeSource
from stoker.store.reader import StreamReader
from stoker.store.sealed import PartitionSeal


def check_destruction(house: OpenHouse) -> PromiseReport:
    """Try to read everything whose key is gone; and, always, destroy a key of a scratch key store and try."""
    checks = [
        check
        for thing in house.sealed_things()
        if house.is_lost(thing)
        for check in try_reading(house, thing)
    ]
    stones = house.ledger.catalogue.tombstones()
    if stones:
        states = {str(info.ref): info.state for info in house.backend.list_keks()}
        alive = [
            each.kek for each in stones if states.get(each.kek, KekState.DESTROYED) is not KekState.DESTROYED
        ]
        tried = f"{len(stones)} destroyed keys against the key store"
        checks.append(Check(tried, not alive, "; ".join(alive) or "none came back"))
    checks += _scratch(house)
    return judged(3, checks)


def try_reading(house: OpenHouse, thing: SealedThing) -> list[Check]:
    """Try to open what the lost key sealed, from the store and from the node cache."""
    try:
        manifest = house.manifest(thing)
    except StokerError as error:
        return [
            Check(f"reading {thing.what}, whose key is gone", True, f"its manifest is gone too ({error.id})")
        ]
    key = manifest.shard_key(0)
    cached = house.cache.fetch(key, manifest.entry(0).object_bytes)
    return [
        _try(house, f"reading {thing.what}, whose key is gone, from the {where}", manifest, source)
        for where, source in (("store", house.store.source(key)), ("cache", cached))
    ]


def _try(house: OpenHouse, tried: str, manifest: Manifest, source: RangeSource) -> Check:
    label = house.header(manifest.shard_key(0)).label
    try:
        manifest.open_stream(0, house.keys, label.kind, label.schema, source=source)
    except (KeyDestroyed, KeyExpired) as refusal:
        return Check(tried, True, f"refused ({refusal.id})")
    return Check(tried, False, "it opened")


def _scratch(house: OpenHouse) -> list[Check]:
    """The whole life of a key on a key store of the same kind that exists only for this check."""
    with tempfile.TemporaryDirectory(prefix="stoker-verify-") as folder:
        backend = open_backend(Path(folder).as_uri(), clock=house.clock, passphrase=None)
        keys = BackendKeySource(backend)
        kek = backend.create_kek("dataset/scratch", Purpose.DATASET, expires_s=None)
        label = StreamLabel(StreamKind.SHARD, "dataset/scratch", new_version_id(), 0, 1, bytes(32))
        with PartitionSeal(keys, kek, Purpose.DATASET) as seal:
            sealed = seal.seal(label, b"canary", chunk_log2=14)

        def opens() -> str | None:
            try:
                StreamReader.open(BytesSource(sealed.data), keys, label, place="scratch stream").read_all(64)
            except StokerError as refusal:
                return refusal.id
            return None

        checks = [Check("a scratch stream while its key lives", opens() is None, opens() or "opens")]
        backend.request_destroy(kek, "alice")
        try:
            backend.destroy(kek, "alice")
        except StokerError as refusal:
            checks.append(Check("destruction by the one who asked for it", True, f"refused ({refusal.id})"))
        else:
            checks.append(Check("destruction by the one who asked for it", False, "was carried out"))
            return checks
        backend.destroy(kek, "bob")
        after = opens()
        checks.append(
            Check(
                "the same stream after two identities destroyed it",
                after == KeyDestroyed.id,
                after or "it opened",
            )
        )
    return checks
