"""Promise 4: a changed, swapped, cut or rolled-back byte is refused, and names where it is."""

from __future__ import annotations

import hashlib

from stoker.core.errors import StokerError
from stoker.core.progress import Progress
from stoker.intake.review_request import review_digest
from stoker.intake.scan_report import MAX_REPORT_BYTES
from stoker.keys.moves import is_gone
from stoker.keys.refs import KekRef
from stoker.ledger.records import CheckpointRecord, RunRecord
from stoker.promises.acts import Acts, Scan
from stoker.promises.attacks import Attack, accepts, attacked
from stoker.promises.house import OpenHouse, SealedThing
from stoker.promises.promise import Check, PromiseReport, judged
from stoker.promises.runs import ToldRun
from stoker.spec.job import CommitRef
from stoker.store.errors import ObjectMissing
from stoker.store.header import StreamKind, StreamLabel
from stoker.store.manifest import Manifest
from stoker.store.ranges import RangeSource
from stoker.store.reader import StreamReader
from stoker.train.commit_record import Commit
from stoker.train.commit_store import read_commit
from stoker.train.run_objects import PART_SCHEMA, RunObjects


def check_integrity(
    house: OpenHouse, runs: tuple[ToldRun, ...], acts: Acts, progress: Progress
) -> PromiseReport:
    """Compare every stored object with what was recorded, then attack one stream of each live thing."""
    checks = [check for run in runs for check in _checkpoint(house, run.record)]
    for thing in house.sealed_things():
        checks += _thing(house, thing, progress)
    checks += [*acts.readable(), *_scan_reports(house, acts)]
    if not checks:
        return judged(4, [], missing="Nothing has been sealed yet, so there was nothing to attack.")
    return judged(4, checks)


def _thing(house: OpenHouse, thing: SealedThing, progress: Progress) -> list[Check]:
    lost = house.is_lost(thing)
    tried = f"every object of {thing.what} against its signed manifest"
    try:
        manifest = house.manifest(thing)
        report = manifest.verify_objects(progress)
    except ObjectMissing as error:
        return [] if lost else [Check(tried, False, error.message)]
    except StokerError as error:
        return [Check(tried, False, error.message)]
    seen = f"{report.objects} objects, {report.object_bytes:,} bytes, all as recorded"
    if report.findings:
        seen = "; ".join(f"{each.key} {each.problem}" for each in report.findings[:5])
    checks = [Check(tried, not report.findings, seen)]
    if not lost:
        checks += _stream_attacked(house, thing, manifest)
    return checks


def _stream_attacked(house: OpenHouse, thing: SealedThing, manifest: Manifest) -> list[Check]:
    """Attacks on the thing's first stream, and another of its streams in the first one's place."""
    what = f"a stream of {thing.what}"
    key = manifest.shard_key(0)
    try:
        header = house.header(key)
    except StokerError as error:
        return [Check(f"changes to {what}", False, error.message)]
    kind, schema = header.label.kind, header.label.schema

    def opening(source: RangeSource) -> StreamReader:
        return manifest.open_stream(0, house.keys, kind, schema, source=source)

    checks = [attacked(what, house.store.source(key), header, opening)]
    if manifest.shards > 1:
        swap = Attack("swap", house.store.source(manifest.shard_key(1)), 0)
        swapped = accepts(opening, swap)
        seen = "was accepted" if swapped else "refused"
        checks.append(Check(f"another stream in place of {what}", not swapped, seen))
    return checks


def _checkpoint(house: OpenHouse, run: RunRecord) -> list[Check]:
    """The run's last committed checkpoint, whole; another in its place; and attacks on one of its parts."""
    recorded = house.ledger.catalogue.checkpoints(run.id)
    if not recorded or is_gone(house.ledger, run.kek):
        return []
    last = recorded[-1]
    tried = f"the checkpoint of step {last.step} of run {run.id}, as the ledger recorded it"
    digest = review_digest(house.ledger.catalogue.review(run.review))
    kek = KekRef.parse(run.kek)
    with RunObjects(house.store, house.keys, run=run.id, kek=kek, review_digest=digest) as objects:
        try:
            commit = read_commit(objects, CommitRef(last.sequence, last.step, last.digest))
            sizes = [
                len(objects.read_part(part, commit.version, rank)) for rank, part in enumerate(commit.parts)
            ]
        except StokerError as error:
            return [Check(tried, False, error.message)]
        checks = [
            Check(tried, True, f"{len(sizes)} parts, {sum(sizes):,} bytes, every byte opened"),
            _another_in_its_place(objects, last),
        ]
    if commit.parts:
        checks.append(_part_attacked(house, run, commit, digest))
    return checks


def _another_in_its_place(objects: RunObjects, last: CheckpointRecord) -> Check:
    tried = f"another checkpoint in the place of step {last.step} of run {last.run}"
    try:
        read_commit(objects, CommitRef(last.sequence, last.step, "0" * 64))
    except StokerError as refusal:
        return Check(tried, True, f"refused ({refusal.id})")
    return Check(tried, False, "was accepted")


def _part_attacked(house: OpenHouse, run: RunRecord, commit: Commit, digest: bytes) -> Check:
    """As with streams; what a part must say it is follows from the commit record."""
    part = commit.parts[0]
    label = StreamLabel(StreamKind.CHECKPOINT_PART, f"run/{run.id}", commit.version, 0, PART_SCHEMA, digest)

    def opening(source: RangeSource) -> StreamReader:
        return StreamReader.open(
            source,
            house.keys,
            label,
            header_digest=bytes.fromhex(part.header_digest),
            object_bytes=part.object_bytes,
            kek=KekRef.parse(run.kek),
            place=part.key,
        )

    what = f"a part of the checkpoint of step {commit.step} of run {run.id}"
    return attacked(what, house.store.source(part.key), house.header(part.key), opening)


def _scan_reports(house: OpenHouse, acts: Acts) -> list[Check]:
    """What reviewers were shown, against the digest that the log holds of it."""
    keks = {(each.name, str(each.version)): each.kek for each in house.ledger.catalogue.sources()}
    wrong: list[str] = []
    read = 0
    for scan in acts.scans:
        kek = keks.get((scan.source, scan.version))
        if kek is None or is_gone(house.ledger, kek):
            continue
        read += 1
        try:
            wrong += _unlike(house, scan)
        except StokerError as error:
            wrong.append(error.message)
    if not read:
        return []
    seen = "; ".join(wrong[:5]) or "each is what was recorded"
    return [Check(f"{read} scan reports against the log", not wrong, seen)]


def _unlike(house: OpenHouse, scan: Scan) -> list[str]:
    end = f"-{scan.measures}" if scan.measures else ""
    key = f"sources/{scan.source}/{scan.version}/scan/{scan.patterns_digest[:32]}{end}.stk"
    reader = StreamReader.open(house.store.source(key), house.keys, house.header(key).label, place=key)
    found = hashlib.sha256(reader.read_all(MAX_REPORT_BYTES)).hexdigest()
    return [] if found == scan.digest else [f"{key} is another report than the one that was recorded"]
