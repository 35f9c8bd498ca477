"""Promise 4: a changed, swapped, cut or rolled-back byte is refused, and names where it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from stoker.core.errors import StokerError
from stoker.core.progress import Progress
from stoker.intake.review import review_digest
from stoker.keys.refs import KekRef
from stoker.ledger.records import RunRecord
from stoker.promises.house import OpenHouse, SealedThing
from stoker.promises.promise import Check, PromiseReport, judged
from stoker.promises.runs import ToldRun
from stoker.spec.job import CommitRef
from stoker.store.header import StreamLabel
from stoker.store.manifest import Manifest
from stoker.store.ranges import BytesSource
from stoker.train.commit_store import read_commit
from stoker.train.run_objects import RunObjects

_MAX_TRIAL_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Attack:
    """A way to present other bytes than those that were sealed."""

    name: str
    change: Callable[[bytearray], bytearray]


def check_integrity(house: OpenHouse, runs: tuple[ToldRun, ...], progress: Progress) -> PromiseReport:
    """Compare every stored object with its manifest, then attack one stream of each live thing in memory."""
    checks = [check for run in runs for check in _checkpoints(house, run.record)]
    for thing in house.sealed_things():
        try:
            manifest = house.manifest(thing)
            report = manifest.verify_objects(progress)
        except StokerError as error:
            checks.append(Check(f"every object of {thing.what}", False, error.message))
            continue
        seen = f"{report.objects} objects, {report.object_bytes:,} bytes, all as recorded"
        if report.findings:
            seen = "; ".join(f"{each.key} {each.problem}" for each in report.findings[:5])
        checks.append(
            Check(f"every object of {thing.what} against its signed manifest", not report.findings, seen)
        )
        if not house.is_lost(thing):
            checks += _attacked(house, thing, manifest)
    if not checks:
        return judged(4, [], missing="Nothing has been sealed yet, so there was nothing to attack.")
    return judged(4, checks)


def _checkpoints(house: OpenHouse, run: RunRecord) -> list[Check]:
    """The run's last committed checkpoint, whole, and the same with a digest that was never recorded."""
    recorded = house.ledger.catalogue.checkpoints(run.id)
    if not recorded or house.ledger.catalogue.is_tombstoned(run.kek):
        return []
    last = recorded[-1]
    review = house.ledger.catalogue.review(run.review)
    tried = f"the checkpoint of step {last.step} of run {run.id}, as the ledger recorded it"
    with RunObjects(
        house.store, house.keys, run=run.id, kek=KekRef.parse(run.kek), review_digest=review_digest(review)
    ) as objects:
        try:
            commit = read_commit(objects, CommitRef(last.sequence, last.step, last.digest))
            sizes = [
                len(objects.read_part(part, commit.version, rank)) for rank, part in enumerate(commit.parts)
            ]
        except StokerError as error:
            return [Check(tried, False, error.message)]
        checks = [Check(tried, True, f"{len(sizes)} parts, {sum(sizes):,} bytes, every byte opened")]
        try:
            read_commit(objects, CommitRef(last.sequence, last.step, "0" * 64))
        except StokerError as refusal:
            checks.append(Check("another checkpoint in its place", True, f"refused ({refusal.id})"))
        else:
            checks.append(Check("another checkpoint in its place", False, "was accepted"))
    return checks


def _attacked(house: OpenHouse, thing: SealedThing, manifest: Manifest) -> list[Check]:
    """Attacks on the thing's first stream, each on a copy in memory."""
    entry, key = manifest.entry(0), manifest.shard_key(0)
    if entry.object_bytes > _MAX_TRIAL_BYTES:
        return []
    sound = house.store.get(key, max_bytes=_MAX_TRIAL_BYTES)
    header = house.header(key)
    head, size, chunk = len(header.encoded), len(sound), 1 << header.chunk_log2
    places = sorted({0, 4, head // 2, head - 1, head, head + 40, (head + size) // 2, size - 1})
    attacks = [_Attack(f"byte {place}", _flip(place)) for place in places]
    attacks.append(_Attack("last byte cut", lambda data: data[:-1]))
    if size > head + chunk:
        attacks.append(
            _Attack("cut at a chunk's border", lambda data: data[: head + (size - head - 1) // chunk * chunk])
        )
    if size > head + 3 * chunk:
        attacks.append(_Attack("two chunks swapped", _swap(head + chunk, chunk)))
    accepted = [each.name for each in attacks if _accepts(house, manifest, header.label, each, sound)]
    if not _accepts(house, manifest, header.label, _Attack("none", lambda data: data), sound):
        accepted.append("the unchanged stream was refused, so refusals prove nothing")
    checks = [
        Check(
            f"{len(attacks)} changes to a stream of {thing.what}",
            not accepted,
            "; ".join(accepted) or "each refused, the unchanged one opens",
        )
    ]
    if manifest.shards > 1:
        other = house.store.get(manifest.shard_key(1), max_bytes=_MAX_TRIAL_BYTES)
        swapped = _accepts(house, manifest, header.label, _Attack("swap", lambda _: bytearray(other)), sound)
        checks.append(
            Check("another stream of it in its place", not swapped, "accepted" if swapped else "refused")
        )
    return checks


def _flip(place: int) -> Callable[[bytearray], bytearray]:
    def change(data: bytearray) -> bytearray:
        data[place] ^= 0x01
        return data

    return change


def _swap(start: int, chunk: int) -> Callable[[bytearray], bytearray]:
    def change(data: bytearray) -> bytearray:
        first, second = data[start : start + chunk], data[start + chunk : start + 2 * chunk]
        return data[:start] + second + first + data[start + 2 * chunk :]

    return change


def _accepts(house: OpenHouse, manifest: Manifest, label: StreamLabel, attack: _Attack, sound: bytes) -> bool:
    """Whether the reader hands on the whole stream after the attack."""
    changed = attack.change(bytearray(sound))
    assert attack.name == "none" or hashlib.sha256(changed).digest() != hashlib.sha256(sound).digest()
    try:
        stream = manifest.open_stream(0, house.keys, label.kind, label.schema, source=BytesSource(changed))
        stream.read_all(_MAX_TRIAL_BYTES)
    except StokerError:
        return False
    return True
