"""`stoker prepare`: an approved source becomes a sealed dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.dataset import shown
from stoker.cli.table import day, pairs
from stoker.core.config import Layer, load, read_layer
from stoker.intake.executors import Executor
from stoker.intake.executors.local import LocalExecutor
from stoker.intake.executors.ray import RayExecutor
from stoker.intake.executors.remote import Site
from stoker.intake.executors.slurm import SlurmExecutor, batch_script, job_name
from stoker.intake.prepare import PrepareReport, prepare_dataset
from stoker.spec.recipe import RecipeSpec


def prepare_text(report: PrepareReport) -> str:
    """Whether it was made or found, its root, and what is in it."""
    record = report.record
    figures = record.figures
    lines = [
        ("dataset", f"{record.name}, version {record.version[:8]}"),
        ("made", _made(report)),
        ("root", record.root),
        ("key", record.kek),
        ("expires", day(record.expires_s)),
        *((name.replace("_", " "), shown(value)) for name, value in figures.items()),
    ]
    if report.seconds:
        took = ", ".join(
            f"{name.replace('_', ' ')} {seconds:.1f} s" for name, seconds in report.seconds.items()
        )
        lines.append(("time", took))
    lines += [("network", f"{room.state} on {room.node}: {room.reason}") for room in report.rooms]
    if report.unfinished_removed:
        lines.append(("cleaned", f"{report.unfinished_removed} unfinished preparations of this dataset"))
    return pairs(lines)


def _made(report: PrepareReport) -> str:
    if report.found:
        return "found, nothing to do"
    return "now, from where it was interrupted" if report.resumed else "now"


@dataclass(frozen=True, slots=True)
class PrepareScript:
    """The batch script of a job array, as it would be submitted."""

    kind: ClassVar[str] = "prepare-script"
    version: ClassVar[int] = 1

    script: str


def _text(result: PrepareReport | PrepareScript) -> str:
    return result.script if isinstance(result, PrepareScript) else prepare_text(result)


@command("prepare", needs=Deed.DATASET_PREPARE, text=_text)
@click.argument("name")
@click.option("--source", required=True, help="The source to prepare; its newest version is taken.")
@click.option("--purpose", required=True, help="The purpose that a review allows.")
@click.option("--recipe", type=click.Path(path_type=Path), help="A TOML file with the recipe.")
@click.option(
    "--on",
    type=click.Choice(["local", "slurm", "ray"]),
    default="local",
    show_default=True,
    help="Where its tasks run.",
)
@click.option(
    "--tasks",
    type=click.IntRange(1, 10_000),
    help="At most so many worker processes, job array elements or Ray tasks at once.",
)
@click.option("--fresh", is_flag=True, help="Remove an unfinished preparation instead of going on with it.")
@click.option(
    "--reseal", is_flag=True, help="Make another version under new keys, also where one is there already."
)
@click.option("--dry-run", is_flag=True, help="With --on slurm: print the batch script and do nothing.")
@click.argument("overrides", nargs=-1)
def prepare(
    house: House,
    name: str,
    source: str,
    purpose: str,
    recipe: Path | None,
    on: str,
    tasks: int | None,
    fresh: bool,
    reseal: bool,
    dry_run: bool,
    overrides: tuple[str, ...],
) -> PrepareReport | PrepareScript:
    """Prepare dataset NAME: judge, redact, tokenise, pack, split, seal. Finds what was prepared before.

    A preparation that was interrupted is gone on with. OVERRIDES are recipe values such as vocabulary=2048.
    """
    if dry_run and on != "slurm":
        raise click.UsageError("--dry-run prints a batch script, so it takes --on slurm.")
    layers: list[Layer] = [] if recipe is None else [read_layer(recipe)]
    spec = load(RecipeSpec, layers, overrides).value
    executor = _executor(house, on, tasks)
    if dry_run:
        return PrepareScript(_script(house, tasks or SLURM_ELEMENTS))
    return prepare_dataset(
        name,
        source,
        spec,
        purpose=purpose,
        actor=house.actor,
        ledger=house.ledger,
        backend=house.backend,
        store=house.store,
        progress=house.progress,
        clock=house.clock,
        locks=house.home.locks_dir,
        executor=executor,
        fresh=fresh,
        reseal=reseal,
    )


LOCAL_PROCESSES: Final = 2
SLURM_ELEMENTS: Final = 4
RAY_BLOCKS: Final = 2


def _executor(house: House, on: str, tasks: int | None) -> Executor:
    site = Site(house.home.root, Path.cwd())
    if on == "slurm":
        return SlurmExecutor(site, house.clock, tasks or SLURM_ELEMENTS)
    if on == "ray":
        return RayExecutor(site, tasks or RAY_BLOCKS)
    return LocalExecutor(tasks or LOCAL_PROCESSES)


def _script(house: House, elements: int) -> str:
    """The script where each element has one task; VERSION and PHASE stand for what is not known."""
    job = house.home.root / "tasks" / "VERSION" / "PHASE.json"
    return batch_script(job, job_name("VERSION"), elements, 1, elements)
