"""Preparation on a real Slurm and on Ray: the same dataset as on this machine, and what faults do there."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from stoker.core.clock import SystemClock
from stoker.core.isolation import IsolationState
from stoker.core.slurm import PASSED_ON
from stoker.intake.executors import Executor
from stoker.intake.executors.local import LocalExecutor
from stoker.intake.executors.ray import RayExecutor, do_block
from stoker.intake.executors.remote import ATTEMPTS, Site, elements_of, message_of
from stoker.intake.executors.slurm import SlurmExecutor, batch_script, job_name
from stoker.intake.task_errors import TaskFailed, UnusableExecutor
from stoker.intake.task_room import rooms_told
from stoker.intake.tasks import Phase, TaskJob
from stoker.intake.workplace import Workplace
from stoker.keys.file_backend import FileBackend
from support.intake_home import IntakeHome, in_child, intake_home, small_file_system
from support.letters import (
    LETTERS,
    approve_letters,
    objects_of,
    plan_letters,
    prepare_letters,
    write_letters,
)
from support.slurm_testbed import Slurm

_NAMED = "vocabulary tokenizer_sample_bytes sequence_tokens heldout_fraction chunk_log2 samples_per_shard"
TABLE = {field: getattr(LETTERS, field) for field in _NAMED.split()}
"""LETTERS as words of a command line."""

WORD = f"w{secrets.token_hex(8)}"
"""A word of the letters that is nowhere else on this machine."""


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a plan, to copy; its clock shows this moment, since tasks elsewhere have the real one."""
    root = tmp_path_factory.mktemp("planned")
    write_letters(root / "letters", word=WORD)
    with intake_home(root / "home", now_s=time.time()) as home:
        approve_letters(home, root / "letters")
        plan_letters(home)
    return root / "home"


@pytest.fixture(scope="module")
def expected(planned: Path) -> dict[str, bytes]:
    """Every object of the dataset that this machine makes of that plan."""
    shutil.copytree(planned, planned.parent / "whole")
    with intake_home(planned.parent / "whole", now_s=time.time()) as home:
        return objects_of(home, prepare_letters(home, executor=LocalExecutor(2)).record)


@pytest.fixture
def home(planned: Path, tmp_path: Path) -> Iterator[IntakeHome]:
    """A copy of the planned home."""
    shutil.copytree(planned, tmp_path / "home")
    with intake_home(tmp_path / "home", now_s=time.time()) as found:
        yield found


class Eventful(SystemClock):
    """A clock whose every sleep does something first; it never sleeps long."""

    def __init__(self, event: Callable[[], None] = lambda: None) -> None:
        self._event = event

    def sleep(self, duration_s: float) -> None:
        self._event()
        super().sleep(min(duration_s, 0.1))


def on_slurm(home: IntakeHome, event: Callable[[], None] = lambda: None, elements: int = 2) -> SlurmExecutor:
    return SlurmExecutor(Site(home.root, home.root), Eventful(event), elements)


def in_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: tasks close their process to debuggers and core files for good."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def workers_of(home: IntakeHome) -> list[int]:
    """The pids of task workers of this home."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                arguments = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"stoker.intake.task_worker" in arguments and str(home.root).encode() in b" ".join(arguments):
                found.append(int(process.name))
    return found


TRIES_TO_GET_OUT = """
import json, os, socket, sys
arguments = sys.orig_argv
if "stoker.intake.task_worker" in arguments:
    seen = [False]
    def tried():
        try:
            socket.create_connection(("127.0.0.1", PORT), timeout=5).close()
            return "reached"
        except OSError as error:
            return error.strerror
    def look(event, _):
        if event == "os.link" and not seen[0]:
            seen[0] = True
            children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
            network = os.readlink("/proc/self/ns/net")
            powers = [line for pid in children for line in open(f"/proc/{pid}/status") if "CapEff" in line]
            with open(os.path.join(os.path.dirname(__file__), f"tried-{os.getpid()}"), "w") as file:
                json.dump([tried(), network, powers], file)
    sys.addaudithook(look)
"""
"""A sitecustomize: where a task seals its first object it tries the test's port, and looks at its child."""


def python_with(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every Python that is started from here on runs `code` first; the folder it lies in."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    path = (str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    return folder


@contextlib.contextmanager
def trying_to_get_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tasks within the block try to reach a port of this machine; none may, nor may its child."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        place = python_with(TRIES_TO_GET_OUT.replace("PORT", str(port)), folder, monkeypatch)
        yield
    ours = os.readlink("/proc/self/ns/net")  # noqa: PTH115 - a name that is no path
    tried = [json.loads(mark.read_text()) for mark in place.glob("tried-*")]
    assert {how for how, _, _ in tried} == {"Network is unreachable"}
    assert ours not in {network for _, network, _ in tried}
    powers = {int(line.split()[1], 16) for _, _, lines in tried for line in lines}
    assert powers == {1 << 2}, "the child that reads documents has no power but to read files"


def test_slurm_gives_the_same_dataset_and_its_tasks_have_no_network(
    slurm: Slurm,
    home: IntakeHome,
    expected: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", WORD)
    with trying_to_get_out(tmp_path / "tries", monkeypatch):
        report = prepare_letters(home, executor=on_slurm(home))
    assert {room.state for room in report.rooms} == {IsolationState.ISOLATED}
    assert {room.reason for room in report.rooms} == {"no network at all; no way out was found"}
    assert report.resumed
    assert objects_of(home, report.record) == expected
    assert slurm.queue() == []
    assert not (home.root / "tasks" / report.record.version).exists()
    told = [path for path in slurm.root.rglob("*") if path.is_file() and WORD.encode() in path.read_bytes()]
    assert told == []


DIES_ONCE_A_PHASE = """
import os, signal, sys
arguments = sys.orig_argv
if "stoker.intake.task_worker" in arguments:
    phase = os.path.basename(arguments[arguments.index("stoker.intake.task_worker") + 1])
    mark = os.path.join(os.path.dirname(__file__), "killed-" + phase)
    def watch(event, _):
        if event == "os.link" and not os.path.exists(mark):
            os.close(os.open(mark, os.O_CREAT))
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)
"""
"""A sitecustomize: the first task of each phase is killed where its first object gets its name."""


def test_tasks_killed_in_every_phase_are_tried_again_and_no_other_dataset_comes_out(
    slurm: Slurm,
    home: IntakeHome,
    expected: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    python_with(DIES_ONCE_A_PHASE, tmp_path / "deadly", monkeypatch)
    report = prepare_letters(home, executor=on_slurm(home))
    killed = {mark.name for mark in (tmp_path / "deadly").glob("killed-*")}
    phases = ("treat", "tokenizer", "encode", "pack")
    assert killed == {f"killed-{phase}.json" for phase in phases}
    assert objects_of(home, report.record) == expected
    assert slurm.queue() == []


def test_a_coordinator_that_is_killed_leaves_a_job_that_the_next_one_ends(
    slurm: Slurm, home: IntakeHome, expected: dict[str, bytes]
) -> None:
    def die_when_a_task_runs() -> None:
        if workers_of(home):
            os.kill(os.getpid(), signal.SIGKILL)

    def prepare_and_die() -> None:
        with intake_home(home.root, now_s=time.time()) as theirs:
            prepare_letters(theirs, executor=on_slurm(home, die_when_a_task_runs))

    prepare_up_to_encoding(home)
    home.ledger.close()
    assert os.WTERMSIG(in_child(prepare_and_die)) == signal.SIGKILL
    command = ("prepare", "mail", "--source", "letters", "--purpose", "research", "--on", "slurm")
    recipe = [f"{name}={value}" for name, value in TABLE.items()]
    places = ("--tasks", "2", "--home", str(home.root), "--as", "asker", "--json")
    done = in_python("-m", "stoker.cli", *command, *places, *recipe)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"]["resumed"] is True
    with intake_home(home.root, now_s=time.time()) as again:
        (record,) = again.ledger.catalogue.datasets("mail")
        assert objects_of(again, record) == expected
    assert slurm.queue() == []


def test_an_interrupt_cancels_the_job(slurm: Slurm, home: IntakeHome) -> None:
    def interrupt() -> None:
        if slurm.queue():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_letters(home, executor=on_slurm(home, interrupt))
    deadline = time.monotonic() + 120
    while slurm.queue() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert slurm.queue() == []
    assert prepare_letters(home).resumed


def test_a_full_disk_in_a_task_is_told_and_with_room_it_goes_on(
    slurm: Slurm, planned: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    with small_file_system(tmp_path / "small", "3m") as small:
        shutil.copytree(planned, tmp_path / "home")
        shutil.move(tmp_path / "home/store", small / "store")
        (tmp_path / "home/stoker.toml").write_text(f'[store]\nurl = "file://{small}/store"\n')
        with intake_home(tmp_path / "home", store_dir=small / "store", now_s=time.time()) as home:
            prepare_up_to_encoding(home)
            room = os.statvfs(small)
            (small / "ballast").write_bytes(b"x" * (room.f_bavail * room.f_frsize - 8_192))
            with pytest.raises(TaskFailed, match=r"phase encode failed 3 times.* No space is left"):
                prepare_letters(home, executor=on_slurm(home))
            (small / "ballast").unlink()
            assert objects_of(home, prepare_letters(home).record) == expected


class UpToEncoding(LocalExecutor):
    """Here, and interrupted where documents are encoded."""

    def run(self, work: Workplace, phase: Phase, tasks: Sequence[int], done: Callable[[int], None]) -> None:
        if phase.name == "encode":
            raise KeyboardInterrupt
        super().run(work, phase, tasks, done)


def prepare_up_to_encoding(home: IntakeHome) -> None:
    with pytest.raises(KeyboardInterrupt):
        prepare_letters(home, executor=UpToEncoding(1))


def test_what_slurm_does_not_take_is_told(
    slurm: Slurm, home: IntakeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "no-such-partition")
    with pytest.raises(UnusableExecutor, match="invalid partition"):
        prepare_letters(home, executor=on_slurm(home))
    with monkeypatch.context() as patch, pytest.raises(UnusableExecutor, match="sbatch, squeue, scancel"):
        patch.setenv("PATH", str(home.root))
        prepare_letters(home, executor=on_slurm(home))


@pytest.mark.parametrize("where", ["slurm", "ray"])
def test_a_key_store_with_a_passphrase_is_refused_before_anything_is_submitted(
    where: str, planned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "none"))
    locked = tmp_path / "locked"
    FileBackend.open(locked / "keys", clock=SystemClock(), passphrase=lambda: "open sesame")
    site = Site(locked, locked)
    shutil.copytree(planned, tmp_path / "home")
    executors: dict[str, Executor] = {
        "slurm": SlurmExecutor(site, SystemClock()),
        "ray": RayExecutor(site),
    }
    with (
        intake_home(tmp_path / "home", now_s=time.time()) as home,
        pytest.raises(UnusableExecutor, match=f"Tasks on {where} could not open the keys .* passphrase"),
    ):
        prepare_letters(home, executor=executors[where])


def test_ray_gives_the_same_dataset_holds_no_plaintext_and_its_tasks_have_no_network(
    home: IntakeHome, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaks: list[Path] = []
    looked = []

    class Looking(RayExecutor):
        def run(
            self, work: Workplace, phase: Phase, tasks: Sequence[int], done: Callable[[int], None]
        ) -> None:
            def look_and_go_on(task: int) -> None:
                if phase.name == "encode" and not looked:
                    looked.append(task)
                    leaks.extend(places_of(WORD.encode(), Path("/dev/shm"), Path("/tmp/ray")))
                done(task)

            super().run(work, phase, tasks, look_and_go_on)

    with trying_to_get_out(tmp_path / "tries", monkeypatch):
        report = prepare_letters(home, executor=Looking(Site(home.root, home.root), 2))
    assert {room.state for room in report.rooms} == {IsolationState.ISOLATED}
    assert objects_of(home, report.record) == expected
    assert looked
    assert leaks == []


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:x"])
def test_a_ray_that_is_not_there_is_told(
    home: IntakeHome, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UnusableExecutor, match="Ray cannot be started or reached"):
        prepare_letters(home, executor=RayExecutor(Site(home.root, home.root)))
    assert prepare_letters(home).resumed


def places_of(word: bytes, *folders: Path) -> list[Path]:
    """The files under `folders` that hold `word`."""
    found = []
    for path in (path for folder in folders for path in folder.rglob("*")):
        try:
            if path.is_file() and not path.is_symlink() and word in path.read_bytes():
                found.append(path)
        except OSError:
            continue
    return found


def test_a_block_on_ray_tells_its_error_and_nothing_else(home: IntakeHome) -> None:
    version, kek = "0" * 32, f"dataset/mail/{'0' * 32}#1"
    job = TaskJob(str(home.root), str(home.root), "mail", version, kek, "00" * 32, "encode", (0,))
    for data, told in ((job.encode(), "plan.stk is not in the store"), (b"{", "JSONDecodeError in a task.")):
        said = do_block({"job": data, "first": 0, "last": 1})["said"]
        assert told in message_of(said)
        assert {room.state for room in rooms_told(said)} <= {IsolationState.ISOLATED}


def test_a_worker_tells_its_error_and_ends_with_its_code(home: IntakeHome, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text("{}")
    before = home.objects("datasets")
    for name, code, told in (("job", 11, "mistakes in"), ("absent", 70, "FileNotFoundError in a task.")):
        done = in_python("-m", "stoker.intake.task_worker", str(tmp_path / f"{name}.json"), "0", "1")
        assert (done.returncode, done.stdout) == (code, "")
        assert told in json.loads(done.stderr)["message"]
    assert home.objects("datasets") == before


@pytest.mark.parametrize(("tasks", "most"), [(1, 4), (4, 4), (5, 4), (100, 7), (3, 1)])
def test_elements_hold_every_task_once_and_are_not_more_than_asked(tasks: int, most: int) -> None:
    places = elements_of(range(tasks), most)
    assert [place for each in places for place in each] == list(range(tasks))
    assert len(places) <= most
    assert len({len(each) for each in places[:-1]}) <= 1


def test_the_last_word_of_a_task_is_its_message() -> None:
    told = json.dumps({"id": "disk-full", "message": "No space.", "hint": "Free some."})
    assert message_of(f"noise\n{told}\nslurmstepd: error\n") == "The last try said: No space."
    assert message_of("noise\nKilled\n") == "The last try said: 'Killed'"
    assert message_of("") == "It said nothing."


def test_a_batch_script_holds_no_secret_and_names_every_path_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    script = batch_script(Path("/a b/50%/encode.json"), job_name("ab12"), 3, 2, 5)
    assert "canary" not in script
    assert "AWS" not in script
    assert '#SBATCH --output="/a b/50%%/encode-%a.log"' in script
    assert "'/a b/50%/encode.json'" in script
    assert "--array=0-2" in script
    assert "--job-name=stoker-ab12" in script


def test_the_page_says_what_goes_along_and_how_often_a_task_is_tried() -> None:
    page = (Path(__file__).parents[2] / "docs/design/intake.md").read_text()
    assert f"only {', '.join(PASSED_ON[:-1])} and {PASSED_ON[-1]} go along" in page
    assert ATTEMPTS == 3
    assert "A task that fails is tried three times in all" in page
