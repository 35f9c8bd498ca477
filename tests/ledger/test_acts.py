"""An act is whole or absent: for exceptions, threads, other processes, and SIGKILL at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stoker.core.clock import ManualClock
from stoker.core.errors import Busy
from stoker.ledger import merkle
from stoker.ledger.errors import LedgerRefused
from stoker.ledger.ledger import Ledger
from support import ledger_samples as samples

WRITER = """
import sys
from pathlib import Path
from support import ledger_samples as samples
from stoker.core.clock import SystemClock
from stoker.ledger.ledger import Ledger

folder, name, acts = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with Ledger.open(f"sqlite:///{folder}/ledger.db", folder / "ledger.key", SystemClock()) as ledger:
    print("open", flush=True)
    for number in range(acts):
        with ledger.act(actor=name, action="add", subject=f"{name}-{number}", detail={}) as catalogue:
            catalogue.add_identity(samples.identity_record(f"{name}-{number}"))
            if len(sys.argv) > 4:
                print("inside", flush=True)
                sys.stdin.read()
        print(number, flush=True)
"""


def start_writer(folder: Path, name: str, acts: int, *more: str) -> subprocess.Popen[str]:
    tests = Path(samples.__file__).parent.parent
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), name, str(acts), *more],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def expect(writer: subprocess.Popen[str], line: str) -> None:
    assert writer.stdout is not None
    assert writer.stdout.readline().strip() == line


def kill(writer: subprocess.Popen[str]) -> None:
    writer.send_signal(signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL
    for stream in (writer.stdin, writer.stdout):
        assert stream is not None
        stream.close()


def test_an_act_leaves_its_rows_one_entry_and_one_signed_checkpoint(tmp_path: Path) -> None:
    clock = ManualClock(samples.NOW_S)
    with samples.open_ledger(tmp_path, clock) as ledger:
        clock.advance(2.5)
        with ledger.act(actor="alice", action="identity.add", subject="bob", detail={"n": 1}) as catalogue:
            catalogue.add_identity(samples.identity_record("bob"))
            catalogue.add_identity(samples.identity_record("carol"))
        [entry] = ledger.audit.entries()
        assert (entry.index, entry.time_s) == (0, samples.NOW_S + 2.5)
        assert (entry.actor, entry.action, entry.subject) == ("alice", "identity.add", "bob")
        assert entry.detail == {"n": 1}
        assert [(row.table, row.key, row.before) for row in entry.rows] == [
            ("identity", ("bob",), None),
            ("identity", ("carol",), None),
        ]
        assert ledger.audit.checkpoint().size == ledger.audit.size == 1
        assert ledger.audit.checkpoint().root == entry.leaf_hash
        assert [checkpoint.size for checkpoint in ledger.audit.checkpoints()] == [0, 1]
        assert [checkpoint.size for checkpoint in ledger.audit.checkpoints(1, 2)] == [1]
        assert (tmp_path / "ledger.head").read_text() == ledger.audit.checkpoint().text


def test_the_checkpoint_after_each_act_is_the_root_of_all_leaves(ledger: Ledger) -> None:
    for number in range(20):
        samples.note_act(ledger, f"subject-{number}", {"number": number})
    leaves = [entry.leaf_hash for entry in ledger.audit.entries()]
    assert len(leaves) == 20
    for checkpoint in ledger.audit.checkpoints():
        frontier = merkle.Frontier()
        for leaf in leaves[: checkpoint.size]:
            frontier.append(leaf)
        assert checkpoint.root == frontier.root()


def test_stored_proofs_hold_against_signed_checkpoints(ledger: Ledger) -> None:
    for number in range(11):
        samples.note_act(ledger, f"subject-{number}")
    roots = {checkpoint.size: checkpoint.root for checkpoint in ledger.audit.checkpoints()}
    for size in range(1, 12):
        for entry in ledger.audit.entries(0, size):
            proof = ledger.audit.inclusion_proof(entry.index, size)
            assert merkle.inclusion_holds(entry.leaf_hash, entry.index, size, proof, roots[size])
        for old in range(size + 1):
            proof = ledger.audit.consistency_proof(old, size)
            assert merkle.consistency_holds(old, size, roots[old], roots[size], proof)


@pytest.mark.parametrize(("index", "size"), [(0, 3), (2, 2), (-1, 2)])
def test_no_proof_of_what_is_not_in_the_log(ledger: Ledger, index: int, size: int) -> None:
    samples.note_act(ledger, "one")
    samples.note_act(ledger, "two")
    with pytest.raises(LedgerRefused, match="There is no such proof"):
        ledger.audit.inclusion_proof(index, size)
    with pytest.raises(LedgerRefused, match="There is no such proof"):
        ledger.audit.consistency_proof(size, index if index != size else 1)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_whatever_the_block_raises_undoes_the_act(ledger: Ledger, error: BaseException) -> None:
    samples.note_act(ledger, "before")
    with pytest.raises(type(error)), ledger.act(actor="a", action="b", subject="c", detail={}) as catalogue:
        catalogue.add_identity(samples.identity_record())
        assert catalogue.identity("alice") == samples.identity_record()
        raise error
    assert ledger.catalogue.identities() == ()
    assert ledger.audit.size == 1
    samples.note_act(ledger, "after")
    assert ledger.audit.verify().holds


def test_readers_see_nothing_of_an_act_under_way(ledger: Ledger) -> None:
    with ledger.act(actor="a", action="b", subject="c", detail={}) as catalogue:
        catalogue.add_identity(samples.identity_record())
        assert catalogue.identities() == (samples.identity_record(),)
        assert ledger.catalogue.identities() == ()
        assert ledger.audit.size == 0
    assert ledger.catalogue.identities() == (samples.identity_record(),)


def test_only_an_act_writes(ledger: Ledger) -> None:
    with pytest.raises(RuntimeError, match=r"Ledger\.act\(\)"):
        ledger.catalogue.add_identity(samples.identity_record())
    with ledger.act(actor="a", action="b", subject="c", detail={}) as kept:
        pass
    with pytest.raises(RuntimeError, match=r"Ledger\.act\(\)"):
        kept.add_identity(samples.identity_record())
    assert kept.identities() == ledger.catalogue.identities() == ()


def test_an_act_inside_an_act_is_refused_and_undoes_the_outer_one(ledger: Ledger) -> None:
    with (
        pytest.raises(RuntimeError, match="end the first act"),
        ledger.act(actor="a", action="outer", subject="c", detail={}),
        ledger.act(actor="a", action="inner", subject="c", detail={}),
    ):
        pass
    assert ledger.audit.size == 0
    samples.note_act(ledger, "after")
    assert ledger.audit.size == 1


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ({"actor": ""}, "an actor and an action"),
        ({"action": ""}, "an actor and an action"),
        ({"actor": "nul\x00"}, "actor holds a NUL"),
        ({"subject": "\udcff"}, "subject holds"),
        ({"detail": {"a": float("nan")}}, "detail holds what JSON cannot carry"),
        ({"detail": {"a": {1, 2}}}, "detail holds what JSON cannot carry"),
        ({"detail": {"a": "x" * 1_100_000}}, "detail takes 11000"),
        ({"detail": {1: "a"}}, ""),
    ],
)
def test_an_act_that_cannot_be_recorded_exactly_never_begins(
    ledger: Ledger, words: dict[str, object], field: str
) -> None:
    act = {"actor": "a", "action": "b", "subject": "c", "detail": {}, **words}
    if not field:  # a number as key becomes the same text both ways
        with ledger.act(**act):  # type: ignore[arg-type]
            pass
        assert [entry.detail for entry in ledger.audit.entries()] == [{"1": "a"}]
        return
    with pytest.raises(LedgerRefused, match=field), ledger.act(**act):  # type: ignore[arg-type]
        pytest.fail("the block ran")
    assert ledger.audit.size == 0


def test_a_swallowed_database_error_still_fails_the_act(tmp_path: Path, ledger: Ledger) -> None:
    samples.tamper(
        tmp_path, "CREATE TRIGGER t BEFORE INSERT ON identity BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    with pytest.raises(LedgerRefused), ledger.act(actor="a", action="b", subject="c", detail={}) as catalogue:
        try:
            catalogue.add_identity(samples.identity_record())
        except LedgerRefused:
            catalogue.add_tombstone(samples.tombstone_record())
    assert ledger.audit.size == 0
    assert ledger.catalogue.tombstones() == ()


def test_threads_of_one_process_take_turns(ledger: Ledger) -> None:
    def add(name: str) -> None:
        for number in range(5):
            with ledger.act(actor=name, action="add", subject=f"{name}{number}", detail={}) as catalogue:
                catalogue.add_identity(samples.identity_record(f"{name}{number}"))

    threads = [threading.Thread(target=add, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.audit.size == len(ledger.catalogue.identities()) == 20
    assert ledger.audit.verify().holds


def test_two_processes_that_write_at_once_lose_and_mix_nothing(tmp_path: Path) -> None:
    acts = 15
    writers = [start_writer(tmp_path, name, acts) for name in ("left", "right")]
    outputs = [writer.communicate(timeout=120)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [len(output.split()) for output in outputs] == [acts + 1] * 2
    with samples.open_ledger(tmp_path, ManualClock(time.time())) as ledger:
        entries = list(ledger.audit.entries())
        assert [entry.index for entry in entries] == list(range(2 * acts))
        for name in ("left", "right"):
            mine = [entry.subject for entry in entries if entry.actor == name]
            assert mine == [f"{name}-{number}" for number in range(acts)]
        assert len(ledger.catalogue.identities()) == 2 * acts
        report = ledger.audit.verify()
        assert report.holds, report.findings
        assert (tmp_path / "ledger.head").read_text() == ledger.audit.checkpoint().text


def test_a_process_killed_inside_an_act_leaves_nothing_of_it(tmp_path: Path) -> None:
    writer = start_writer(tmp_path, "victim", 1, "stay")
    expect(writer, "open")
    expect(writer, "inside")
    kill(writer)
    with samples.open_ledger(tmp_path) as ledger:
        assert ledger.audit.size == 0
        assert ledger.catalogue.identities() == ()
        samples.note_act(ledger, "after")
        assert ledger.audit.verify().holds


def test_a_process_killed_at_any_moment_leaves_whole_acts(tmp_path: Path) -> None:
    moments = random.Random(6962)
    for round_number in range(4):
        writer = start_writer(tmp_path, f"victim{round_number}", 10_000)
        expect(writer, "open")
        for number in range(moments.randrange(1, 4)):
            expect(writer, str(number))
        time.sleep(moments.random() * 0.02)
        kill(writer)
        with samples.open_ledger(tmp_path, ManualClock(time.time())) as ledger:
            report = ledger.audit.verify()
            assert report.holds, report.findings
            subjects = [entry.subject for entry in ledger.audit.entries()]
            assert subjects == [record.name for record in ledger.catalogue.identities()]
            assert len(subjects) >= round_number + 1
    with samples.open_ledger(tmp_path, ManualClock(time.time())) as ledger:
        samples.note_act(ledger, "after")
        assert ledger.audit.verify().holds


def test_a_head_that_a_crash_left_behind_is_caught_up(tmp_path: Path, ledger: Ledger) -> None:
    head = tmp_path / "ledger.head"
    samples.note_act(ledger, "one")
    behind = head.read_bytes()
    samples.note_act(ledger, "two")
    head.write_bytes(behind)
    assert ledger.audit.verify().holds
    samples.note_act(ledger, "three")
    assert head.read_text() == ledger.audit.checkpoint().text


def test_a_writer_that_waits_too_long_is_told_who_is_in_the_way(tmp_path: Path) -> None:
    holder = start_writer(tmp_path, "holder", 1, "stay")
    expect(holder, "open")
    expect(holder, "inside")
    url = f"sqlite:///{tmp_path}/ledger.db?timeout=0.05"
    with Ledger.open(url, tmp_path / "ledger.key", ManualClock()) as ledger:
        with pytest.raises(Busy, match="Another process has been writing"):
            samples.note_act(ledger, "late")
        assert holder.communicate("", timeout=60)[0].split() == ["0"]
        samples.note_act(ledger, "now")
        assert [entry.subject for entry in ledger.audit.entries()] == ["holder-0", "now"]
