"""Promise 2 broken on purpose: a canary outside of memory, in every place and form, is found and named."""

from __future__ import annotations

import base64
import ctypes
import os
import pickle
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stoker.core.progress import SILENT
from stoker.feed.dataset import Dataset
from stoker.intake.review_request import review_digest
from stoker.intake.tokenizer import load_tokenizer
from stoker.keys.partition import BackendKeySource
from stoker.promises.promise import VerifyReport
from stoker.promises.verify import verify_promises
from stoker.store.cache import NodeCache
from stoker.store.objects import ObjectStore
from support.intake_home import in_child
from support.promise_home import CACHE_BYTES, PromiseHome, broken, failures, open_promise_home, promise

_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_CAPABILITY_VERSION_3 = 0x20080522


def dataset_of(house: PromiseHome) -> Dataset:
    record = house.dataset
    return Dataset.open(
        house.store,
        None,
        name=record.name,
        version=record.version,
        root=record.root,
        public_key=house.backend.signer("manifest").public_key,
        keys=BackendKeySource(house.backend),
        review_digest=review_digest(house.review),
    )


def samples_with_the_canary(house: PromiseHome, dtype: str) -> bytes:
    """The end of the training split, as preparation or a rank could have left it on a disk."""
    reader = dataset_of(house).split("train")
    return np.concatenate(list(reader.sequential(reader.samples - 8))).astype(dtype).tobytes()


def whole_tokens(house: PromiseHome) -> bytes:
    tokenizer = load_tokenizer(dataset_of(house).artefact("tokenizer").decode())
    return np.asarray(tokenizer.encode(house.canary).ids).astype("<u2").tobytes()


FORMS: dict[str, Callable[[PromiseHome], bytes]] = {
    "raw": lambda house: house.canary.encode(),
    "hex": lambda house: house.canary.encode().hex().encode(),
    "base64": lambda house: base64.b64encode(b"ab" + house.canary.encode() + b"tail"),
    "utf-16": lambda house: house.canary.encode("utf-16"),
    "token ids": whole_tokens,
    "stored samples": lambda house: samples_with_the_canary(house, "<u2"),
    "a tensor of samples": lambda house: samples_with_the_canary(house, "<i8"),
}


@pytest.mark.parametrize("form", FORMS)
def test_plaintext_in_the_store_is_found_in_every_form(form: str, house: PromiseHome) -> None:
    leak = house.home.store_dir / "datasets" / "text" / house.dataset.version / "leak.bin"
    leak.write_bytes(secrets.token_bytes(1000) + FORMS[form](house) + secrets.token_bytes(1000))
    report = house.verify()
    assert broken(report) == {2}
    (check,) = failures(report, 2)
    assert check.tried == "STOKER_HOME: store, cache, runs, keys, ledger"
    assert f"{leak} at byte " in check.seen


PLACES: dict[str, Callable[[PromiseHome], Path]] = {
    "the cache": lambda house: house.home.cache_dir / "objects" / "leak",
    "a run's log": lambda house: house.run_folder.rank_log(1, 0),
    "the events of a run": lambda house: house.run_folder.path / "agent-notes",
    "the key store's folder": lambda house: house.home.keys_dir / "notes",
    "the temporary folder": lambda house: house.outside / "deep" / "er" / "core.1234",
}


@pytest.mark.parametrize("where", PLACES)
def test_plaintext_in_any_folder_is_found(where: str, house: PromiseHome) -> None:
    path = PLACES[where](house)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(b"x" * 100 + house.canary.encode())
    report = house.verify(2)
    assert broken(report) == {2}
    assert str(path) in failures(report, 2)[0].seen


def test_plaintext_in_shared_memory_is_found(house: PromiseHome) -> None:
    path = Path("/dev/shm") / f"stoker-test-{secrets.token_hex(8)}"
    try:
        path.write_bytes(b"\0" * 4096 + house.canary.encode())
        report = verify_everywhere(house)
    finally:
        path.unlink(missing_ok=True)
    assert f"{path} at byte 4096 (raw)" in failures(report, 2)[0].seen


def verify_everywhere(house: PromiseHome, **other: Any) -> VerifyReport:
    """As `stoker verify` does, but for the temporary folder, which other tests fill."""
    parts: dict[str, Any] = {
        "home": house.home,
        "ledger": house.ledger,
        "backend": house.backend,
        "store": house.store,
        "cache": house.cache,
        "clock": house.clock,
        "progress": SILENT,
        "outside": (Path("/dev/shm"),),
        "numbers": (2,),
    }
    return verify_promises(**(parts | other))


def test_a_file_is_found_though_its_time_of_writing_was_set_back(house: PromiseHome) -> None:
    leak = house.outside / "old"
    leak.write_text(house.canary)
    os.utime(leak, (1, 1))
    assert str(leak) in failures(house.verify(2), 2)[0].seen


@pytest.mark.parametrize("what", ["file", "folder", "link", "pipe"])
def test_a_canary_in_a_name_is_found(what: str, house: PromiseHome) -> None:
    path = house.outside / f"copy of {house.canary}"
    if what == "file":
        path.touch()
    elif what == "folder":
        path.mkdir()
    elif what == "link":
        path.symlink_to("nowhere")
    else:
        os.mkfifo(path)
    assert "(file name, raw)" in failures(house.verify(2), 2)[0].seen


def test_a_canary_in_the_target_of_a_link_is_found(house: PromiseHome) -> None:
    (house.home.runs_dir / "link").symlink_to(f"/srv/{house.canary}")
    assert "(link target, raw)" in failures(house.verify(2), 2)[0].seen


def test_folders_of_the_home_that_are_links_are_followed(house: PromiseHome, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    house.home.cache_dir.rename(elsewhere)
    house.home.cache_dir.symlink_to(elsewhere)
    (elsewhere / "leak").write_text(house.canary)
    assert str(elsewhere / "leak") in failures(house.verify(2), 2)[0].seen


def test_a_store_outside_the_home_is_searched_too(house: PromiseHome, tmp_path: Path) -> None:
    elsewhere = house.home.store_dir.rename(tmp_path / "elsewhere")
    (elsewhere / "leak").write_text(house.canary)
    store = ObjectStore.open(elsewhere.as_uri())
    report = verify_everywhere(house, store=store, cache=NodeCache(house.home.cache_dir, store, CACHE_BYTES))
    assert broken(report) == {2}
    (check,) = failures(report, 2)
    assert check.tried == f"the store {elsewhere}"
    assert f"{elsewhere}/leak at byte 0 (raw)" in check.seen


def test_a_store_behind_a_network_is_searched_object_by_object(house: PromiseHome) -> None:
    store = ObjectStore.open("memory://")
    for key in house.store.list():
        store.create(key, house.store.get(key))
    store.create("runs/leak", b"x" * 7 + house.canary.encode())
    report = verify_everywhere(house, store=store, cache=NodeCache(house.home.cache_dir, store, CACHE_BYTES))
    (check,) = failures(report, 2)
    assert check.tried.startswith("the store memory://")
    assert "runs/leak at byte 7 (raw)" in check.seen


@pytest.fixture(params=["argument", "environment"])
def sleeper(request: pytest.FixtureRequest, house: PromiseHome) -> Iterator[tuple[str, int]]:
    code = "import sys; print('up', flush=True); sys.stdin.read()"
    command, environment = [sys.executable, "-c", code], dict(os.environ)
    if request.param == "argument":
        command.append(f"--text={house.canary}")
    else:
        environment["TEXT"] = house.canary
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield str(request.param), process.pid
    finally:
        process.communicate()


def test_a_canary_in_what_a_process_was_given_is_found(house: PromiseHome, sleeper: tuple[str, int]) -> None:
    kind, pid = sleeper
    (check,) = failures(house.verify(2), 2)
    leaf = {"argument": "cmdline", "environment": "environ"}[kind]
    assert check.tried == "command lines and environments of processes"
    assert check.seen == f"process {pid}, {leaf} (raw)"


def test_a_file_that_cannot_be_read_is_named_not_passed_over(place: Path, tmp_path: Path) -> None:
    """In a process without root's right to read everything."""
    with open_promise_home(place) as house:
        closed = house.run_folder.rank_log(1, 0)
    answer = tmp_path / "answer"

    def work() -> None:
        closed.chmod(0)
        (place / "home" / "runs" / "closed").mkdir(mode=0)
        obey_file_modes()
        with open_promise_home(place) as house:
            answer.write_bytes(
                pickle.dumps([(each.tried, each.seen) for each in failures(house.verify(2), 2)])
            )

    assert in_child(work) == 0
    ((tried, seen),) = pickle.loads(answer.read_bytes())
    assert tried.startswith("STOKER_HOME")
    assert seen.startswith("could not read")
    assert str(closed) in seen
    assert str(place / "home" / "runs" / "closed") in seen


def obey_file_modes() -> None:
    """Give up the capabilities by which root reads whatever it likes."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, data) == 0
    keep = ~((1 << _CAP_DAC_OVERRIDE) | (1 << _CAP_DAC_READ_SEARCH)) & 0xFFFFFFFF
    data[0] &= keep
    data[1] &= keep
    assert libc.capset(header, data) == 0


def test_files_of_other_users_outside_are_counted_and_do_not_break_the_promise(
    place: Path, tmp_path: Path
) -> None:
    answer = tmp_path / "answer"
    foreign = place / "outside" / "foreign"
    foreign.mkdir()
    os.chown(foreign, 12345, 12345)
    foreign.chmod(0o700)

    def work() -> None:
        obey_file_modes()
        with open_promise_home(place) as house:
            report = promise(house.verify(2), 2)
            answer.write_bytes(
                pickle.dumps([(check.tried, check.held, check.seen) for check in report.checks])
            )

    assert in_child(work) == 0
    (held, seen) = next(
        (held, seen) for tried, held, seen in pickle.loads(answer.read_bytes()) if "shared memory" in tried
    )
    assert held
    assert "1 may be read by other users only" in seen


class Forgetful:
    """A key store that names another canary than the one it will be asked for later."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def canary(self, subject: str) -> str:
        return "no canary at all"


def test_a_source_without_its_canary_is_named(house: PromiseHome) -> None:
    source = house.bring_letters("bare", Forgetful(house.backend), count=12)
    house.approve(source)
    dataset = house.prepare("bare-text", "bare")
    checks = failures(house.verify(2), 2)
    assert [check.seen for check in checks] == [
        f"source/bare/{source.version} holds no canary",
        f"bare-text {dataset.version[:8]} does not end with the canary of source/bare/{source.version}",
    ]


def test_the_report_says_in_which_forms_it_searched(house: PromiseHome) -> None:
    text, tokens, home = promise(house.verify(2), 2).checks[:3]
    assert "raw, hex, HEX, base64+0, base64+1, base64+2, utf-16-le, utf-16-be, utf-32-le" in text.seen
    assert tokens.seen == "found; outside, searched for 8 ids at a time, 2, 4, 8 bytes wide"
    assert "the canaries in none of 24 forms" in home.seen
