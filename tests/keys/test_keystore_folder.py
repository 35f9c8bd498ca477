"""Two processes at once, a kill at any moment, a full disk, and what is erased."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stoker.core.clock import ManualClock
from stoker.core.errors import DiskFull
from stoker.keys.errors import KeyDestroyed, KeyNotActive, KeystoreDamaged, LooseKeyFile
from stoker.keys.file_backend import FileBackend
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey
from stoker.keys.states import KekState
from support.key_stores import KILLED, SCOPE, in_child, open_store
from support.keystore_reader import live_secrets, read_root_key

CONTEXT = b"a test"


def kek(backend: FileBackend) -> KekRef:
    return backend.create_kek(SCOPE, Purpose.DATASET, expires_s=None)


def wrap(backend: FileBackend, ref: KekRef) -> bytes:
    with SecretKey.generate() as key:
        return backend.wrap(ref, key, CONTEXT)


def state(folder: Path) -> tuple[tuple[str, KekState], ...]:
    with open_store(folder) as backend:
        return tuple((str(info.ref), info.state) for info in backend.list_keks())


def leftovers(folder: Path) -> list[str]:
    known = {"keystore.json", "tombstones.json", "root.key", "keystore.lock"}
    return [path.name for path in folder.iterdir() if path.name not in known]


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "keys"

    def work() -> None:
        with open_store(folder) as backend:
            for _ in range(5):
                wrap(backend, kek(backend))

    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            os._exit(1 if in_child(work) else 0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    with open_store(folder) as backend:
        assert [info.ref.epoch for info in backend.list_keks()] == list(range(1, 21))
        assert all(info.wraps > 0 for info in backend.list_keks())


def test_a_change_by_another_process_counts_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    backend = open_store(folder)
    ref, other = kek(backend), kek(backend)
    wrapped, gone = wrap(backend, ref), wrap(backend, other)

    def elsewhere() -> None:
        with open_store(folder) as theirs:
            theirs.deactivate(ref)
            theirs.request_destroy(other, "alice")
            theirs.destroy(other, "bob")

    assert in_child(elsewhere) == 0
    with pytest.raises(KeyNotActive):
        wrap(backend, ref)
    backend.unwrap(ref, wrapped, CONTEXT).wipe()
    with pytest.raises(KeyDestroyed):
        backend.unwrap(other, gone, CONTEXT)


def test_the_limit_on_wraps_is_shared_between_processes(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    backend = open_store(folder, max_wraps=300)
    ref = kek(backend)
    wrap(backend, ref)

    def elsewhere() -> None:
        with open_store(folder, max_wraps=300) as theirs:
            wrap(theirs, ref)

    assert in_child(elsewhere) == 0
    assert backend.info(ref).wraps == 300


def test_a_running_process_refuses_a_version_that_it_has_left_behind(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    backend = open_store(folder)
    ref = kek(backend)
    old = (folder / "keystore.json").read_bytes()
    backend.deactivate(ref)
    replacement = folder / "keystore.json.restored"
    replacement.write_bytes(old)
    replacement.chmod(0o600)
    replacement.replace(folder / "keystore.json")
    for use in (lambda: backend.info(ref), lambda: wrap(backend, ref), lambda: kek(backend)):
        with pytest.raises(KeystoreDamaged, match="rolled back"):
            use()


def test_a_running_process_notices_a_change_in_place(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    backend = open_store(folder)
    ref = kek(backend)
    path = folder / "keystore.json"
    path.write_bytes(path.read_bytes().replace(b'"active"', b'"ACTIVE"'))
    os.utime(path, ns=(1, 1))
    with pytest.raises(KeystoreDamaged, match=f"kek/{ref}"):
        backend.info(ref)


def dying_at(step: int) -> Callable[[], None]:
    """Makes this process kill itself at its `step`-th operation on files; a write gets half its bytes out."""
    left = [step]
    write = os.write

    def counted(operation: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object, **options: object) -> object:
            if left[0] == 0:
                if operation is write:
                    write(arguments[0], memoryview(arguments[1])[: len(arguments[1]) // 2])  # type: ignore
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return operation(*arguments, **options)

        return run

    def arm() -> None:
        for name in ("write", "fsync", "pwrite"):
            setattr(os, name, counted(getattr(os, name)))
        for name in ("replace", "unlink"):
            setattr(Path, name, counted(getattr(Path, name)))

    return arm


def kill_at_every_step(prepare: Callable[[Path], None], act: Callable[[Path], None], place: Path) -> int:
    """Run `act` with a kill at its first, second, … operation until it ends; each time one of two states."""
    reference = place / "reference"
    prepare(reference)
    before = state(reference) if reference.exists() else ()
    act(reference)
    after = state(reference)
    for step in range(100):
        folder = place / str(step)
        prepare(folder)
        arm = dying_at(step)
        status = in_child(lambda arm=arm, folder=folder: (arm(), act(folder)))  # type: ignore[misc]
        assert status in (0, KILLED)
        found = state(folder)
        assert found in (before, after)
        assert leftovers(folder) == []
        if status == 0:
            assert found == after
            return step
    raise AssertionError("the action never ended")


def create_one(folder: Path) -> None:
    with open_store(folder) as backend:
        kek(backend)


def test_a_kill_at_any_step_of_a_write_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    steps = kill_at_every_step(create_one, create_one, tmp_path)
    assert steps >= 6


def test_a_kill_at_any_step_of_the_first_opening_leaves_none_or_a_whole_store(tmp_path: Path) -> None:
    steps = kill_at_every_step(lambda folder: None, lambda folder: open_store(folder).close(), tmp_path)
    assert steps >= 8


def test_a_kill_at_any_step_of_destroying_leaves_the_key_whole_or_gone(tmp_path: Path) -> None:
    def prepare(folder: Path) -> None:
        with open_store(folder) as backend:
            backend.request_destroy(kek(backend), "alice")

    def act(folder: Path) -> None:
        with open_store(folder) as backend:
            backend.destroy(KekRef(SCOPE, 1), "bob")

    assert kill_at_every_step(prepare, act, tmp_path) >= 8


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill_disk(place: Path, leave_bytes: int = 0) -> Path:
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - leave_bytes))
    return filler


def test_a_full_disk_leaves_the_key_store_as_it_was(small_disk: Path) -> None:
    folder = small_disk / "keys"
    backend = open_store(folder)
    ref = kek(backend)
    wrapped = wrap(backend, ref)
    backend.request_destroy(ref, "alice")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    filler = fill_disk(small_disk)
    for change in (
        lambda: kek(backend),
        lambda: backend.signer("manifest"),
        lambda: backend.deactivate(ref),
        lambda: backend.destroy(ref, "bob"),
        lambda: backend.apply_tombstones([str(ref)]),
    ):
        with pytest.raises(DiskFull, match="keys"):
            change()
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    backend.unwrap(ref, wrapped, CONTEXT).wipe()
    assert backend.info(ref).state is KekState.ACTIVE
    filler.unlink()
    backend.destroy(ref, "bob")
    assert state(folder) == ((str(ref), KekState.DESTROYED),)


def test_room_for_one_of_two_files_destroys_nothing(small_disk: Path) -> None:
    folder = small_disk / "keys"
    backend = open_store(folder)
    ref = kek(backend)
    backend.request_destroy(ref, "alice")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    fill_disk(small_disk, leave_bytes=4096)
    with pytest.raises(DiskFull):
        backend.destroy(ref, "bob")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert backend.info(ref).state is KekState.ACTIVE


def test_a_new_store_on_a_full_disk_leaves_nothing(small_disk: Path) -> None:
    folder = small_disk / "keys"
    folder.mkdir()
    (folder / "keystore.lock").touch()
    filler = fill_disk(small_disk)
    with pytest.raises(DiskFull):
        open_store(folder)
    assert [path.name for path in folder.iterdir()] == ["keystore.lock"]
    filler.unlink()
    open_store(folder).close()


def test_what_is_replaced_is_overwritten_with_zeros(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    with open_store(folder) as backend:
        ref = kek(backend)
        with (folder / "keystore.json").open("rb") as old:
            size = len(old.read())
            backend.deactivate(ref)
            old.seek(0)
            assert old.read() == bytes(size)


def test_a_hard_link_to_an_old_version_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    with open_store(folder) as backend:
        ref = kek(backend)
        copy = tmp_path / "snapshot.json"
        copy.hardlink_to(folder / "keystore.json")
        kept = copy.read_bytes()
        backend.deactivate(ref)
    assert copy.read_bytes() == kept


def restore(folder: Path, backup: dict[str, bytes]) -> None:
    for name, content in backup.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)


def test_restoring_the_key_store_alone_brings_no_destroyed_key_back(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    with open_store(folder) as backend:
        ref, survivor = kek(backend), kek(backend)
        wrapped, other = wrap(backend, ref), wrap(backend, survivor)
        backup = {"keystore.json": (folder / "keystore.json").read_bytes()}
        backend.request_destroy(ref, "alice")
        info = backend.destroy(ref, "bob")
    restore(folder, backup)
    with open_store(folder, clock=ManualClock(1_800_000_000.0)) as backend:
        with pytest.raises(KeyDestroyed):
            backend.unwrap(ref, wrapped, CONTEXT)
        backend.unwrap(survivor, other, CONTEXT).wipe()
        assert backend.info(ref).destroyed_s == info.destroyed_s
    assert f"kek/{ref}" not in live_secrets(folder, read_root_key(folder))


def test_a_whole_old_backup_lives_until_the_ledgers_tombstones_are_applied(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    with open_store(folder) as backend:
        ref = kek(backend)
        wrapped = wrap(backend, ref)
        backup = {path.name: path.read_bytes() for path in folder.iterdir()}
        later = kek(backend)
        for each in (ref, later):
            backend.request_destroy(each, "alice")
            backend.destroy(each, "bob")
    (folder / "tombstones.json").unlink()
    restore(folder, backup)
    with open_store(folder) as backend:
        backend.unwrap(ref, wrapped, CONTEXT).wipe()
        assert backend.apply_tombstones([str(ref), str(later)]) == (str(ref),)
        with pytest.raises(KeyDestroyed):
            backend.unwrap(ref, wrapped, CONTEXT)
        assert kek(backend).epoch == later.epoch + 1
    assert f"kek/{ref}" not in live_secrets(folder, read_root_key(folder))


def test_lost_tombstones_are_written_again_at_the_next_opening(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    with open_store(folder) as backend:
        ref = kek(backend)
        backend.request_destroy(ref, "alice")
        backend.destroy(ref, "bob")
    content = (folder / "tombstones.json").read_bytes()
    (folder / "tombstones.json").unlink()
    open_store(folder).close()
    assert (folder / "tombstones.json").read_bytes() == content


@pytest.mark.parametrize("mode", [0o770, 0o722, 0o707])
def test_a_folder_in_which_others_could_replace_files_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    FileBackend.open(folder, clock=ManualClock()).close()
    folder.chmod(mode)
    with pytest.raises(LooseKeyFile, match="replace"):
        FileBackend.open(folder, clock=ManualClock())
    folder.chmod(0o755)
    FileBackend.open(folder, clock=ManualClock()).close()
