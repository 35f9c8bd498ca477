"""Promise 3: what a destroyed or expired key sealed cannot be read, from the store, the cache or a copy.

What was tried when a key died stands in the ledger; here that is read, and all of it is tried again. See
docs/design/keys.md, "Proof of death".
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from stoker.core.clock import iso_utc
from stoker.core.errors import StokerError
from stoker.core.ids import new_version_id
from stoker.core.settings import load_settings
from stoker.keys.death import DeathProof, recorded_proofs, try_death
from stoker.keys.errors import KeyDestroyed, KeyExpired, KeyNotActive, KeyUnknown
from stoker.keys.moves import is_gone
from stoker.keys.open import open_backend
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.rewrap import without_moves
from stoker.keys.rotation import epochs_of
from stoker.keys.states import KekState
from stoker.ledger.errors import LedgerUnusable
from stoker.ledger.records import DatasetState, TombstoneRecord
from stoker.promises.house import OpenHouse, SealedThing
from stoker.promises.promise import Check, PromiseReport, judged
from stoker.promises.replicas import replicas_of
from stoker.store.header import StreamKind, StreamLabel
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
    for run in house.ledger.catalogue.runs():
        if is_gone(house.ledger, run.kek):
            tried = f"reading run {run.id}, whose key is gone, from the store"
            checks.append(_try_all(house, tried, _streams(house, f"runs/{run.id}"), house.store.source))
    try:
        checks += check_deaths(house)
    except LedgerUnusable as damage:  # the rest does not rest on the log
        checks.append(Check("reading the audit log", False, damage.message))
    checks += _agreement(house)
    checks += _scratch(house)
    return judged(3, checks)


def try_reading(house: OpenHouse, thing: SealedThing) -> list[Check]:
    """Try to open everything that the lost key sealed, from the store, and a copy from the node cache."""
    keys = _streams(house, thing.prefix)
    what = f"reading {thing.what}, whose key is gone, from the"
    if not keys:
        return [Check(f"{what} store", True, "its objects are gone too")]

    def cached(key: str) -> RangeSource:
        return house.cache.fetch(key, house.store.size(key))

    return [
        _try_all(house, f"{what} store", keys, house.store.source),
        _try_all(house, f"{what} cache", keys[:1], cached),
    ]


def check_deaths(house: OpenHouse) -> list[Check]:
    """Every death: what the ledger holds of its proof, and what is seen when everything is tried again now.

    A KEK whose survivors were moved is tried as well: it must open nothing itself.
    """
    catalogue = house.ledger.catalogue
    proofs = recorded_proofs(house.ledger)
    checks = []
    replicas = replicas_of(
        store=lambda: house.store,
        cache=house.cache,
        backend=house.backend,
        home=house.home,
        ledger=house.ledger,
        settings=load_settings(house.home, Path.cwd()).value,
    )
    for stone in catalogue.tombstones():
        checks.append(_recorded(stone, proofs.get(stone.kek)))
        again = try_death(
            KekRef.parse(stone.kek),
            ledger=house.ledger,
            backend=without_moves(house.backend),
            replicas=replicas,
            clock=house.clock,
        )
        seen = "; ".join(f"{trial.replica}: {trial.seen}" for trial in again.trials)
        checks.append(Check(f"what {stone.kek} sealed, on {len(again.trials)} replicas", again.holds, seen))
    return checks


def _recorded(stone: TombstoneRecord, proof: DeathProof | None) -> Check:
    tried = f"the recorded proof of the death of {stone.kek}"
    prove = f"run: stoker key prove {stone.kek}"
    if proof is None:
        return Check(tried, False, f"there is none; {prove}")
    if proof.proved_s < stone.destroyed_s:
        return Check(tried, False, f"it is older than the death at {iso_utc(stone.destroyed_s)}; {prove}")
    where = ", ".join(trial.replica for trial in proof.trials)
    seen = f"of {iso_utc(proof.proved_s)}, on {where}"
    return Check(tried, proof.holds, f"{seen}: {proof.verdict}" + ("" if proof.holds else f"; {prove}"))


def _streams(house: OpenHouse, prefix: str) -> list[str]:
    """The sealed objects under a prefix, whatever a manifest says: shards, scan reports, checkpoints."""
    return sorted(key for key in house.store.list(prefix) if key.endswith(".stk"))


def _try_all(house: OpenHouse, tried: str, keys: list[str], source_of: Callable[[str], RangeSource]) -> Check:
    """Open each as someone would who has the store and the key store, and no manifest."""
    refusals: Counter[str] = Counter()
    wrong: list[str] = []
    for key in keys:
        try:
            StreamReader.open(source_of(key), house.keys, house.header(key).label, place=key)
        except (KeyDestroyed, KeyExpired, KeyUnknown, KeyNotActive) as refusal:
            refusals[refusal.id] += 1
        except StokerError as error:
            wrong.append(f"{key} could not be tried: {error.message}")
        else:
            wrong.append(f"{key} opened")
    seen = ", ".join(f"{count} refused ({name})" for name, count in refusals.items())
    return Check(tried, not wrong, "; ".join(wrong[:5]) or seen or "nothing is left of it")


def _agreement(house: OpenHouse) -> list[Check]:
    """Whether ledger and key store say the same of what is gone, and of when."""
    catalogue = house.ledger.catalogue
    stones = {stone.kek for stone in catalogue.tombstones()}
    infos = {str(info.ref): info for info in house.backend.list_keks()}
    dead = {name for name, info in infos.items() if info.state is KekState.DESTROYED}
    wrong = [f"{kek} lives in the key store" for kek in sorted(stones & (infos.keys() - dead))]
    wrong += [f"{kek} is destroyed, and the ledger has no tombstone" for kek in sorted(dead - stones)]
    checks = []
    if stones or dead:
        tried = f"{len(stones | dead)} destroyed keys, ledger against key store"
        checks.append(Check(tried, not wrong, "; ".join(wrong[:5]) or "both say so"))
    late = []
    datasets = catalogue.datasets()
    for record in datasets:
        what = f"dataset {record.name} {record.version[:8]}"
        if record.state is DatasetState.DESTROYED and record.kek not in stones:
            late.append(f"{what} is recorded as destroyed, its key {record.kek} is not")
        for ref in epochs_of(house.backend, KekRef.parse(record.kek)):
            info = infos.get(str(ref))
            outlives = info is not None and (info.expires_s is None or info.expires_s > record.expires_s)
            if outlives and str(ref) not in dead:
                late.append(f"{what} expires before its key {ref} does")
    if datasets:
        tried = f"the end of {len(datasets)} datasets against that of their keys"
        checks.append(Check(tried, not late, "; ".join(late[:5]) or "no key outlives its dataset"))
    return checks


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
        for by, what in (("alice", "approval by the one who asked for it"), ("bob", "destruction too early")):
            try:
                backend.approve_destroy(kek, by)
                backend.destroy_due(kek)
            except StokerError as refusal:
                checks.append(Check(what, True, f"refused ({refusal.id})"))
            else:
                checks.append(Check(what, False, "was carried out"))
                return checks
        for what, wanted in (("while its destruction is pending", KeyNotActive.id), ("", KeyDestroyed.id)):
            if not what:
                backend.destroy_now(kek, "bob", reason="a check")
                what = "after two identities destroyed its key"
            after = opens()
            checks.append(Check(f"the same stream {what}", after == wanted, after or "it opened"))
    return checks
