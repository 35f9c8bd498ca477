"""`stoker audit`: the log of every act: show it, prove an entry, verify the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.table import day, table
from stoker.core.canonical import JsonValue, canonical_json
from stoker.core.errors import EXIT_DONE, EXIT_FINDING


@dataclass(frozen=True, slots=True)
class EntryRow:
    """One leaf of the audit log."""

    index: int
    time_s: float
    actor: str
    action: str
    subject: str
    detail: Mapping[str, JsonValue]
    leaf_hash: str


@dataclass(frozen=True, slots=True)
class Entries:
    """A stretch of the log, oldest first, and how long the whole log is."""

    kind: ClassVar[str] = "audit-entries"
    version: ClassVar[int] = 1
    size: int
    entries: tuple[EntryRow, ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """What verifying found; no finding means that the log is whole up to `size`."""

    kind: ClassVar[str] = "audit-verified"
    version: ClassVar[int] = 1
    size: int
    checkpoints: int
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Head:
    """The newest signed checkpoint, in C2SP's text form, for a second host to keep."""

    kind: ClassVar[str] = "audit-checkpoint"
    version: ClassVar[int] = 1
    text: str
    public_key: str


@dataclass(frozen=True, slots=True)
class Proof:
    """That a leaf is in the log of `checkpoint`, by RFC 6962; hashes are 64 hexadecimal digits."""

    kind: ClassVar[str] = "audit-proof"
    version: ClassVar[int] = 1
    index: int
    leaf_hash: str
    hashes: tuple[str, ...]
    root: str
    checkpoint: str


def _proof_text(result: Proof) -> str:
    lines = [f"entry {result.index}, leaf {result.leaf_hash}", *(f"  {each}" for each in result.hashes)]
    return "\n".join([*lines, f"root {result.root}", "", result.checkpoint])


def _entries_text(result: Entries) -> str:
    rows = [
        (
            row.index,
            day(row.time_s),
            row.actor,
            row.action,
            row.subject,
            canonical_json(row.detail).decode()[:60],
        )
        for row in result.entries
    ]
    return table(("index", "time", "who", "did", "to", "detail"), rows)


def _verified_text(result: Verified) -> str:
    head = f"audit log: {result.size} entries, {result.checkpoints} signed checkpoints"
    if not result.findings:
        return f"{head}: whole, in order, and consistent with every checkpoint"
    return "\n".join([f"{head}: {len(result.findings)} findings", *(f"  {each}" for each in result.findings)])


@click.group()
def audit() -> None:
    """The log of every act: show, prove, verify."""


@command("log", needs=Deed.LOOK, text=_entries_text)
@click.option(
    "--last", type=click.IntRange(1), default=30, show_default=True, help="How many entries to show."
)
def log(house: House, last: int) -> Entries:
    """The newest entries, oldest first."""
    trail = house.ledger.audit
    size = trail.size
    return Entries(
        size,
        tuple(
            EntryRow(
                each.index,
                each.time_s,
                each.actor,
                each.action,
                each.subject,
                each.detail,
                each.leaf_hash.hex(),
            )
            for each in trail.entries(max(0, size - last))
        ),
    )


@command("prove", needs=Deed.LOOK, text=_proof_text)
@click.argument("index", type=click.IntRange(0))
def prove(house: House, index: int) -> Proof:
    """Prove that entry INDEX is in the log: its leaf, the hashes to the root, and the signed checkpoint."""
    trail = house.ledger.audit
    head = trail.checkpoint()
    hashes = trail.inclusion_proof(index, head.size)
    (entry,) = trail.entries(index, index + 1)
    return Proof(
        index, entry.leaf_hash.hex(), tuple(each.hex() for each in hashes), head.root.hex(), head.text
    )


@command("accept", needs=Deed.AUDIT_ACCEPT, text=_verified_text)
@click.option("--reason", required=True, help="What was lost and why, for the record.")
def accept(house: House, reason: str) -> Verified:
    """Go on with a log that was rolled back, for a known reason; the loss itself is recorded in it."""
    house.ledger.accept_log(actor=house.actor, reason=reason)
    return _verified(house, ())


@command(
    "verify",
    needs=Deed.LOOK,
    text=_verified_text,
    exit_code=lambda result: EXIT_FINDING if result.findings else EXIT_DONE,
)
@click.option(
    "--witness",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="A checkpoint that was kept elsewhere; the log must have grown from it.",
)
def verify(house: House, witness: tuple[Path, ...]) -> Verified:
    """Recompute the whole log; exit code 1 when anything was edited, cut, reordered or forked."""
    return _verified(house, tuple(path.read_text() for path in witness))


def _verified(house: House, witnessed: tuple[str, ...]) -> Verified:
    report = house.ledger.audit.verify(witnessed=witnessed, progress=house.progress)
    return Verified(report.size, report.checkpoints, tuple(str(each) for each in report.findings))


@command("checkpoint", needs=Deed.LOOK, text=lambda result: result.text)
def checkpoint(house: House) -> Head:
    """The newest signed checkpoint, for a second host to keep."""
    trail = house.ledger.audit
    return Head(trail.checkpoint().text, trail.public_key.hex())


for each in (log, prove, verify, accept, checkpoint):
    audit.add_command(each)
