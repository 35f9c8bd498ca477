"""`stoker dataset export` through the real command."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest

from stoker.cli.dataset_look import ending_as_with_ctrl_c
from stoker.core.clock import SystemClock
from stoker.core.errors import EXIT_USAGE, ConfigError
from stoker.core.home import Home
from stoker.intake.errors import NoSuchSplit, NotAllowed, OtherPurpose, UnusableTarget
from stoker.intake.reading import DatasetRows
from stoker.intake.tokenizer import load_tokenizer
from stoker.keys.open import open_backend
from stoker.ledger.ledger import Ledger
from stoker.store.objects import ObjectStore
from support.cli_home import CliHome, ended, wait_until

HomeAt = Callable[[str], CliHome]


@pytest.fixture
def home(home_at: HomeAt) -> CliHome:
    """A home with one prepared dataset."""
    return home_at("prepared")


def person(home: CliHome, name: str, role: str) -> None:
    home.stoker("identity", "create", name, "--role", role, by="")


def may_export(home: CliHome) -> str:
    asked = home.data("review", "request", "notes", "--purpose", "export")
    return home.approve(asked["reviews"][0])


def dataset(home: CliHome, name: str = "text") -> dict[str, Any]:
    (row,) = home.data("dataset", "show", name)["datasets"]
    return dict(row)


def whole_text(home: CliHome, samples: list[list[int]]) -> str:
    """What the samples of a split say, each without its last token, which begins the next one."""
    house = Home(home.root)
    clock = SystemClock()
    backend = open_backend(house.keys_dir.as_uri(), clock=clock, passphrase=None)
    store = ObjectStore.open(house.store_dir.as_uri())
    with Ledger.open(f"sqlite:///{house.ledger_path}", house.ledger_key_path, clock) as ledger:
        record = ledger.catalogue.latest_dataset("text")
        rows = DatasetRows.open(record, ledger=ledger, backend=backend, store=store)
        tokenizer = load_tokenizer(rows.tokenizer_json() or "")
    stream = [token for sample in samples for token in sample[:-1]]
    return str(tokenizer.decode(stream, skip_special_tokens=False))


# -- export


def test_export_writes_parquet_for_who_was_given_leave(home: CliHome) -> None:
    review = may_export(home)
    told = home.data("dataset", "export", "text", "--to", "out", "--text", "--dry-run")
    assert not (home.place / "out").exists()
    answer = home.data("dataset", "export", "text", "--to", "out", "--text")
    assert (told["samples"], told["review"]) == (answer["samples"], review)
    row = dataset(home)
    tables = {path.name: pq.read_table(path) for path in (home.place / "out").glob("*.parquet")}
    assert sum(table.num_rows for table in tables.values()) == row["samples"] == answer["samples"]
    train = tables["train-00000.parquet"]
    assert train.column_names == ["tokens", "text"]
    assert {len(tokens) for tokens in train["tokens"].to_pylist()} == {33}
    assert "stoker-canary-" in whole_text(home, train["tokens"].to_pylist()), "so that a leak is recognised"
    assert json.loads((home.place / "out/export.json").read_text())["digest"] == answer["digest"]
    assert home.acts()[-2:] == ["dataset.export.begin", "dataset.export"]
    home.refused(UnusableTarget, "dataset", "export", "text", "--to", "out")
    assert row["last_used_s"] is not None
    assert home.log_holds()


def test_export_is_refused_without_a_leave_of_ones_own(home: CliHome) -> None:
    person(home, "other", "researcher")
    person(home, "watcher", "auditor")
    command = ("dataset", "export", "text", "--to", "out")
    home.refused(OtherPurpose, *command)
    may_export(home)
    home.refused(NotAllowed, *command, by="watcher")
    assert "asked for by asker, not by other" in home.refused(NotAllowed, *command, by="other")
    home.refused(NoSuchSplit, *command, "--split", "tset")
    home.refused(UnusableTarget, *command[:-1], "home/out")
    home.refused(ConfigError, *command, "--key-file", "nowhere")
    assert home.stoker(*command, "--format", "csv", code=EXIT_USAGE).out == ""
    assert "dataset.export.begin" not in home.acts()
    assert not (home.place / "out").exists()


def test_an_export_that_is_told_to_end_leaves_nothing(home: CliHome) -> None:
    """By Ctrl-C, by a polite request, and by a terminal that closes."""
    may_export(home)
    for told in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process = home.start("dataset", "export", "text", "--to", "out", "--text", slow_s=0.5)
        wait_until(lambda: any(home.place.glob(".out.partial-*/*.parquet")), process)
        os.killpg(process.pid, told)
        done = ended(process)
        assert done.code == 3, done
        assert "Traceback" not in done.err
        assert [path.name for path in home.place.iterdir() if "out" in path.name] == []
    assert home.acts().count("dataset.export.begin") == 3
    assert home.acts().count("dataset.export") == 0


def test_a_request_to_end_that_a_library_swallowed_still_ends_the_export() -> None:
    with ending_as_with_ctrl_c() as go_on:
        go_on()
        for told in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(KeyboardInterrupt):  # as pyarrow may, while it writes to a file of ours
                os.kill(os.getpid(), told)
            with pytest.raises(KeyboardInterrupt):
                go_on()


def test_an_encrypted_export_takes_the_key_that_is_given(home: CliHome) -> None:
    may_export(home)
    key = home.place / "key"
    key.write_text(f'footer_key = "{bytes(range(32)).hex()}"\n')
    key.chmod(0o600)
    answer = home.data("dataset", "export", "text", "--to", "out", "--key-file", "key", "--split", "train")
    assert (answer["encrypted"], list(answer["splits"])) == (True, ["train"])
    path = home.place / "out/train-00000.parquet"
    opened = encryption.create_decryption_properties(bytes(range(32)))
    assert pq.read_table(path, decryption_properties=opened).num_rows == answer["samples"]
    with pytest.raises(OSError, match="encrypted"):
        pq.read_table(path)
