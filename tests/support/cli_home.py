"""A STOKER_HOME that is used through the real `stoker` command, in processes of their own.

`contents` says all that must not change when a command is refused. Homes that go further and further, to copy
from, are in support/cli_levels.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stoker.core.clock import SystemClock
from stoker.core.errors import StokerError
from stoker.core.home import Home
from stoker.keys.open import open_backend
from stoker.keys.states import KekState
from stoker.ledger.ledger import Ledger

DAY_S: Final = 86_400.0
RECIPE: Final = ("vocabulary=300", "sequence_tokens=32", "chunk_log2=14", "heldout_fraction=0.1")
PREPARE: Final = ("prepare", "text", "--source", "notes", "--purpose", "research", *RECIPE)

_ODD_MACHINE: Final = Path(__file__).parent / "odd_machine"
_PATIENCE_S: Final = 120.0
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, _PR_CAPBSET_DROP = 1, 2, 24


@dataclass(frozen=True, slots=True)
class Done:
    """One command that has ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What --json answered."""
        body = json.loads(self.out)
        assert body["ok"] is True, self.out
        return body["data"]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a home holds: what a refused command must leave as it was.

    Objects by name and digest, catalogue rows by table, KEKs that can seal, and files that are no whole ones.
    The audit log is not here: that an import was begun stays in it.
    """

    objects: dict[str, str]
    records: dict[str, int]
    active_keys: frozenset[str]
    half_written: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CliHome:
    """A folder `place` with the home, the texts and the run file in it; commands run there."""

    place: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.place / "home"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def texts(self) -> Path:
        return self.place / "texts"

    # -- commands

    def start(
        self,
        *arguments: str,
        by: str = "asker",
        slow_s: float = 0.0,
        ahead_s: float = 0.0,
        powerless: bool = False,
    ) -> subprocess.Popen[str]:
        """Start one command as identity `by`, leading a session of its own.

        On a machine whose disk takes `slow_s` for each write, or whose clock is `ahead_s` ahead; `powerless`
        means that file modes hold for it even when the tests run as root.
        """
        return subprocess.Popen(
            [sys.executable, "-m", "stoker.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.place,
            start_new_session=True,
            preexec_fn=_powerless if powerless else _interruptible,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.place),
                "STOKER_HOME": str(self.root),
                "STOKER_IDENTITY": by,
                "PYTHONPATH": str(_ODD_MACHINE),
                "ODD_MACHINE_SLOW_S": str(slow_s),
                "ODD_MACHINE_AHEAD_S": str(ahead_s),
                **self.environment,
            },
        )

    def stoker(self, *arguments: str, code: int = 0, **more: Any) -> Done:
        """Run one command to its end; its exit code must be `code`."""
        done = ended(self.start(*arguments, **more))
        assert done.code == code, f"{arguments} ended with {done.code}, not {code}\n{done.out}\n{done.err}"
        return done

    def data(self, *arguments: str, **more: Any) -> Any:
        """What the command answers with --json."""
        return self.stoker(*arguments, "--json", **more).data

    def digest_of(self, review: str) -> str:
        """The request digest that `review show` shows."""
        return str(self.data("review", "show", review)["reviews"][0]["request_digest"])

    def approve(self, asked: dict[str, Any]) -> str:
        """Have the decider approve a request as it was shown; its id."""
        self.stoker("review", "approve", asked["id"], "--digest", asked["request_digest"], by="decider")
        return str(asked["id"])

    def refused(self, error: type[StokerError], *arguments: str, **more: Any) -> str:
        """Run one command that must be refused with `error`: as two lines on stderr, which are returned."""
        done = self.stoker(*arguments, code=error.exit_code, **more)
        assert done.out == "", done.out
        message, hint, rest = f"{done.err}\n".partition("\nhint: ")
        assert message.startswith("error: "), done.err
        assert hint and rest.count("\n") == 2, done.err
        return done.err

    def refused_json(self, error: type[StokerError], *arguments: str, **more: Any) -> dict[str, str]:
        """The same command with --json: the error's envelope on stdout, and nothing on stderr."""
        done = self.stoker(*arguments, "--json", code=error.exit_code, **more)
        body = json.loads(done.out)
        assert (body["ok"], body["error"]["id"], done.err) == (False, error.id, "")
        assert set(body["error"]) == {"id", "message", "hint"}
        return dict(body["error"])

    def interrupt(self, *arguments: str, when: Callable[[], object], **more: Any) -> Done:
        """Start a command, press Ctrl-C once `when` holds, and wait; no process of this home may be left."""
        process = self.start(*arguments, **more)
        wait_until(when, process)
        os.killpg(process.pid, signal.SIGINT)
        done = ended(process)
        assert self.processes() == {}
        assert "Traceback" not in done.err, done.err
        return done

    # -- what is there

    def processes(self) -> dict[int, str]:
        """Every living process whose command line or environment names this home."""
        wanted, found = os.fsencode(self.root), {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes()
                if wanted in command or wanted in (folder / "environ").read_bytes():
                    found[int(folder.name)] = command.replace(b"\0", b" ").decode(errors="replace")
        return found

    def objects(self, prefix: str = "") -> dict[str, str]:
        """SHA-256 of every file in the store under `prefix`, by its name."""
        return {
            str(path.relative_to(self.store)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted((self.store / prefix).rglob("*"))
            if path.is_file()
        }

    def shards(self, prefix: str) -> list[Path]:
        """The sealed objects under `prefix` (`datasets/text`) in the store, in the order of their names."""
        return sorted((self.store / prefix).rglob("*.stk"))

    def contents(self) -> Contents:
        loose = [*self.root.rglob("*.tmp"), *self.root.rglob("*#*"), *(self.root / "cache").glob("partial/*")]
        return Contents(
            self.objects(), self.records(), self.active_keys(), tuple(sorted(str(path) for path in loose))
        )

    def records(self) -> dict[str, int]:
        """How many rows each table of the catalogue has; empty when there is no ledger."""
        path = self.root / "ledger.db"
        if not path.exists():
            return {}
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type='table'")]
            return {
                name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
                for name in tables
                if not name.startswith(("audit", "sqlite"))
            }

    def active_keys(self) -> frozenset[str]:
        """Every KEK that something can be sealed under."""
        if not (self.root / "keys/keystore.json").exists():
            return frozenset()
        backend = open_backend(
            (self.root / "keys").as_uri(), clock=SystemClock(), passphrase=self._passphrase()
        )
        return frozenset(str(info.ref) for info in backend.list_keks() if info.state is KekState.ACTIVE)

    def _passphrase(self) -> Callable[[], str] | None:
        named = self.environment.get("STOKER_PASSPHRASE_FILE")
        return None if named is None else lambda: Path(named).read_text().rstrip("\n")

    def log_holds(self) -> bool:
        """Whether the audit log is whole."""
        home = Home(self.root)
        with Ledger.open(f"sqlite:///{home.ledger_path}", home.ledger_key_path, SystemClock()) as ledger:
            return ledger.audit.verify().holds

    def acts(self) -> list[str]:
        """Every act in the audit log, oldest first."""
        home = Home(self.root)
        with Ledger.open(f"sqlite:///{home.ledger_path}", home.ledger_key_path, SystemClock()) as ledger:
            return [entry.action for entry in ledger.audit.entries()]

    def runs(self) -> list[str]:
        return sorted(path.name for path in (self.root / "runs").iterdir())

    def events(self, run: str, kind: str) -> list[dict[str, Any]]:
        """The events of one kind, as far as their lines are whole."""
        path = self.root / "runs" / run / "events.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [event for event in map(json.loads, lines) if event["kind"] == kind]


def wait_until(when: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait for a sign of a command that goes on; fail when it has ended without one."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while not when():
        assert process.poll() is None, f"it ended too soon: {process.communicate()}"
        assert time.monotonic() < deadline_s, "the sign never came"
        time.sleep(0.005)


def ended(process: subprocess.Popen[str]) -> Done:
    """Wait for the command's end."""
    try:
        out, err = process.communicate(timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"{process.args} did not end\n{out}\n{err}") from None
    return Done(process.returncode, out, err)


def _interruptible() -> None:
    """Whatever started the tests may have had them ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _powerless() -> None:
    """Root reads everything, unless what it may do to files is taken from it for good."""
    _interruptible()
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def flip(path: Path, *offsets: int) -> None:
    """Change one bit of the byte at each offset; negative ones count from the end."""
    data = bytearray(path.read_bytes())
    for offset in offsets:
        data[offset] ^= 0x01
    path.write_bytes(data)


def write_texts(folder: Path, *, files: int = 60, file_bytes: int = 5_000) -> None:
    """Invented text with invented e-mail addresses, always the same."""
    folder.mkdir()
    chance = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(400)]
    for number in range(files):
        lines = [f"Letter {number}, to {chance.choice(words)}@example.org"]
        while sum(map(len, lines)) < file_bytes:
            lines.append(" ".join(chance.choices(words, k=11)))
        (folder / f"letter-{number:03}.txt").write_text("\n".join(lines) + "\n")


@contextlib.contextmanager
def small_disk(folder: Path, base: CliHome, *, size: str = "8m") -> Iterator[CliHome]:
    """A copy of `base` on a file system of its own, for tests of a full disk."""
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)], check=True)
    try:
        yield copied(base, folder / "place")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def almost_full(folder: Path, free_bytes: int) -> Iterator[None]:
    """The file system of `folder` has only `free_bytes` left during the block."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - free_bytes)
    try:
        yield
    finally:
        filler.unlink()


def copied(base: CliHome, place: Path) -> CliHome:
    shutil.copytree(base.place, place)
    return CliHome(place, dict(base.environment))
