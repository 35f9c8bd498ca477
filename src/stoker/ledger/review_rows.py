"""Reviews in the catalogue: requests, their terms, and what became of them. See docs/design/ledger.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from stoker.core.ids import ReviewId
from stoker.ledger import rows, schema
from stoker.ledger.errors import LedgerRefused, UnknownReview, nearest_hint
from stoker.ledger.records import ReviewRecord, ReviewState, ReviewTermsRecord
from stoker.ledger.token_rows import TokenRows

_DECIDED: Final = frozenset(
    {ReviewState.APPROVED, ReviewState.DENIED, ReviewState.CHANGES_ASKED, ReviewState.REVOKED}
)

REVIEW_STEPS: Final[Mapping[ReviewState, frozenset[ReviewState]]] = {
    ReviewState.REQUESTED: _DECIDED | {ReviewState.SCANNED},
    ReviewState.SCANNED: _DECIDED,
    ReviewState.APPROVED: frozenset({ReviewState.REVOKED}),
    ReviewState.DENIED: frozenset(),
    ReviewState.CHANGES_ASKED: frozenset(),
    ReviewState.REVOKED: frozenset(),
}
"""Which state of a review may follow which; intake decides when, the catalogue refuses anything else."""

_REQUEST_FIELDS: Final = (
    "source",
    "source_version",
    "manifest_root",
    "scan_digest",
    "policy_digest",
    "purpose",
    "requested_by",
    "requested_s",
    "expires_s",
    "request_digest",
)
_BOUND_BY_A_SCAN: Final = frozenset({"scan_digest", "request_digest"})


class ReviewRows(TokenRows):
    """The part of the catalogue that holds reviews."""

    def put_review(self, record: ReviewRecord, terms: ReviewTermsRecord | None = None) -> None:
        """Record a request with its terms, or the next state of one.

        Raises LedgerRefused when the source version is not recorded, when anything but state and decision
        would change (a request that is scanned may gain its scan once), when the state may not follow the
        recorded one, or when terms come later than their request.
        """
        table = schema.review
        values = rows.to_row(record)
        row = self._one(table, table.c.id == record.id)
        if row is None:
            self._need(schema.source, "source", name=record.source, version=record.source_version)
            self._insert(table, values)
            if terms is not None:
                self._insert(schema.review_terms, rows.to_row(terms))
            return
        before = self._record(rows.review_of, row)
        scanned = record.state is ReviewState.SCANNED and not before.scan_digest
        changed = [
            name
            for name in _REQUEST_FIELDS
            if getattr(before, name) != getattr(record, name) and not (scanned and name in _BOUND_BY_A_SCAN)
        ]
        if changed or terms is not None:
            raise LedgerRefused(
                f"Review {record.id} cannot change its {', '.join(changed) or 'terms'}.",
                hint="Request a new review.",
            )
        if record.state not in REVIEW_STEPS[before.state]:
            raise LedgerRefused(
                f"Review {record.id} is {before.state}; it cannot become {record.state}.",
                hint="Request a new review.",
            )
        self._update(table, {"id": record.id}, values)

    def review(self, id: ReviewId) -> ReviewRecord:
        """The review of that id. Raises UnknownReview."""
        row = self._one(schema.review, schema.review.c.id == id)
        if row is None:
            raise UnknownReview(
                f"There is no review {id[:80]!a}.",
                hint=nearest_hint(id, self._column(schema.review.c.id), "stoker review ls"),
            )
        return self._record(rows.review_of, row)

    def review_terms(self, id: ReviewId) -> ReviewTermsRecord | None:
        """What the request of that id says beside its own fields; None for one of before there were terms."""
        row = self._one(schema.review_terms, schema.review_terms.c.review == id)
        return None if row is None else self._record(rows.review_terms_of, row)

    def reviews(self, source: str | None = None) -> tuple[ReviewRecord, ...]:
        """Every review, or those of one source; newest last."""
        table = schema.review
        where = () if source is None else (table.c.source == source,)
        return self._many(table, rows.review_of, *where)
