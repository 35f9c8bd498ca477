"""The real worker of a rank under a campaign: it notes each batch, and goes wrong when it is told to.

`python worker.py --orders PATH --job PATH --rank R`. The file of orders is one JSON object, written whole:
how far ranks may train now (`ceiling`), and what goes wrong next (`id`, `deed`, `rank`, `from_step`). A deed
is done once, whatever attempt is under way then. See docs/design/fleet.md, "A fault campaign".
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

LOOK_S: Final = 0.01
ORPHAN_ENDS_S: Final = 60
"""An orphan that nobody asks for anything is ended by its own alarm."""


class Saboteur:
    """What stands between the feed and one rank."""

    def __init__(self, orders: Path, attempt_folder: Path, rank: int) -> None:
        self._orders = orders
        self._folder = attempt_folder
        self._rank = rank
        self._notes = -1
        self._slow_steps = 0
        self.spoil = ""
        """What the next step gives instead of a number: `loss`, `gradient`, or nothing."""
        self.telemetry: Any = None
        self.log: Any = None

    def take(self, step: int, batch: Any) -> None:
        """Called with each batch, before it is trained on."""
        self._note(step, batch)
        self._wait(step)
        if self._slow_steps:
            self._slow_steps -= 1
            time.sleep(0.25)

    def _note(self, step: int, batch: Any) -> None:
        if self._notes < 0:
            path = self._folder / f"batches-{self._rank}.jsonl"
            self._notes = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        digest = hashlib.sha256(batch.tobytes()).hexdigest()
        os.write(self._notes, json.dumps({"step": step, "digest": digest}).encode() + b"\n")

    def _wait(self, step: int) -> None:
        """At the ceiling, and do what is due."""
        from stoker.core.events import Section

        told_s = time.monotonic()
        while True:
            order = json.loads(self._orders.read_text())
            self._heed(order, step)
            if step <= order["ceiling"]:
                return
            if time.monotonic() - told_s > 0.5 and self.telemetry is not None:
                self.telemetry.enter(Section.START_UP)  # it is the campaign that waits, no rank hangs
                self.telemetry.enter(Section.DATA)
                told_s = time.monotonic()
            time.sleep(LOOK_S)

    def _heed(self, order: dict[str, Any], step: int) -> None:
        if not order.get("deed") or order["rank"] != self._rank or step < order["from_step"]:
            return
        done = f"did-{order['id']}"
        if any(self._folder.parent.glob(f"attempt-*/{done}")):
            return
        (self._folder / done).touch()
        deed: Callable[[dict[str, Any]], None] = getattr(self, "_do_" + order["deed"])
        deed(order)

    # -- what goes wrong

    def _do_exit(self, order: dict[str, Any]) -> None:
        """With a code that nobody knows."""
        os._exit(order["code"])

    def _do_raise(self, order: dict[str, Any]) -> None:
        """A known error, as the code that meets it would raise it."""
        from stoker.core.errors import ERROR_CLASSES

        raise ERROR_CLASSES[order["code"]]("The campaign asks for it.", hint="Go on.")

    def _do_crash(self, order: dict[str, Any]) -> None:
        raise ZeroDivisionError

    def _do_segfault(self, order: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def _do_spoil(self, order: dict[str, Any]) -> None:
        self.spoil = order["what"]

    def _do_slow(self, order: dict[str, Any]) -> None:
        self._slow_steps = order["steps"]

    def _do_stick(self, order: dict[str, Any]) -> None:
        """The heart beats on, and the rank waits for what never comes."""
        threading.Event().wait()

    def _do_orphan(self, order: dict[str, Any]) -> None:
        """Leave a process behind that holds all that this rank holds, but the lock."""
        if os.fork() == 0:
            try:
                Orphan(order["id"], self._folder, self._orders.parent, self.log).live()
            finally:
                os._exit(0)


class Orphan:
    """Waits until a later attempt has begun, tries to write and to commit, and says what came of it."""

    def __init__(self, number: int, folder: Path, room: Path, log: Any) -> None:
        self._number, self._folder, self._room, self._log = number, folder, room, log

    def live(self) -> None:
        signal.alarm(ORPHAN_ENDS_S)
        os.setsid()
        for entry in Path("/proc/self/fd").iterdir():
            if entry.is_symlink() and str(entry.readlink()).endswith(".lock"):
                os.close(int(entry.name))
        (self._folder / f"orphan-{self._number}").touch()
        while not (self._room / f"go-{self._number}").exists():
            time.sleep(LOOK_S)
        told = {"write": self._tried(self._write), "commit": self._tried(self._commit)}
        path = self._folder / f"orphan-{self._number}.json"
        path.with_suffix(".part").write_text(json.dumps(told))
        path.with_suffix(".part").rename(path)

    def _tried(self, deed: Callable[[], None]) -> str:
        from stoker.core.errors import StokerError

        try:
            deed()
        except StokerError as error:
            return error.id
        except OSError as error:
            return type(error).__name__
        return "done"

    def _write(self) -> None:
        objects, version = self._log._objects, secrets.token_hex(16)
        prefix = objects.prefix_of(self._log.state.next_sequence, version)
        objects.write_part(prefix, version, 0, [b"written by an orphan"])

    def _commit(self) -> None:
        from stoker.train.commit_log import Retention

        self._log.commit(draft_of(self._log, self._log.state.attempt, self._log.token), Retention(2))


def draft_of(log: Any, attempt: int, token: str) -> Any:
    """A checkpoint of nothing, as the attempt that holds `token` would commit it."""
    from stoker.train.commit_record import Commit

    state, version = log.state, secrets.token_hex(16)
    return Commit(
        run=state.run,
        sequence=state.next_sequence,
        previous=state.tip,
        attempt=attempt,
        token=token,
        step=1,
        prefix=log._objects.prefix_of(state.next_sequence, version),
        version=version,
        parts=(),
        kept=(),
        metadata={},
        extra={},
    )


def put_between(saboteur: Saboteur) -> None:
    """From here on the saboteur sees each batch, and stands between a batch and its loss."""
    from stoker.feed.stream import BatchStream
    from stoker.train.commit_store import CommitLog
    from stoker.train.telemetry import Telemetry
    from stoker.train.text_task import TextTask

    following, beginning = BatchStream.next_array, CommitLog.begin.__func__  # type: ignore[attr-defined]
    made, loss = Telemetry.__init__, TextTask.loss.fget  # type: ignore[attr-defined]
    assert loss is not None

    def next_array(self: Any) -> Any:
        batch = following(self)
        saboteur.take(self._consumed // self._global_batch, batch)
        return batch

    def begin(cls: Any, *arguments: Any) -> Any:
        saboteur.log = beginning(cls, *arguments)
        return saboteur.log

    def telemetry(self: Any, *arguments: Any, **named: Any) -> None:
        made(self, *arguments, **named)
        saboteur.telemetry = self

    def spoilt(self: Any) -> Any:
        honest = loss(self)

        def loss_of(model: Any, batch: Any) -> Any:
            found, what = honest(model, batch), saboteur.spoil
            saboteur.spoil = ""
            if what == "gradient":
                found.register_hook(lambda gradient: gradient * float("nan"))
            return found * float("nan") if what == "loss" else found

        return loss_of

    BatchStream.next_array = next_array  # type: ignore[method-assign]
    CommitLog.begin = classmethod(begin)  # type: ignore[assignment,method-assign]
    Telemetry.__init__ = telemetry  # type: ignore[method-assign]
    TextTask.loss = property(spoilt)  # type: ignore[assignment,method-assign]


def main() -> int:
    from stoker.train import worker

    place = sys.argv.index("--orders")
    orders = Path(sys.argv[place + 1])
    del sys.argv[place : place + 2]
    words = sys.argv[1:]
    job, rank = Path(words[words.index("--job") + 1]), int(words[words.index("--rank") + 1])
    following = worker.read_job

    def read_job(path: Path, number: int) -> Any:
        """Not earlier: by then the process is hidden, and one that was started ahead has passed its gate."""
        put_between(Saboteur(orders, job.parent, rank))
        return following(path, number)

    worker.read_job = read_job
    return worker.main()


def leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
