"""What the card of an exported model says, gathered from the ledger and the run's events.

See docs/design/exchange.md, "The card".
"""

from __future__ import annotations

from collections.abc import Sequence

import stoker
from stoker.fleet.first_weights import digest_on_record
from stoker.fleet.release import Standing, exposure_limit, is_known_by_heart
from stoker.intake.review_gate import terms_of
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetRecord, ReviewRecord
from stoker.train.exchange.card import Card, CardDataset, CardFigure


def card_of(
    standing: Standing,
    leave: Sequence[tuple[DatasetRecord, ReviewRecord]],
    *,
    form: str,
    dtype: str,
    parameters: int,
    vocabulary: int,
    released: str,
    ledger: Ledger,
    exported_s: float,
) -> Card:
    """The card of a run's newest checkpoint; `leave` are its datasets, each with the review for it."""
    record, report = standing.record, standing.report
    lineage = report.lineage
    weights = {lineage.dataset: lineage.weight, **{each.dataset: each.weight for each in lineage.mixed_with}}
    return Card(
        run=record.id,
        run_name=record.name,
        spec_digest=record.spec_digest,
        events_digest=standing.events_digest,
        checkpoint_sequence=standing.checkpoint.sequence,
        checkpoint_step=standing.checkpoint.step,
        checkpoint_digest=standing.checkpoint.digest,
        steps_planned=report.steps_planned,
        code_version=f"stoker {stoker.__version__}",
        form=form,
        dtype=dtype,
        parameters=parameters,
        vocabulary=vocabulary,
        exported_s=exported_s,
        datasets=tuple(
            _dataset(standing, dataset, review, weights.get(dataset.name, 0.0), ledger)
            for dataset, review in leave
        ),
        figures=tuple(
            CardFigure(each.name, each.bits_per_byte)
            for each in report.evaluations
            if each.bits_per_byte is not None
        ),
        released=released,
        first_weights=digest_on_record(ledger, record.id),
    )


def exposure_sentence(standing: Standing, dataset: str) -> str:
    """Whether the model knows the dataset's canary by heart, as the end of a sentence."""
    figure = next((each for each in standing.report.exposures if each.dataset == dataset), None)
    if figure is None:
        return "not measured"
    verdict = "yes, above" if is_known_by_heart(figure) else "no, within"
    return f"{verdict} {exposure_limit(figure):g} bits: {figure.bits:.1f} of 128 measured"


def _dataset(
    standing: Standing, dataset: DatasetRecord, review: ReviewRecord, weight: float, ledger: Ledger
) -> CardDataset:
    return CardDataset(
        name=dataset.name,
        version=dataset.version,
        root=dataset.root,
        weight=weight,
        source=dataset.source,
        source_version=dataset.source_version,
        source_root=dataset.source_root,
        recipe_digest=dataset.recipe_digest,
        policy_digest=review.policy_digest,
        review=review.id,
        purpose=review.purpose,
        review_expires_s=review.expires_s,
        terms=terms_of(ledger, review),
        exposure=exposure_sentence(standing, dataset.name),
    )
