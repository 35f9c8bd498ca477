"""What is written down of a run: how it begins, with its folder and its key, that it goes on, how it ends.

The ledger knows of a run before its first process exists, and of its end after the last one is gone. See
docs/design/fleet.md, "Starting and going on".
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stoker.core.atomic import naming_full_disk, write_atomic
from stoker.core.canonical import JsonValue, digest_of
from stoker.core.clock import Clock
from stoker.core.errors import StokerError
from stoker.core.home import Home
from stoker.core.ids import RunId
from stoker.core.node import node_name
from stoker.core.progress import Progress
from stoker.core.result import plain
from stoker.fleet.first_weights import DIGEST_FIELD
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.run_state import Phase
from stoker.fleet.verdict import Verdict
from stoker.keys.backend import KeyBackend
from stoker.keys.refs import Purpose
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetRecord, RunOutcome, RunRecord
from stoker.spec.reliability import RSC_1_PER_1000_NODE_DAYS
from stoker.spec.run import RunSpec

RUN_FILE_FORMAT: Final = 1

_OUTCOMES: Final = {
    Phase.FINISHED: RunOutcome.FINISHED,
    Phase.FAILED: RunOutcome.FAILED,
    Phase.CANCELLED: RunOutcome.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class House:
    """The parts of the house that a run needs."""

    home: Home
    ledger: Ledger
    backend: KeyBackend
    store_url: str
    actor: str
    progress: Progress
    clock: Clock
    failures_per_1000_node_days: float = RSC_1_PER_1000_NODE_DAYS


def begin_run(
    house: House,
    run: RunId,
    spec: RunSpec,
    datasets: Sequence[DatasetRecord],
    origins: Mapping[str, str],
    first_weights: str,
) -> RunRecord:
    """Folder, run file, key and ledger entry of a new run; on any failure only a deactivated key remains."""
    dataset, *others = datasets
    body = plain(spec)
    assert isinstance(body, Mapping)
    digest = digest_of(body)
    folder = RunFolder.of(house.home.runs_dir, run)
    with contextlib.ExitStack() as undo:
        with naming_full_disk(folder.path):
            folder.path.mkdir(mode=0o700)
        undo.callback(shutil.rmtree, folder.path, ignore_errors=True)
        run_file: JsonValue = {
            "format": RUN_FILE_FORMAT,
            "run": run,
            "spec": body,
            "spec_digest": digest,
            "origins": dict(origins),
            "dataset": _named(dataset),
            "mixed_with": [_named(each) for each in others],
            "review": dataset.review,
        }
        write_atomic(folder.run_file, json.dumps(run_file, indent=1, ensure_ascii=False).encode())
        kek = house.backend.create_kek(f"run/{run}", Purpose.CHECKPOINT, expires_s=None)
        undo.callback(house.backend.deactivate, kek)
        record = RunRecord(
            id=run,
            name=spec.name,
            dataset=dataset.name,
            dataset_root=dataset.root,
            review=dataset.review,
            spec=body,
            spec_digest=digest,
            kek=str(kek),
            started_by=house.actor,
            started_s=house.clock.now_s(),
            ended_s=None,
            outcome=RunOutcome.RUNNING,
        )
        detail: Mapping[str, JsonValue] = {
            "dataset_root": dataset.root,
            "mixed_with": [each.root for each in others],
            "review": dataset.review,
            "spec_digest": digest,
            "node": node_name(house.home),
            **({DIGEST_FIELD: first_weights} if first_weights else {}),
        }
        with house.ledger.act(
            actor=house.actor, action="run.start", subject=f"run/{run}", detail=detail
        ) as catalogue:
            catalogue.add_run(record, [each.root for each in others])
        undo.pop_all()
    return record


def _named(dataset: DatasetRecord) -> JsonValue:
    return {"name": dataset.name, "version": dataset.version, "root": dataset.root}


def reopen_run(house: House, record: RunRecord) -> None:
    """Record that a run goes on, while its supervisor's lock is held; refused when its data was collected.

    A run that lost its supervisor counts as running already; this is still an act of its own, so that it
    comes wholly before or wholly after one that collects the dataset.
    """
    subject, detail = f"run/{record.id}", {"node": node_name(house.home)}
    with house.ledger.act(
        actor=house.actor, action="run.resume", subject=subject, detail=detail
    ) as catalogue:
        catalogue.reopen_run(record.id)


@contextlib.contextmanager
def recording(house: House, record: RunRecord) -> Iterator[list[Verdict]]:
    """The ledger says how the run ended after the block."""
    verdicts: list[Verdict] = []
    try:
        yield verdicts
    except BaseException as error:
        with contextlib.suppress(StokerError):  # the error under way says more
            _record_end(house, record.id, RunOutcome.FAILED, type(error).__name__)
        raise
    verdict = verdicts[-1]
    reason = "" if verdict.error is None else verdict.error.error_id
    _record_end(house, record.id, _OUTCOMES[verdict.outcome], reason)


def _record_end(house: House, run: RunId, outcome: RunOutcome, reason: str) -> None:
    digest = RunFolder.of(house.home.runs_dir, run).events_digest()
    detail = {"outcome": outcome.value, "reason": reason, "events_sha256": digest}
    with house.ledger.act(
        actor=house.actor, action="run.end", subject=f"run/{run}", detail=detail
    ) as catalogue:
        catalogue.end_run(run, outcome, house.clock.now_s())
