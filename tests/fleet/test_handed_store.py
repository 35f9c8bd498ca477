"""Ranks without a network whose store is a real bucket: the supervisor asks it for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.core.events import EventKind
from stoker.core.isolation import IsolationState
from stoker.core.progress import SILENT
from stoker.fleet.faults import KillRank
from stoker.fleet.launch import start_run
from stoker.fleet.run_folder import RunFolder
from stoker.ledger.records import RunOutcome
from stoker.spec.model import ModelSpec
from stoker.spec.run import EvaluateSpec, IsolationPolicy, LaunchSpec, RunSpec, TrainSpec
from stoker.store.objects import ObjectStore
from support.fake_house import told
from support.promise_home import PURPOSE, open_promise_home
from support.s3_servers import MotoServer, moto_server, pointed_at

SPEC = RunSpec(
    dataset="text",
    purpose=PURPOSE,
    model=ModelSpec(layers=1, width=16, heads=2, kv_heads=1, ffn_width=24),
    train=TrainSpec(steps=6, global_batch=4, warmup_steps=2, checkpoint_every_steps=2),
    launch=LaunchSpec(ranks=2, restarts=2, isolation=IsolationPolicy.REQUIRED),
    evaluate=EvaluateSpec(baselines=False, sample_tokens=0, exposure_candidates=0),
)


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with moto_server() as server:
        yield server


def test_ranks_without_a_network_train_from_a_bucket_through_a_kill(tmp_path: Path, moto: MotoServer) -> None:
    """All that they read and commit crosses their supervisor."""
    with open_promise_home(tmp_path) as home, pointed_at(moto):
        home.found()
        home.approve(home.bring_letters("letters"))
        home.prepare("text", "letters")
        url = f"{moto.new_bucket()}/team"
        bucket = ObjectStore.open(url)
        for key in home.store.list("datasets"):
            bucket.create(key, home.store.get(key))
        summary = start_run(
            SPEC,
            home=home.home,
            ledger=home.ledger,
            backend=home.backend,
            store_url=url,
            actor="asker",
            progress=SILENT,
            clock=home.clock,
            faults=[KillRank(rank=1, at_step=3)],
        )
        assert (summary.outcome, summary.error, summary.last_step) == (RunOutcome.FINISHED, None, 6)
        assert summary.isolation.state is IsolationState.ISOLATED
        folder = RunFolder.of(home.home.runs_dir, summary.run)
        assert {event.text("state") for event in told(folder, EventKind.ISOLATION_PROBED)} == {"isolated"}
        assert list(bucket.list(f"runs/{summary.run}/log"))
        assert not home.store.delete_prefix(f"runs/{summary.run}"), "nothing of the run is in the folder"
