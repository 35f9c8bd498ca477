"""`stoker audit`: the log of every act: show it, prove an entry, verify the whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.table import day, table
from stoker.core.canonical import JsonValue, canonical_json
from stoker.core.errors import EXIT_DONE, EXIT_FINDING
from stoker.ledger.cosignatures import WitnessKey
from stoker.ledger.errors import LedgerRefused
from stoker.ledger.export import ExportReport, check_export, export_log
from stoker.ledger.notes import MAX_NOTE_BYTES, MalformedNote


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
    verifier_key: str


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
@click.option("--witness-key", "keys", multiple=True, help="The key of a witness; its times are held to.")
def verify(house: House, witness: tuple[Path, ...], keys: tuple[str, ...]) -> Verified:
    """Recompute the whole log; exit code 1 when anything was edited, cut, reordered, forked or misdated."""
    witnesses = tuple(_witness_key(each) for each in keys)
    return _verified(house, tuple(note_in(path) for path in witness), witnesses)


def _verified(house: House, witnessed: tuple[str, ...], witnesses: tuple[WitnessKey, ...] = ()) -> Verified:
    report = house.ledger.audit.verify(witnessed=witnessed, witnesses=witnesses, progress=house.progress)
    return Verified(report.size, report.checkpoints, tuple(str(each) for each in report.findings))


@command("checkpoint", needs=Deed.LOOK, text=lambda result: result.text)
def checkpoint(house: House) -> Head:
    """The newest signed checkpoint, for a second host to keep."""
    trail = house.ledger.audit
    return Head(trail.checkpoint().text, trail.public_key.hex(), trail.verifier_key)


@dataclass(frozen=True, slots=True)
class Growth:
    """What a witness that saw the log at `old` entries is handed: the request of C2SP's tlog-witness."""

    kind: ClassVar[str] = "audit-growth"
    version: ClassVar[int] = 1
    old: int
    size: int
    text: str


@dataclass(frozen=True, slots=True)
class Cosigned:
    """What a witness says of a checkpoint: `line` belongs at its end, `note` is the checkpoint with it."""

    kind: ClassVar[str] = "audit-cosigned"
    version: ClassVar[int] = 1
    witness_key: str
    origin: str
    size: int
    time_s: int
    line: str
    note: str


@command("growth", needs=Deed.LOOK, text=lambda result: result.text)
@click.option("--since", type=click.IntRange(0), default=0, show_default=True, help="What it saw last.")
def growth(house: House, since: int) -> Growth:
    """What a witness is handed: the newest checkpoint, and the proof that it only grew since SIZE entries."""
    submission = house.ledger.audit.growth(since)
    return Growth(since, house.ledger.audit.checkpoint().size, submission.text)


@command("witness", needs=Deed.WITNESS, text=lambda result: result.note)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.argument("request", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("--name", help="The name to make a new witness under, such as its host's.")
@click.option("--log", "log_key", help="Watch the log of this verifier key from now on.")
def witness(house: House, folder: Path, request: Path, name: str | None, log_key: str | None) -> Cosigned:
    """On a second host: cosign what REQUEST (`stoker audit growth`; - for stdin) shows, if the log only grew.

    FOLDER keeps the witness's key, every checkpoint it cosigned, and evidence of what it refused. It needs no
    ledger and no key of the house. A log that was forked, rewritten or turned back gets no signature.
    """
    from stoker.ledger.witness import Witness

    found = Witness.open(folder, house.clock, name=name)
    if log_key is not None:
        with _naming_malformed("--log"):
            found.trust(log_key)
    said = found.add(note_in(request))
    return Cosigned(str(found.key), said.origin, said.size, said.time_s, said.line, said.note)


def _export_text(result: ExportReport) -> str:
    head = f"{result.file}: {result.entries} entries, root {result.root}"
    return "\n".join([head, *(f"  {each}" for each in result.findings)])


@command("export", needs=Deed.LOOK, text=_export_text)
@click.option("--to", "target", type=click.Path(path_type=Path), required=True, help="A file to make.")
def export(house: House, target: Path) -> ExportReport:
    """Write the whole log to one file that anybody can check without this house."""
    return export_log(house.ledger.audit, target)


@command("check", needs=Deed.WITNESS, text=_export_text, exit_code=lambda result: _found(result))
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--log", "log_key", required=True, help="The log's verifier key, from a place you trust.")
@click.option("--witness", type=click.Path(path_type=Path, exists=True, dir_okay=False), multiple=True)
def check(house: House, file: Path, log_key: str, witness: tuple[Path, ...]) -> ExportReport:
    """Judge an exported log by its FILE alone, on any host; exit code 1 when it does not hold.

    Each --witness is a checkpoint that was kept elsewhere.
    """
    return check_export(file, log_key, witnessed=[note_in(path) for path in witness])


def _found(result: ExportReport) -> int:
    return EXIT_FINDING if result.findings else EXIT_DONE


def note_in(path: Path) -> str:
    """The text in a file, or on stdin for `-`, as far as a note may be long. Raises LedgerRefused."""
    try:
        with click.open_file(str(path), "rb") as file:
            return str(file.read(4 * MAX_NOTE_BYTES).decode())
    except (OSError, UnicodeDecodeError) as error:
        raise LedgerRefused(f"{path} cannot be read as text.", hint="Name a file with a note.") from error


def _witness_key(text: str) -> WitnessKey:
    with _naming_malformed("--witness-key"):
        return WitnessKey.parse(text)


@contextlib.contextmanager
def _naming_malformed(option: str) -> Iterator[None]:
    try:
        yield
    except MalformedNote as error:
        raise click.UsageError(f"{option}: {error}.") from error


for each in (log, prove, verify, accept, checkpoint, growth, witness, export, check):
    audit.add_command(each)
