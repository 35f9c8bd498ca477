"""A sweep of the keys: warns, retires, carries out destructions whose window is over, proves deaths.

What is due is decided by `sweep_plan`, from facts that are gathered here. See docs/design/keys.md, "Sweep".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock, iso_utc
from stoker.core.errors import StokerError
from stoker.keys.backend import KeyBackend
from stoker.keys.death import Replica, prove_death, recorded_proofs
from stoker.keys.destruction import carry_out_destruction
from stoker.keys.refs import KekRef
from stoker.keys.rewrap import without_moves
from stoker.keys.states import KekState
from stoker.keys.sweep_plan import (
    About,
    CarryOut,
    KeyFacts,
    Notice,
    Prove,
    Retire,
    SweepInstruction,
    Warn,
    imminent,
    plan_sweep,
)
from stoker.keys.users import People, people_by_scope
from stoker.ledger.ledger import Ledger

WARN_ACT: Final = "key.warn"
RETIRE_ACT: Final = "key.retire"

_NOBODY: Final = People()


@dataclass(frozen=True, slots=True)
class SweptKey:
    """One thing that a sweep did, or with a dry run would do. `did` is warn, retire, destroy or prove.

    `to` are those who are warned; `at_s` is the end in question, in seconds since the Unix epoch.
    """

    kek: str
    did: str
    detail: str
    at_s: float | None = None
    to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyWarning:
    """What is coming to a KEK, as long as it is: for people, whether or not it is told for the first time."""

    kek: str
    about: About
    at_s: float
    to: tuple[str, ...]
    detail: str


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What was done, what is coming, and what could not be done. `due` are the KEKs that are over."""

    kind: ClassVar[str] = "key-sweep"
    version: ClassVar[int] = 1

    done: tuple[SweptKey, ...]
    warnings: tuple[KeyWarning, ...]
    failed: tuple[SweptKey, ...]
    expired: tuple[str, ...]
    keys: int
    dry_run: bool

    @property
    def holds(self) -> bool:
        """Whether everything that was due was done."""
        return not self.failed


def sweep(
    *,
    actor: str,
    ledger: Ledger,
    backend: KeyBackend,
    clock: Clock,
    replicas: Sequence[Replica] = (),
    dry_run: bool = False,
) -> SweepReport:
    """Do what is due now; an instruction that fails is told, and does not keep the others from being done.

    Asking twice does nothing twice. Raises UnknownIdentity, and what reading ledger and key store raises.
    """
    identity = ledger.catalogue.identity(actor)
    now_s = clock.now_s()
    facts = gather_facts(ledger, backend)
    done: list[SweptKey] = []
    failed: list[SweptKey] = []
    stuck: set[KekRef] = set()
    for instruction in plan_sweep(facts, now_s):
        told = _told(instruction)
        if dry_run:
            done.append(told)
            continue
        if instruction.ref in stuck:
            continue
        try:
            done.append(_do(instruction, told, identity.name, ledger, backend, clock, replicas))
        except StokerError as error:
            stuck.add(instruction.ref)
            failed.append(_as_failed(told, f"{error.id}: {error.message}"))
    unproved = [each for each in done if each.did == "prove" and each.detail.startswith(_NOT_PROVED)]
    return SweepReport(
        tuple(each for each in done if each not in unproved),
        warnings_of(facts if dry_run else gather_facts(ledger, backend), now_s),
        (*failed, *unproved),
        tuple(str(each.ref) for each in facts if _over(each, now_s)),
        len(facts),
        dry_run,
    )


def gather_facts(ledger: Ledger, backend: KeyBackend) -> tuple[KeyFacts, ...]:
    """What key store and ledger say of every KEK."""
    people = people_by_scope(ledger.catalogue)
    proofs = recorded_proofs(ledger)
    given = _given(ledger)
    facts = []
    for info in backend.list_keks():
        concerned = people.get(info.ref.scope, _NOBODY)
        proof = proofs.get(str(info.ref))
        ended = info.state is KekState.DESTROYED
        unanswered = ended and info.destroyed_s is None  # by the vault: it is told once more
        facts.append(
            KeyFacts(
                info.ref,
                wraps=info.state is KekState.ACTIVE,
                expires_s=info.expires_s,
                wraps_until_s=info.wraps_until_s,
                destroy_at_s=0.0 if unanswered else info.destroy_at_s,
                destroyed=ended and not unanswered,
                proved=proof is not None and proof.holds,
                erased_s=None if proof is None else proof.erased_s,
                owner=concerned.owner,
                reviewer=concerned.reviewer,
                given=given.get(str(info.ref), frozenset()),
            )
        )
    return tuple(facts)


def warnings_of(facts: Sequence[KeyFacts], now_s: float) -> tuple[KeyWarning, ...]:
    """What is coming to these KEKs within the longest lead, soonest first: what `key ls` and a page show."""
    found = []
    for each in facts:
        for notice in imminent(each, now_s):
            to = tuple(dict.fromkeys(name for name in (each.owner, each.reviewer) if name is not None))
            found.append(KeyWarning(str(each.ref), notice.about, notice.at_s, to, _announced(notice)))
    return tuple(sorted(found, key=lambda warning: (warning.at_s, warning.kek)))


_NOT_PROVED: Final = "not proved"


def _do(
    instruction: SweepInstruction,
    told: SweptKey,
    actor: str,
    ledger: Ledger,
    backend: KeyBackend,
    clock: Clock,
    replicas: Sequence[Replica],
) -> SweptKey:
    subject = f"key/{instruction.ref}"
    match instruction:
        case Warn(_, notice, to):
            detail: dict[str, JsonValue] = {
                "about": notice.about.value,
                "at_s": notice.at_s,
                "lead_s": notice.lead_s,
                "to": list(to),
            }
            with ledger.act(actor=actor, action=WARN_ACT, subject=subject, detail=detail):
                pass
        case Retire(ref, because, at_s):
            why: dict[str, JsonValue] = {"because": because.value, "at_s": at_s}
            with ledger.act(actor=actor, action=RETIRE_ACT, subject=subject, detail=why):
                backend.deactivate(ref)
        case CarryOut(ref):
            carry_out_destruction(ref, actor=actor, ledger=ledger, backend=backend)
        case Prove(ref):
            proof = prove_death(
                ref,
                actor=actor,
                ledger=ledger,
                backend=without_moves(backend),
                replicas=replicas,
                clock=clock,
            )
            seen = "; ".join(f"{trial.replica}: {trial.seen}" for trial in proof.trials)
            return _as_failed(told, f"{_NOT_PROVED}: {seen}") if not proof.holds else _as_failed(told, seen)
    return told


def _as_failed(told: SweptKey, detail: str) -> SweptKey:
    return SweptKey(told.kek, told.did, detail, told.at_s, told.to)


def _told(instruction: SweepInstruction) -> SweptKey:
    kek = str(instruction.ref)
    match instruction:
        case Warn(_, notice, to):
            return SweptKey(kek, "warn", _announced(notice), notice.at_s, to)
        case Retire(_, because, at_s):
            over = "it has expired" if because is About.EXPIRY else "its time to seal is over"
            return SweptKey(kek, "retire", f"{over} since {iso_utc(at_s)}", at_s)
        case CarryOut(_, at_s):
            return SweptKey(kek, "destroy", f"its window was over at {iso_utc(at_s)}", at_s)
        case Prove():
            return SweptKey(kek, "prove", "what it sealed is tried everywhere")


def _announced(notice: Notice) -> str:
    at = iso_utc(notice.at_s)
    match notice.about:
        case About.EXPIRY:
            return f"expires at {at}; then nothing opens what it sealed"
        case About.ROTATION:
            return f"is to be rotated by {at}; then it seals nothing more"
        case About.DESTRUCTION:
            return f"is destroyed at {at}; until then that can be withdrawn"


def _over(facts: KeyFacts, now_s: float) -> bool:
    return not facts.destroyed and facts.expires_s is not None and now_s >= facts.expires_s


def _given(ledger: Ledger) -> dict[str, frozenset[Notice]]:
    """The warnings that were given, as the audit log tells them."""
    given: dict[str, set[Notice]] = {}
    for entry in ledger.audit.acts({WARN_ACT}):
        about, at_s, lead_s = (entry.detail.get(name) for name in ("about", "at_s", "lead_s"))
        if about in list(About) and isinstance(at_s, int | float) and isinstance(lead_s, int | float):
            notice = Notice(About(str(about)), float(at_s), float(lead_s))
            given.setdefault(entry.subject.removeprefix("key/"), set()).add(notice)
    return {kek: frozenset(notices) for kek, notices in given.items()}
