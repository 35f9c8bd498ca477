"""What torchrun, NVRx and torchft make of the faults that bench/recovery.py does to a run of ours.

    python peer_faults.py JOB      prints seconds from each fault to the next completed step, as JSON

JOB is a JSON object: `peer`; `fault` ("kill", "hang" or "node"); `faults`, how many; `python`, the one that
has the peer; and what recovering_rank.py wants. Everything runs in a network of its own, since all three
listen on every address, and among processes of its own, so that all of it ends with this program. Exit code 3
where that is refused, 4 where the peer takes no step any more.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

RANK: Final = Path(__file__).with_name("recovering_rank.py")
RENDEZVOUS: Final = "127.0.0.1:29400"
LIGHTHOUSE: Final = "127.0.0.1:29510"
SETTLED_STEPS: Final = 20
"""So many steps are done after a recovery before the next fault."""

PATIENCE_S: Final = 120.0
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


class Stuck(Exception):
    """The peer took no step any more."""


class Told:
    """What ranks told so far."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._offset = 0
        self.steps: list[dict[str, Any]] = []
        self.began: dict[int, dict[str, Any]] = {}

    def read(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in map(json.loads, whole.splitlines()):
            if line["kind"] == "step":
                self.steps.append(line)
            else:
                self.began[line["rank"]] = line

    def wait(self, found: Callable[[], Any]) -> Any:
        """The first true answer of `found`, asked again with every line that comes."""
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            self.read()
            if answer := found():
                return answer
            time.sleep(0.005)
        raise Stuck(f"no step within {PATIENCE_S:.0f} s")

    def after(self, at_s: float) -> dict[str, Any] | None:
        """The first step that began after `at_s`: one that was under way may have been done already."""
        return next((step for step in self.steps if step["began_s"] > at_s), None)

    def settle(self, since_s: float) -> None:
        """Wait until enough steps began since `since_s`."""
        self.wait(lambda: sum(step["began_s"] > since_s for step in self.steps) >= SETTLED_STEPS)


class Peer:
    """One of the three, with the processes that make it up."""

    def __init__(self, job: dict[str, Any], job_file: str) -> None:
        self.job, self.job_file = job, job_file
        self.told = Told(job["told"])
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.log = os.open(Path(job["folder"], "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def start(self, *command: str) -> int:
        """A process of the peer's; its PID. What it prints is kept for when it fails."""
        own = {
            "GLOO_SOCKET_IFNAME": "lo",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(self.job["folder"]),
        }
        process = subprocess.Popen(
            command, env=os.environ | own, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True
        )
        self.processes[process.pid] = process
        return process.pid

    def lose(self, pid: int) -> None:
        """Kill a process that was started here, and forget it."""
        process = self.processes.pop(pid)
        process.kill()
        process.wait()

    def fault(self) -> Callable[[], None]:
        """Do it once; what is called when the run went on makes it whole again."""
        number = signal.SIGKILL if self.job["fault"] == "kill" else signal.SIGSTOP
        os.kill(self.told.began[1]["pid"], number)
        return lambda: None

    def pauses(self) -> Iterator[float]:
        """Seconds from each fault to the next completed step."""
        self.told.settle(0.0)
        for _ in range(self.job["faults"]):
            at_s = time.monotonic()
            mend = self.fault()
            step = self.told.wait(partial(self.told.after, at_s))
            yield step["at_s"] - at_s
            mend()
            self.told.settle(time.monotonic())


class Elastic(Peer):
    """torchrun, or NVRx's launcher, which is made of it: restarts all ranks when one fails."""

    def __init__(self, job: dict[str, Any], job_file: str) -> None:
        super().__init__(job, job_file)
        self.nodes = 2 if job["fault"] == "node" else 1
        self.first = self.node(host=True)
        if self.nodes > 1:
            time.sleep(2.0)  # the first one's store has to listen
            for _ in range(self.nodes):  # one more than are wanted: it waits
                self.node()

    def node(self, *, host: bool = False) -> int:
        """Start the launcher of a node; its PID."""
        nvrx = self.job["peer"] == "nvrx"
        module = "nvidia_resiliency_ext.fault_tolerance.launcher" if nvrx else "torch.distributed.run"
        limit = self.job["limit_s"]
        watched = (
            "--workers-stop-timeout=1",
            f"--ft-rank-heartbeat-timeout={limit:g}",
            "--ft-initial-rank-heartbeat-timeout=60",
            "--ft-workload-check-interval=0.5",
            "--ft-enable-nic-monitor=False",
        )
        return self.start(
            self.job["python"],
            "-m",
            module,
            f"--nnodes={self.nodes}",
            f"--nproc-per-node={2 // self.nodes}",
            "--rdzv-backend=c10d",
            "--rdzv-id=recovery",
            f"--rdzv-endpoint={RENDEZVOUS}",
            f"--rdzv-conf=is_host={'true' if host else 'false'}",
            "--local-addr=127.0.0.1",
            "--monitor-interval=0.1",
            "--max-restarts=100",
            *(watched if nvrx else ("--shutdown-timeout=1",)),
            str(RANK),
            "nvrx" if nvrx else "elastic",
            self.job_file,
        )

    def fault(self) -> Callable[[], None]:
        if self.job["fault"] != "node":
            return super().fault()
        rank = next(each for each in self.told.began.values() if each["parent"] in self._others())
        os.kill(rank["pid"], signal.SIGKILL)
        self.lose(rank["parent"])
        return self._another_spare

    def _another_spare(self) -> None:
        self.node()

    def _others(self) -> set[int]:
        """The launchers that may be lost: not the one whose store all meet at."""
        return set(self.processes) - {self.first}


class TorchFt(Peer):
    """Two replicas that vote on every step. Somebody has to start a lost one again: here this driver."""

    def __init__(self, job: dict[str, Any], job_file: str) -> None:
        super().__init__(job, job_file)
        lighthouse = str(Path(job["python"]).with_name("torchft_lighthouse"))
        options = (
            "--min_replicas=1",
            "--join_timeout_ms=1000",
            "--heartbeat_timeout_ms=1000",
            "--bind=[::]:29510",
        )
        self.start(lighthouse, *options)
        time.sleep(0.5)
        self.replicas = [self.replica(number) for number in (0, 1)]

    def replica(self, number: int) -> int:
        """Start a replica; its PID."""
        return self.start(self.job["python"], str(RANK), "torchft", self.job_file, str(number))

    def pauses(self) -> Iterator[float]:
        self._both()
        yield from super().pauses()

    def fault(self) -> Callable[[], None]:
        if self.job["fault"] == "kill":
            self.lose(self.replicas[1])
        else:
            os.kill(self.replicas[1], signal.SIGSTOP)
        return self._mend

    def _mend(self) -> None:
        if self.replicas[1] in self.processes:
            self.lose(self.replicas[1])
        self.replicas[1] = self.replica(1)
        self._both()

    def _both(self) -> None:
        now_s = time.monotonic()
        self.told.wait(
            lambda: any(step["began_s"] > now_s and step["replicas"] == 2 for step in self.told.steps)
        )


def main(job_file: str) -> int:
    """In the new network: loopback up, the peer started, and its pauses printed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0))
        (flags,) = struct.unpack_from("h", request, 16)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
    job = json.loads(Path(job_file).read_text())
    job["lighthouse"] = f"http://{LIGHTHOUSE}"
    Path(job_file).write_text(json.dumps(job))
    peer = TorchFt(job, job_file) if job["peer"] == "torchft" else Elastic(job, job_file)
    try:
        print(json.dumps(list(peer.pauses())))
    except Stuck as error:
        print(error, file=sys.stderr)
        return 4
    return 0


def enter(job_file: str) -> None:
    """Become this program in a network, mounts and processes of its own."""
    own = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    try:
        allowed = subprocess.run(["unshare", *user, *own, "true"], check=False, capture_output=True)
    except FileNotFoundError:
        sys.exit(3)
    if allowed.returncode != 0:
        sys.exit(3)
    os.execvp("unshare", ["unshare", *user, *own, sys.executable, __file__, "inside", job_file])


if __name__ == "__main__":
    if sys.argv[1] == "inside":
        sys.exit(main(sys.argv[2]))
    enter(sys.argv[1])
