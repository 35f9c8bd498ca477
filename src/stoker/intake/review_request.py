"""What a request for review says, byte for byte: its terms, its policy, its digest, and what is signed of it.

See docs/design/intake.md, "Review". Requests, decisions and the gate are in stoker.intake.review.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from stoker.core.canonical import JsonValue, canonical_json, digest_of
from stoker.core.config import from_plain
from stoker.core.errors import ConfigError
from stoker.core.ids import ReviewId
from stoker.core.result import plain
from stoker.intake.errors import ReviewTampered
from stoker.ledger.records import ReviewRecord, ReviewTermsRecord
from stoker.spec.policy import PolicySpec, policy_table
from stoker.spec.terms import NO_TERMS, ReviewTerms

REQUEST_FORMAT: Final = "stoker review request 1"
"""Of requests without a row of terms, as they were made before there were terms."""

REQUEST_FORMAT_WITH_TERMS: Final = "stoker review request 2"
DECISION_FORMAT: Final = "stoker review decision 1"


def policy_digest(policy: PolicySpec) -> str:
    """Names a policy by what it does to each kind, in whatever words it is written; 64 hex digits."""
    return digest_of(policy_table(policy))


def terms_row(
    review: ReviewId, terms: ReviewTerms, policy: PolicySpec, answers: ReviewId | None
) -> ReviewTermsRecord:
    """What the ledger keeps of a request beside its own fields: the terms, the policy, what it answers."""
    asked: dict[str, JsonValue] = {
        "terms": plain(terms),
        "policy": policy_table(policy),
        "answers": answers or "",
    }
    return ReviewTermsRecord(review, asked)


def terms_in(row: ReviewTermsRecord | None) -> ReviewTerms:
    """The terms of a request; no bound where it has none. Raises ConfigError for what is no terms."""
    if row is None:
        return NO_TERMS
    return from_plain(ReviewTerms, row.terms.get("terms"), f"the terms of {row.review}")


def policy_in(row: ReviewTermsRecord | None) -> Mapping[str, str]:
    """What becomes of each kind by its word, as far as the ledger was told; kinds that stay are absent.

    Raises ReviewTampered for what is no policy.
    """
    table = row.terms.get("policy") if row is not None else None
    if row is None or not isinstance(table, Mapping):
        return {}
    redact, others = table.get("redact", []), table.get("kinds", {})
    if not isinstance(redact, list) or not isinstance(others, Mapping):
        raise ReviewTampered(
            f"What the ledger keeps of the policy of review {row.review} is none.",
            hint="It was changed outside Stoker. Run: stoker audit verify.",
        )
    return {**{str(kind): "mask" for kind in redact}, **{str(key): str(word) for key, word in others.items()}}


def name_model_in(row: ReviewTermsRecord | None) -> bool:
    """Whether a preparation under this request treats what only the name model sees."""
    table = row.terms.get("policy") if row is not None else None
    return isinstance(table, Mapping) and table.get("name_model") is True


def answers_in(row: ReviewTermsRecord | None) -> str:
    """The review that asked for the changes that this request answers; empty where there is none."""
    return str(row.terms.get("answers", "")) if row is not None else ""


def request_digest(review: ReviewRecord, row: ReviewTermsRecord | None = None) -> str:
    """What the request's own fields and terms hash to; a row whose `request_digest` differs was changed."""
    fields: dict[str, JsonValue] = {
        "format": REQUEST_FORMAT if row is None else REQUEST_FORMAT_WITH_TERMS,
        "id": review.id,
        "source": review.source,
        "source_version": review.source_version,
        "manifest_root": review.manifest_root,
        "scan_digest": review.scan_digest,
        "policy_digest": review.policy_digest,
        "purpose": review.purpose,
        "requested_by": review.requested_by,
        "requested_s": review.requested_s,
        "expires_s": review.expires_s,
    }
    if row is not None:
        fields["asked"] = dict(row.terms)
    return digest_of(fields)


def request_fault(review: ReviewRecord, row: ReviewTermsRecord | None) -> str | None:
    """What shows that the request is not the one that was made; None when nothing does."""
    if review.request_digest != request_digest(review, row):
        return "its fields do not hash to its request digest"
    if row is None:
        return None
    if digest_of(row.terms.get("policy")) != review.policy_digest:
        return "the policy that it shows is not the one that it names"
    try:
        terms_in(row)
    except ConfigError:
        return "its terms are none"
    return None


def review_digest(review: ReviewRecord) -> bytes:
    """32 bytes for stream headers: they bind sealed data to this request, whatever becomes of it later."""
    return bytes.fromhex(review.request_digest)


def decision_message(review: ReviewRecord) -> bytes:
    """What the decider signs: the request's digest and the verdict with its author, time and reason."""
    return canonical_json(
        {
            "format": DECISION_FORMAT,
            "id": review.id,
            "request_digest": review.request_digest,
            "verdict": review.state.value,
            "decided_by": review.decided_by,
            "decided_s": review.decided_s,
            "reason": review.reason,
        }
    )
