"""Who may look at, take out, end or clear away a dataset, and under which review.

Training and preparing ask for a review; looking and exporting ask for a role as well. See
docs/design/intake.md, "Life of a dataset".
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock, iso_utc
from stoker.core.errors import StokerError
from stoker.intake.errors import DatasetEnded, NotAllowed, OtherPolicy
from stoker.intake.review_gate import Use, require_review, review_in_force
from stoker.ledger.ledger import Ledger
from stoker.ledger.permissions import Deed, roles_for
from stoker.ledger.records import (
    DatasetRecord,
    DatasetState,
    IdentityRecord,
    ReviewRecord,
    Role,
    SourceRecord,
)

EXPORT_PURPOSE: Final = "export"
"""The purpose of a review that lets one person take a dataset out in plain."""

MAY_SAMPLE: Final = roles_for(Deed.DATASET_SAMPLE)
"""Rows of a dataset are the words of people: only deciders look at them, and that is recorded."""

MAY_SEE_EXAMPLES: Final = roles_for(Deed.REVIEW_EXAMPLES)
MAY_SEE_FILES: Final = roles_for(Deed.REVIEW_SCAN)
MAY_EXPORT: Final = roles_for(Deed.DATASET_EXPORT)
MAY_EXPIRE: Final = roles_for(Deed.DATASET_EXPIRE)
"""Beside whoever prepared the dataset."""

MAY_COLLECT: Final = roles_for(Deed.DATASET_COLLECT)
"""Collecting removes only what nobody can open any more; an auditor changes nothing."""


def require_role(ledger: Ledger, actor: str, roles: Collection[Role], deed: str) -> IdentityRecord:
    """The identity `actor` when its role is one of `roles`, and the audit log vouches for that.

    `deed` is a phrase such as "look at samples". Raises UnknownIdentity, NotAllowed, LedgerUnusable.
    """
    identity = ledger.catalogue.identity(actor)
    if identity.role not in roles:
        allowed = ", ".join(role.value for role in Role if role in roles)
        raise NotAllowed(
            f"{identity.name} is {identity.role} and may not {deed}.",
            hint=f"This takes a role of: {allowed}.",
        )
    ledger.vouch(identity)
    return identity


def record_view(ledger: Ledger, actor: str, source: SourceRecord, scan_digest: str) -> None:
    """Let `actor` look at the examples of a scan report: lines of raw data around what is masked in them.

    It takes the role of those who decide, and is in the audit log before anything is shown. Raises
    NotAllowed, and what writing the log raises.
    """
    require_role(ledger, actor, MAY_SEE_EXAMPLES, "look at examples of a scan")
    detail: dict[str, JsonValue] = {"version": source.version, "scan_digest": scan_digest}
    with ledger.act(actor=actor, action="review.examples", subject=f"source/{source.name}", detail=detail):
        pass


def require_usable(record: DatasetRecord, clock: Clock) -> None:
    """Raise DatasetEnded unless the dataset is live and its time is not over."""
    about = f"Dataset {record.name} ({record.version[:12]})"
    again = "Prepare it again from its source; a review of the source must be in force."
    if record.state is not DatasetState.LIVE:
        what = (
            "is destroyed" if record.state is DatasetState.DESTROYED else "is over, and its objects are gone"
        )
        raise DatasetEnded(f"{about} {what}.", hint=again)
    if clock.now_s() >= record.expires_s:
        raise DatasetEnded(f"{about} expired at {iso_utc(record.expires_s)}.", hint=again)


def source_of(ledger: Ledger, dataset: DatasetRecord) -> SourceRecord | None:
    """The very source version that the dataset was prepared from, as far as the ledger knows it."""
    return next(
        (
            source
            for source in ledger.catalogue.sources(dataset.source)
            if source.version == dataset.source_version and source.manifest_root == dataset.source_root
        ),
        None,
    )


def require_permission(
    ledger: Ledger, dataset: DatasetRecord, purpose: str, clock: Clock, run: str = ""
) -> ReviewRecord:
    """The review that lets this dataset be used for `purpose` now, by the run of that name if any.

    It is the newest review in force of the very bytes that the dataset was prepared from whose terms allow
    its recipe and the run, when it approves the policy that the dataset was prepared under; else the
    dataset's own. Raises what intake's `require_review` and `review_in_force` raise.
    """
    own = ledger.catalogue.review(dataset.review)
    source = source_of(ledger, dataset)
    use = Use(recipe=dataset.recipe_digest, run=run)
    if source is not None:
        newest = require_review(ledger, source, purpose, clock, use)
        if newest.policy_digest == own.policy_digest:
            return newest
    return review_in_force(ledger, dataset.review, purpose, clock, use)


def require_export(ledger: Ledger, dataset: DatasetRecord, actor: str, clock: Clock) -> ReviewRecord:
    """The review that lets `actor`, and nobody else, take this dataset out in plain now.

    Its purpose is `export`; `actor` asked for it and somebody else approved it, for the very bytes and the
    policy that the dataset was prepared from and under. Raises NotAllowed when leave was given to somebody
    else only, OtherPolicy, and what `require_review` raises.
    """
    source = source_of(ledger, dataset)
    if source is None:
        raise NotAllowed(
            f"The source version that dataset {dataset.name} was prepared from is not in this ledger.",
            hint="Export where the source was imported and reviewed.",
        )
    own = ledger.catalogue.review(dataset.review)
    asked = [
        review
        for review in reversed(ledger.catalogue.reviews(source.name))
        if review.purpose == EXPORT_PURPOSE
        and review.source_version == source.version
        and review.manifest_root == source.manifest_root
    ]
    mine = [review for review in asked if review.requested_by == actor]
    refusals: list[StokerError] = []
    for review in mine:
        if review.policy_digest != own.policy_digest:
            refusals.append(_other_policy(review, dataset))
            continue
        try:
            return review_in_force(ledger, review.id, EXPORT_PURPOSE, clock)
        except StokerError as refusal:
            refusals.append(refusal)
    if refusals:
        raise refusals[0]
    if asked:
        holders = ", ".join(sorted({review.requested_by for review in asked}))
        raise NotAllowed(
            f"Leave to export {source.name} was asked for by {holders}, not by {actor}.",
            hint=f"Run: stoker review request {source.name} --purpose {EXPORT_PURPOSE}",
        )
    return require_review(ledger, source, EXPORT_PURPOSE, clock)  # raises, and says what is missing


def _other_policy(review: ReviewRecord, dataset: DatasetRecord) -> OtherPolicy:
    return OtherPolicy(
        f"Review {review.id} approved another policy than the one that dataset {dataset.name} was prepared "
        "under.",
        hint="Request a review for export with the recipe of this dataset.",
    )
