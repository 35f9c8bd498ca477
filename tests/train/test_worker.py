"""The worker as a launcher starts it: real processes, a real key agent, inherited descriptors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from stoker.core.clock import SystemClock
from stoker.core.events import Event, EventKind, decode_event
from stoker.core.result import plain
from stoker.keys.agent import KeyAgent
from stoker.keys.caller import Caller, key_sockets
from stoker.keys.lease import Lease
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import Purpose
from stoker.spec.run import RunSpec
from stoker.train.checkpoint_errors import RETRYABLE, BadJob, PeerLost, TelemetryLost
from support.key_stores import open_store
from support.run_places import RunPlace
from support.small_datasets import NAME, VERSION
from support.small_runs import RUN, SPEC


@dataclass
class Rank:
    """A started worker: its process, and the reading end of its events."""

    process: subprocess.Popen[bytes]
    reading: int
    received: bytearray = field(default_factory=bytearray)

    def until(self, kind: EventKind) -> Event:
        """Read on until an event of `kind` has come."""
        while True:
            for event in self.events():
                if event.kind is kind:
                    return event
            more = os.read(self.reading, 1 << 16)
            assert more, f"the rank ended without {kind}: {self.events()[-1:]}"
            self.received += more

    def finish(self) -> int:
        """Read to the end; the exit code."""
        while more := os.read(self.reading, 1 << 16):
            self.received += more
        return self.process.wait(60)

    def events(self) -> list[Event]:
        whole = [line for line in self.received.splitlines(keepends=True) if line.endswith(b"\n")]
        return [decode_event(line, "the rank") for line in whole]


@dataclass
class Launcher:
    """A home with a sealed dataset, a run's KEK and a key agent that leases both."""

    place: RunPlace
    agent: KeyAgent

    @classmethod
    def make(cls, folder: Path) -> Launcher:
        clock = SystemClock()
        backend = open_store(folder / "keys", clock=clock)
        dataset_kek = backend.create_kek(f"dataset/{NAME}/{VERSION}", Purpose.DATASET, expires_s=None)
        run_kek = backend.create_kek(f"run/{RUN}", Purpose.CHECKPOINT, expires_s=None)
        place = RunPlace.sealed(
            folder,
            BackendKeySource(backend),
            backend.signer("manifest"),
            kek=run_kek,
            dataset_kek=dataset_kek,
        )
        lease = Lease(
            id="lease-1",
            holder=RUN,
            may_open=frozenset({dataset_kek, run_kek}),
            may_seal=frozenset({run_kek}),
            purpose_text="test",
            expires_s=clock.now_s() + 600,
        )
        return cls(place, KeyAgent(backend, lease, clock))

    def job_file(self, attempt: int, spec: RunSpec, world_size: int) -> Path:
        path = self.place.folder / f"job-{attempt}.json"
        path.write_text(json.dumps(plain(self.place.job(attempt, None, spec, world_size))))
        return path

    @contextmanager
    def started(self, attempt: int, spec: RunSpec, world_size: int) -> Iterator[list[Rank]]:
        """One worker process a rank, each with its pipe and its socket to the key agent."""
        job = self.job_file(attempt, spec, world_size)
        ranks: list[Rank] = []
        try:
            for rank in range(world_size):
                (ours, theirs), caller = key_sockets(), Caller()
                threading.Thread(target=self.agent.serve, args=(ours, caller), daemon=True).start()
                secret = caller.hand_over()
                reading, writing = os.pipe()
                process = subprocess.Popen(
                    worker("--job", str(job), "--rank", str(rank)),
                    env=environment(
                        STOKER_EVENT_FD=str(writing),
                        STOKER_KEY_FD=str(theirs.fileno()),
                        STOKER_SECRET_FD=str(secret),
                    ),
                    pass_fds=(writing, theirs.fileno(), secret),
                    stderr=subprocess.PIPE,
                )
                caller.is_process(process.pid)
                os.close(writing)
                os.close(secret)
                theirs.close()
                ranks.append(Rank(process, reading))
            yield ranks
        finally:
            for each in ranks:
                each.process.kill()
                each.process.communicate()
                os.close(each.reading)


def worker(*words: str) -> list[str]:
    return [sys.executable, "-m", "stoker.train.worker", *words]


def environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    return {**kept, **more}


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    return Launcher.make(tmp_path_factory.mktemp("launcher"))


def test_two_workers_train_evaluate_and_leave_no_key_where_others_could_read_it(launcher: Launcher) -> None:
    spec = replace(SPEC, train=replace(SPEC.train, steps=4, checkpoint_every_steps=2))
    with launcher.started(1, spec, 2) as ranks:
        ranks[0].until(EventKind.RANK_READY)
        pid = ranks[0].process.pid
        limits = Path(f"/proc/{pid}/limits").read_text()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        variables = Path(f"/proc/{pid}/environ").read_bytes().rstrip(b"\0").split(b"\0")
        codes = [rank.finish() for rank in ranks]
        errors = [rank.process.stderr.read() for rank in ranks if rank.process.stderr]
    assert codes == [0, 0], errors
    told = ranks[0].events()
    assert [event.number("step") for event in told if event.kind is EventKind.STEP] == [1, 2, 3, 4]
    steps = [event.number("step") for event in told if event.kind is EventKind.CHECKPOINT_COMMITTED]
    assert steps == [2, 4]
    assert {event.text("name") for event in told if event.kind is EventKind.EVALUATION} == {
        "model",
        "bigram",
        "zlib-9",
        "xz",
    }
    assert told[0].kind is EventKind.RANK_STARTED
    assert not [event for event in ranks[1].events() if event.kind is EventKind.STEP]
    assert len(words) == 7 and words[3:7:2] == [b"--job", b"--rank"]
    names = {variable.partition(b"=")[0] for variable in variables}
    inherited = {b"STOKER_EVENT_FD", b"STOKER_KEY_FD", b"STOKER_SECRET_FD"}
    assert names <= {b"PATH", b"HOME", b"PYTHONPATH", *inherited}
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]


def test_a_worker_ends_at_once_on_sigterm(launcher: Launcher) -> None:
    spec = replace(SPEC, train=replace(SPEC.train, steps=100_000))
    with launcher.started(2, spec, 1) as (rank,):
        rank.until(EventKind.STEP)
        rank.process.terminate()
        assert rank.finish() == -signal.SIGTERM


def test_a_worker_whose_agent_is_gone_ends_even_while_it_waits_for_a_peer(launcher: Launcher) -> None:
    with launcher.started(3, SPEC, 2) as ranks:
        ranks[1].process.send_signal(signal.SIGSTOP)
        ranks[0].until(EventKind.HEARTBEAT)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, ranks[0].reading)
        os.close(nothing)
        assert ranks[0].process.wait(60) == TelemetryLost.exit_code


def test_a_worker_whose_peer_was_killed_says_so_and_may_be_started_again(launcher: Launcher) -> None:
    spec = replace(SPEC, train=replace(SPEC.train, steps=100_000))
    with launcher.started(4, spec, 2) as ranks:
        ranks[0].until(EventKind.STEP)
        ranks[1].process.kill()
        assert ranks[0].finish() == PeerLost.exit_code
        (error,) = [event for event in ranks[0].events() if event.kind is EventKind.RANK_ERROR]
    assert error.text("error_id") == PeerLost.id
    assert PeerLost.exit_code in RETRYABLE


@pytest.mark.parametrize(
    ("words", "content", "message"),
    [
        (("--rank", "0"), None, "cannot be read as a job"),
        (("--rank", "0"), "not json", "cannot be read as a job"),
        (("--rank", "0"), "[1]", "is no JSON object"),
        (("--rank", "7"), "job", "Rank 7 is outside the world of 2"),
        (("--rank", "0"), "job", "STOKER_EVENT_FD is '', which is no open descriptor"),
    ],
)
def test_a_bad_job_is_named(
    launcher: Launcher, tmp_path: Path, words: tuple[str, ...], content: str | None, message: str
) -> None:
    path = tmp_path / "job.json"
    if content == "job":
        path = launcher.job_file(9, SPEC, 2)
    elif content is not None:
        path.write_text(content)
    done = subprocess.run(
        worker("--job", str(path), *words), env=environment(), capture_output=True, text=True
    )
    assert done.returncode == BadJob.exit_code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_with_mistakes_names_them_all(launcher: Launcher, tmp_path: Path) -> None:
    body = json.loads(launcher.job_file(9, SPEC, 2).read_text())
    body["atempt"] = body.pop("attempt")
    body["world_size"] = "two"
    path = tmp_path / "job.json"
    path.write_text(json.dumps(body))
    done = subprocess.run(
        worker("--job", str(path), "--rank", "0"), env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 11
    for mistake in ("atempt", "attempt", "world_size"):
        assert mistake in done.stderr


def test_a_worker_without_a_key_socket_says_so(launcher: Launcher) -> None:
    reading, writing = os.pipe()
    done = subprocess.run(
        worker("--job", str(launcher.job_file(9, SPEC, 2)), "--rank", "0"),
        env=environment(STOKER_EVENT_FD=str(writing), STOKER_KEY_FD="999"),
        pass_fds=(writing,),
        capture_output=True,
        text=True,
    )
    os.close(writing)
    told = [decode_event(line, "it") for line in os.read(reading, 65536).splitlines(keepends=True)]
    os.close(reading)
    assert done.returncode == BadJob.exit_code
    assert told[-1].kind is EventKind.RANK_ERROR
    assert told[-1].number("exit_code") == BadJob.exit_code
    assert "STOKER_KEY_FD" in told[-1].text("message")


def test_the_worker_checks_its_job_before_it_loads_torch() -> None:
    code = (
        "import sys; from stoker.train import worker;"
        "code = worker.main(['--job', '/nonexistent', '--rank', '0']);"
        "print(code, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.stdout.split() == [str(BadJob.exit_code), "False", "False"]
