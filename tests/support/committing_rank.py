"""A fake rank whose checkpoints are real: sealed parts and a commit log in the store, and no tensor in them.

Takes the arguments of `fake_rank.py` with `--deeds`; the job must be a real one.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import sys
from pathlib import Path
from typing import Any

from fake_rank import Rank, from_real

from stoker.keys.agent_client import AgentKeySource
from stoker.keys.caller import take_secret
from stoker.keys.refs import KekRef
from stoker.spec.job import CommitRef
from stoker.store.objects import ObjectStore
from stoker.train.commit_log import Retention
from stoker.train.commit_record import Commit
from stoker.train.commit_store import CommitLog
from stoker.train.run_objects import RunObjects

PART_BYTES = 3_000


class CommittingRank(Rank):
    """Rank 0 writes the parts of all ranks."""

    def __init__(self, job: dict[str, Any], rank: int, resume: dict[str, Any] | None) -> None:
        super().__init__(job, rank)
        keys = AgentKeySource(
            socket.socket(fileno=int(os.environ["STOKER_KEY_FD"])),
            take_secret(int(os.environ["STOKER_SECRET_FD"])),
        )
        self.objects = RunObjects(
            ObjectStore.open(job["store_url"]),
            keys,
            run=job["run"],
            kek=KekRef.parse(job["checkpoint_kek"]),
            review_digest=bytes.fromhex(job["review_digest"]),
        )
        if rank == 0:
            point = None if resume is None else CommitRef(**resume)
            self.log = CommitLog.begin(self.objects, job["attempt"], point)

    def commit(self) -> None:
        self.tell("checkpoint_started", step=self.step)
        version = secrets.token_hex(16)
        prefix = self.objects.prefix_of(self.log.state.next_sequence, version)
        parts = [
            self.objects.write_part(prefix, version, rank, [f"{rank}/{self.step}".encode() * PART_BYTES])
            for rank in range(self.job["world_size"])
        ]
        state = self.log.state
        draft = Commit(
            run=self.job["run"],
            sequence=state.next_sequence,
            previous=state.tip,
            attempt=self.job["attempt"],
            token=self.log.token,
            step=self.step,
            prefix=prefix,
            version=version,
            parts=tuple(parts),
            kept=(),
            metadata={},
            extra={},
        )
        done = self.log.commit(draft, Retention(2))
        self.log.sweep()
        figures = {"digest": done.reference.digest, "stall_s": 0.0, "bytes": done.sealed_bytes}
        self.tell("checkpoint_committed", step=self.step, sequence=done.reference.sequence, **figures)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--deeds", type=Path, required=True)
    given = parser.parse_args()
    job = json.loads(given.job.read_text())
    deeds = json.loads(given.deeds.read_text())
    return CommittingRank(from_real(job, deeds), given.rank, job["resume"]).run()


if __name__ == "__main__":
    sys.exit(main())
