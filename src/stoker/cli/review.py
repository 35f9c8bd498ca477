"""`stoker review`: scan a source, ask for its use, decide, revoke."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.review_scan import examples, scan
from stoker.cli.review_table import table_
from stoker.cli.table import day, pairs, short, table
from stoker.core.config import load, read_layer
from stoker.core.ids import ReviewId
from stoker.intake.names_model import MODEL
from stoker.intake.policy.gate import worst_recall
from stoker.intake.prepare import recipe_digest
from stoker.intake.review import ask_changes, bind_scan, decide_review, request_review, revoke_review
from stoker.intake.review_gate import facts_of
from stoker.intake.review_machine import Standing, standing
from stoker.intake.review_request import answers_in, name_model_in, policy_in, terms_in
from stoker.intake.scan_report import read_report
from stoker.ledger.records import ReviewRecord
from stoker.spec.recipe import RecipeSpec
from stoker.spec.terms import NO_TERMS, Protection, ReviewTerms

_DAY_S = 86_400.0
_LEAST_DIGEST = 16


@dataclass(frozen=True, slots=True)
class ReviewRow:
    """One review. `request_digest` is what the decider signs; times are seconds since the Unix epoch.

    `policy` says what becomes of each kind, as far as the ledger was told; kinds that stay are absent.
    `name_model`: what only the name model sees is treated too. `answers` is the review whose changes this
    request makes. `expired`: it was approved, and its time is over.
    """

    id: str
    source: str
    source_version: str
    manifest_root: str
    scan_digest: str
    policy_digest: str
    purpose: str
    requested_by: str
    expires_s: float
    request_digest: str
    state: str
    decided_by: str | None
    decided_s: float | None
    reason: str | None
    terms: ReviewTerms = NO_TERMS
    policy: Mapping[str, str] = field(default_factory=dict)
    answers: str = ""
    name_model: bool = False
    expired: bool = False


@dataclass(frozen=True, slots=True)
class Reviews:
    """The reviews concerned, oldest first."""

    kind: ClassVar[str] = "reviews"
    version: ClassVar[int] = 1
    reviews: tuple[ReviewRow, ...]


def _row(house: House, review: ReviewRecord) -> ReviewRow:
    asked = house.ledger.catalogue.review_terms(review.id)
    return ReviewRow(
        review.id,
        review.source,
        review.source_version,
        review.manifest_root,
        review.scan_digest,
        review.policy_digest,
        review.purpose,
        review.requested_by,
        review.expires_s,
        review.request_digest,
        review.state,
        review.decided_by,
        review.decided_s,
        review.reason,
        terms_in(asked),
        policy_in(asked),
        answers_in(asked),
        name_model_in(asked),
        standing(facts_of(review), house.clock.now_s()) is Standing.EXPIRED,
    )


def _state(row: ReviewRow) -> str:
    return row.state.replace("_", " ") + (", expired" if row.expired else "")


def _list_text(result: Reviews) -> str:
    rows = [
        (
            row.id,
            row.source,
            row.purpose,
            _state(row),
            row.requested_by,
            row.decided_by or "-",
            day(row.expires_s),
        )
        for row in result.reviews
    ]
    return table(("review", "source", "purpose", "state", "requested by", "decided by", "until"), rows)


def review_text(result: Reviews) -> str:
    """One review in full."""
    (row,) = result.reviews
    return pairs(
        [
            ("review", row.id),
            (
                "source",
                f"{row.source}, version {row.source_version[:8]}, manifest {short(row.manifest_root)}",
            ),
            ("purpose", row.purpose),
            *_terms_lines(row.terms),
            *_policy_lines(row.policy, row.name_model),
            *([("answers", row.answers)] if row.answers else []),
            ("state", _state(row)),
            ("requested by", row.requested_by),
            ("decided by", f"{row.decided_by} at {day(row.decided_s)}" if row.decided_by else "-"),
            ("reason", row.reason or "-"),
            ("in force until", day(row.expires_s)),
            ("scan report", row.scan_digest or "none yet"),
            ("request digest", row.request_digest),
        ]
    )


def _terms_lines(terms: ReviewTerms) -> list[tuple[str, object]]:
    bounds: list[tuple[str, object]] = []
    if terms.recipes:
        bounds.append(("only recipes", ", ".join(short(each) for each in terms.recipes)))
    if terms.runs:
        bounds.append(("only runs", ", ".join(terms.runs)))
    if terms.least_protection is not Protection.NONE:
        bounds.append(("links at least", terms.least_protection.value))
    if terms.least_recall > 0.0:
        bounds.append(("recall at least", f"{terms.least_recall:.3f}, of planted canaries, by every kind"))
    return bounds


def _policy_lines(policy: Mapping[str, str], name_model: bool) -> list[tuple[str, object]]:
    words = sorted(set(policy.values()))
    lines = [(word, ", ".join(sorted(kind for kind in policy if policy[kind] == word))) for word in words]
    if not lines:
        return []
    used = f"{MODEL}: what only it sees is treated too" if name_model else "not used: what only it sees stays"
    return [*lines, ("name model", used)]


@click.group()
def review() -> None:
    """Scan a source; request, decide and revoke its use."""


@command("request", needs=Deed.REVIEW_REQUEST, text=review_text)
@click.argument("source")
@click.option("--purpose", required=True, help="What the source is to be used for, as a name.")
@click.option("--days", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True)
@click.option("--recipe", type=click.Path(path_type=Path), help="Take the policy of this recipe file.")
@click.option("--only-recipe", is_flag=True, help="Ask for the recipe of --recipe and no other.")
@click.option("--only-run", multiple=True, metavar="NAME", help="Ask for runs of this name only; repeatable.")
@click.option(
    "--least-protection",
    type=click.Choice([each.value for each in Protection]),
    default=Protection.NONE.value,
    show_default=True,
    help="How well the links of a run are protected at least.",
)
@click.option(
    "--least-recall",
    type=click.FloatRange(0.0, 1.0),
    default=0.0,
    show_default=True,
    help="The share of planted canaries that the scan must have found, of every kind that is treated.",
)
@click.option("--answers", metavar="REVIEW", help="The review whose changes are made now.")
@click.option("--before-scan", is_flag=True, help="Ask now; the scan becomes part of the request later.")
def request(
    house: House,
    source: str,
    purpose: str,
    days: float,
    recipe: Path | None,
    only_recipe: bool,
    only_run: tuple[str, ...],
    least_protection: str,
    least_recall: float,
    answers: str | None,
    before_scan: bool,
) -> Reviews:
    """Ask for leave to use SOURCE. Its scan is part of the request."""
    if only_recipe and recipe is None:
        raise click.UsageError("--only-recipe takes --recipe.")
    spec = RecipeSpec() if recipe is None else load(RecipeSpec, [read_layer(recipe)]).value
    record = house.ledger.catalogue.latest_source(source)
    scan_digest = "" if before_scan else read_report(record, backend=house.backend, store=house.store).digest
    asked = request_review(
        record,
        scan_digest,
        spec.policy,
        purpose=purpose,
        requested_by=house.actor,
        valid_s=days * _DAY_S,
        ledger=house.ledger,
        clock=house.clock,
        terms=ReviewTerms(
            recipes=(_digest_of(house, spec),) if only_recipe else (),
            runs=only_run,
            least_protection=Protection(least_protection),
            least_recall=least_recall,
        ),
        answers=None if answers is None else ReviewId(answers),
    )
    return Reviews((_row(house, asked),))


def _digest_of(house: House, recipe: RecipeSpec) -> str:
    """The digest that a preparation by this recipe would have now, with the tokenizer that it borrows."""
    lender = recipe.tokenizer_of and house.ledger.catalogue.latest_dataset(recipe.tokenizer_of).root
    return recipe_digest(recipe, lender)


@command("bind", needs=Deed.REVIEW_SCAN, text=review_text)
@click.argument("review_id", metavar="REVIEW")
def bind(house: House, review_id: str) -> Reviews:
    """Make the scan of the source part of REVIEW, which was asked for before the scan."""
    asked = house.ledger.catalogue.review(ReviewId(review_id))
    record = house.ledger.catalogue.latest_source(asked.source)
    report = read_report(record, backend=house.backend, store=house.store)
    bound = bind_scan(
        asked.id, report.digest, source=record, by=house.actor, ledger=house.ledger, clock=house.clock
    )
    return Reviews((_row(house, bound),))


def _shown(house: House, review_id: str, digest: str | None) -> str:
    """The digest of the request that the caller was shown: given, or confirmed on a terminal."""
    review = house.ledger.catalogue.review(ReviewId(review_id))
    if digest is None:
        if house.as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise click.UsageError(
                "--digest is needed where nobody can be asked: the request digest that `stoker review show` "
                "shows. A decision is on exactly the request that was looked at."
            )
        click.echo(review_text(Reviews((_row(house, review),))), err=True)
        digest = str(click.prompt("To decide this, type the first 16 digits of its digest", err=True))
    if len(digest) >= _LEAST_DIGEST and review.request_digest.startswith(digest.lower()):
        return review.request_digest
    return digest


def _decide(house: House, review_id: str, reason: str, digest: str | None, *, approve: bool) -> Reviews:
    shown = _shown(house, review_id, digest) if approve or digest is not None else None
    decided = decide_review(
        ReviewId(review_id),
        approve=approve,
        reason=reason,
        decided_by=house.actor,
        ledger=house.ledger,
        backend=house.backend,
        clock=house.clock,
        shown=shown,
        recall=_recall(house, ReviewId(review_id)) if approve else None,
    )
    return Reviews((_row(house, decided),))


def _recall(house: House, review_id: ReviewId) -> float | None:
    """The worst recall in the scan report that the request names, where its terms ask for one."""
    asked = house.ledger.catalogue.review_terms(review_id)
    if terms_in(asked).least_recall <= 0.0:
        return None
    review = house.ledger.catalogue.review(review_id)
    versions = house.ledger.catalogue.sources(review.source)
    record = next(each for each in versions if each.version == review.source_version)
    report = read_report(record, backend=house.backend, store=house.store, digest=review.scan_digest)
    return worst_recall(report.recall, policy_in(asked))


_digest_option = click.option(
    "--digest", metavar="HEX", help="The request digest that was shown; at least its first 16 digits."
)


@command("approve", needs=Deed.REVIEW_DECIDE, text=review_text)
@click.argument("review_id", metavar="REVIEW")
@_digest_option
@click.option("--reason", default="", help="Why, for the record.")
def approve(house: House, review_id: str, digest: str | None, reason: str) -> Reviews:
    """Allow what REVIEW asks for, signed with your key. Refused to the one who asked."""
    return _decide(house, review_id, reason, digest, approve=True)


@command("deny", needs=Deed.REVIEW_DECIDE, text=review_text)
@click.argument("review_id", metavar="REVIEW")
@_digest_option
@click.option("--reason", default="", help="Why, for the record.")
def deny(house: House, review_id: str, digest: str | None, reason: str) -> Reviews:
    """Refuse what REVIEW asks for, signed with your key."""
    return _decide(house, review_id, reason, digest, approve=False)


@command("changes", needs=Deed.REVIEW_DECIDE, text=review_text)
@click.argument("review_id", metavar="REVIEW")
@_digest_option
@click.option("--reason", required=True, help="What has to change.")
def changes(house: House, review_id: str, digest: str | None, reason: str) -> Reviews:
    """Ask for changes instead of deciding; another request answers with --answers REVIEW."""
    asked = ask_changes(
        ReviewId(review_id),
        reason=reason,
        decided_by=house.actor,
        ledger=house.ledger,
        backend=house.backend,
        clock=house.clock,
        shown=None if digest is None else _shown(house, review_id, digest),
    )
    return Reviews((_row(house, asked),))


@command("revoke", needs=Deed.REVIEW_REVOKE, text=review_text)
@click.argument("review_id", metavar="REVIEW")
@click.option("--reason", default="", help="Why, for the record.")
def revoke(house: House, review_id: str, reason: str) -> Reviews:
    """Take back an approval, or withdraw a request."""
    revoked = revoke_review(
        ReviewId(review_id),
        reason=reason,
        revoked_by=house.actor,
        ledger=house.ledger,
        backend=house.backend,
        clock=house.clock,
    )
    return Reviews((_row(house, revoked),))


@command("show", needs=Deed.LOOK, text=review_text)
@click.argument("review_id", metavar="REVIEW")
def show(house: House, review_id: str) -> Reviews:
    """One review in full."""
    return Reviews((_row(house, house.ledger.catalogue.review(ReviewId(review_id))),))


@command("ls", needs=Deed.LOOK, text=_list_text)
def ls(house: House) -> Reviews:
    """Every review, oldest first."""
    return Reviews(tuple(_row(house, each) for each in house.ledger.catalogue.reviews()))


for each in (scan, examples, table_, request, bind, approve, deny, changes, revoke, show, ls):
    review.add_command(each)
