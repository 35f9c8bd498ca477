"""What has to hold at the end of a campaign, and its tables."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from stoker.core.errors import StokerError
from stoker.core.events import Event, EventKind, read_events
from stoker.fleet.run_folder import RunFolder
from stoker.keys.partition import BackendKeySource
from stoker.promises.promise import Standing
from stoker.spec.job import CommitRef
from stoker.train.commit_store import read_commit
from support.chaos.campaign import CALM, STORMY, Campaign, Fate, living
from support.chaos.house import open_chaos_home, run_called

ENOUGH_ATTRIBUTED: Final = 0.95
"""Of a short campaign's failures, where each is more than the rest of this, one may be put down wrongly."""
_RANKS: Final = 2
_REFUSALS: Final = frozenset({"fenced", "store-unreachable", "lease-refused", "agent-lost", "secret-wiped"})


def findings(campaign: Campaign) -> list[str]:
    """Everything that does not hold; empty when the run went through all of it unharmed."""
    campaign.site.places.clock.write_text("0")
    wrong = [f"a process is left behind: {pid}" for pid in sorted(living())]
    wrong += _attribution(campaign.fates)
    wrong += [
        f"an orphan could {deed}: {came}"
        for orphan in campaign.orphans
        for deed, came in orphan.items()
        if came not in _REFUSALS
    ]
    wrong += _left_files(campaign.site.places.disk)
    with open_chaos_home(campaign.site.places) as home:
        runs = {name: run_called(home.ledger, name) for name in (CALM, STORMY)}
        folders = {name: RunFolder.of(home.home.runs_dir, run) for name, run in runs.items()}
        calm, stormy = (read_events(folders[name].events).events for name in (CALM, STORMY))
        wrong += differing_losses(calm, stormy, campaign.steps)
        batches = _digests(folders[CALM], calm), _digests(folders[STORMY], stormy)
        wrong += differing_batches(*batches, campaign.steps)
        objects = campaign.objects(home, BackendKeySource(home.backend))
        for each in home.ledger.catalogue.checkpoints(runs[STORMY]):
            try:
                read_commit(objects, CommitRef(each.sequence, each.step, each.digest))
            except StokerError as error:
                wrong.append(f"the checkpoint of step {each.step} cannot be read: {error.message}")
        for promise in home.verify(4, 6).promises:
            if promise.standing is not Standing.KEPT:
                seen = "; ".join(f"{each.tried}: {each.seen}" for each in promise.checks if not each.held)
                wrong.append(f"promise {promise.number} is {promise.standing}: {seen or promise.missing}")
    return wrong


def _attribution(fates: Iterable[Fate]) -> Iterator[str]:
    failed = [fate for fate in fates if fate.failed]
    right = sum(fate.attributed for fate in failed)
    wrong = len(failed) - right
    if wrong > max(1, (1.0 - ENOUGH_ATTRIBUTED) * len(failed)):
        yield f"{right} of {len(failed)} failures were put down to their cause"


def _standing(events: Iterable[Event]) -> dict[int, Event]:
    """The step events that stand, by step: those that were told last."""
    steps = (event for event in events if event.kind is EventKind.STEP and event.rank == 0)
    return {int(event.number("step")): event for event in steps}


def differing_losses(calm: Iterable[Event], stormy: Iterable[Event], steps: int) -> Iterator[str]:
    undisturbed, found = _standing(calm), _standing(stormy)
    if set(undisturbed) != set(range(1, steps + 1)) or set(found) != set(undisturbed):
        yield f"steps that were done: {len(found)} of {steps}; undisturbed {len(undisturbed)}"
        return
    other = [step for step in found if found[step].number("loss") != undisturbed[step].number("loss")]
    if other:
        first = min(other)
        now, before = found[first].number("loss"), undisturbed[first].number("loss")
        yield f"{len(other)} steps have another loss than undisturbed; step {first} {now}, not {before}"


def differing_batches(
    undisturbed: dict[tuple[int, int], str], found: dict[tuple[int, int], str], steps: int
) -> Iterator[str]:
    """Every rank trained on the same rows in each step that stands, as without any fault."""
    if len(undisturbed) != steps * _RANKS:
        yield f"batches are known of {len(undisturbed)} shares of {steps} steps"
    other = sorted(place for place in undisturbed | found if undisturbed.get(place) != found.get(place))
    if other:
        yield f"{len(other)} shares of batches are others than undisturbed, the first of step {other[0][0]}"


def _digests(folder: RunFolder, events: Iterable[Event]) -> dict[tuple[int, int], str]:
    """By step and rank the digest of what was trained on, in the attempt whose step stands."""
    found = {}
    noted: dict[int, dict[tuple[int, int], str]] = {}
    for step, event in _standing(events).items():
        if event.attempt not in noted:
            noted[event.attempt] = _noted(folder.attempt(event.attempt))
        for rank in range(_RANKS):
            if (step, rank) in noted[event.attempt]:
                found[step, rank] = noted[event.attempt][step, rank]
    return found


def _noted(attempt: Path) -> dict[tuple[int, int], str]:
    found = {}
    for rank in range(_RANKS):
        path = attempt / f"batches-{rank}.jsonl"
        for line in path.read_text().splitlines() if path.exists() else ():
            told = json.loads(line)
            found[told["step"], rank] = told["digest"]
    return found


def _left_files(disk: Path) -> Iterator[str]:
    """What was begun and neither finished nor removed."""
    for path in sorted(disk.rglob("*")):
        if path.name.endswith((".tmp", ".part")) and "attempt-" not in str(path):
            yield f"a file is half-written: {path.relative_to(disk)}"


def tables(campaign: Campaign) -> str:
    """What happened to each kind of fault, and what failures were put down to."""
    lines = [f"{'fault':20} {'count':>5} {'failed':>6} {'resumed':>7} {'median s':>8} {'attributed':>10}"]
    by_kind: dict[str, list[Fate]] = defaultdict(list)
    for fate in campaign.fates:
        by_kind[fate.kind.name].append(fate)
    for name, fates in sorted(by_kind.items()):
        failed = [fate for fate in fates if fate.failed]
        right = f"{sum(fate.attributed for fate in failed)}/{len(failed)}" if failed else "-"
        median_s = statistics.median(fate.lost_s for fate in fates)
        resumed = sum(fate.resumes for fate in fates)
        lines.append(f"{name:20} {len(fates):5} {len(failed):6} {resumed:7} {median_s:8.1f} {right:>10}")
    failed = [fate for fate in campaign.fates if fate.failed]
    right_count = sum(fate.attributed for fate in failed)
    lines.append(f"{right_count} of {len(failed)} failed faults attributed to their cause")
    lines += ["", "put down to (kind/component), by fault:"]
    confusion: Counter[tuple[str, str]] = Counter()
    for fate in campaign.fates:
        for told in fate.told:
            confusion[fate.kind.name, f"{told.cause[0]}/{told.cause[1]}"] += 1
    for told in campaign.unprovoked:
        confusion["(none)", f"{told.cause[0]}/{told.cause[1]}"] += 1
    lines += [f"  {name:20} {cause:34} {count:4}" for (name, cause), count in sorted(confusion.items())]
    cut = campaign.story.cut_lines
    lines.append(
        f"{campaign.missed} victims were gone; {len(campaign.orphans)} orphans refused; {cut} lines were cut"
    )
    return "\n".join(lines)
