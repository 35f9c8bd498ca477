"""The second store of a run's checkpoints, as its run file names it. See docs/design/train.md."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from stoker.fleet.run_acts import House
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef
from stoker.spec.job import Job
from stoker.store.objects import ObjectStore
from stoker.train.checkpoint_levels import SecondLevel
from stoker.train.run_objects import RunObjects


@contextmanager
def second_level(house: House, job: Job) -> Iterator[SecondLevel | None]:
    """Copies go on in this process for the block, and those that were begun are waited for; None without.

    Raises what opening either store raises.
    """
    spec = job.spec.train
    if not spec.checkpoint_copy:
        yield None
        return
    near, far = ObjectStore.open(house.store_url), ObjectStore.open(spec.checkpoint_copy)
    keys, kek = BackendKeySource(house.backend), KekRef.parse(job.checkpoint_kek)
    review_digest = bytes.fromhex(job.review_digest)
    with (
        RunObjects(near, keys, run=job.run, kek=kek, review_digest=review_digest) as objects,
        SecondLevel(objects, far, every_steps=spec.copy_every_steps, warn=_warn) as level,
    ):
        yield level


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
