"""A run as a job of Slurm: what is looked at before, and what is asked for. See docs/design/slurm.md."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from stoker.core.atomic import exclusive, write_atomic
from stoker.core.config import from_plain
from stoker.core.errors import Busy
from stoker.core.ids import RunId, new_run_id
from stoker.core.slurm_settings import SlurmSettings
from stoker.fleet.errands import require_leave
from stoker.fleet.errors import LauncherRefused, NotResumable, UnknownJob
from stoker.fleet.first_weights import with_first_weights
from stoker.fleet.job_journal import append_event
from stoker.fleet.launch import live_dataset, require_layout
from stoker.fleet.launchers import OVER, JobEvent, JobOrder, JobState, Launcher
from stoker.fleet.links import links_of
from stoker.fleet.run_acts import House, begin_run
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.slurm.batch_script import batch_script
from stoker.fleet.slurm.job_folder import JobFolder, RunSubmitted, Submitted
from stoker.fleet.summary import supervisor_lock
from stoker.ledger.records import RunOutcome
from stoker.spec.run import RunSpec

KEEPER: Final = (sys.executable, "-P", "-m", "stoker.fleet.slurm.keeper")


def order_of(
    run: str, spec: RunSpec, house: House, settings: SlurmSettings, project: Path, exclude: Iterable[str] = ()
) -> JobOrder:
    """What is asked of Slurm for a run; `exclude` are nodes to keep off beside those of the settings."""
    folder = JobFolder.of(house.home.runs_dir, RunId(run))
    words = ("--run", run, "--home", str(house.home.root), "--as", house.actor)
    return JobOrder(
        name=f"stoker-{run}",
        comment=f"stoker run {run}",
        command=(*KEEPER, *words),
        folder=project,
        log=folder.log,
        cpus=max(1, spec.launch.ranks // spec.launch.nodes * spec.launch.threads_per_rank),
        nodes=spec.launch.nodes,
        time_limit_minutes=settings.time_limit_minutes,
        early_s=settings.early_s,
        spare_nodes=settings.spare_nodes + spec.launch.spare_nodes,
        exclude=(*settings.exclude, *exclude),
        switches=settings.switches,
        switches_wait_minutes=settings.switches_wait_minutes,
        partition=settings.partition,
        account=settings.account,
        options=settings.options,
    )


def submit_run(
    spec: RunSpec,
    house: House,
    launcher: Launcher,
    settings: SlurmSettings,
    project: Path,
    origins: Mapping[str, str],
    exclude: Iterable[str] = (),
) -> RunSubmitted:
    """Begin a run that a job is to train: permission, folder, key and record as for one that trains here.

    Devices and isolation are those of the node, so they are looked at there. Raises what `start_run` raises
    before a run begins, LauncherRefused and LauncherSilent; a run that Slurm did not take can be submitted
    again with `stoker run resume`.
    """
    batch_script(order_of("r-00000000000000000000", spec, house, settings, project, exclude))
    datasets = tuple(live_dataset(house.ledger, name, house.clock) for name in spec.datasets)
    spread = spec.launch.nodes + spec.launch.spare_nodes + settings.spare_nodes > 1
    links = links_of(house.store_url, spec.launch.links, os.environ, spread=spread)
    require_leave(house.ledger, datasets, spec.purpose, house.clock, run=spec.name, links=links)
    require_layout(spec, datasets)
    spec, first_weights = with_first_weights(spec, datasets)
    run = new_run_id(house.clock)
    with exclusive(supervisor_lock(house.home, run), f"run {run}"):
        begin_run(house, run, spec, datasets, origins, first_weights)
    RunFolder.of(house.home.runs_dir, run).events.touch(mode=0o600)
    return _submit(run, spec, house, launcher, settings, project, exclude)


def submit_again(
    run: RunId,
    house: House,
    launcher: Launcher,
    settings: SlurmSettings,
    project: Path,
    exclude: Iterable[str] = (),
) -> RunSubmitted:
    """Have a job go on with a run that has begun, wherever that was.

    Raises UnknownRun, NotResumable, Busy while it has a supervisor or a job, and as `submit_run` does.
    """
    record = house.ledger.catalogue.run(run)
    if record.outcome is RunOutcome.FINISHED:
        raise NotResumable(f"Run {run} is finished.", hint="Start a new run with `stoker train`.")
    if not RunFolder.of(house.home.runs_dir, run).run_file.exists():
        raise NotResumable(
            f"The folder of run {run} is not in {house.home.runs_dir}.",
            hint="Go on where it was started, or restore its folder.",
        )
    with exclusive(supervisor_lock(house.home, run), f"run {run}"):
        require_no_job(run, house, launcher)
    spec = from_plain(RunSpec, dict(record.spec), f"the ledger's record of run {run}")
    return _submit(run, spec, house, launcher, settings, project, exclude)


def require_no_job(run: RunId, house: House, launcher: Launcher) -> None:
    """Raise Busy while a job of the run waits or runs, and what `launcher.job` raises but UnknownJob."""
    known = JobFolder.of(house.home.runs_dir, run).submitted()
    if known is None:
        return
    try:
        view = launcher.job(known.job)
    except UnknownJob:
        return
    if view.state not in OVER:
        raise Busy(
            f"Run {run} has job {known.job} of {launcher.name}, which is {view.state}.",
            hint=f"Wait for it, or end it first: scancel {known.job}",
        )


def _submit(
    run: RunId,
    spec: RunSpec,
    house: House,
    launcher: Launcher,
    settings: SlurmSettings,
    project: Path,
    exclude: Iterable[str],
) -> RunSubmitted:
    order = order_of(run, spec, house, settings, project, exclude)
    folder = JobFolder.of(house.home.runs_dir, run).make()
    write_atomic(folder.script, batch_script(order).encode())
    try:
        job = launcher.submit(order)
    except LauncherRefused as error:
        error.hint = f"{error.hint} The run waits: stoker run resume {run} --on slurm".lstrip()
        raise
    now_s = house.clock.now_s()
    folder.record(Submitted(job, now_s))
    append_event(folder.journal, JobEvent(now_s, job, JobState.WAITING))
    return RunSubmitted(run, launcher.name, job, str(folder.script), str(folder.log))
