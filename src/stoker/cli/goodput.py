"""`stoker goodput`: where the time of runs went, how often they failed, and what was to be expected."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar, Final

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.goodput_text import goodput_text
from stoker.core.errors import StokerError
from stoker.core.events import read_events
from stoker.core.ids import RunId
from stoker.fleet.errors import BadRunFolder
from stoker.fleet.fleet_account import FleetGoodput, RunTime, fleet_goodput, run_time
from stoker.fleet.goodput_metrics import goodput_prometheus
from stoker.fleet.job_journal import read_journal
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.slurm.job_folder import JobFolder
from stoker.ledger.records import RunRecord

_UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}


@dataclass(frozen=True, slots=True)
class GoodputMetrics:
    """The same figures in Prometheus' text format."""

    kind: ClassVar[str] = "goodput-metrics"
    version: ClassVar[int] = 1
    text: str


def _text(found: FleetGoodput | GoodputMetrics) -> str:
    return found.text if isinstance(found, GoodputMetrics) else goodput_text(found)


def duration_s(text: str) -> float:
    """`90s`, `30m`, `12h`, `7d` or `2w` in seconds. Raises click's UsageError."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([smhdw])", text.strip())
    if found is None:
        raise click.UsageError(f"--since is {text[:40]!r}; give a number and s, m, h, d or w, such as 7d.")
    return float(found[1]) * _UNITS_S[found[2]]


@command("goodput", needs=Deed.LOOK, text=_text)
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--fleet", is_flag=True, help="Of all runs of this home together.")
@click.option("--since", metavar="TIME", help="Only what was spent in the last 90s, 30m, 12h, 7d or 2w.")
@click.option("--prometheus", is_flag=True, help="In Prometheus' text format.")
def goodput(
    house: House, run_id: str | None, fleet: bool, since: str | None, prometheus: bool
) -> FleetGoodput | GoodputMetrics:
    """Where the time of RUN, or with --fleet of all runs, went; failures; ETTR beside formulas."""
    if (run_id is None) != fleet:
        raise click.UsageError("Name a run, or give --fleet for all of them.")
    since_s = None if since is None else house.clock.now_s() - duration_s(since)
    if run_id is not None:
        record = house.ledger.catalogue.run(RunId(run_id))
        found = fleet_goodput([_time_of(house, record, since_s)], since_s=since_s)
    else:
        times, skipped = [], []
        for record in house.ledger.catalogue.runs():
            if since_s is not None and record.ended_s is not None and record.ended_s < since_s:
                continue
            try:
                times.append(_time_of(house, record, since_s))
            except StokerError as error:
                skipped.append(f"{record.id}: {error.message}")
        found = fleet_goodput(times, since_s=since_s, skipped=skipped)
    return GoodputMetrics(goodput_prometheus(found)) if prometheus else found


def _time_of(house: House, record: RunRecord, since_s: float | None) -> RunTime:
    path = RunFolder.of(house.home.runs_dir, record.id).events
    try:
        events = read_events(path).events
    except FileNotFoundError as error:
        raise BadRunFolder(
            f"{path} is not there.",
            hint="The run was started on another machine, or its folder was removed; restore it.",
        ) from error
    jobs = read_journal(JobFolder.of(house.home.runs_dir, record.id).journal)
    return run_time(record.id, record.name, events, -math.inf if since_s is None else since_s, jobs)
