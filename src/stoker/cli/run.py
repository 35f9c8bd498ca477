"""`stoker train` and `stoker run`: start a run, look at it, draw it, go on with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.release import release
from stoker.cli.run_on import (
    PLACES,
    RunScript,
    require_no_other_job,
    resume_on_slurm,
    script_of,
    submitted_text,
    train_on_slurm,
)
from stoker.cli.run_text import report_text, summary_text
from stoker.cli.table import day, short, table
from stoker.core.config import from_plain, load, read_layer
from stoker.core.errors import MissingExtra
from stoker.core.events import read_events
from stoker.core.ids import RunId
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.slurm.job_folder import RunSubmitted
from stoker.fleet.summary import RunReport, RunSummary, read_run
from stoker.ledger.records import RunOutcome
from stoker.spec.configured import under_layers
from stoker.spec.run import RunSpec


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run. Times are seconds since the Unix epoch."""

    id: str
    name: str
    dataset: str
    dataset_root: str
    review: str
    started_by: str
    started_s: float
    ended_s: float | None
    outcome: str


@dataclass(frozen=True, slots=True)
class Runs:
    """Every run, oldest first."""

    kind: ClassVar[str] = "runs"
    version: ClassVar[int] = 1
    runs: tuple[RunRow, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Where a run's page was written."""

    kind: ClassVar[str] = "run-page"
    version: ClassVar[int] = 1
    path: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures in Prometheus' text format, or the folder where event files were written."""

    kind: ClassVar[str] = "run-metrics"
    version: ClassVar[int] = 1
    text: str
    folder: str


def _runs_text(result: Runs) -> str:
    rows = [
        (
            row.id,
            row.name,
            row.dataset,
            short(row.dataset_root),
            row.outcome,
            day(row.started_s),
            row.started_by,
        )
        for row in result.runs
    ]
    return table(("run", "name", "dataset", "root", "outcome", "started", "by"), rows)


def require_torch() -> None:
    """Raise MissingExtra, naming the remedy, when training's packages are not installed."""
    from importlib.util import find_spec

    missing = [
        name for name in ("torch", "safetensors", "tensorboard", "tokenizers") if find_spec(name) is None
    ]
    if missing:
        raise MissingExtra(
            f"Training needs {', '.join(missing)}, which are not installed.",
            hint="Run: pip install '.[train]' in Stoker's clone",
        )


def _text(result: RunSummary | RunSubmitted | RunScript) -> str:
    if isinstance(result, RunScript):
        return result.script
    return submitted_text(result) if isinstance(result, RunSubmitted) else summary_text(result)


def _failed(summary: RunSummary | RunSubmitted | RunScript) -> int:
    """The exit code of what ended the run: the rank's own error code, or 1; 0 for what is only submitted."""
    if not isinstance(summary, RunSummary):
        return 0
    if summary.outcome is RunOutcome.FINISHED:
        return 0
    if summary.outcome is RunOutcome.CANCELLED:
        return 3
    return summary.error.exit_code if summary.error is not None and summary.error.exit_code else 1


@command("train", needs=Deed.RUN_START, text=_text, exit_code=_failed)
@click.argument("run_file", type=click.Path(path_type=Path))
@click.option("--on", type=PLACES, default="local", show_default=True, help="Where it trains.")
@click.option("--dry-run", is_flag=True, help="With --on slurm: print the batch script and do nothing.")
@click.argument("overrides", nargs=-1)
def train(
    house: House, run_file: Path, on: str, dry_run: bool, overrides: tuple[str, ...]
) -> RunSummary | RunSubmitted | RunScript:
    """Train what RUN_FILE says, and keep the run alive. OVERRIDES are values such as train.steps=200.

    With --on slurm a job does it, and this command ends when Slurm has taken it.
    """
    from stoker.fleet.launch import start_run

    loaded = load(RunSpec, under_layers([read_layer(run_file)], overrides), overrides)
    if dry_run and on != "slurm":
        raise click.UsageError("--dry-run prints a batch script, so it takes --on slurm.")
    if dry_run:
        return script_of(house, loaded.value)
    if on == "slurm":
        return train_on_slurm(house, loaded.value, dict(loaded.origins))
    require_torch()
    return start_run(
        loaded.value,
        home=house.home,
        ledger=house.ledger,
        backend=house.backend,
        store_url=house.store_url,
        actor=house.actor,
        progress=house.progress,
        clock=house.clock,
        failures_per_1000_node_days=house.settings.fleet.failures_per_1000_node_days,
        origins=loaded.origins,
    )


@click.group()
def run() -> None:
    """Runs: list, show, report, resume, release."""


@command("ls", needs=Deed.LOOK, text=_runs_text)
def ls(house: House) -> Runs:
    """Every run, oldest first."""
    return Runs(
        tuple(
            RunRow(
                each.id,
                each.name,
                each.dataset,
                each.dataset_root,
                each.review,
                each.started_by,
                each.started_s,
                each.ended_s,
                each.outcome,
            )
            for each in house.ledger.catalogue.runs()
        )
    )


@command("show", needs=Deed.LOOK, text=report_text)
@click.argument("run_id", metavar="RUN")
def show(house: House, run_id: str) -> RunReport:
    """What became of RUN: losses, recoveries, time by kind, evaluations, lineage."""
    return read_run(house.home, house.ledger, RunId(run_id))


@command("report", needs=Deed.LOOK, text=lambda page: page.path)
@click.argument("run_id", metavar="RUN")
@click.option("--out", type=click.Path(path_type=Path), help="Write here instead of the run's folder.")
def report(house: House, run_id: str, out: Path | None) -> Page:
    """Write RUN's page: one file that needs nothing else."""
    from stoker.web.report import write_report

    path = write_report(read_run(house.home, house.ledger, RunId(run_id)), house.home, out)
    return Page(str(path), path.stat().st_size)


@command("metrics", needs=Deed.LOOK, text=lambda found: found.text)
@click.argument("run_id", metavar="RUN")
@click.option(
    "--format",
    "form",
    type=click.Choice(("prometheus", "tensorboard", "wandb")),
    default="prometheus",
    show_default=True,
    help="Text for Prometheus, or files anew.",
)
@click.option("--out", type=click.Path(path_type=Path), help="The folder of the files.")
def metrics(house: House, run_id: str, form: str, out: Path | None) -> Metrics:
    """RUN's figures for other tools. While it trains, event files are written into its folder `curves`."""
    from stoker.fleet.curves import prometheus_text, write_curves
    from stoker.fleet.wandb_log import wandb_run, write_wandb

    report = read_run(house.home, house.ledger, RunId(run_id))
    events = read_events(RunFolder.of(house.home.runs_dir, report.run).events).events
    if form == "prometheus":
        return Metrics(prometheus_text(report.run, events), "")
    if out is None:
        raise click.UsageError(f"--format {form} needs --out, the folder of the files.")
    if form == "wandb":
        record = house.ledger.catalogue.run(report.run)
        spec = from_plain(RunSpec, dict(record.spec), f"the ledger's record of run {report.run}")
        count = write_wandb(events, out, wandb_run(report.run, spec))
    else:
        require_torch()
        count = write_curves(events, out)
    return Metrics(f"{count} figures in {out}", str(out))


@command("resume", needs=Deed.RUN_RESUME, text=_text, exit_code=_failed)
@click.argument("run_id", metavar="RUN")
@click.option("--on", type=PLACES, default="local", show_default=True, help="Where it goes on.")
@click.option("--forgive", is_flag=True, help="Count no failure of before: its cause was mended.")
def resume(house: House, run_id: str, on: str, forgive: bool) -> RunSummary | RunSubmitted:
    """Go on with RUN from its last checkpoint: after it was cancelled, failed or lost its supervisor."""
    from stoker.fleet.launch import resume_run

    if on == "slurm":
        if forgive:
            raise click.UsageError("--forgive is for --on local; forgive there, then submit it.")
        return resume_on_slurm(house, RunId(run_id))
    require_torch()
    require_no_other_job(house, RunId(run_id))
    return resume_run(
        RunId(run_id),
        home=house.home,
        ledger=house.ledger,
        backend=house.backend,
        store_url=house.store_url,
        actor=house.actor,
        progress=house.progress,
        clock=house.clock,
        failures_per_1000_node_days=house.settings.fleet.failures_per_1000_node_days,
        forgive=forgive,
    )


for each in (ls, show, report, metrics, resume, release):
    run.add_command(each)
