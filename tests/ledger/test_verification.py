"""Every way to change a ledger behind its back, and the index at which it is found."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.core.clock import ManualClock
from stoker.ledger import entries, merkle
from stoker.ledger.errors import LedgerRolledBack, LedgerUnusable
from stoker.ledger.findings import AuditReport, FindingKind
from stoker.ledger.verification import MAX_FINDINGS
from support import ledger_samples as samples

ACTS = 14


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of 14 entries: 8 that wrote the catalogue, 6 notes. Never opened again, only copied."""
    folder = tmp_path_factory.mktemp("original")
    clock = ManualClock(samples.NOW_S)
    with samples.open_ledger(folder, clock) as ledger:
        samples.fill(ledger)
        for number in range(8, ACTS):
            clock.advance(10.0)
            samples.note_act(ledger, f"subject-{number}", {"number": number})
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of the original to be tampered with."""
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    return copy


def verify(folder: Path, *witnessed: str) -> AuditReport:
    with samples.open_ledger(folder, ManualClock(samples.NOW_S + 1000)) as ledger:
        return ledger.audit.verify(witnessed=witnessed)


def found(report: AuditReport) -> list[tuple[FindingKind, int]]:
    return [(finding.kind, finding.index) for finding in report.findings]


def column(folder: Path, query: str) -> list[object]:
    connection = sqlite3.connect(folder / "ledger.db")
    try:
        return [row[0] for row in connection.execute(query)]
    finally:
        connection.close()


def test_an_honest_ledger_holds(folder: Path) -> None:
    report = verify(folder)
    assert found(report) == []
    assert report.holds
    assert (report.size, report.checkpoints, report.catalogue_rows) == (ACTS, ACTS + 1, 7)
    with samples.open_ledger(folder) as ledger:
        assert report.root == ledger.audit.checkpoint().root


@pytest.mark.parametrize("index", [0, ACTS - 1])
@pytest.mark.parametrize(
    "change",
    [
        "actor = 'mallory'",
        "action = 'nothing'",
        "subject = subject || '!'",
        "time_s = time_s + 0.5",
        "detail = '{\"n\":2}'",
        "detail = ' ' || detail",
        "row_digests = row_digests || ' '",
        "detail = '[]'",
        "detail = 'not json'",
        "detail = CAST(x'ff00' AS TEXT)",
        "actor = x'00ff'",
        "actor = CAST(x'ff' AS TEXT)",
        "time_s = 'yesterday'",
        'row_digests = \'[{"before":null,"digest":"0","key":["x"],"table":"review"}]\'',
        "row_digests = '{}'",
        "row_digests = '[7]'",
    ],
)
def test_an_edited_entry_is_found_at_its_index(folder: Path, index: int, change: str) -> None:
    samples.tamper(folder, f"UPDATE audit_entry SET {change} WHERE idx = {index}")
    report = verify(folder)
    edited = [finding.index for finding in report.findings if finding.kind is FindingKind.EDITED]
    assert edited == [index]
    assert not report.holds
    others = {finding.kind for finding in report.findings} - {FindingKind.EDITED}
    assert others <= {FindingKind.CATALOGUE_EDITED}


def test_every_one_of_several_edited_entries_is_named(folder: Path) -> None:
    samples.tamper(folder, "UPDATE audit_entry SET actor = 'mallory' WHERE idx IN (2, 9, 12)")
    assert found(verify(folder)) == [(FindingKind.EDITED, index) for index in (2, 9, 12)]


@pytest.mark.parametrize("index", [0, 5, 9, ACTS - 2])
def test_an_edit_with_its_leaf_hash_is_found_by_the_signed_root(folder: Path, index: int) -> None:
    rewrite_entry(folder, index)
    report = verify(folder)
    assert (FindingKind.REWRITTEN, index) in found(report)
    assert min(finding.index for finding in report.findings) == index
    assert {finding.kind for finding in report.findings} <= {
        FindingKind.REWRITTEN,
        FindingKind.FORKED,
        FindingKind.CATALOGUE_EDITED,
    }


@pytest.mark.parametrize("index", [8, 11, ACTS - 1])
def test_a_log_rewritten_whole_from_an_index_on_is_found_there(folder: Path, index: int) -> None:
    """Entries, leaf hashes, tree and roots all fit each other; only the signatures cannot be made."""
    rewrite_entry(folder, index)
    rebuild_tree(folder)
    report = verify(folder)
    by_head = (FindingKind.FORKED, ACTS - 1)
    if index == ACTS - 1:
        assert found(report) == [by_head, by_head]
    else:
        assert found(report) == [(FindingKind.REWRITTEN, index), by_head]


@pytest.mark.parametrize("index", [0, 3, 8, ACTS - 2])
def test_a_removed_entry_is_found_at_its_index(folder: Path, index: int) -> None:
    samples.tamper(folder, f"DELETE FROM audit_entry WHERE idx = {index}")
    report = verify(folder)
    assert (FindingKind.REMOVED, index) in found(report)
    assert {finding.kind for finding in report.findings} <= {
        FindingKind.REMOVED,
        FindingKind.CATALOGUE_EDITED,
    }


def test_a_removed_entry_whose_followers_moved_up_is_found_at_its_index(folder: Path) -> None:
    samples.tamper(
        folder,
        "DELETE FROM audit_entry WHERE idx = 9",
        *(f"UPDATE audit_entry SET idx = {index - 1} WHERE idx = {index}" for index in range(10, ACTS)),
    )
    report = verify(folder)
    assert found(report)[0] == (FindingKind.REORDERED, 9)
    assert (FindingKind.CUT, ACTS - 1) in found(report)


@pytest.mark.parametrize("left", [0, 1, 8, ACTS - 1])
def test_a_cut_tail_of_entries_is_found_where_it_begins(folder: Path, left: int) -> None:
    samples.tamper(folder, f"DELETE FROM audit_entry WHERE idx >= {left}")
    report = verify(folder)
    assert (FindingKind.CUT, left) in found(report)
    assert {finding.kind for finding in report.findings} <= {FindingKind.CUT, FindingKind.CATALOGUE_EDITED}


@pytest.mark.parametrize("left", [8, 10, ACTS - 1])
def test_a_tail_cut_with_its_tree_and_checkpoints_is_found_by_the_head_file(folder: Path, left: int) -> None:
    cut_whole(folder, left)
    report = verify(folder)
    assert found(report) == [(FindingKind.CUT, left)]
    assert "ledger.head was signed for 14" in report.findings[0].message


def test_a_cut_that_also_turns_the_head_back_is_found_by_a_witness_only(folder: Path) -> None:
    with samples.open_ledger(folder) as ledger:
        witness = ledger.audit.checkpoint().text
        earlier = next(ledger.audit.checkpoints(10)).text
    cut_whole(folder, 10)
    (folder / "ledger.head").write_text(earlier)
    assert verify(folder).holds
    report = verify(folder, earlier, witness)
    assert found(report) == [(FindingKind.CUT, 10)]
    assert "witness 2 was signed for 14" in report.findings[0].message


def test_a_lost_head_is_a_finding(folder: Path) -> None:
    (folder / "ledger.head").unlink()
    assert found(verify(folder)) == [(FindingKind.HEAD_MISSING, 0)]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"garbage\n\n- x\n", b"a" * 200_000])
def test_a_spoiled_head_is_a_finding(folder: Path, content: bytes) -> None:
    (folder / "ledger.head").write_bytes(content)
    assert found(verify(folder)) == [(FindingKind.BAD_SIGNATURE, 0)]


@pytest.mark.parametrize(("one", "other"), [(8, 9), (3, 11), (0, ACTS - 1)])
def test_entries_that_changed_places_are_found_as_such(folder: Path, one: int, other: int) -> None:
    swap(folder, "audit_entry", one, other)
    report = verify(folder)
    reordered = [finding for finding in report.findings if finding.kind is FindingKind.REORDERED]
    assert [finding.index for finding in reordered] == [one, other]
    assert f"recorded as entry {other}" in reordered[0].message
    assert not {finding.kind for finding in report.findings} & {FindingKind.EDITED, FindingKind.REWRITTEN}


def test_entries_that_changed_places_with_their_leaf_hashes_are_found(folder: Path) -> None:
    swap(folder, "audit_entry", 9, 12)
    swap(folder, "audit_node", 9, 12, "AND level = 0")
    report = verify(folder)
    assert found(report)[:2] == [(FindingKind.REORDERED, 9), (FindingKind.REWRITTEN, 9)]
    assert (FindingKind.REORDERED, 12) in found(report)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_an_edited_node_of_the_tree_is_found(folder: Path, level: int) -> None:
    offset = 1 if level < 3 else 0
    samples.tamper(
        folder,
        (
            "UPDATE audit_node SET hash = ? WHERE level = ? AND idx = ?",
            (b"\x07" * 32, level, offset),
        ),
    )
    report = verify(folder)
    assert report.findings[0].index <= offset << level
    expected = FindingKind.TREE_EDITED if level else FindingKind.REWRITTEN
    assert expected in {finding.kind for finding in report.findings}


def test_a_removed_node_of_the_tree_is_found(folder: Path) -> None:
    samples.tamper(folder, "DELETE FROM audit_node WHERE level = 2 AND idx = 1")
    assert found(verify(folder)) == [(FindingKind.TREE_EDITED, 4)]


def test_a_removed_leaf_hash_is_found_and_the_entries_still_judged(folder: Path) -> None:
    samples.tamper(folder, "DELETE FROM audit_node WHERE level = 0 AND idx = 10")
    assert found(verify(folder)) == [(FindingKind.TREE_EDITED, 10)]


@pytest.mark.parametrize("size", [0, 1, 9, ACTS])
def test_a_checkpoint_with_a_bad_signature_is_found(folder: Path, size: int) -> None:
    [note] = column(folder, f"SELECT note FROM audit_checkpoint WHERE size = {size}")
    assert isinstance(note, str)
    head, _, signature = note.rpartition(" ")
    letters = "BA" if signature[10] == "A" else "AB"
    forged = f"{head} {signature[:10]}{letters[0]}{signature[11:]}"
    samples.tamper(folder, ("UPDATE audit_checkpoint SET note = ? WHERE size = ?", (forged, size)))
    assert found(verify(folder)) == [(FindingKind.BAD_SIGNATURE, max(size - 1, 0))]


def test_a_checkpoint_signed_by_another_key_is_found(folder: Path, tmp_path: Path) -> None:
    with samples.open_ledger(tmp_path / "other") as other:
        for number in range(9):
            samples.note_act(other, f"{number}")
        forged = other.audit.checkpoint().text
    samples.tamper(folder, ("UPDATE audit_checkpoint SET note = ? WHERE size = 9", (forged,)))
    assert found(verify(folder)) == [(FindingKind.BAD_SIGNATURE, 8)]


@pytest.mark.parametrize("value", ["", "not a note", "a\n1\nAAAA\n\n— a AAAAAAAA\n", 7, b"\xff", None])
def test_a_checkpoint_that_is_no_note_is_found(folder: Path, value: object) -> None:
    if value is None:
        samples.tamper(folder, "UPDATE audit_checkpoint SET note = CAST(x'ff' AS TEXT) WHERE size = 6")
    else:
        samples.tamper(folder, ("UPDATE audit_checkpoint SET note = ? WHERE size = 6", (value,)))
    [(kind, index)] = found(verify(folder))
    assert kind in {FindingKind.CHECKPOINT_EDITED, FindingKind.BAD_SIGNATURE}
    assert index == 5


def test_a_checkpoint_with_another_root_beside_its_note_is_found(folder: Path) -> None:
    samples.tamper(folder, ("UPDATE audit_checkpoint SET root = ? WHERE size = 6", (b"\x01" * 32,)))
    assert found(verify(folder)) == [(FindingKind.CHECKPOINT_EDITED, 5)]


def test_a_checkpoint_in_the_place_of_another_is_found(folder: Path) -> None:
    samples.tamper(
        folder,
        "UPDATE audit_checkpoint SET (root, note) = "
        "(SELECT root, note FROM audit_checkpoint WHERE size = 5) WHERE size = 6",
    )
    assert found(verify(folder)) == [(FindingKind.CHECKPOINT_EDITED, 5)]


@pytest.mark.parametrize("size", [0, 6, 13])
def test_a_removed_checkpoint_is_found(folder: Path, size: int) -> None:
    samples.tamper(folder, f"DELETE FROM audit_checkpoint WHERE size = {size}")
    assert found(verify(folder)) == [(FindingKind.CHECKPOINT_MISSING, max(size - 1, 0))]


@pytest.mark.parametrize("size", [10, 12, ACTS])
def test_a_checkpoint_of_a_forked_log_is_found_though_its_signature_holds(folder: Path, size: int) -> None:
    """A second copy with the same key went its own way after entry 8; one of its checkpoints is put here."""
    fork = fork_of(folder, 9, size)
    with samples.open_ledger(fork) as ledger:
        forked = ledger.audit.checkpoint()
    assert forked.size == size
    samples.tamper(
        folder,
        (
            "UPDATE audit_checkpoint SET root = ?, note = ? WHERE size = ?",
            (forked.root, forked.text, size),
        ),
    )
    assert found(verify(folder)) == [(FindingKind.FORKED, size - 1)]


def test_a_fork_is_found_by_the_checkpoint_that_a_witness_keeps(folder: Path) -> None:
    fork = fork_of(folder, 9, ACTS)
    with samples.open_ledger(fork) as ledger:
        witness = ledger.audit.checkpoint().text
    assert found(verify(folder, witness)) == [(FindingKind.FORKED, ACTS - 1)]
    assert found(verify(fork, witness)) == []


def test_a_witness_note_that_is_not_ours_is_a_finding(folder: Path) -> None:
    assert found(verify(folder, "nonsense")) == [(FindingKind.BAD_SIGNATURE, 0)]


def test_a_clock_that_goes_back_is_found_and_a_small_step_is_not(tmp_path: Path) -> None:
    clock = ManualClock(samples.NOW_S)
    with samples.open_ledger(tmp_path, clock) as ledger:
        samples.note_act(ledger, "0")
        clock.advance(-0.9)
        samples.note_act(ledger, "1 is within what a time service does")
        assert ledger.audit.verify().holds
        clock.advance(-3600)
        samples.note_act(ledger, "2")
        samples.note_act(ledger, "3 is still before 0")
        clock.advance(7200)
        samples.note_act(ledger, "4")
        report = ledger.audit.verify()
    assert found(report) == [(FindingKind.CLOCK_BACK, 2), (FindingKind.CLOCK_BACK, 3)]
    assert "3601 s" in report.findings[0].message


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        ("UPDATE identity SET role = 'admin'", 0),
        ("UPDATE identity SET public_key = zeroblob(32)", 0),
        ("UPDATE identity SET public_key = 'text'", 0),
        ("UPDATE identity SET name = 'Alice'", 0),
        ("UPDATE source SET left_out = '{}'", 1),
        ("UPDATE source SET entry = 99", 1),
        ("UPDATE review SET expires_s = expires_s + 1", 3),
        ("UPDATE review SET state = 'requested'", 3),
        ("UPDATE review SET reason = CAST(x'ff' AS TEXT)", 3),
        ("UPDATE dataset SET expires_s = 9e9", 4),
        ("UPDATE run SET outcome = 'finished'", 5),
        ("UPDATE checkpoint SET digest = 'x'", 6),
        ("UPDATE checkpoint SET sequence = 2", 6),
        ("DELETE FROM tombstone", 7),
        ("UPDATE tombstone SET approved_by = requested_by", 7),
    ],
)
def test_a_catalogue_row_changed_behind_the_log_is_found_at_the_entry_that_wrote_it(
    folder: Path, statement: str, index: int
) -> None:
    samples.tamper(folder, statement)
    report = verify(folder)
    assert {finding.kind for finding in report.findings} == {FindingKind.CATALOGUE_EDITED}
    assert report.findings[0].index == index


def test_a_review_slipped_into_the_catalogue_is_found(folder: Path) -> None:
    samples.tamper(
        folder,
        "CREATE TEMP TABLE slipped AS SELECT * FROM review",
        "UPDATE slipped SET id = 'rev-2', entry = 13",
        "INSERT INTO review SELECT * FROM slipped",
    )
    report = verify(folder)
    assert found(report) == [(FindingKind.CATALOGUE_EDITED, 13)]
    assert report.findings[0].message == "review rev-2 is in the catalogue, but no entry of the log wrote it"


def test_an_honest_act_does_not_launder_a_changed_row(folder: Path) -> None:
    samples.tamper(folder, "UPDATE dataset SET expires_s = 9e9")
    with (
        samples.open_ledger(folder, ManualClock(samples.NOW_S + 1000)) as ledger,
        ledger.act(actor="alice", action="key.destroy", subject="x", detail={}) as catalogue,
    ):
        root = samples.dataset_record().root
        catalogue.set_dataset_state(root, samples.DatasetState.DESTROYED)
    report = verify(folder)
    assert found(report) == [(FindingKind.CATALOGUE_EDITED, ACTS)]
    assert "found another dataset" in report.findings[0].message


def test_an_index_far_away_neither_hides_nor_stalls_the_verification(folder: Path) -> None:
    samples.tamper(folder, f"UPDATE audit_entry SET idx = {10**15} WHERE idx = {ACTS - 1}")
    report = verify(folder)
    assert report.size == ACTS
    assert (FindingKind.REMOVED, ACTS - 1) in found(report)
    assert (FindingKind.EDITED, ACTS) in found(report)


@pytest.mark.parametrize("value", ["'abc'", "-1", "2.5"])
def test_an_index_that_is_no_index_is_found(folder: Path, value: str) -> None:
    samples.tamper(folder, f"UPDATE audit_entry SET idx = {value} WHERE idx = 11")
    report = verify(folder)
    assert (FindingKind.REMOVED, 11) in found(report)


def test_a_flood_of_findings_is_counted_not_listed(folder: Path) -> None:
    samples.tamper(
        folder,
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 1500) "
        "INSERT INTO tombstone SELECT 'key ' || i, 'a', 'b', 0.0, 0, 0 FROM n",
    )
    report = verify(folder)
    assert len(report.findings) == MAX_FINDINGS
    assert report.left_out == 500
    assert not report.holds


TAMPERING: tuple[tuple[str, type[Exception], str], ...] = (
    ("DELETE FROM audit_entry WHERE idx = 13", LedgerUnusable, "speaks of 14 entries"),
    ("DELETE FROM audit_checkpoint WHERE size = 14", LedgerUnusable, "speaks of 13 entries"),
    ("UPDATE audit_checkpoint SET root = zeroblob(32) WHERE size = 14", LedgerUnusable, "is not the one"),
    ("UPDATE audit_checkpoint SET note = 'x' WHERE size = 14", LedgerUnusable, "does not hold"),
    ("DELETE FROM audit_node WHERE level = 2 AND idx = 2", LedgerUnusable, "lacks node 2 of level 2"),
    ("UPDATE audit_node SET hash = zeroblob(32) WHERE level = 1 AND idx = 6", LedgerUnusable, "signed root"),
    ("UPDATE audit_node SET hash = 'text' WHERE level = 1 AND idx = 6", LedgerUnusable, "lacks node 6"),
    ("DELETE FROM audit_checkpoint", LedgerUnusable, "no checkpoint"),
)


@pytest.mark.parametrize(("statement", "error", "message"), TAMPERING)
def test_nothing_is_signed_on_top_of_a_tampered_tip(
    folder: Path, statement: str, error: type[Exception], message: str
) -> None:
    samples.tamper(folder, statement)
    before = column(folder, "SELECT count(*) FROM audit_entry")
    with samples.open_ledger(folder) as ledger, pytest.raises(error, match=message):
        samples.note_act(ledger, "on top")
    assert column(folder, "SELECT count(*) FROM audit_entry") == before


def test_nothing_is_signed_on_top_of_a_rolled_back_log_until_it_is_accepted(folder: Path) -> None:
    cut_whole(folder, 10)
    with samples.open_ledger(folder, ManualClock(samples.NOW_S + 1000)) as ledger:
        with pytest.raises(LedgerRolledBack, match="has 10 audit entries, but had 14 before"):
            samples.note_act(ledger, "on top")
        lost = (folder / "ledger.head").read_text()
        ledger.accept_log(actor="carol", reason="disk lost; restored the copy of Monday")
        samples.note_act(ledger, "goes on")
        assert ledger.audit.verify().holds
        accepted = next(ledger.audit.entries(10))
        assert (accepted.actor, accepted.action) == ("carol", "ledger.accept")
        assert accepted.detail == {"reason": "disk lost; restored the copy of Monday", "head_before": lost}
        assert found(ledger.audit.verify(witnessed=(lost,))) == [(FindingKind.CUT, 12)]


def test_a_database_that_vanished_is_missed_by_the_head_that_is_left(folder: Path) -> None:
    for path in folder.glob("ledger.db*"):
        path.unlink()
    with samples.open_ledger(folder) as ledger:
        assert found(ledger.audit.verify()) == [(FindingKind.CUT, 0)]
        with pytest.raises(LedgerRolledBack, match="has 0 audit entries, but had 14 before"):
            samples.note_act(ledger, "on top")


def test_nothing_is_signed_on_top_of_a_fork(folder: Path) -> None:
    fork = fork_of(folder, 9, ACTS + 2)
    shutil.copy(folder / "ledger.head", fork / "ledger.head")
    with (
        samples.open_ledger(fork) as ledger,
        pytest.raises(LedgerRolledBack, match="first 14 audit entries are not those"),
    ):
        samples.note_act(ledger, "on top")


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("x")])
def test_nothing_is_signed_without_a_head_to_go_by(folder: Path, spoil: Callable[[Path], object]) -> None:
    spoil(folder / "ledger.head")
    with samples.open_ledger(folder, ManualClock(samples.NOW_S + 1000)) as ledger:
        with pytest.raises(LedgerRolledBack, match=r"ledger\.head (is missing|does not hold)"):
            samples.note_act(ledger, "on top")
        ledger.accept_log(actor="carol", reason="moved without its head")
        samples.note_act(ledger, "goes on")
        assert ledger.audit.verify().holds


def test_reading_names_the_damaged_entry(folder: Path) -> None:
    samples.tamper(
        folder,
        "UPDATE audit_entry SET detail = 'x' WHERE idx = 9",
        "DELETE FROM audit_entry WHERE idx = 11",
        "UPDATE audit_checkpoint SET note = 'x' WHERE size = 5",
        "UPDATE identity SET role = 'emperor'",
    )
    with samples.open_ledger(folder) as ledger:
        assert [entry.index for entry in ledger.audit.entries(5, 9)] == [5, 6, 7, 8]
        with pytest.raises(LedgerUnusable, match="Entry 9 of the audit log is damaged"):
            list(ledger.audit.entries())
        with pytest.raises(LedgerUnusable, match="Entry 11 of the audit log is missing"):
            list(ledger.audit.entries(10))
        with pytest.raises(LedgerUnusable, match="checkpoint of size 5 is damaged"):
            list(ledger.audit.checkpoints())
        with pytest.raises(LedgerUnusable, match=r"row of the catalogue .* is damaged"):
            ledger.catalogue.identity("alice")


# -- what someone with the file, but without the key, can do


def swap(folder: Path, table: str, one: int, other: int, where: str = "") -> None:
    samples.tamper(
        folder,
        f"UPDATE {table} SET idx = -5 WHERE idx = {one} {where}",
        f"UPDATE {table} SET idx = {one} WHERE idx = {other} {where}",
        f"UPDATE {table} SET idx = {other} WHERE idx = -5 {where}",
    )


def cut_whole(folder: Path, left: int) -> None:
    """Turn the database back to `left` entries, leaving no trace inside it."""
    connection = sqlite3.connect(folder / "ledger.db")
    connection.execute("DELETE FROM audit_entry WHERE idx >= ?", (left,))
    connection.execute("DELETE FROM audit_checkpoint WHERE size > ?", (left,))
    for level in range(8):
        connection.execute("DELETE FROM audit_node WHERE level = ? AND idx >= ?", (level, left >> level))
    connection.commit()
    connection.close()


def rewrite_entry(folder: Path, index: int) -> None:
    """Change an entry together with its leaf hash."""
    connection = sqlite3.connect(folder / "ledger.db")
    connection.row_factory = sqlite3.Row
    connection.execute("UPDATE audit_entry SET actor = 'mallory' WHERE idx = ?", (index,))
    row = dict(connection.execute("SELECT * FROM audit_entry WHERE idx = ?", (index,)).fetchone())
    leaf = entries.entry_of_row(row).leaf_hash
    connection.execute("UPDATE audit_node SET hash = ? WHERE level = 0 AND idx = ?", (leaf, index))
    connection.commit()
    connection.close()


def rebuild_tree(folder: Path) -> None:
    """Compute every node anew from the leaf hashes, as an attacker would to cover the change."""
    connection = sqlite3.connect(folder / "ledger.db")
    leaves = connection.execute("SELECT hash FROM audit_node WHERE level = 0 ORDER BY idx").fetchall()
    frontier = merkle.Frontier()
    for (leaf,) in leaves:
        for name, value in frontier.append(leaf):
            connection.execute(
                "UPDATE audit_node SET hash = ? WHERE level = ? AND idx = ?", (value, name.level, name.offset)
            )
    connection.commit()
    connection.close()


def fork_of(folder: Path, common: int, size: int) -> Path:
    """A copy with the same key that shares `common` entries and then grows its own way to `size`."""
    fork = folder.with_name("fork")
    shutil.copytree(folder, fork)
    cut_whole(fork, common)
    (fork / "ledger.head").unlink()
    with samples.open_ledger(fork, ManualClock(samples.NOW_S + 1000)) as ledger:
        ledger.accept_log(actor="mallory", reason="fork")
        for number in range(common + 1, size):
            samples.note_act(ledger, f"another {number}")
    return fork
