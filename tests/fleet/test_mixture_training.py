"""A run of a mixture, wholly real: prepared datasets, ranks that train, a kill, and the promises."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from stoker.core.progress import SILENT
from stoker.fleet.faults import KillRank
from stoker.fleet.launch import start_run
from stoker.fleet.summary import read_run
from stoker.ledger.records import RunOutcome
from stoker.promises.promise import Standing
from stoker.spec.mixture import MixturePartSpec
from stoker.spec.model import ModelSpec
from stoker.spec.run import EvaluateSpec, IsolationPolicy, LaunchSpec, RunSpec, TrainSpec
from support.promise_home import PURPOSE, RECIPE, failures, open_promise_home, promise

WHOLE = RunSpec(
    mixture=(MixturePartSpec("text", 0.75), MixturePartSpec("notes", 0.25)),
    purpose=PURPOSE,
    model=ModelSpec(layers=1, width=16, heads=2, kv_heads=1, ffn_width=24),
    train=TrainSpec(steps=6, global_batch=8, warmup_steps=2, checkpoint_every_steps=2),
    launch=LaunchSpec(ranks=2, restarts=2, isolation=IsolationPolicy.OFF),
    evaluate=EvaluateSpec(baselines=False, sample_tokens=0),
)


def test_a_mixture_is_trained_on_by_real_ranks_through_a_kill_and_the_promises_hold(tmp_path: Path) -> None:
    """Two datasets of two sources under two reviews; the second has borrowed the first one's tokenizer."""
    with open_promise_home(tmp_path) as home:
        home.found()
        home.approve(home.bring_letters("letters"))
        home.approve(home.bring_letters("notebook", count=30))
        borrowing = replace(RECIPE, tokenizer_of="text")
        datasets = [home.prepare("text", "letters"), home.prepare("notes", "notebook", borrowing)]
        assert datasets[0].review != datasets[1].review
        summary = start_run(
            WHOLE,
            home=home.home,
            ledger=home.ledger,
            backend=home.backend,
            store_url=home.home.store_dir.as_uri(),
            actor="asker",
            progress=SILENT,
            clock=home.clock,
            faults=[KillRank(rank=1, at_step=3)],
        )
        assert (summary.outcome, summary.error, summary.last_step) == (RunOutcome.FINISHED, None, 6)
        (recovery,) = summary.recoveries
        assert recovery.resume_step in (2, 4, 6)  # on a busy machine the kill lands after another checkpoint
        report = read_run(home.home, home.ledger, summary.run)
        standing = [point for point in report.steps if point.stands]
        assert [point.step for point in standing] == [1, 2, 3, 4, 5, 6]
        assert all(point.loss is not None and math.isfinite(point.loss) for point in report.steps)
        assert [figure.name for figure in summary.evaluations] == ["model", "model on notes"]
        record = home.ledger.catalogue.run(summary.run)
        assert home.ledger.catalogue.roots_of_run(record) == tuple(each.root for each in datasets)
        leases = [each.detail for each in home.ledger.audit.entries() if each.action == "run.lease"]
        assert len(leases) == 2
        assert all(datasets[1].kek in str(lease["may_open"]) for lease in leases)
        verified = home.verify(1, 6, 7)
        assert [failures(verified, number) for number in (1, 6, 7)] == [[], [], []]
        assert all(promise(verified, number).standing is Standing.KEPT for number in (1, 6, 7))
