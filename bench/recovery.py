"""How long a run stands still when a rank is killed: from the fault to the next completed step.

Run `python bench/recovery.py`, or with `--json` for one object. See docs/design/fleet.md, "Accounting".
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

from measuring.command import Size, run
from measuring.figures import Figure, Measured, at_most, median_of, not_measured, ratio_of, versions_of
from measuring.house import NAME, PURPOSE, RESEARCHER, BenchHouse
from measuring.texts import copy_sources
from measuring.turns import wall_s
from stoker.core.progress import SILENT
from stoker.fleet.faults import KillRank
from stoker.fleet.launch import start_run
from stoker.fleet.summary import RunReport, read_run
from stoker.ledger.records import RunOutcome
from stoker.spec.model import ModelSpec
from stoker.spec.recipe import RecipeSpec
from stoker.spec.run import EvaluateSpec, LaunchSpec, RunSpec, TrainSpec

RANKS: Final = 2
KILLED: Final = 1
CHECKPOINT_EVERY: Final = 10
KILL_AFTER: Final = 6
"""So many steps after a checkpoint, so that there is something to do again."""

MEGABYTES: Final = 1
NEXT_STEP: Final = at_most(0.8)
RECIPE: Final = RecipeSpec(vocabulary=512, sequence_tokens=128, chunk_log2=14, heldout_fraction=0.05)
METHOD: Final = (
    "One run on a small prepared dataset with the real supervisor, agent and workers: 2 ranks, one thread "
    "each, a checkpoint every 10 steps. Rank 1 gets SIGKILL 6 steps after each checkpoint in turn, as often "
    "as there are kills. Times are from the run's own events, by the monotonic clock, from the moment the "
    "fault is ordered: detected is the agent's report that the rank ended; ready is rank 0 with its model "
    "and the checkpoint loaded; next step is the first step that was done after it. steps_again is how many "
    "steps were lost with each kill. import is an interpreter that imports torch and ends, once a kill, "
    "after the run: what any restart that begins a process pays. Medians and quartiles of the kills."
)


def run_spec(kills: int) -> RunSpec:
    """A run just long enough for `kills` faults, with steps of some 50 ms on one core a rank."""
    return RunSpec(
        dataset=NAME,
        name="recovery",
        purpose=PURPOSE,
        model=ModelSpec(layers=2, width=128, heads=2, kv_heads=1, ffn_width=256),
        train=replace(
            TrainSpec(),
            steps=CHECKPOINT_EVERY * (kills + 1),
            global_batch=8,
            warmup_steps=2,
            checkpoint_every_steps=CHECKPOINT_EVERY,
        ),
        launch=LaunchSpec(ranks=RANKS, threads_per_rank=1, restarts=kills),
        evaluate=EvaluateSpec(heldout=False, baselines=False, sample_tokens=0),
    )


def disturbed_run(root: Path, kills: int) -> RunReport:
    """Prepare a dataset, train on it, and kill a rank `kills` times."""
    with BenchHouse(root / "home") as house:
        house.bring(copy_sources(root / "texts", MEGABYTES))
        house.approve(house.scan())
        house.prepare(RECIPE)
        summary = start_run(
            run_spec(kills),
            home=house.home,
            ledger=house.ledger,
            backend=house.backend,
            store_url=house.store_url,
            actor=RESEARCHER,
            progress=SILENT,
            clock=house.clock,
            faults=[
                KillRank(rank=KILLED, at_step=number * CHECKPOINT_EVERY + KILL_AFTER)
                for number in range(1, kills + 1)
            ],
        )
        if summary.outcome is not RunOutcome.FINISHED:
            raise SystemExit(f"the run did not survive: {summary.error}")
        return read_run(house.home, house.ledger, summary.run)


def measure(kills: int) -> Measured:
    """Seconds from each fault to its detection, to readiness and to the next step."""
    with tempfile.TemporaryDirectory() as root:
        report = disturbed_run(Path(root), kills)
    imports = [wall_s(import_torch) for _ in range(kills)]
    detected, ready, next_step, again = [], [], [], []
    for each in report.recoveries:
        assert each.rank == KILLED and each.injected
        assert each.ready_s is not None and each.next_step_s is not None and each.resume_step is not None
        detected.append(each.detected_s - each.failed_s)
        ready.append(each.ready_s - each.failed_s)
        next_step.append(each.next_step_s - each.failed_s)
        again.append(float(each.step - each.resume_step))
    assert len(next_step) == kills
    figures: dict[str, Figure] = {
        "kill_detected_s": median_of(detected, "s"),
        "kill_ready_s": median_of(ready, "s"),
        "kill_next_step_s": median_of(next_step, "s", NEXT_STEP),
        "steps_again": median_of(again, "steps"),
        "first_step_s": Figure(report.steps[0].at_s, "s"),
        "step_s": Figure(_usual_step_s(report), "s"),
        "import_torch_s": median_of(imports, "s"),
        "next_step_to_import": ratio_of(next_step, imports),
        "hang_next_step_s": not_measured("only SIGKILL is tried yet", "s", at_most(6.0)),
        "node_lost_next_step_s": not_measured("there is one node and no spare yet", "s", at_most(2.5)),
    }
    for peer in ("torchrun", "nvrx", "torchft"):
        figures[f"{peer}_kill_next_step_s"] = not_measured(f"{peer} is not run beside it yet", "s")
    isolation = None if report.isolation is None else report.isolation.state.value
    return Measured(figures, METHOD, versions_of("torch"), {"isolation": isolation})


def _usual_step_s(report: RunReport) -> float:
    """The median time from one step to the next of the same attempt."""
    pairs = zip(report.steps, report.steps[1:], strict=False)
    return median(after.at_s - before.at_s for before, after in pairs if before.attempt == after.attempt)


def import_torch() -> None:
    """What every process that trains does first."""
    subprocess.run([sys.executable, "-c", "import torch"], check=True)


SIZES: Final = (Size("kills", 3, 1, "how often a rank is killed"),)

if __name__ == "__main__":
    sys.exit(run("recovery", __doc__, SIZES, measure))
