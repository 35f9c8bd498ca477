"""The whole audit log as one file that anybody can check without the ledger: the leaves, and what was signed.

JSON lines: a heading, then the exact bytes of each leaf (canonical JSON, so that hashing a line as it stands
gives its leaf hash), then the newest checkpoint. See docs/design/ledger.md, "Export".
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final

from stoker.core.atomic import naming_full_disk
from stoker.core.canonical import JsonValue, canonical_json
from stoker.core.errors import BadSignature
from stoker.ledger import entries, merkle
from stoker.ledger.audit import AuditLog
from stoker.ledger.errors import LedgerRefused
from stoker.ledger.notes import MalformedNote, SignedCheckpoint, parse_verifier_key, verify_checkpoint
from stoker.ledger.verification import CLOCK_TOLERANCE_S

EXPORT_FORMAT: Final = "stoker audit export 1"
MAX_LINE_BYTES: Final = 4 * 1024 * 1024
_MAX_FINDINGS: Final = 1000


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written, or what checking such a file found; no finding means that it is whole."""

    kind: ClassVar[str] = "audit-export"
    version: ClassVar[int] = 1

    file: str
    origin: str
    entries: int
    root: str
    findings: tuple[str, ...] = ()


def export_log(audit: AuditLog, path: Path) -> ExportReport:
    """Write the log up to its newest checkpoint to the new file `path`, mode 0600.

    Raises LedgerRefused when the file exists or cannot be made, LedgerUnusable for a damaged entry, DiskFull.
    """
    head = audit.checkpoint()
    try:
        with naming_full_disk(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LedgerRefused(
            f"{path} cannot be made: {error.strerror}.", hint="Name a new file in a folder that you own."
        ) from error
    heading: dict[str, JsonValue] = {
        "format": EXPORT_FORMAT,
        "verifier_key": audit.verifier_key,
        "size": head.size,
    }
    try:
        with naming_full_disk(path), os.fdopen(descriptor, "wb") as file:
            file.write(canonical_json(heading) + b"\n")
            for each in audit.entries(0, head.size):
                leaf = entries.leaf_bytes(
                    each.index, each.time_s, each.actor, each.action, each.subject, each.detail, each.rows
                )
                file.write(leaf + b"\n")
            file.write(canonical_json({"checkpoint": head.text}) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return ExportReport(str(path), head.origin, head.size, head.root.hex())


def check_export(path: Path, log_key: str, *, witnessed: Iterable[str] = ()) -> ExportReport:
    """Judge an exported log by its file alone; `log_key` is the log's verifier key, from a place you trust.

    `witnessed` are checkpoints that were kept elsewhere. Raises LedgerRefused when the file cannot be read as
    an export at all; what does not hold in it is a finding.
    """
    try:
        _, public_key = parse_verifier_key(log_key)
        kept = [verify_checkpoint(text, public_key) for text in witnessed]
    except MalformedNote as error:
        raise LedgerRefused(f"The key or a checkpoint is none: {error}.", hint="Give whole texts.") from error
    reading = _Reading(public_key, frozenset(each.size for each in kept))
    try:
        with path.open("rb") as file:
            lines = _lines(file)
            heading = json.loads(next(lines, b"{}"))
            if not isinstance(heading, dict) or heading.get("format") != EXPORT_FORMAT:
                raise LedgerRefused(f"{path} is no exported log.", hint="Make one: stoker audit export")
            for line in lines:
                reading.take(line)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise LedgerRefused(
            f"{path} cannot be read after {reading.tree.size} entries: {type(error).__name__}.",
            hint="Export it again.",
        ) from error
    except OSError as error:
        raise LedgerRefused(f"{path} cannot be read: {error.strerror}.", hint="Name an export.") from error
    reading.end(kept)
    tree, origin = reading.tree, "" if reading.checkpoint is None else reading.checkpoint.origin
    findings = tuple(reading.findings[:_MAX_FINDINGS])
    return ExportReport(str(path), origin, tree.size, tree.root().hex(), findings)


class _Reading:
    """An export as far as it was read."""

    def __init__(self, public_key: bytes, sizes: frozenset[int]) -> None:
        self._public_key = public_key
        self._sizes = sizes
        self._roots = {0: merkle.EMPTY_ROOT}
        self._last_s = float("-inf")
        self.tree = merkle.Frontier()
        self.checkpoint: SignedCheckpoint | None = None
        self.findings: list[str] = []

    def take(self, line: bytes) -> None:
        """One line after the heading. Raises what reading a foreign line may."""
        value = json.loads(line)
        if self.checkpoint is not None:
            self.findings.append("there is more after the checkpoint")
        elif "checkpoint" in value:
            try:
                self.checkpoint = verify_checkpoint(str(value["checkpoint"]), self._public_key)
            except BadSignature as error:
                self.findings.append(f"its checkpoint does not hold: {error.message}")
        else:
            self._entry(value, line)

    def _entry(self, value: Mapping[str, Any], line: bytes) -> None:
        index, time_s = self.tree.size, float(value["time"])
        if value["index"] != index:
            self.findings.append(f"entry {index} is missing, or out of its place")
        if canonical_json(value) != line:
            self.findings.append(f"entry {index} is not in canonical form")
        if time_s < self._last_s - CLOCK_TOLERANCE_S:
            self.findings.append(
                f"entry {index} is dated {self._last_s - time_s:.0f} s before an earlier one"
            )
        self._last_s = max(self._last_s, time_s)
        self.tree.append(merkle.leaf_hash(line))
        if self.tree.size in self._sizes:
            self._roots[self.tree.size] = self.tree.root()

    def end(self, kept: Iterable[SignedCheckpoint]) -> None:
        """Hold the whole to what was signed, here and elsewhere."""
        size, head = self.tree.size, self.checkpoint
        if head is None:
            self.findings.append("it holds no checkpoint that its log signed, so nothing in it is proved")
        elif (head.size, head.root) != (size, self.tree.root()):
            self.findings.append(f"its {size} entries are not those of the signed checkpoint of {head.size}")
        for each in kept:
            if each.size > size:
                self.findings.append(f"it ends after {size} entries; a kept checkpoint has {each.size}")
            elif self._roots[each.size] != each.root:
                self.findings.append(f"the kept checkpoint of {each.size} entries is of another log: a fork")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise ValueError("a line is too long")
        yield line.removesuffix(b"\n")
