"""Promise 8: the audit log is whole, an edit of it is noticed, and nothing was done beside it."""

from __future__ import annotations

import sqlite3

import sqlalchemy as sa

from stoker.core.errors import StokerError
from stoker.core.progress import SILENT
from stoker.ledger import merkle, verification
from stoker.promises.acts import read_acts
from stoker.promises.house import OpenHouse
from stoker.promises.promise import Check, PromiseReport, judged

_PREFIX_SEGMENTS = {"sources": 3, "datasets": 3, "runs": 2}
"""How many segments of an object's name say what it belongs to: sources/NAME/VERSION, runs/ID."""


def check_log(house: OpenHouse) -> PromiseReport:
    """Recompute the log, prove one entry and one growth, and edit a copy to see it noticed."""
    report = house.ledger.audit.verify()
    findings = [str(each) for each in report.findings]
    seen = f"{report.size} entries, {report.checkpoints} checkpoints, {report.catalogue_rows} rows, all fit"
    checks = [Check("every hash, signature and catalogue row", not findings, "; ".join(findings[:3]) or seen)]
    if findings:
        return judged(8, checks)  # proofs and trials on top of a log that does not hold would say nothing
    if report.size == 0:
        return judged(8, [], missing="Nothing has been recorded yet.")
    checks += _proofs(house)
    checks.append(_nothing_beside(house))
    if house.home.ledger_path.exists():
        checks.append(_edited_copy(house))
    return judged(8, checks)


def _proofs(house: OpenHouse) -> list[Check]:
    trail = house.ledger.audit
    try:
        head = trail.checkpoint()
        (entry,) = trail.entries(head.size - 1, head.size)
        proof = trail.inclusion_proof(entry.index, head.size)
        included = merkle.inclusion_holds(entry.leaf_hash, entry.index, head.size, proof, head.root)
        half = max(1, head.size // 2)
        (old,) = trail.checkpoints(half, half + 1)
        growth = trail.consistency_proof(old.size, head.size)
        consistent = merkle.consistency_holds(old.size, head.size, old.root, head.root, growth)
    except StokerError as error:
        return [Check("proofs of inclusion and growth", False, error.message)]
    return [
        Check(f"inclusion of entry {entry.index} by {len(proof)} hashes", included, _word(included)),
        Check(f"growth from {old.size} to {head.size} entries only appended", consistent, _word(consistent)),
    ]


def _nothing_beside(house: OpenHouse) -> Check:
    """Everything in the store is of an act in the log, unless the log was turned back with its head."""
    acts = read_acts(house.ledger)
    if acts.damage:
        return acts.readable()[0]
    found = set()
    for key in house.store.list():
        segments = key.split("/")
        length = _PREFIX_SEGMENTS.get(segments[0])
        if length is not None:
            found.add("/".join(segments[:length]))
    strangers = sorted(found - acts.prefixes)
    seen = (
        "; ".join(strangers[:5]) + " are of no act in the log"
        if strangers
        else "each is of an act in the log"
    )
    return Check(f"{len(found)} sources, datasets and runs in the store", not strangers, seen)


def _edited_copy(house: OpenHouse) -> Check:
    """Rewrite who did the first act, in a copy in memory, and verify the copy."""
    copy = sqlite3.connect(":memory:", check_same_thread=False)
    original = sqlite3.connect(house.home.ledger_path)
    original.backup(copy)
    original.close()
    copy.execute("UPDATE audit_entry SET actor = 'mallory' WHERE idx = 0")
    copy.commit()
    engine = sa.create_engine("sqlite://", creator=lambda: copy, poolclass=sa.StaticPool)
    with engine.connect() as connection:
        findings = verification.verify(connection, house.ledger.audit.public_key, {}, SILENT).findings
    engine.dispose()
    noticed = any(each.index == 0 for each in findings)
    return Check(
        "an edited entry in a copy of the log", noticed, str(findings[0]) if findings else "was not noticed"
    )


def _word(held: bool) -> str:
    return "proved" if held else "the proof does not hold"
