"""What a verification of the audit log can find, and its report. See docs/design/ledger.md, "Verifying"."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar


class FindingKind(enum.StrEnum):
    """What can be wrong with a ledger."""

    EDITED = "edited"
    REMOVED = "removed"
    REORDERED = "reordered"
    CUT = "cut"
    REWRITTEN = "rewritten"
    TREE_EDITED = "tree_edited"
    CHECKPOINT_MISSING = "checkpoint_missing"
    CHECKPOINT_EDITED = "checkpoint_edited"
    BAD_SIGNATURE = "bad_signature"
    FORKED = "forked"
    HEAD_MISSING = "head_missing"
    CLOCK_BACK = "clock_back"
    CLOCK_AHEAD = "clock_ahead"
    CLOCK_APART = "clock_apart"
    CATALOGUE_EDITED = "catalogue_edited"


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """One thing that does not hold. `index` is the first audit entry that it touches."""

    kind: FindingKind
    index: int
    message: str

    def __str__(self) -> str:
        return f"entry {self.index}, {self.kind}: {self.message}"


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What a verification saw. `root` is that of the stored entries; it is signed when `holds`."""

    kind: ClassVar[str] = "audit-report"
    version: ClassVar[int] = 1

    size: int
    root: bytes
    checkpoints: int
    catalogue_rows: int
    findings: tuple[AuditFinding, ...]
    left_out: int

    @property
    def holds(self) -> bool:
        """Whether nothing was found."""
        return not self.findings
