"""Tasks by Ray Data, the extra `ray`. See docs/design/intake.md, "Tasks and executors".

Only task numbers and errors pass through Ray: its object store lies in /dev/shm, where no plaintext may be.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from stoker.core.errors import MissingExtra
from stoker.intake.executors.remote import Site, elements_of, run_attempts
from stoker.intake.task_errors import UnusableExecutor
from stoker.intake.task_room import TaskRoom, in_order, rooms_told
from stoker.intake.task_worker import told
from stoker.intake.tasks import Phase, TaskJob
from stoker.intake.workplace import Workplace

OBJECT_STORE_BYTES: Final = 96 << 20
"""Of a Ray that is started here; a little more than the least it takes."""


class RayExecutor:
    """Ray Data over blocks of tasks, at most `blocks` of them.

    On the cluster that RAY_ADDRESS names; without it, on a Ray of `blocks` processors that the first phase
    starts, reachable from this machine only, and `close` ends.
    """

    name = "ray"

    def __init__(self, site: Site, blocks: int = 2) -> None:
        self._site = site
        self._blocks = blocks
        self._ours = False
        self._rooms: set[TaskRoom] = set()

    @property
    def rooms(self) -> Sequence[TaskRoom]:
        """The nodes on which tasks were done, as these have told."""
        return in_order(self._rooms)

    def run(self, work: Workplace, phase: Phase, tasks: Sequence[int], done: Callable[[int], None]) -> None:
        """Raises MissingExtra, UnusableExecutor, TaskFailed."""
        require_ray()
        self._site.require_open_keys(self.name)
        self._start()

        def attempt(left: Sequence[int], look: Callable[[], None]) -> str:
            job = TaskJob.of(work, phase, left, self._site.home, self._site.project).encode()
            said = []
            for answer in _mapped(job, elements_of(left, self._blocks)):
                self._rooms.update(rooms_told(answer))
                said.append(answer)
                look()
            return "\n".join(said)

        run_attempts(work, phase, tasks, done, attempt)

    def _start(self) -> None:
        import ray

        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ours: dict[str, Any] = {
            "address": "local",
            "num_cpus": self._blocks,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
        }
        try:
            ray.init(
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({} if os.environ.get("RAY_ADDRESS") else ours),
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UnusableExecutor(
                f"Ray cannot be started or reached: {str(error)[:300]!a}.",
                hint="Let RAY_ADDRESS name a running cluster, or unset it for a Ray on this machine.",
            ) from error
        self._ours = True
        ray.data.DataContext.get_current().enable_progress_bars = False

    def close(self) -> None:
        """Leave the cluster, or end the Ray that was started here."""
        if self._ours:
            import ray

            self._ours = False
            ray.shutdown()


def do_block(row: dict[str, Any]) -> dict[str, str]:
    """One block's tasks, in a process that a Ray worker starts; all that this process said.

    A Ray worker has threads and sockets of its own, so it cannot close itself off, and it never holds a key.
    """
    try:
        job = os.memfd_create("stoker-job", 0)
        with os.fdopen(job, "wb") as file:
            file.write(row["job"])
            file.flush()
            words = [f"/dev/fd/{job}", str(int(row["first"])), str(int(row["last"]))]
            done = subprocess.run(
                [sys.executable, "-m", "stoker.intake.task_worker", *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                pass_fds=[job],
                check=False,
            )
    except Exception as error:  # noqa: BLE001 - the top of a Ray task; nothing of it but this line goes on
        return {"said": told(error)}
    how = "" if done.returncode == 0 else _ended(done.returncode)
    return {"said": f"{how}\n{done.stdout}{done.stderr}"}


def _ended(code: int) -> str:
    """What is said of a task's process that says nothing itself."""
    by = f"was ended by signal {-code}" if code < 0 else f"exited with code {code}"
    return json.dumps({"id": "unexpected", "message": f"A task's process {by}.", "hint": ""})


def _mapped(job: bytes, places: Sequence[range]) -> Iterator[str]:
    """What each block said, as blocks end. A worker that died has said so by its exception's name."""
    import ray

    rows = [{"job": job, "first": place.start, "last": place.stop} for place in places]
    try:
        answers = ray.data.from_items(rows, override_num_blocks=len(rows)).map(do_block)
        for row in answers.iter_rows():
            yield str(row["said"])
    except ray.exceptions.RayError as error:
        yield told(error)


def require_ray() -> None:
    """Raise MissingExtra unless Ray Data is installed."""
    if importlib.util.find_spec("ray") is None:
        raise MissingExtra(
            "Preparing on Ray needs the package ray.",
            hint="Install the extra 'ray' from Stoker's clone: pip install '.[ray]'",
        )
