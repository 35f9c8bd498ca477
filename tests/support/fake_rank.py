"""A rank that trains nothing and speaks the event protocol of docs/design/fleet.md, in plain Python.

`python fake_rank.py [--deeds PATH] --job PATH --rank R`. The job is a JSON object: run, attempt, world_size,
steps, resume, checkpoint_every, step_s, and `deeds`, what goes wrong: `{"attempt", "rank", "at_step", "do"}`.
With `--deeds` it is a real job file, and the deeds come from that other file.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


class Rank:
    def __init__(self, job: dict[str, Any], rank: int, waited: bool = False) -> None:
        self.job, self.rank, self.waited = job, rank, waited
        self.fd = int(os.environ["STOKER_EVENT_FD"])
        self.section, self.step = "start_up", job["resume"]
        self.lease: Any = None
        self.asked = False

    def tell(self, kind: str, **fields: Any) -> None:
        head = {"ts": time.time(), "mono_s": time.monotonic(), "run": self.job["run"]}
        head |= {"attempt": self.job["attempt"], "rank": self.rank, "node": "local", "kind": kind}
        os.write(self.fd, json.dumps({**head, **fields}).encode() + b"\n")

    def beat(self, section: str) -> None:
        self.section = section
        self.tell("heartbeat", section=section, step=self.step)

    def run(self) -> int:
        job = self.job
        signal.signal(signal.SIGTERM, self.end_politely)
        signal.signal(signal.SIGUSR1, self.be_asked)
        self.tell("rank_started", pid=os.getpid(), waited=self.waited)
        self.beat("start_up")
        self.misbehave("start")
        self.tell("rank_ready", resume_step=job["resume"], parameters=7)
        while self.step < job["steps"]:
            self.beat("data")
            self.heed_lease()
            time.sleep(job["step_s"])
            self.step += 1
            self.beat("compute")
            self.misbehave(self.step)
            if self.rank == 0:
                self.tell_step(10.0 / self.step)
                if self.step % job["checkpoint_every"] == 0 or self.asked:
                    self.commit()
        if self.rank == 0:
            self.beat("evaluate")
            figures = {"bits_per_byte": 2.0, "bytes": 100, "seconds": 0.0, "tokens": 40}
            self.tell("evaluation", name="model", **figures)
            self.tell("sample", text="def one(): pass")
        self.beat("done")
        return 0

    def heed_lease(self) -> None:
        """As a feed does before each chunk, once a deed has asked for it."""
        if self.lease is None:
            return
        from stoker.core.errors import StokerError

        try:
            self.lease.require()
        except StokerError as over:
            fields = {"message": over.message, "hint": over.hint, "exit_code": over.exit_code}
            self.tell("rank_error", error_id=over.id, **fields)
            sys.exit(over.exit_code)

    def do_heed_lease(self, deed: dict[str, Any]) -> None:
        from stoker.keys.lease_page import LeaseView

        self.lease = LeaseView(os.dup(int(os.environ["STOKER_LEASE_FD"])))

    def do_spill(self, deed: dict[str, Any]) -> None:
        """Try to leave plaintext where others could find it, and say what became of it."""
        told = {}
        for place in deed["places"]:
            try:
                Path(place).write_text(deed["text"])
                told[place] = "written"
            except OSError as error:
                told[place] = error.strerror
        print(json.dumps(told), flush=True)

    def do_reach(self, deed: dict[str, Any]) -> None:
        """Try to reach a listener outside by its socket file and by the machine's loopback."""
        told = []
        for family, place in ((socket.AF_UNIX, deed["path"]), (socket.AF_INET, ("127.0.0.1", deed["port"]))):
            try:
                with socket.socket(family, socket.SOCK_STREAM) as sock:
                    sock.settimeout(2)
                    sock.connect(place)
                told.append("reached")
            except OSError as error:
                told.append(type(error).__name__)
        print(json.dumps(told), flush=True)

    def tell_step(self, loss: float) -> None:
        figures = {
            "lr": 0.1,
            "grad_norm": 1.0,
            "tokens": 64,
            "step_s": self.job["step_s"],
            "data_wait_s": 0.0,
        }
        self.tell("step", step=self.step, loss=loss, **figures)

    def commit(self) -> None:
        self.tell("checkpoint_started", step=self.step)
        log = Path(self.job["folder"]) / f"fake-commits-{self.job['run']}"
        with log.open("a") as file:
            file.write(f"{self.step}\n")
        sequence = len(log.read_text().splitlines())
        figures = {"digest": f"{self.step:064x}", "stall_s": 0.0, "bytes": 10}
        self.tell("checkpoint_committed", step=self.step, sequence=sequence, **figures)

    def be_asked(self, *_: object) -> None:
        self.asked = True

    def end_politely(self, *_: object) -> None:
        if self.rank == 0 and self.job.get("commit_when_asked"):
            self.commit()
        sys.exit(3)

    def misbehave(self, place: object) -> None:
        for deed in self.job["deeds"]:
            mine = deed["rank"] == self.rank and deed["attempt"] in (self.job["attempt"], "any")
            if mine and deed["at_step"] == place:
                getattr(self, "do_" + deed["do"])(deed)

    def do_signal(self, deed: dict[str, Any]) -> None:
        os.kill(os.getpid(), deed["signal"])

    def do_exit(self, deed: dict[str, Any]) -> None:
        if deed.get("report"):
            fields = {"message": "A known error.", "hint": "Mend it.", "exit_code": deed["code"]}
            self.tell("rank_error", error_id="known-error", **fields)
        sys.exit(deed["code"])

    def do_nan(self, deed: dict[str, Any]) -> None:
        self.tell_step(float("nan"))
        fields = {"message": f"The loss of step {self.step} is NaN.", "hint": "Lower the learning rate."}
        self.tell("rank_error", error_id="non-finite-loss", exit_code=121, **fields)
        sys.exit(121)

    def do_kill_waiting(self, deed: dict[str, Any]) -> None:
        """Kill the same rank of the next attempt, once it is there and waits at its gate."""
        job = f"{self.job['folder']}/attempt-{self.job['attempt'] + 1}/job.json"
        sought = f"{job}\0--rank\0{self.rank}\0".encode()
        while True:
            for entry in Path("/proc").glob("[0-9]*"):
                try:
                    found = sought in (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if found:
                    os.kill(int(entry.name), signal.SIGKILL)
                    return
            time.sleep(0.01)

    def do_stop(self, deed: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def do_fall_silent(self, deed: dict[str, Any]) -> None:
        """Neither tells nor reads anything, so it cannot notice that nobody listens any more."""
        print("silent", flush=True)
        while True:
            time.sleep(60)

    def do_await_told(self, deed: dict[str, Any]) -> None:
        """Go on once an event of a kind is in the file."""
        events = Path(self.job["folder"]) / "events.jsonl"
        while f'"{deed["kind"]}"' not in events.read_text():
            self.beat(self.section)
            time.sleep(0.02)

    def do_stand_still(self, deed: dict[str, Any]) -> None:
        while True:
            self.beat(self.section)
            time.sleep(0.05)

    def do_ignore_requests(self, deed: dict[str, Any]) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def do_leave_children(self, deed: dict[str, Any]) -> None:
        """One in the rank's group, one in a session of its own; both hold all that the rank inherited."""
        names = [int(each.name) for each in Path("/proc/self/fd").iterdir()]
        fds = [fd for fd in names if fd > 2 and Path(f"/proc/self/fd/{fd}").exists()]
        here = subprocess.Popen(SLEEPER, pass_fds=fds)
        away = subprocess.Popen(SLEEPER, pass_fds=fds, start_new_session=True)
        (Path(self.job["folder"]) / "children").write_text(f"{here.pid} {away.pid}")

    def do_garbage(self, deed: dict[str, Any]) -> None:
        os.write(self.fd, b'not json\n{"kind": "run_ended"}\n' + b"x" * 70_000 + b"\n")
        self.tell("run_ended", outcome="finished")
        self.tell("sample", text="still here")

    def do_show(self, deed: dict[str, Any]) -> None:
        """Write down what this process was given."""
        limits = Path("/proc/self/limits").read_text()
        found = {
            "environment": dict(os.environ),
            "descriptors": sorted(int(each.name) for each in Path("/proc/self/fd").iterdir()),
            "group": os.getpgid(0),
            "pid": os.getpid(),
            "core": next(line for line in limits.splitlines() if "core file" in line).split()[4:6],
            "arguments": sys.argv,
            "capabilities": [
                line for line in Path("/proc/self/status").read_text().split("\n") if "Cap" in line
            ],
            "networks": sorted(name for _, name in socket.if_nameindex()),
        }
        print(json.dumps(found), flush=True)
        print("to standard error", file=sys.stderr, flush=True)

    def do_connect(self, deed: dict[str, Any]) -> None:
        """Ask for a partition key, as a real rank does."""
        from stoker.keys.agent_client import AgentKeySource
        from stoker.keys.caller import take_secret
        from stoker.keys.refs import KekRef, Purpose

        time.sleep(deed.get("after_s", 0.0))
        kek = self.job["checkpoint_kek"] if deed["kek"] == "own" else deed["kek"]
        source = AgentKeySource(
            socket.socket(fileno=int(os.environ["STOKER_KEY_FD"])),
            take_secret(int(os.environ["STOKER_SECRET_FD"])),
        )
        key, wrapped = source.new_partition_key(KekRef.parse(kek), Purpose.CHECKPOINT)
        print(json.dumps({"wrapped_bytes": len(wrapped)}), flush=True)
        key.wipe()

    def do_lend(self, deed: dict[str, Any]) -> None:
        """Hand the key socket, and the secret unless it is to guess, to a program that asks for a key."""
        from stoker.keys.caller import take_secret

        secret = bytes(take_secret(int(os.environ["STOKER_SECRET_FD"])).view())
        number = int(os.environ["STOKER_KEY_FD"])
        program = str(Path(__file__).with_name("stranger.py"))
        done = subprocess.run(
            [sys.executable, program, deed["how"], str(number), self.job["checkpoint_kek"]],
            input=b"" if deed["how"] == "guess" else secret,
            pass_fds=[number],
            capture_output=True,
            check=False,
        )
        print((done.stdout or done.stderr).decode(), flush=True)


def wait_at_gate(rank: int) -> tuple[int, bool]:
    """As a real rank that was started ahead does: which rank it is then, and whether it waited."""
    if "STOKER_GATE_FD" not in os.environ:
        return rank, False
    gate = socket.socket(fileno=int(os.environ["STOKER_GATE_FD"]))
    gate.sendall(b"l")
    said = gate.makefile("rb").readline()
    if said[:1] != b"g":
        sys.exit(0)
    return int(said[1:]), True


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--deeds", type=Path)
    given = parser.parse_args()
    rank, waited = wait_at_gate(given.rank)
    job = json.loads(given.job.read_text())
    if given.deeds is not None:
        job = from_real(job, json.loads(given.deeds.read_text()))
    return Rank(job, rank, waited).run()


def from_real(job: dict[str, Any], deeds: list[dict[str, Any]]) -> dict[str, Any]:
    train, resume = job["spec"]["train"], job["resume"]
    return {
        **job,
        "steps": train["steps"],
        "resume": 0 if resume is None else resume["step"],
        "checkpoint_every": train["checkpoint_every_steps"],
        "step_s": 0.01,
        "folder": job["cache_folder"],  # a rank that is held to its folders writes there
        "deeds": deeds,
    }


if __name__ == "__main__":
    sys.exit(main())
