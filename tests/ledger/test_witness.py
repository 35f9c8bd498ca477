"""A witness on a second host, cosignatures by C2SP's letter, exports, and clocks that jump (ATK-076)."""

from __future__ import annotations

import base64
import hashlib
import shutil
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from stoker.core.clock import ManualClock
from stoker.core.errors import BadSignature
from stoker.ledger.cosignatures import WitnessKey, cosignatures
from stoker.ledger.errors import LedgerRefused, LedgerRolledBack
from stoker.ledger.export import check_export, export_log
from stoker.ledger.findings import FindingKind
from stoker.ledger.ledger import Ledger
from stoker.ledger.notes import MalformedNote
from stoker.ledger.witness import Submission, Witness, parse_submission
from support import ledger_samples as samples


def witness_in(folder: Path, ledger: Ledger, clock: ManualClock | None = None) -> Witness:
    found = Witness.open(folder, clock or ManualClock(samples.NOW_S), name="second-host")
    found.trust(ledger.audit.verifier_key)
    return found


def evidence(folder: Path) -> list[Path]:
    return sorted((folder / "evidence").glob("*.txt"))


def test_a_witness_cosigns_growth_and_anyone_can_check_it_by_the_letter_of_c2sp(
    filled: Ledger, tmp_path: Path
) -> None:
    witness = witness_in(tmp_path / "w", filled)
    said = witness.add(filled.audit.growth(0).text)
    name, _, rest = str(witness.key).partition("+")
    hash_text, _, key_text = rest.partition("+")
    algorithm_and_key = base64.b64decode(key_text)
    assert (name, algorithm_and_key[0]) == ("second-host", 4)
    key_id = hashlib.sha256(b"second-host\n" + algorithm_and_key).digest()[:4]
    assert hash_text == key_id.hex()
    assert said.line.startswith("\u2014 second-host ")
    data = base64.b64decode(said.line.split(" ")[2])
    assert data[:4] == key_id
    (time_s,) = struct.unpack(">Q", data[4:12])
    body = filled.audit.checkpoint().text.partition("\n\n")[0] + "\n"
    message = f"cosignature/v1\ntime {time_s}\n{body}".encode()
    Ed25519PublicKey.from_public_bytes(algorithm_and_key[1:]).verify(data[12:], message)
    assert [each.time_s for each in cosignatures(said.note, [witness.key])] == [time_s]
    assert filled.audit.verify(witnessed=(said.note,), witnesses=(witness.key,)).holds
    samples.note_act(filled, "more")
    again = witness.add(filled.audit.growth(said.size).text)
    assert again.size == said.size + 1
    assert Witness.open(tmp_path / "w", ManualClock()).seen(said.origin) is not None


def test_atk_076_a_fork_shown_to_a_second_reader_is_refused_and_both_sides_are_kept(
    filled: Ledger, tmp_path: Path
) -> None:
    """Two continuations of one log, each signed by its key, shown to two readers."""
    witness = witness_in(tmp_path / "w", filled)
    size = witness.add(filled.audit.growth(0).text).size
    shutil.copytree(tmp_path, tmp_path / "fork", ignore=shutil.ignore_patterns("fork", "w"))
    samples.note_act(filled, "what one reader sees")
    seen = witness.add(filled.audit.growth(size).text)
    with samples.open_ledger(tmp_path / "fork") as fork:
        samples.note_act(fork, "what the other reader sees")
        with pytest.raises(LedgerRolledBack, match="forked"):
            witness.add(fork.audit.growth(size).text)
        samples.note_act(fork, "and more")
        with pytest.raises(LedgerRolledBack, match="rewritten"):
            witness.add(fork.audit.growth(seen.size).text)
        kinds = {each.kind for each in fork.audit.verify(witnessed=(seen.note,)).findings}
        assert FindingKind.FORKED in kinds
    kept = [each.read_text() for each in evidence(tmp_path / "w")]
    assert len(kept) == 2
    assert all(seen.note in text for text in kept), "each holds what was seen before"
    samples.note_act(filled, "the honest log goes on")
    assert witness.add(filled.audit.growth(seen.size).text).size == seen.size + 1


def test_atk_076_a_log_that_was_turned_back_gets_no_cosignature(filled: Ledger, tmp_path: Path) -> None:
    witness = witness_in(tmp_path / "w", filled)
    old = filled.audit.growth(0)
    samples.note_act(filled, "more")
    size = witness.add(filled.audit.growth(0).text).size
    for claimed in (0, size):
        with pytest.raises(LedgerRolledBack, match="turned back"):
            witness.add(Submission(claimed, old.proof, old.checkpoint).text)
    assert len(evidence(tmp_path / "w")) >= 1


def test_a_witness_refuses_other_keys_unknown_logs_wrong_sizes_and_bad_proofs(
    filled: Ledger, tmp_path: Path
) -> None:
    witness = Witness.open(tmp_path / "w", ManualClock(), name="second-host")
    with pytest.raises(LedgerRefused, match="does not watch"):
        witness.add(filled.audit.growth(0).text)
    witness.trust(filled.audit.verifier_key)
    with samples.open_ledger(tmp_path / "other") as other:
        samples.note_act(other, "x")
        foreign = other.audit.checkpoint().text.replace(
            other.audit.checkpoint().origin, filled.audit.checkpoint().origin
        )
    with pytest.raises(BadSignature):
        witness.add(Submission(0, (), foreign).text)
    with pytest.raises(LedgerRefused, match="saw 0 entries"):
        witness.add(filled.audit.growth(3).text)
    size = witness.add(filled.audit.growth(0).text).size
    samples.note_act(filled, "more")
    growth = filled.audit.growth(size)
    wrong = Submission(size, (bytes(32), *growth.proof[1:]), growth.checkpoint)
    with pytest.raises(LedgerRolledBack):
        witness.add(wrong.text)
    assert witness.add(growth.text).size == size + 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "old\n\nx",
        "old -1\n\nx",
        "old 1",
        "old 1\n?\n\nx",
        "old 1\nQQ==\n\nx",
        "old 1\n" + "A\n" * 70 + "\nx",
    ],
)
def test_what_is_no_request_is_refused(text: str) -> None:
    with pytest.raises(MalformedNote):
        parse_submission(text)


def test_a_key_of_a_witness_that_was_changed_is_none() -> None:
    key = WitnessKey("second-host", bytes(range(32)))
    assert WitnessKey.parse(str(key)) == key
    for wrong in ("", "a b+00000000+AA==", str(key).replace("second", "third"), str(key)[:-4]):
        with pytest.raises(MalformedNote):
            WitnessKey.parse(wrong)


def test_atk_076_a_clock_that_was_set_back_or_ahead_is_found_by_itself_and_by_a_witness(
    tmp_path: Path,
) -> None:
    clock, other = ManualClock(samples.NOW_S), ManualClock(samples.NOW_S)
    with samples.open_ledger(tmp_path, clock) as ledger:
        witness = witness_in(tmp_path / "w", ledger, other)
        samples.note_act(ledger, "0, on time")
        clock.advance(86_400.0)
        samples.note_act(ledger, "1, a day ahead")
        note = witness.add(ledger.audit.growth(0).text).note
        clock.advance(-2 * 86_400.0)
        samples.note_act(ledger, "2, a day behind")
        found = ledger.audit.verify(witnessed=(note,), witnesses=(witness.key,)).findings
        assert {(each.kind, each.index) for each in found} == {
            (FindingKind.CLOCK_AHEAD, 0),
            (FindingKind.CLOCK_AHEAD, 1),
            (FindingKind.CLOCK_APART, 1),
            (FindingKind.CLOCK_APART, 2),
            (FindingKind.CLOCK_BACK, 2),
        }
        clock.advance(86_400.0)
        kinds = {(each.kind, each.index) for each in ledger.audit.verify().findings}
        assert kinds == {(FindingKind.CLOCK_AHEAD, 1), (FindingKind.CLOCK_BACK, 2)}


def test_an_export_is_judged_by_its_file_alone(filled: Ledger, tmp_path: Path) -> None:
    path, key = tmp_path / "log.jsonl", filled.audit.verifier_key
    kept = filled.audit.checkpoint().text
    written = export_log(filled.audit, path)
    assert check_export(path, key, witnessed=[kept]).findings == ()
    assert (written.entries, path.stat().st_mode & 0o777) == (filled.audit.size, 0o600)
    with pytest.raises(LedgerRefused, match="cannot be made"):
        export_log(filled.audit, path)
    lines = path.read_bytes().split(b"\n")
    changes = {
        "edited": [*lines[:3], lines[3].replace(b"alice", b"malin"), *lines[4:]],
        "removed": [*lines[:3], *lines[4:]],
        "reordered": [*lines[:3], lines[4], lines[3], *lines[5:]],
        "cut": [*lines[:-3], *lines[-2:]],
        "without its checkpoint": lines[:-2],
    }
    for name, changed in changes.items():
        other = tmp_path / name
        other.write_bytes(b"\n".join(changed))
        assert check_export(other, key).findings, name
    samples.note_act(filled, "more")
    assert check_export(path, key, witnessed=[filled.audit.checkpoint().text]).findings, "the file is older"
    (tmp_path / "junk").write_bytes(b"\xff\n")
    with pytest.raises(LedgerRefused):
        check_export(tmp_path / "junk", key)
