"""Who uses a KEK, and whom its end concerns: read from the ledger. See docs/design/keys.md, "Life of a key".

A scope names one thing, and the epochs of a scope are keys of the same thing: so people and runs are found by
scope, whatever epoch a record names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from stoker.keys.refs import KekRef
from stoker.ledger.catalogue import Catalogue
from stoker.ledger.records import DatasetRecord, ReviewRecord, ReviewState, RunOutcome, RunRecord

MayLive: TypeAlias = Callable[[RunRecord], bool]
"""Whether processes of a run may exist now; the floors above know more than its record says."""


@dataclass(frozen=True, slots=True)
class People:
    """Whom the end of a KEK concerns: who brought the data or began the run, and who approved its use."""

    owner: str | None = None
    reviewer: str | None = None


def recorded_as_running(run: RunRecord) -> bool:
    """What the record alone says. A run whose supervisor died stays recorded as running until it is ended."""
    return run.outcome is RunOutcome.RUNNING


def live_runs(catalogue: Catalogue, ref: KekRef, may_live: MayLive = recorded_as_running) -> tuple[str, ...]:
    """The ids of runs that may be using the KEK now: they read its dataset, or it seals their checkpoints."""
    return tuple(
        str(run.id)
        for run in catalogue.runs()
        if may_live(run) and (_is_of(run.kek, ref) or _reads(catalogue, run, ref))
    )


def datasets_of(catalogue: Catalogue, ref: KekRef) -> tuple[DatasetRecord, ...]:
    """The datasets that an epoch of the KEK's scope sealed."""
    return tuple(each for each in catalogue.datasets() if _is_of(each.kek, ref))


def people_by_scope(catalogue: Catalogue) -> dict[str, People]:
    """For every scope that the ledger knows, whom its keys concern."""
    reviews = {review.id: review for review in catalogue.reviews()}
    decided: dict[tuple[str, str], str] = {}
    for review in reviews.values():
        if review.state is ReviewState.APPROVED and review.decided_by is not None:
            decided[review.source, str(review.source_version)] = review.decided_by
    people: dict[str, People] = {}
    for source in catalogue.sources():
        reviewer = decided.get((source.name, str(source.version)))
        people[_scope(source.kek)] = People(source.imported_by, reviewer)
    for dataset in catalogue.datasets():
        people[_scope(dataset.kek)] = People(dataset.prepared_by, _decider(reviews.get(dataset.review)))
    for run in catalogue.runs():
        people[_scope(run.kek)] = People(run.started_by, _decider(reviews.get(run.review)))
    return people


def _reads(catalogue: Catalogue, run: RunRecord, ref: KekRef) -> bool:
    roots = catalogue.roots_of_run(run)
    return any(_is_of(catalogue.dataset_of_root(root).kek, ref) for root in roots)


def _is_of(kek: str, ref: KekRef) -> bool:
    return _scope(kek) == ref.scope


def _scope(kek: str) -> str:
    return kek.partition("#")[0]


def _decider(review: ReviewRecord | None) -> str | None:
    return None if review is None else review.decided_by
