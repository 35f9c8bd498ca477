"""Names, ids, atomic files, locks and STOKER_HOME."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.core.atomic import exclusive, write_atomic
from stoker.core.clock import ManualClock, iso_utc
from stoker.core.errors import BadHome, BadName, Busy, ConfigError, DiskFull
from stoker.core.home import Home
from stoker.core.ids import check_name, new_run_id, new_version_id
from stoker.core.settings import load_settings


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "tiny"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=40", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("name", ["own-text", "a", "v1.2_x", "0" * 63])
def test_names_that_are_allowed(name: str) -> None:
    assert check_name(name, "dataset") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../x",
        "a/b",
        "/etc",
        "A",
        "a\n",
        "é",
        ".a",
        "a-",
        "a..b",
        "0" * 64,
        "x\x1b[31m",
        "<script>",
        "c:\\x",
    ],
)
def test_a_name_that_is_a_path_or_odd_is_refused_and_shown_safely(name: str) -> None:
    with pytest.raises(BadName) as caught:
        check_name(name, "dataset")
    assert "dataset name" in caught.value.message
    assert caught.value.message.isascii()
    assert "\x1b" not in caught.value.message


def test_run_ids_sort_by_time_and_versions_do_not_repeat() -> None:
    clock = ManualClock()
    first = new_run_id(clock)
    clock.advance(1)
    assert first < new_run_id(clock)
    assert len({new_version_id() for _ in range(100)}) == 100
    assert iso_utc(0) == "1970-01-01T00:00:00Z"


def test_write_atomic_replaces_whole_files_with_narrow_modes(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["f"]


def test_a_full_disk_is_named_and_nothing_half_written_stays(tiny_disk: Path) -> None:
    path = tiny_disk / "f"
    write_atomic(path, b"old")
    with pytest.raises(DiskFull, match="tiny/f"):
        write_atomic(path, b"x" * 1_000_000)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tiny_disk.iterdir()] == ["f"]


def test_a_lock_is_held_by_one_process_and_freed_by_death(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "a.lock"
    program = (
        "import sys,pathlib,time\nfrom stoker.core.atomic import exclusive\n"
        f"with exclusive(pathlib.Path({str(lock)!r}), 'x'):\n print('held', flush=True)\n time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Busy, match="working on dataset a"), exclusive(lock, "dataset a"):
            pass
        holder.kill()
        holder.wait()
    with exclusive(lock, "dataset a"):
        assert lock.exists()


def test_a_lock_does_not_outlive_its_holder_in_what_it_forked(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    program = (
        "import os,pathlib,time\nfrom stoker.core.atomic import exclusive\n"
        f"with exclusive(pathlib.Path({str(lock)!r}), 'x'):\n"
        " child = os.fork()\n"
        " if child == 0:\n  print(os.getpid(), flush=True)\n  time.sleep(60)\n  os._exit(0)\n"
        " time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        with pytest.raises(Busy), exclusive(lock, "a"):
            pass
        holder.kill()
        holder.wait()
        try:
            os.kill(child, 0)
            with exclusive(lock, "a"):
                assert lock.exists()
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_disk_without_room_for_another_file_is_a_full_disk(tiny_disk: Path) -> None:
    for free in range(4):
        made = []
        with contextlib.suppress(OSError):
            for number in range(100):
                path = tiny_disk / f"filler-{number}"
                path.touch()
                made.append(path)
        for path in made[:free]:
            path.unlink()
        with pytest.raises(DiskFull, match="home"):
            Home(tiny_disk / "home").prepare()
        for path in made[free:]:
            path.unlink()
        shutil.rmtree(tiny_disk / "home", ignore_errors=True)
    for number in range(39):
        (tiny_disk / f"filler-{number}").touch()
    with pytest.raises(DiskFull, match=r"one\.lock"), exclusive(tiny_disk / "one.lock", "one"):
        raise AssertionError("it was locked")


def test_home_is_found_by_environment_then_nearby_then_user(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path / "user")}
    assert Home.locate(environment, tmp_path).root == tmp_path / "user" / ".stoker"
    (tmp_path / ".stoker").mkdir()
    assert Home.locate(environment, tmp_path).root == tmp_path / ".stoker"
    assert Home.locate({**environment, "STOKER_HOME": str(tmp_path / "h")}, tmp_path).root == tmp_path / "h"


def test_home_is_made_private_and_refused_when_loose_or_newer_or_a_file(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    assert home.root.stat().st_mode & 0o777 == 0o700
    assert home.keys_dir.is_dir()
    home.root.chmod(0o755)
    with pytest.raises(BadHome, match="other users"):
        home.prepare()
    home.root.chmod(0o700)
    (home.root / "version").write_text("2\n")
    with pytest.raises(BadHome, match="version '2'"):
        home.prepare()
    (tmp_path / "file").write_text("")
    with pytest.raises(BadHome):
        Home(tmp_path / "file").prepare()


def test_a_home_or_settings_of_another_user_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that somebody else put where we work must not decide where data and keys go."""
    home = Home(tmp_path / ".stoker").prepare()
    settings = tmp_path / "stoker.toml"
    settings.write_text("[cache]\nlimit_bytes = 5\n")
    assert load_settings(home, tmp_path).value.cache.limit_bytes == 5
    settings.chmod(0o666)
    with pytest.raises(ConfigError, match=r"stoker\.toml"):
        load_settings(home, tmp_path)
    settings.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(settings, 12345, -1)
        os.chown(home.root, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match=r"stoker\.toml"):
        load_settings(home, tmp_path)
    with pytest.raises(BadHome, match="belongs to user"):
        home.prepare()
