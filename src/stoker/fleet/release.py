"""Whether a run's model may leave the house, and a reviewer's decision that it may although it should not.

A model that knows its data by heart is not to be released, nor one of which nobody measured that. A reviewer
can release it all the same, with a reason, one checkpoint at a time. See docs/design/exchange.md, "Leaving".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from stoker.core.canonical import JsonValue
from stoker.core.errors import ConfigError
from stoker.core.home import Home
from stoker.core.ids import RunId
from stoker.fleet.exposures import ExposureFigure
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.summary import RunReport, read_run
from stoker.intake.errors import NotAllowed
from stoker.intake.permission import require_role
from stoker.ledger.errors import LedgerUnusable
from stoker.ledger.ledger import Ledger
from stoker.ledger.permissions import Deed, roles_for
from stoker.ledger.records import AuditEntry, CheckpointRecord, RunOutcome, RunRecord
from stoker.spec.run import EvaluateSpec
from stoker.train.exchange.errors import ReleaseRefused

RELEASE_ACT: Final = "run.release"
WITHDRAW_ACT: Final = "run.release.withdraw"
MAX_REASON_CHARACTERS: Final = 2000

_ENDS: Final = ("run.start", "run.resume", "run.end")


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a run's newest checkpoint before it may leave.

    `problems`: why the model is not to be released, one sentence each; empty when it is free to go.
    """

    record: RunRecord
    report: RunReport
    checkpoint: CheckpointRecord
    events_digest: str
    problems: tuple[str, ...]

    @property
    def subject(self) -> str:
        """How the log names the run."""
        return f"run/{self.record.id}"

    def bound(self) -> dict[str, JsonValue]:
        """What a release is bound to: of another checkpoint, or after other figures, it is worth nothing."""
        return {
            "sequence": self.checkpoint.sequence,
            "step": self.checkpoint.step,
            "checkpoint_digest": self.checkpoint.digest,
            "events_sha256": self.events_digest,
        }


@dataclass(frozen=True, slots=True)
class Release:
    """A reviewer's decision that one checkpoint of a run may leave although it is not to be released."""

    kind: ClassVar[str] = "run-release"
    version: ClassVar[int] = 1

    run: str
    released: bool
    by: str
    reason: str
    step: int
    sequence: int
    checkpoint_digest: str
    problems: tuple[str, ...]


def standing_of(home: Home, ledger: Ledger, run: RunId) -> Standing | None:
    """Where the newest checkpoint of `run` stands; None when it has none.

    Every hash of the audit log is computed again first: what a model may do rests on it. Raises UnknownRun,
    BadRunFolder, LedgerUnusable when the log or a row does not hold, and ReleaseRefused when the run's events
    are not those that the log recorded at its end, for then no figure of it is known.
    """
    record = ledger.catalogue.run(run)
    checkpoints = ledger.catalogue.checkpoints(run)
    if not checkpoints:
        return None
    findings = ledger.audit.verify().findings
    if findings:
        raise LedgerUnusable(
            f"The audit log does not hold, and nothing leaves on its word: {len(findings)} findings.",
            hint="Run: stoker audit verify",
        )
    ledger.vouch(record, checkpoints[-1])
    digest = RunFolder.of(home.runs_dir, run).events_digest()
    last = ledger.audit.acts(_ENDS, f"run/{run}")[-1]
    if last.action == "run.end" and last.detail.get("events_sha256") != digest:
        raise ReleaseRefused(
            f"The events of run {run} are not those that the log recorded at its end, so nothing is known of "
            "what its model knows by heart.",
            hint="They were changed since. Restore the run's folder from a copy; stoker verify says more.",
        )
    report = read_run(home, ledger, run)
    return Standing(record, report, checkpoints[-1], digest, tuple(_problems(ledger, record, report)))


def _problems(ledger: Ledger, record: RunRecord, report: RunReport) -> Sequence[str]:
    found = []
    if record.outcome is not RunOutcome.FINISHED:
        found.append(f"the run is not finished but {record.outcome}")
    figures = {figure.dataset: figure for figure in report.exposures}
    for root in ledger.catalogue.roots_of_run(record):
        name = ledger.catalogue.dataset_of_root(root).name
        figure = figures.get(name)
        if figure is None:
            found.append(f"nobody measured whether it knows {name} by heart")
        elif is_known_by_heart(figure):
            allowed = exposure_limit(figure)
            found.append(f"it knows {name} by heart: {figure.bits:.1f} bits, and {allowed:g} are allowed")
    return found


def exposure_limit(figure: ExposureFigure) -> float:
    """The bits that a model which leaves may have: what the run's file says, and never more than by default.

    Whoever writes the run file could otherwise allow it everything.
    """
    return min(figure.limit_bits, EvaluateSpec().exposure_limit_bits)


def is_known_by_heart(figure: ExposureFigure) -> bool:
    """Whether the figure is above what a model that leaves may have."""
    return not figure.bits <= exposure_limit(figure)


def release_run(
    standing: Standing, *, reason: str, actor: str, ledger: Ledger, withdraw: bool = False
) -> Release:
    """Record `actor`'s decision that this checkpoint may leave, or that it may not any more.

    A reviewer or admin may, and never whoever started the run. Raises NotAllowed, ConfigError without a
    reason or where there is nothing to decide, and what the ledger raises.
    """
    require_role(ledger, actor, roles_for(Deed.RUN_RELEASE), "release a model")
    if actor == standing.record.started_by:
        raise NotAllowed(
            f"{actor} started run {standing.record.id} and cannot release its model.",
            hint="Let another reviewer or admin decide.",
        )
    why = reason.strip()[:MAX_REASON_CHARACTERS]
    if not why:
        raise ConfigError("A release needs a reason.", hint="Say it with --reason; it stands in the log.")
    if not withdraw and not standing.problems:
        raise ConfigError(
            f"The model of run {standing.record.id} is free to go; there is nothing to release.",
            hint=f"Run: stoker export {standing.record.id} --out FOLDER",
        )
    if withdraw and release_in_force(standing, ledger) is None:
        raise ConfigError(
            f"No release of run {standing.record.id} is in force; there is nothing to withdraw."
        )
    detail: Mapping[str, JsonValue] = {
        **standing.bound(),
        "reason": why,
        "problems": list(standing.problems),
    }
    action = WITHDRAW_ACT if withdraw else RELEASE_ACT
    with ledger.act(actor=actor, action=action, subject=standing.subject, detail=detail):
        pass
    return Release(
        standing.record.id,
        not withdraw,
        actor,
        why,
        standing.checkpoint.step,
        standing.checkpoint.sequence,
        standing.checkpoint.digest,
        standing.problems,
    )


def release_in_force(standing: Standing, ledger: Ledger) -> AuditEntry | None:
    """The decision that lets this very checkpoint leave; None when there is none, or it was taken back."""
    acts = ledger.audit.acts((RELEASE_ACT, WITHDRAW_ACT), standing.subject)
    bound = standing.bound()
    mine = [each for each in acts if all(each.detail.get(name) == value for name, value in bound.items())]
    return mine[-1] if mine and mine[-1].action == RELEASE_ACT else None


def require_releasable(standing: Standing, actor: str, ledger: Ledger) -> AuditEntry | None:
    """The release that `actor` may export under; None when the model is free to go without one.

    Raises ReleaseRefused, saying why, when it is not to be released; NotAllowed when `actor` is the one who
    released it.
    """
    if not standing.problems:
        return None
    release = release_in_force(standing, ledger)
    if release is None:
        run = standing.record.id
        raise ReleaseRefused(
            f"The model of run {run} is not to be released: {'; '.join(standing.problems)}.",
            hint=f"A reviewer can release it all the same: stoker run release {run} --reason WHY",
        )
    if release.actor == actor:
        raise NotAllowed(
            f"{actor} released the model of run {standing.record.id} and cannot take it out as well.",
            hint="Let somebody else export it.",
        )
    return release
