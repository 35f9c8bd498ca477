"""Tasks in a process of their own: `python -m stoker.intake.task_worker JOB.json FIRST LAST`.

It closes itself off, then opens the home that the job names, with the keys, as every command does; nothing
secret is handed to it. Documents are read in a child that has no key. See docs/design/intake.md, "Tasks and
executors".
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stoker.core.errors import StokerError
from stoker.intake.task_room import enter_room
from stoker.keys.memory import harden_process

if TYPE_CHECKING:
    from stoker.intake.tasks import TaskJob
    from stoker.intake.workplace import Workplace
    from stoker.keys.backend import KeyBackend

# Whatever starts threads is imported late: a process with several cannot leave its network.

UNEXPECTED: Final = 70
"""The exit code of an error that is none of ours: EX_SOFTWARE."""


def open_keys(home: Path, project: Path) -> KeyBackend:
    """The key back end of a home, as a task opens it: without a passphrase. Raises what opening it raises."""
    from stoker.core.clock import SystemClock
    from stoker.core.home import Home
    from stoker.core.settings import load_settings
    from stoker.keys.open import open_backend

    place = Home(home)
    url = load_settings(place, project).value.keys_url(place)
    return open_backend(url, clock=SystemClock(), passphrase=None, folder=place.keys_dir)


@contextmanager
def open_job(job: TaskJob) -> Iterator[Workplace]:
    """The workplace of a job, opened from its home. Raises what opening home, keys and plan raises."""
    from stoker.core.home import Home
    from stoker.core.ids import VersionId
    from stoker.core.settings import load_settings
    from stoker.intake.dataset_writer import DatasetPlace
    from stoker.intake.workplace import Workplace
    from stoker.keys.partition import BackendKeySource
    from stoker.keys.refs import KekRef
    from stoker.keys.rewrap import with_moves
    from stoker.store.objects import ObjectStore
    from stoker.store.rewraps import StoredRewraps

    home, project = Path(job.home), Path(job.project)
    backend = open_keys(home, project)
    store = ObjectStore.open(load_settings(Home(home), project).value.store_url(Home(home)))
    place = DatasetPlace(
        job.name, VersionId(job.version), KekRef.parse(job.kek), bytes.fromhex(job.review_digest)
    )
    public_key = backend.signer("manifest").public_key
    keys = BackendKeySource(with_moves(backend, StoredRewraps(lambda: store)))
    with Workplace.open(place, store, keys, public_key) as work:
        yield work


def do_job(job: TaskJob, first: int, last: int) -> None:
    """Do the tasks at the places `first` to `last` (left out) of the job's list, but those that are done.

    This process opens and seals; a forked one, closed off and without a key, makes what is between.
    """
    from stoker.intake.executors.local import LocalExecutor
    from stoker.intake.forms import form_of

    harden_process()
    with open_job(job) as work:
        tasks = [task for task in job.tasks[first:last] if not work.is_done(job.phase, task)]
        if tasks:
            LocalExecutor(1).run(work, form_of(work).phase(job.phase), tasks, lambda task: None)


def told(error: BaseException) -> str:
    """What a task says of its error, as one line of JSON. Texts of errors not ours may be personal."""
    if isinstance(error, StokerError):
        return json.dumps({"id": error.id, "message": error.message, "hint": error.hint})
    return json.dumps({"id": "unexpected", "message": f"{type(error).__name__} in a task.", "hint": ""})


def main(arguments: list[str]) -> int:
    """Do what the arguments say; an error is told on stderr. The exit code is the error's."""
    path, first, last = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    _end_with_parent()
    try:
        room = enter_room(path, arguments)
        if room is not None:
            print(room.told(), flush=True)
        from stoker.intake.tasks import TaskJob

        do_job(TaskJob.decode(path.read_bytes(), str(path)), first, last)
    except StokerError as error:
        print(told(error), file=sys.stderr, flush=True)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the top of a process
        print(told(error), file=sys.stderr, flush=True)
        return UNEXPECTED
    return 0


def _end_with_parent() -> None:
    """Where the kernel can see to it, this process does not outlive who started it."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
