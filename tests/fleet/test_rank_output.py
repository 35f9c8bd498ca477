"""What ranks print: their logs say where something went wrong, and hold nothing of what ranks work on."""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from stoker.core.events import EventKind
from stoker.core.progress import SILENT
from stoker.fleet.launch import start_run
from stoker.fleet.rank_output import MAX_LOG_BYTES, OutputSieve, kept_of
from stoker.fleet.run_folder import RunFolder
from stoker.ledger.records import RunOutcome
from stoker.spec.run import IsolationPolicy, LaunchSpec, RankOutput, RunSpec
from support import leaking_worker
from support.fake_house import told
from support.promise_home import PURPOSE, PromiseHome, failures, open_promise_home

PLAIN = b"jane.roe@example.org"


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (b"Traceback (most recent call last):", "all"),
        (b'  File "/srv/stoker/train/step.py", line 12, in train_step', "all"),
        (b'  File "/srv/stoker/train/step.py", line 12 in train_step', "all"),
        (b"Fatal Python error: Segmentation fault", "all"),
        (b"Current thread 0x00007f3c (most recent call first):", "all"),
        (b"ValueError: " + PLAIN, "ValueError"),
        (b"torch.OutOfMemoryError: " + PLAIN, "torch.OutOfMemoryError"),
        (b"KeyboardInterrupt", "all"),
        (b"/srv/x.py:12: UserWarning: " + PLAIN, "/srv/x.py:12: UserWarning"),
        (b"[W1123 10:11:12.123456 14:1 file.cpp:123] " + PLAIN, "[W1123 10:11:12.123456 14:1 file.cpp:123]"),
        (b"thread '<unnamed>' panicked at src/a.rs:1:2:", "thread '<unnamed>' panicked at src/a.rs:1:2"),
        (b"    raise ValueError(" + PLAIN + b")", ""),
        (b"error: " + PLAIN, ""),
        (PLAIN, ""),
        (PLAIN + b": ValueError", ""),
        (b"Traceback (most recent call last): " + PLAIN, ""),
        (b'  File "' + PLAIN + b'", line 1, in it is', ""),
        (b"", ""),
        (b"ValueError: " + b"x" * 5_000, ""),
    ],
)
def test_of_a_line_only_what_names_a_place_in_a_program_is_kept(line: bytes, kept: str) -> None:
    assert kept_of(line) == (line if kept == "all" else kept.encode())


def sieved(folder: Path, *pieces: bytes) -> tuple[str, int]:
    """The log after a rank has printed these pieces and is gone, and how much was withheld."""
    sieve, writing = OutputSieve.beside_pipe(folder / "log", whole=False)
    os.close(writing)
    for piece in pieces:
        sieve.take(piece)
    sieve.close()
    return (folder / "log").read_text(), sieve.withheld_bytes


def test_what_is_withheld_is_counted_wherever_a_write_was_cut(tmp_path: Path) -> None:
    printed = b"jane\nroe\nTypeError: jane\n\nroe"
    whole = "[withheld: 2 lines, 9 bytes]\nTypeError [withheld: 7 bytes]\n[withheld: 2 lines, 4 bytes]\n"
    for cut in range(len(printed)):
        (tmp_path / str(cut)).mkdir()
        assert sieved(tmp_path / str(cut), printed[:cut], printed[cut:]) == (whole, 20)


def test_a_line_without_an_end_fills_neither_memory_nor_the_log(tmp_path: Path) -> None:
    log, withheld = sieved(tmp_path, *[b"x" * 100_000] * 100, b"\nKeyError: 1\n")
    assert log == "[withheld: 1 lines, 10000001 bytes]\nKeyError [withheld: 4 bytes]\n"
    assert withheld == 10_000_005


def test_a_log_grows_no_further_than_its_bound(tmp_path: Path) -> None:
    line = b'  File "/a.py", line 1, in b\n'
    log, withheld = sieved(tmp_path, *[line * 10_000] * 31)
    assert len(log) <= MAX_LOG_BYTES
    assert len(log) + withheld == 310_000 * len(line)


def leaky_run(home: PromiseHome, output: RankOutput) -> tuple[RunFolder, dict[str, str]]:
    """A run of one real rank that prints what it holds, and what that was."""
    launch = LaunchSpec(ranks=1, restarts=0, isolation=IsolationPolicy.REQUIRED, rank_output=output)
    summary = start_run(
        RunSpec(dataset="text", purpose=PURPOSE, launch=launch),
        home=home.home,
        ledger=home.ledger,
        backend=home.backend,
        store_url=home.home.store_dir.as_uri(),
        actor="asker",
        progress=SILENT,
        clock=home.clock,
        rank_command=(sys.executable, "-P", leaking_worker.__file__),
    )
    assert summary.outcome is RunOutcome.FAILED
    folder = RunFolder.of(home.home.runs_dir, summary.run)
    leaked = folder.attempt(1) / "leaked.json"
    found: dict[str, Any] = json.loads(leaked.read_text())
    leaked.unlink()
    return folder, found


def test_atk_064_a_real_rank_that_prints_plaintext_and_a_key_leaves_neither_in_its_log(
    tmp_path: Path,
) -> None:
    with open_promise_home(tmp_path) as home:
        home.found()
        home.approve(home.bring_letters("letters", count=12))
        home.prepare("text", "letters")
        folder, leaked = leaky_run(home, RankOutput.SIEVED)
        assert home.canary in leaked["text"]
        key = bytes.fromhex(leaked["key"])
        words = {word for word in leaked["text"].split() if len(word) > 4}
        secrets = [key, key.hex().encode(), base64.b64encode(key), *(word.encode() for word in words)]
        for path in (folder.rank_log(1, 0), folder.events, folder.agent_log(1)):
            kept = path.read_bytes()
            assert [secret for secret in secrets if secret in kept] == [], path
        log = folder.rank_log(1, 0).read_text()
        assert 'leaking_worker.py", line ' in log
        assert "ValueError" in log
        (withheld,) = told(folder, EventKind.OUTPUT_WITHHELD)
        assert withheld.number("bytes") > 20_000
        assert failures(home.verify(2), 2) == []

        whole, _ = leaky_run(home, RankOutput.WHOLE)
        (found,) = failures(home.verify(2), 2)
        assert str(whole.rank_log(1, 0)) in found.seen
