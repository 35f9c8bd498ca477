"""Promise 8: the audit log is whole, and an edit of it is noticed."""

from __future__ import annotations

import sqlite3

import sqlalchemy as sa

from stoker.core.progress import SILENT
from stoker.ledger import merkle, verification
from stoker.promises.house import OpenHouse
from stoker.promises.promise import Check, PromiseReport, judged


def check_log(house: OpenHouse) -> PromiseReport:
    """Recompute the log, prove one entry and one growth, and edit a copy to see it noticed."""
    trail = house.ledger.audit
    report = trail.verify()
    findings = [str(each) for each in report.findings]
    seen = f"{report.size} entries, {report.checkpoints} checkpoints, {report.catalogue_rows} rows, all fit"
    checks = [Check("every hash, signature and catalogue row", not findings, "; ".join(findings[:3]) or seen)]
    if report.size == 0:
        return judged(8, [], missing="Nothing has been recorded yet.")
    checks += _proofs(house)
    if house.home.ledger_path.exists():
        checks.append(_edited_copy(house))
    return judged(8, checks)


def _proofs(house: OpenHouse) -> list[Check]:
    trail = house.ledger.audit
    head = trail.checkpoint()
    (entry,) = trail.entries(head.size - 1, head.size)
    proof = trail.inclusion_proof(entry.index, head.size)
    included = merkle.inclusion_holds(entry.leaf_hash, entry.index, head.size, proof, head.root)
    old = next(iter(trail.checkpoints(max(1, head.size // 2), head.size + 1)))
    growth = trail.consistency_proof(old.size, head.size)
    consistent = merkle.consistency_holds(old.size, head.size, old.root, head.root, growth)
    return [
        Check(f"inclusion of entry {entry.index} by {len(proof)} hashes", included, _word(included)),
        Check(f"growth from {old.size} to {head.size} entries only appended", consistent, _word(consistent)),
    ]


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
