"""`stoker run release`: a reviewer lets a model go that is not to be released."""

from __future__ import annotations

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.table import pairs, short
from stoker.core.errors import StokerError
from stoker.core.ids import RunId
from stoker.fleet.release import Release, Standing, release_run, standing_of


class NothingToExport(StokerError):
    """The run has no committed checkpoint, so there is no model to take out or to release."""

    exit_code = 177


def release_text(release: Release) -> str:
    """What was decided of which checkpoint."""
    what = "released" if release.released else "release withdrawn"
    rows: list[tuple[str, object]] = [
        (what, f"run {release.run}, checkpoint of step {release.step} ({short(release.checkpoint_digest)})"),
        ("by", release.by),
        ("reason", release.reason),
        *(("although", problem) for problem in release.problems if release.released),
    ]
    return pairs(rows)


@command("release", needs=Deed.RUN_RELEASE, text=release_text)
@click.argument("run_id", metavar="RUN")
@click.option("--reason", required=True, help="Why; it stands in the log and on the card that leaves.")
@click.option("--withdraw", is_flag=True, help="Take the release back.")
def release(house: House, run_id: str, reason: str, withdraw: bool) -> Release:
    """Let RUN's newest checkpoint leave although it is not to be released.

    A reviewer or admin may, and never whoever started the run. It holds for this checkpoint only.
    """
    return release_run(
        newest_standing(house, run_id),
        reason=reason,
        actor=house.actor,
        ledger=house.ledger,
        withdraw=withdraw,
    )


def newest_standing(house: House, run_id: str) -> Standing:
    """Where the newest checkpoint of a run stands. Raises NothingToExport, and as `standing_of` does."""
    standing = standing_of(house.home, house.ledger, RunId(run_id))
    if standing is None:
        raise NothingToExport(
            f"Run {run_id} has no committed checkpoint.",
            hint="Let it train until one is saved; train.checkpoint_every_steps says when.",
        )
    return standing
