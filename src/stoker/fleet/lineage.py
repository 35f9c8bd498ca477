"""Where a run's data came from: dataset, source, review and recipe, by names and digests, from the ledger."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.core.config import from_plain
from stoker.core.ids import ReviewId, VersionId
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetRecord, RunRecord
from stoker.spec.run import RunSpec


@dataclass(frozen=True, slots=True)
class MixedIn:
    """A further dataset of the run's mixture, by names and digests, and its share of the samples."""

    weight: float
    dataset: str
    dataset_version: VersionId
    dataset_root: str
    dataset_kek: str
    source: str
    source_version: VersionId
    source_root: str
    recipe_digest: str
    review: ReviewId
    decided_by: str | None


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where the run's data came from, by names and digests.

    Most are of the run's one dataset, or of the first part of its mixture, which gives `weight` of the
    samples; the other parts are `mixed_with`.
    """

    dataset: str
    dataset_version: VersionId
    dataset_root: str
    dataset_kek: str
    source: str
    source_version: VersionId
    source_root: str
    recipe_digest: str
    review: ReviewId
    requested_by: str
    decided_by: str | None
    purpose: str
    run_kek: str
    weight: float = 1.0
    mixed_with: tuple[MixedIn, ...] = ()


def lineage_of(ledger: Ledger, record: RunRecord) -> Lineage:
    """Where the data of a run came from. Raises UnknownDataset and UnknownReview."""
    dataset, *others = (
        ledger.catalogue.dataset_of_root(root) for root in ledger.catalogue.roots_of_run(record)
    )
    weights = _weights(record) if others else {}
    review = ledger.catalogue.review(record.review)
    return Lineage(
        dataset=dataset.name,
        dataset_version=dataset.version,
        dataset_root=dataset.root,
        dataset_kek=dataset.kek,
        source=dataset.source,
        source_version=dataset.source_version,
        source_root=dataset.source_root,
        recipe_digest=dataset.recipe_digest,
        review=review.id,
        requested_by=review.requested_by,
        decided_by=review.decided_by,
        purpose=review.purpose,
        run_kek=record.kek,
        weight=weights.get(dataset.name, 1.0),
        mixed_with=tuple(_mixed_in(ledger, each, weights.get(each.name, 0.0)) for each in others),
    )


def _weights(record: RunRecord) -> dict[str, float]:
    """The weight of each dataset of the run's mixture; empty when it reads one."""
    spec = from_plain(RunSpec, dict(record.spec), f"the ledger's record of run {record.id}")
    return {part.dataset: part.weight for part in spec.mixture}


def _mixed_in(ledger: Ledger, dataset: DatasetRecord, weight: float) -> MixedIn:
    return MixedIn(
        weight=weight,
        dataset=dataset.name,
        dataset_version=dataset.version,
        dataset_root=dataset.root,
        dataset_kek=dataset.kek,
        source=dataset.source,
        source_version=dataset.source_version,
        source_root=dataset.source_root,
        recipe_digest=dataset.recipe_digest,
        review=dataset.review,
        decided_by=ledger.catalogue.review(dataset.review).decided_by,
    )
