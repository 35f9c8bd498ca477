"""What `--on slurm` means for `stoker train` and `stoker run resume`, and `stoker fleet watch`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.table import pairs
from stoker.core.errors import EXIT_FINDING
from stoker.core.ids import RunId
from stoker.core.node import is_node
from stoker.fleet.errors import LauncherSilent
from stoker.fleet.slurm.job_folder import RunSubmitted
from stoker.ledger.records import RunOutcome
from stoker.spec.run import RunSpec

if TYPE_CHECKING:
    from stoker.fleet.run_acts import House as RunHouse
    from stoker.fleet.slurm.launcher import SlurmLauncher
    from stoker.fleet.slurm.watch import Deed as Done

PLACES = click.Choice(["local", "slurm"])


@dataclass(frozen=True, slots=True)
class RunScript:
    """The batch script that would be submitted; RUN stands for the run's id."""

    kind: ClassVar[str] = "run_script"
    version: ClassVar[int] = 1

    script: str


@dataclass(frozen=True, slots=True)
class Watched:
    """What was done for the jobs of runs, oldest first."""

    kind: ClassVar[str] = "fleet_watched"
    version: ClassVar[int] = 1

    deeds: tuple[Done, ...]


def submitted_text(submitted: RunSubmitted) -> str:
    """A run that was submitted, for the one who did."""
    return pairs(
        [
            ("run", submitted.run),
            ("job", f"{submitted.job} of {submitted.launcher}"),
            ("script", submitted.script),
            ("output", submitted.log),
            ("look with", f"stoker run show {submitted.run}"),
        ]
    )


def _launcher(house: House) -> SlurmLauncher:
    from stoker.fleet.slurm.launcher import SlurmLauncher

    return SlurmLauncher(house.clock, {**os.environ, "STOKER_HOME": str(house.home.root)})


def _for_runs(house: House) -> RunHouse:
    """What a run needs of the house."""
    from stoker.fleet.run_acts import House as RunHouse

    parts = (house.home, house.ledger, house.backend, house.store_url, house.actor)
    return RunHouse(*parts, house.progress, house.clock)


def script_of(house: House, spec: RunSpec) -> RunScript:
    """The script that `--on slurm` would submit; nothing is looked at and nothing begun."""
    from stoker.fleet.slurm.batch_script import batch_script
    from stoker.fleet.slurm.submission import order_of

    order = order_of("RUN", spec, _for_runs(house), house.settings.slurm, Path.cwd(), _excluded(house))
    return RunScript(batch_script(order))


def train_on_slurm(house: House, spec: RunSpec, origins: dict[str, str]) -> RunSubmitted:
    """Begin a run and submit its job."""
    from stoker.fleet.slurm.submission import submit_run

    slurm, excluded = house.settings.slurm, _excluded(house)
    return submit_run(spec, _for_runs(house), _launcher(house), slurm, Path.cwd(), origins, excluded)


def resume_on_slurm(house: House, run: RunId) -> RunSubmitted:
    """Submit a job that goes on with a run."""
    from stoker.fleet.slurm.submission import submit_again

    slurm, excluded = house.settings.slurm, _excluded(house)
    return submit_again(run, _for_runs(house), _launcher(house), slurm, Path.cwd(), excluded)


def require_no_other_job(house: House, run: RunId) -> None:
    """Raise Busy while a job of the run waits or runs, unless this is that job.

    A Slurm that is absent or silent keeps nobody from going on here: the supervisor's lock still does.
    """
    from stoker.fleet.slurm.job_folder import JobFolder
    from stoker.fleet.slurm.submission import require_no_job

    known = JobFolder.of(house.home.runs_dir, run).submitted()
    if known is None or known.job == os.environ.get("SLURM_JOB_ID"):
        return
    try:
        require_no_job(run, _for_runs(house), _launcher(house))
    except LauncherSilent:
        return


def _excluded(house: House) -> Sequence[str]:
    """Slurm's names of the nodes on the list that launchers leave out; none where Slurm cannot be asked."""
    from stoker.fleet.nodes.lemon_list import judge

    listed = judge(house.ledger, (), now_s=house.clock.now_s()).excluded
    if not listed:
        return ()
    try:
        known = [each.name for each in _launcher(house).nodes()]
    except LauncherSilent:
        return ()
    return [name for name in known if any(is_node(each, name) for each in listed)]


@command(
    "watch",
    needs=Deed.RUN_RESUME,
    text=lambda watched: "\n".join(deed_line(each) for each in watched.deeds),
    exit_code=lambda watched: EXIT_FINDING if any(each.failed for each in watched.deeds) else 0,
)
@click.option("--seconds", type=click.FloatRange(min=0.0), help="Watch for so long, not until Ctrl-C.")
def watch(house: House, seconds: float | None) -> Watched:
    """Look after the jobs of this home's runs: requeue at once, and off nodes that are lost.

    Exit code 1 when something that was to be done could not be.
    """
    from stoker.fleet.slurm.launcher import require_slurm
    from stoker.fleet.slurm.watch import LOOK_EVERY_S, JobWatch

    require_slurm()
    after_s = house.settings.slurm.lost_after_s
    jobs = JobWatch(
        house.home.runs_dir, _launcher(house), lambda run: _over(house, run), after_s, house.clock
    )
    deeds: list[Done] = []
    until_s = float("inf") if seconds is None else house.clock.monotonic_s() + seconds
    silent = False
    try:
        while house.clock.monotonic_s() < until_s or (not deeds and seconds == 0):
            try:
                for deed in jobs.look():
                    deeds.append(deed)
                    click.echo(deed_line(deed), err=True)
                silent = False
            except LauncherSilent as error:
                if not silent:
                    click.echo(f"warning: {error.message}", err=True)
                silent = True
            if seconds == 0:
                break
            house.clock.sleep(LOOK_EVERY_S)
    except KeyboardInterrupt:
        click.echo("stopped watching; jobs go on", err=True)
    return Watched(tuple(deeds))


def deed_line(deed: Done) -> str:
    """What was done, in a line."""
    when = time.strftime("%H:%M:%S", time.localtime(deed.at_s))
    failed = f" FAILED: {deed.failed}" if deed.failed else ""
    at = f" on {deed.node}" if deed.node else ""
    return f"{when} run {deed.run} job {deed.job}{at}: {deed.care}, since {deed.reason}{failed}"


def _over(house: House, run: RunId) -> bool:
    """Whether a run needs no job: finished or failed. One that left a node is cancelled, and needs it."""
    return house.ledger.catalogue.run(run).outcome in (RunOutcome.FINISHED, RunOutcome.FAILED)


@click.group()
def fleet() -> None:
    """The fleet: look after the jobs of runs."""


fleet.add_command(watch)
