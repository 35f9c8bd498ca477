"""The judgement of a whole audit log: every hash, signature and catalogue row computed anew.

What anchors what: a checkpoint's signature anchors its root; the root anchors the stored leaf hashes; a leaf
hash anchors an entry's content; an entry's row digests anchor the catalogue; the head file and witnessed
checkpoints anchor the length. See docs/design/ledger.md, "Verifying".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stoker.core.errors import BadSignature
from stoker.core.progress import Progress
from stoker.ledger import entries, schema
from stoker.ledger.cosignatures import Cosignature, WitnessKey, cosignatures
from stoker.ledger.findings import AuditFinding, AuditReport, FindingKind
from stoker.ledger.merkle import HASH_BYTES, Frontier, NodeName
from stoker.ledger.notes import MalformedNote, verify_checkpoint
from stoker.ledger.records import AuditEntry
from stoker.ledger.rows import key_of, row_digest
from stoker.ledger.stored_log import StoredLog

CLOCK_TOLERANCE_S: Final = 1.0
"""How far a clock may step back between two acts without being a finding: time services do this."""

OTHER_CLOCK_TOLERANCE_S: Final = 300.0
"""How far the clocks of two machines may be apart without being a finding."""

MAX_FINDINGS: Final = 1000
_BLOCK_ENTRIES: Final = 2048
_MAX_COMPARED: Final = 256


def verify(
    connection: Connection,
    public_key: bytes,
    kept: Mapping[str, str | None],
    progress: Progress,
    *,
    witnesses: Sequence[WitnessKey] = (),
    now_s: float | None = None,
) -> AuditReport:
    """Judge the log in the one state that `connection` sees; `kept` are checkpoints from elsewhere.

    `now_s` is the time of this machine, which no entry can be ahead of.
    """
    return _Verification(connection, public_key, witnesses, now_s).run(kept, progress)


class _Verification:
    def __init__(
        self,
        connection: Connection,
        public_key: bytes,
        witnesses: Sequence[WitnessKey] = (),
        now_s: float | None = None,
    ) -> None:
        self._log = StoredLog(connection)
        self._public_key = public_key
        self._witnesses = witnesses
        self._now_s = now_s
        self._witnessed_s: dict[int, list[Cosignature]] = {}
        self._findings: list[AuditFinding] = []
        self._left_out = 0
        self._tree = Frontier()
        self._roots_wanted: dict[int, list[str]] = {}
        self._mismatched: dict[int, AuditEntry] = {}
        self._mismatched_leaves: dict[bytes, int] = {}
        self._wrong_nodes: list[tuple[int, int]] = []
        self._root_breaks: list[int] = []
        self._last_fitting = -1
        self._row_digests: dict[tuple[str, tuple[str, ...]], tuple[str, int]] = {}
        self._last_time_s = float("-inf")

    def run(self, kept: Mapping[str, str | None], progress: Progress) -> AuditReport:
        log = self._log
        size, signed_size = log.believable_size(), log.signed_size()
        outside = self._read_kept(kept)
        if log.has_strays(size):
            self._found(FindingKind.EDITED, size, f"there are entries outside the range 0 to {size - 1}")
        checkpoints = self._check_roots_at(0, log.checkpoints(0, 1), outside)
        with progress.task("verify", size, "entries") as task:
            for start in range(0, size, _BLOCK_ENTRIES):
                end = min(start + _BLOCK_ENTRIES, size)
                checkpoints += self._block(start, end, outside)
                task.advance(end - start)
        self._judge_mismatches()
        self._judge_roots()
        self._judge_tail(size, signed_size, outside)
        catalogue_rows = self._check_catalogue()
        findings = tuple(sorted(self._findings, key=lambda finding: (finding.index, finding.kind)))
        return AuditReport(size, self._tree.root(), checkpoints, catalogue_rows, findings, self._left_out)

    # -- what lies outside the database

    def _read_kept(self, kept: Mapping[str, str | None]) -> dict[int, list[tuple[str, bytes]]]:
        """The kept checkpoints that are truly signed, by size."""
        outside: dict[int, list[tuple[str, bytes]]] = {}
        for place, text in kept.items():
            if text is None:
                self._found(
                    FindingKind.HEAD_MISSING, 0, f"{place} is missing: a cut tail could not be noticed"
                )
                continue
            try:
                checkpoint = verify_checkpoint(text, self._public_key)
                times = cosignatures(text, self._witnesses)
            except (BadSignature, MalformedNote) as error:
                self._found(FindingKind.BAD_SIGNATURE, 0, f"{place} does not hold: {error}")
                continue
            self._witnessed_s.setdefault(checkpoint.size, []).extend(times)
            outside.setdefault(checkpoint.size, []).append((place, checkpoint.root))
        return outside

    # -- entries, tree and checkpoints, block by block

    def _block(self, start: int, end: int, outside: Mapping[int, list[tuple[str, bytes]]]) -> int:
        found, nodes = self._log.entries(start, end), self._log.nodes(start, end)
        checkpoints = self._log.checkpoints(start + 1, end + 1)
        seen = 0
        for index in range(start, end):
            stored_leaf = nodes.get(NodeName(0, index))
            entry = self._check_entry(index, found.get(index), stored_leaf)
            leaf = stored_leaf
            if leaf is None:
                leaf = entry.leaf_hash if entry is not None else bytes(HASH_BYTES)
                self._found(FindingKind.TREE_EDITED, index, f"the leaf hash of entry {index} is missing")
            for name, value in self._tree.append(leaf)[1:]:
                if nodes.get(name) != value:
                    self._wrong_nodes.append((name.offset << name.level, index))
            seen += self._check_roots_at(index + 1, checkpoints, outside)
        return seen

    def _check_entry(self, index: int, row: Any, stored_leaf: bytes | None) -> AuditEntry | None:
        if row is None:
            self._found(FindingKind.REMOVED, index, f"entry {index} is missing")
            return None
        try:
            entry = entries.entry_of_row(row)
        except entries.DamagedEntry as error:
            self._found(FindingKind.EDITED, index, f"entry {index} was changed: {error}")
            return None
        if stored_leaf is not None and entry.leaf_hash != stored_leaf:
            self._mismatched[index] = entry
            self._mismatched_leaves[stored_leaf] = index
        if entry.time_s < self._last_time_s - CLOCK_TOLERANCE_S:
            back_s = self._last_time_s - entry.time_s
            self._found(
                FindingKind.CLOCK_BACK, index, f"entry {index} is dated {back_s:.0f} s before an earlier one"
            )
        self._last_time_s = max(self._last_time_s, entry.time_s)
        self._check_time(index, entry.time_s)
        self._note_rows(entry)
        return entry

    def _check_time(self, index: int, time_s: float) -> None:
        """Hold the entry's time to this machine's clock and to those of witnesses."""
        if self._now_s is not None and time_s > self._now_s + OTHER_CLOCK_TOLERANCE_S:
            ahead_s = time_s - self._now_s
            text = f"entry {index} is dated {ahead_s:.0f} s after the time of this machine"
            self._found(FindingKind.CLOCK_AHEAD, index, text)
        for each in self._witnessed_s.get(index + 1, ()):
            if time_s > each.time_s + OTHER_CLOCK_TOLERANCE_S:
                late_s = time_s - each.time_s
                text = f"entry {index} is dated {late_s:.0f} s after {each.witness} had seen it"
                self._found(FindingKind.CLOCK_APART, index, text)
        for each in self._witnessed_s.get(index, ()):
            if time_s < each.time_s - OTHER_CLOCK_TOLERANCE_S:
                early_s = each.time_s - time_s
                text = f"entry {index} is dated {early_s:.0f} s before {each.witness} saw the log without it"
                self._found(FindingKind.CLOCK_APART, index, text)

    def _note_rows(self, entry: AuditEntry) -> None:
        for row in entry.rows:
            before, _ = self._row_digests.get((row.table, row.key), (None, 0))
            if row.before != before:
                self._found(
                    FindingKind.CATALOGUE_EDITED,
                    entry.index,
                    f"entry {entry.index} found another {_row_name(row.table, row.key)} than the log knew",
                )
            self._row_digests[row.table, row.key] = (row.digest, entry.index)

    def _check_roots_at(
        self, size: int, stored: Mapping[int, Any], outside: Mapping[int, list[tuple[str, bytes]]]
    ) -> int:
        """Compare the tree of `size` leaves with every checkpoint of it; returns how many are stored."""
        index = max(size - 1, 0)
        root = self._tree.root()
        for place, kept_root in outside.get(size, ()):
            if kept_root != root:
                text = f"{place} was signed for {size} entries with another root"
                self._found(FindingKind.FORKED, index, text)
        row = stored.get(size)
        if row is None:
            self._found(FindingKind.CHECKPOINT_MISSING, index, f"the checkpoint of size {size} is missing")
            return 0
        signed = self._signed_root(size, row)
        if signed is not None:
            if signed == root:
                self._last_fitting = size
            else:
                self._root_breaks.append(size)
        return 1

    def _signed_root(self, size: int, row: Any) -> bytes | None:
        """The root that the stored checkpoint truly signs, or None after saying what is wrong with it."""
        index = max(size - 1, 0)
        if not isinstance(row["note"], str):
            self._found(FindingKind.CHECKPOINT_EDITED, index, f"the checkpoint of size {size} is no text")
            return None
        try:
            checkpoint = verify_checkpoint(row["note"], self._public_key)
        except MalformedNote as error:
            text = f"the checkpoint of size {size} was changed: {error}"
            self._found(FindingKind.CHECKPOINT_EDITED, index, text)
            return None
        except BadSignature as error:
            text = f"the checkpoint of size {size} does not hold: {error}"
            self._found(FindingKind.BAD_SIGNATURE, index, text)
            return None
        if (checkpoint.size, checkpoint.root) != (size, row["root"]):
            text = f"the checkpoint of size {size} is stored beside other figures than those that were signed"
            self._found(FindingKind.CHECKPOINT_EDITED, index, text)
        return checkpoint.root if checkpoint.size == size else None

    # -- judgements that need the whole log

    def _judge_mismatches(self) -> None:
        """Tell entries that changed places from entries that were changed."""
        compared = list(self._mismatched)[:_MAX_COMPARED]
        for index, entry in self._mismatched.items():
            origin = self._origin(index, entry, compared) if index in compared else None
            if origin is None:
                text = f"entry {index} was changed: its content no longer gives its leaf hash"
                self._found(FindingKind.EDITED, index, text)
            else:
                text = f"entry {index} holds what was recorded as entry {origin}"
                self._found(FindingKind.REORDERED, index, text)

    def _origin(self, index: int, entry: AuditEntry, others: list[int]) -> int | None:
        """The place at which the content of `entry` gives a leaf hash that is stored, there or here."""
        for other in others:
            if other != index:
                holder = self._mismatched_leaves.get(entries.rehashed(entry, other))
                if holder in (other, index):
                    return other
        return None

    def _judge_roots(self) -> None:
        """Tell a single foreign checkpoint from a log that was rewritten from some entry on."""
        tail = [size for size in self._root_breaks if size > self._last_fitting]
        for size in self._root_breaks:
            if size <= self._last_fitting or len(tail) == 1:
                text = f"the checkpoint of size {size} was signed for another log than this one"
                self._found(FindingKind.FORKED, max(size - 1, 0), text)
        if len(tail) > 1:
            first = tail[0]
            text = f"from entry {first - 1} on, the log is not the one whose checkpoints were signed"
            self._found(FindingKind.REWRITTEN, max(first - 1, 0), text)
        for start, last in self._wrong_nodes:
            if len(tail) > 1 and last >= tail[0] - 1:
                continue  # a consequence of what was just named
            text = f"the stored hash over entries {start} to {last} is not what they give"
            self._found(FindingKind.TREE_EDITED, start, text)

    def _judge_tail(
        self, size: int, signed_size: int, outside: Mapping[int, list[tuple[str, bytes]]]
    ) -> None:
        if signed_size > size:
            text = f"the log ends after {size} entries, but a checkpoint of {signed_size} is stored"
            self._found(FindingKind.CUT, size, text)
        for kept_size, kept in outside.items():
            if kept_size > size:
                text = f"the log ends after {size} entries, but {kept[0][0]} was signed for {kept_size}"
                self._found(FindingKind.CUT, size, text)

    # -- the catalogue

    def _check_catalogue(self) -> int:
        """Compare every row of the catalogue with the digest that the log holds of it."""
        seen = 0
        unseen = dict(self._row_digests)
        for table in schema.CATALOGUE_TABLES.values():
            for row in self._log.catalogue_rows(table):
                seen += 1
                key = (table.name, key_of(table, row))
                recorded = unseen.pop(key, None)
                if recorded is None:
                    index = row["entry"] if type(row["entry"]) is int else 0
                    text = f"{_row_name(*key)} is in the catalogue, but no entry of the log wrote it"
                    self._found(FindingKind.CATALOGUE_EDITED, index, text)
                elif not _digest_fits(table, row, recorded[0]):
                    text = f"{_row_name(*key)} was changed after entry {recorded[1]} wrote it"
                    self._found(FindingKind.CATALOGUE_EDITED, recorded[1], text)
        for (name, row_key), (_, index) in unseen.items():
            text = f"{_row_name(name, row_key)}, written by entry {index}, is gone from the catalogue"
            self._found(FindingKind.CATALOGUE_EDITED, index, text)
        return seen

    def _found(self, kind: FindingKind, index: int, message: str) -> None:
        if len(self._findings) >= MAX_FINDINGS:
            self._left_out += 1
            return
        self._findings.append(AuditFinding(kind, index, message))


def _digest_fits(table: sa.Table, row: Mapping[str, Any], digest: str) -> bool:
    try:
        return row_digest(table, row) == digest
    except (TypeError, ValueError):
        return False


def _row_name(table: str, key: tuple[str, ...]) -> str:
    return f"{table} {'/'.join(ascii(part)[1:-1] for part in key)}"
