"""How long a run stands still when something fails: from the fault to the next completed step.

Run `python bench/recovery.py`, or with `--json` for one object. See docs/design/fleet.md, "Accounting".
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from signal import SIGKILL, SIGSTOP
from statistics import median
from typing import Final

from measuring.command import Size, run
from measuring.figures import Figure, Goal, Measured, at_most, median_of, not_measured
from measuring.house import NAME, PURPOSE, RESEARCHER, BenchHouse
from measuring.texts import copy_sources
from measuring.turns import wall_s
from stoker.core.progress import SILENT
from stoker.fleet.faults import Fault, KillRank, LoseNode
from stoker.fleet.launch import start_run
from stoker.fleet.recoveries import Recovery
from stoker.fleet.summary import RunReport, read_run
from stoker.ledger.records import RunOutcome
from stoker.spec.model import ModelSpec
from stoker.spec.recipe import RecipeSpec
from stoker.spec.run import EvaluateSpec, LaunchSpec, RunSpec, TrainSpec

BENCH: Final = Path(__file__).parent
DRIVER: Final = BENCH / "measuring/peer_faults.py"
PEERS_PYTHON: Final = BENCH.parent / ".venv-peers/bin/python"
"""Made by scripts/peers.sh."""

RANKS: Final = 2
VICTIM: Final = 1
STEP_S: Final = 0.05
LIMIT_S: Final = 5.0
CHECKPOINT_EVERY: Final = 10
AFTER_CHECKPOINT: Final = 6
"""So many steps after a checkpoint, so that there is something to do again."""

FAULT_EVERY: Final = 100
BACK_AFTER: Final = 50
MEGABYTES: Final = 1
RECIPE: Final = RecipeSpec(vocabulary=512, sequence_tokens=128, chunk_log2=14, heldout_fraction=0.05)
FEW: Final = 1
"""With no more faults than this peers are left out: they take long."""

METHOD: Final = (
    "Three runs on a small prepared dataset with the real supervisor, agent and workers: 2 ranks, one "
    "thread each, a checkpoint every 10 steps, a fault every 100 steps, as soon as the next attempt waits "
    "with everything loaded (a lost node: at that step). kill: rank 1 gets SIGKILL. hang: rank 1 gets "
    "SIGSTOP, and the limit is 5 s. node: two nodes of one rank each and a spare one, all played on this "
    "machine; one is lost with its rank, and is the spare one 50 steps later. Times are from the run's "
    "own events, by the monotonic clock, from the moment the fault is ordered to the first step done by a "
    "later attempt; detected is when the supervisor knew. steps_again is how many steps were lost with "
    "each kill. import is an interpreter that imports torch and ends: what any restart that begins a "
    "process pays. Peers follow in the same run, in a network of their own: two gloo ranks with a small "
    "model, averaging gradients by one all-reduce, steps padded to 50 ms, a torch checkpoint every 10; "
    "from the signal to the end of the first step that began after it. torchrun with its shared store "
    "off, monitored every 0.1 s, 1 s to shut down, gloo's limit 5 s; its lost node is a launcher and its "
    "rank of two, with a third waiting. NVRx's launcher the same, with a heartbeat for each step, its "
    "limit 5 s, looked at every 0.5 s. torchft with two replicas, 1 s for the lighthouse to miss one, 5 s "
    "for a collective. A stopped rank ignores the polite signal that torchrun sends first, and it waits "
    "30 s. Medians and quartiles of the faults."
)


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to fail: its name in figures, the goal, and what it asks of the launch."""

    name: str
    goal: Goal
    launch: LaunchSpec

    def faults(self, count: int) -> list[Fault]:
        """So many, one every `FAULT_EVERY` steps."""
        early = CHECKPOINT_EVERY - AFTER_CHECKPOINT
        steps = [number * FAULT_EVERY - early for number in range(1, count + 1)]
        if self.name == "node":
            # The spare node takes the place of the one that is lost, which is then the spare one.
            nodes = ["local-1", "local-2"] * count
            return [LoseNode(node, step, step + BACK_AFTER) for node, step in zip(nodes, steps, strict=False)]
        number = SIGKILL if self.name == "kill" else SIGSTOP
        return [KillRank(VICTIM, step, when_loaded=True, signal=number) for step in steps]


LAUNCH: Final = LaunchSpec(
    ranks=RANKS, threads_per_rank=1, standby_after_s=0.0, hang_after_s=LIMIT_S, hang_at_least_s=LIMIT_S
)
KINDS: Final = (
    Kind("kill", at_most(0.8), LAUNCH),
    Kind("hang", at_most(6.0), LAUNCH),
    Kind("node", at_most(2.5), replace(LAUNCH, nodes=RANKS, spare_nodes=1)),
)
NO_ANSWER: Final = {
    ("torchft", "node"): "a replica is a node there: losing one is what its kill shows",
}


def run_spec(kind: Kind, count: int) -> RunSpec:
    """A run just long enough for `count` faults, with steps of some 50 ms on one core a rank."""
    return RunSpec(
        dataset=NAME,
        name=f"recovery-{kind.name}",
        purpose=PURPOSE,
        model=ModelSpec(layers=2, width=128, heads=2, kv_heads=1, ffn_width=256),
        train=replace(
            TrainSpec(),
            steps=FAULT_EVERY * (count + 1),
            global_batch=8,
            warmup_steps=2,
            checkpoint_every_steps=CHECKPOINT_EVERY,
        ),
        launch=replace(kind.launch, restarts=count + 1),
        evaluate=EvaluateSpec(heldout=False, baselines=False, sample_tokens=0),
    )


def disturbed_run(house: BenchHouse, kind: Kind, count: int) -> RunReport:
    """A run to which `count` faults of this kind are done."""
    summary = start_run(
        run_spec(kind, count),
        home=house.home,
        ledger=house.ledger,
        backend=house.backend,
        store_url=house.store_url,
        actor=RESEARCHER,
        progress=SILENT,
        clock=house.clock,
        faults=kind.faults(count),
    )
    if summary.outcome is not RunOutcome.FINISHED:
        raise SystemExit(f"the run with {kind.name} faults did not survive: {summary.error}")
    return read_run(house.home, house.ledger, summary.run)


def recoveries(report: RunReport) -> list[Recovery]:
    """Those from faults on purpose; what else failed is said on standard error."""
    for each in report.recoveries:
        if not each.injected:
            print(f"{report.name}: not on purpose: {each.sentence()}", file=sys.stderr)
    return [each for each in report.recoveries if each.injected]


def peer_pauses(peer: str, kind: Kind, count: int, folder: Path) -> list[float] | str:
    """Seconds of each pause of a peer's; a sentence where they cannot be measured."""
    if (reason := NO_ANSWER.get((peer, kind.name))) is not None:
        return reason
    if count <= FEW:
        return f"left out with {FEW} fault or fewer"
    if peer != "torchrun" and not has(peer):
        return f"{peer} is not in .venv-peers, which scripts/peers.sh makes"
    folder.mkdir()
    job = {
        "peer": peer,
        "fault": kind.name,
        "faults": count,
        "python": sys.executable if peer == "torchrun" else str(PEERS_PYTHON),
        "told": str(folder / "told"),
        "folder": str(folder),
        "step_s": STEP_S,
        "checkpoint_every": CHECKPOINT_EVERY,
        "limit_s": LIMIT_S,
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    done = subprocess.run([sys.executable, DRIVER, path], capture_output=True, text=True, check=False)
    if done.returncode == 3:
        return "no network of its own is to be had here, and it listens on every address"
    if done.returncode != 0:
        print((folder / "log").read_text(errors="replace")[-4000:], file=sys.stderr)
        return f"{peer} did not go on: {(done.stderr.strip() or 'see above').splitlines()[-1]}"
    pauses: list[float] = json.loads(done.stdout)
    return pauses


def has(peer: str) -> str | None:
    """Its version in .venv-peers; None where it is not there."""
    package = {"nvrx": "nvidia-resiliency-ext", "torchft": "torchft"}[peer]
    ask = f"from importlib.metadata import version; print(version({package!r}))"
    if not PEERS_PYTHON.exists():
        return None
    done = subprocess.run([PEERS_PYTHON, "-c", ask], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def figure_of(samples: Sequence[float] | str, goal: Goal | None = None) -> Figure:
    """The median, or why there is none."""
    return not_measured(samples, "s", goal) if isinstance(samples, str) else median_of(samples, "s", goal)


def measure(faults: int) -> Measured:
    """Seconds from each fault to its detection and to the next step; of ours, then of the peers."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        with BenchHouse(root / "home") as house:
            house.bring(copy_sources(root / "texts", MEGABYTES))
            house.approve(house.scan())
            house.prepare(RECIPE)
            reports = {kind: disturbed_run(house, kind, faults) for kind in KINDS}
        imports = [wall_s(import_torch) for _ in range(faults)]
        figures: dict[str, Figure] = {}
        for kind, report in reports.items():
            figures |= own_figures(kind, report, faults)
        figures["step_s"] = Figure(_usual_step_s(reports[KINDS[0]]), "s")
        figures["import_torch_s"] = median_of(imports, "s")
        for peer in ("torchrun", "nvrx", "torchft"):
            for kind in KINDS:
                pauses = peer_pauses(peer, kind, faults, root / f"{peer}-{kind.name}")
                figures[f"{peer}_{kind.name}_next_step_s"] = figure_of(pauses)
    versions = {"torch": version("torch")}
    versions |= {peer: found for peer in ("nvrx", "torchft") if (found := has(peer)) is not None}
    isolation = reports[KINDS[0]].isolation
    return Measured(
        figures, METHOD, versions, {"isolation": None if isolation is None else isolation.state.value}
    )


def own_figures(kind: Kind, report: RunReport, faults: int) -> dict[str, Figure]:
    """What one run of ours shows."""
    found = recoveries(report)
    if len(found) != faults:
        raise SystemExit(f"{report.name}: {len(found)} of {faults} faults came about")
    detected, ready, next_step, again = [], [], [], []
    for each in found:
        assert each.ready_s is not None and each.next_step_s is not None and each.resume_step is not None
        detected.append(each.detected_s - each.failed_s)
        ready.append(each.ready_s - each.failed_s)
        next_step.append(each.next_step_s - each.failed_s)
        again.append(float(each.step - each.resume_step))
    figures = {
        f"{kind.name}_detected_s": median_of(detected, "s"),
        f"{kind.name}_ready_s": median_of(ready, "s"),
        f"{kind.name}_next_step_s": median_of(next_step, "s", kind.goal),
    }
    return figures | ({"steps_again": median_of(again, "steps")} if kind.name == "kill" else {})


def _usual_step_s(report: RunReport) -> float:
    """The median time from one step to the next of the same attempt."""
    pairs = zip(report.steps, report.steps[1:], strict=False)
    return median(after.at_s - before.at_s for before, after in pairs if before.attempt == after.attempt)


def import_torch() -> None:
    """What every process that trains does first."""
    subprocess.run([sys.executable, "-c", "import torch"], check=True)


SIZES: Final = (Size("faults", 5, 1, "how often each fault is done"),)

if __name__ == "__main__":
    sys.exit(run("recovery", __doc__, SIZES, measure))
