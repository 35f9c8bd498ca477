"""What `stoker key` changes: rotate, rewrap, suspend, resume, compromise, destroy, sweep, prove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.key_text import proof_text, rewrap_text, rotation_text, show_text, sweep_text
from stoker.core.errors import EXIT_DONE, EXIT_FINDING
from stoker.keys.death import DeathProof
from stoker.keys.overview import Keys, overview
from stoker.keys.refs import KekRef
from stoker.keys.rewrap import RewrapReport
from stoker.keys.rotation import Rotation
from stoker.keys.sweep import SweepReport

if TYPE_CHECKING:
    from stoker.keys.death import Replica
    from stoker.keys.users import MayLive
    from stoker.ledger.records import RunRecord

_DAY_S: Final = 86_400.0
_DRY: Final = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


def _scope(text: str) -> str:
    """A scope, also when a KEK of it was named."""
    return KekRef.parse(text).scope if "#" in text else KekRef(text, 1).scope


@command("rotate", needs=Deed.KEY_ROTATE, text=rotation_text)
@click.argument("scope", metavar="SCOPE|KEK")
@_DRY
def rotate(house: House, scope: str, dry_run: bool) -> Rotation:
    """Let the next epoch of SCOPE seal from now on; what the one before sealed still opens."""
    from stoker.keys.rotation import rotate_key

    return rotate_key(
        _scope(scope),
        actor=house.actor,
        ledger=house.ledger,
        backend=house.backend,
        may_live=_may_live(house),
        dry_run=dry_run,
    )


@command("rewrap", needs=Deed.KEY_REWRAP, text=rewrap_text, exit_code=lambda report: _judged(report))
@click.argument("kek")
@_DRY
def rewrap(house: House, kek: str, dry_run: bool) -> RewrapReport:
    """Move what KEK sealed, and lies in the store, to its scope's newest epoch; then KEK can be destroyed.

    Each partition key is wrapped once more; no payload is read or written. Whoever may have the old key and a
    copy of the data could have kept the partition keys: after a compromise, prepare the data anew.
    """
    from stoker.keys.rewrap import rewrap_survivors
    from stoker.store.rewraps import StoredRewraps

    return rewrap_survivors(
        KekRef.parse(kek),
        actor=house.actor,
        ledger=house.ledger,
        backend=house.backend,
        things=StoredRewraps(lambda: house.store),
        dry_run=dry_run,
    )


def _judged(report: RewrapReport) -> int:
    return EXIT_FINDING if report.left_keys else EXIT_DONE


@command("suspend", needs=Deed.KEY_SUSPEND, text=show_text)
@click.argument("kek")
@click.option("--reason", required=True, help="What is in doubt; it goes into the ledger.")
def suspend(house: House, kek: str, reason: str) -> Keys:
    """Let KEK open and seal nothing until it is resumed, while a doubt is cleared."""
    from stoker.keys.rotation import suspend_key

    ref = KekRef.parse(kek)
    suspend_key(ref, actor=house.actor, reason=reason, ledger=house.ledger, backend=house.backend)
    return _shown(house, ref)


@command("resume", needs=Deed.KEY_SUSPEND, text=show_text)
@click.argument("kek")
def resume(house: House, kek: str) -> Keys:
    """The doubt is cleared: KEK is again what it was before it was suspended."""
    from stoker.keys.rotation import resume_key

    ref = KekRef.parse(kek)
    resume_key(ref, actor=house.actor, ledger=house.ledger, backend=house.backend)
    return _shown(house, ref)


@command("compromise", needs=Deed.KEY_COMPROMISE, text=show_text)
@click.argument("kek")
@click.option("--reason", required=True, help="What is known; it goes into the ledger.")
def compromise(house: House, kek: str, reason: str) -> Keys:
    """Say that others may have KEK: it never seals again, and opens only to move what survives."""
    from stoker.keys.rotation import compromise_key

    ref = KekRef.parse(kek)
    compromise_key(ref, actor=house.actor, reason=reason, ledger=house.ledger, backend=house.backend)
    return _shown(house, ref)


@command(
    "destroy",
    needs=Deed.KEY_REQUEST_DESTROY,
    needs_with={
        "approve": Deed.KEY_APPROVE_DESTROY,
        "emergency": Deed.KEY_APPROVE_DESTROY,
        "withdraw": Deed.KEY_WITHDRAW_DESTROY,
    },
    text=show_text,
)
@click.argument("kek")
@click.option("--approve", is_flag=True, help="Agree to what another identity asked for; its window begins.")
@click.option("--withdraw", is_flag=True, help="Take it back, until the window is over.")
@click.option("--emergency", is_flag=True, help="Agree, and destroy at once, also while runs use it.")
@click.option("--reason", default="", help="Why; needed in an emergency.")
@click.option(
    "--window",
    "window_days",
    type=float,
    default=7.0,
    show_default=True,
    help="Days in which it can be withdrawn once it is approved, 7 to 30.",
)
def destroy(
    house: House, kek: str, approve: bool, withdraw: bool, emergency: bool, reason: str, window_days: float
) -> Keys:
    """Ask that KEK be destroyed; --approve, --withdraw or --emergency act on what was asked.

    Who asked may not approve. Approved, it opens nothing more; when its window is over, `stoker key sweep`
    destroys it, and what it sealed is lost for good.
    """
    from stoker.keys import destruction

    if approve + withdraw + emergency > 1:
        raise click.UsageError("Choose one of --approve, --withdraw and --emergency.")
    ref = KekRef.parse(kek)
    actor, ledger, backend = house.actor, house.ledger, house.backend
    if withdraw:
        destruction.withdraw_destruction(ref, actor=actor, ledger=ledger, backend=backend)
    elif approve:
        destruction.approve_destruction(
            ref, actor=actor, ledger=ledger, backend=backend, may_live=_may_live(house)
        )
    elif emergency:
        destruction.destroy_in_emergency(
            ref, actor=actor, reason=reason, ledger=ledger, backend=backend, may_live=_may_live(house)
        )
        _prove(house, ref)
    else:
        destruction.request_destruction(
            ref,
            actor=actor,
            ledger=ledger,
            backend=backend,
            window_s=window_days * _DAY_S,
            reason=reason,
            replicas=house_replicas(house),
            may_live=_may_live(house),
        )
    return _shown(house, ref)


@command("sweep", needs=Deed.KEY_SWEEP, text=sweep_text, exit_code=lambda report: _swept(report))
@_DRY
def sweep(house: House, dry_run: bool) -> SweepReport:
    """Do what is due: warn owner and reviewer, retire what is past its date, destroy, prove deaths.

    Run it daily, by cron or a timer; a server does. Twice does nothing twice.
    """
    from stoker.keys.sweep import sweep as sweep_keys

    return sweep_keys(
        actor=house.actor,
        ledger=house.ledger,
        backend=house.backend,
        clock=house.clock,
        replicas=house_replicas(house),
        dry_run=dry_run,
    )


def _swept(report: SweepReport) -> int:
    return EXIT_DONE if report.holds else EXIT_FINDING


@command("prove", needs=Deed.KEY_PROVE, text=proof_text, exit_code=lambda proof: _proved(proof))
@click.argument("kek")
def prove(house: House, kek: str) -> DeathProof:
    """Try to open what the destroyed KEK sealed, on every replica, and record what was seen.

    The caches of other nodes are named until this was run there too; what it saw there counts everywhere.
    """
    return _prove(house, KekRef.parse(kek))


def _proved(proof: DeathProof) -> int:
    return EXIT_DONE if proof.holds else EXIT_FINDING


def _prove(house: House, ref: KekRef) -> DeathProof:
    from stoker.keys.death import prove_death
    from stoker.keys.rewrap import without_moves

    return prove_death(
        ref,
        actor=house.actor,
        ledger=house.ledger,
        backend=without_moves(house.backend),
        replicas=house_replicas(house),
        clock=house.clock,
    )


def _shown(house: House, ref: KekRef) -> Keys:
    return overview(ledger=house.ledger, backend=house.backend, clock=house.clock, only=(ref,))


def house_replicas(house: House) -> tuple[Replica, ...]:
    """Where deaths are proved: the store, each node's cache, and the registered copies."""
    from stoker.promises.replicas import replicas_of

    return replicas_of(
        store=lambda: house.store,
        cache=house.cache,
        backend=house.backend,
        home=house.home,
        ledger=house.ledger,
        settings=house.settings,
    )


def _may_live(house: House) -> MayLive:
    """A run of this home lives when its locks are held; of one of another home only the record is known."""
    from stoker.fleet.liveness import HomeWatch
    from stoker.intake.life import RunStanding

    watch = HomeWatch(house.home)

    def may_live(run: RunRecord) -> bool:
        return watch.standing(run) in (RunStanding.LIVE, RunStanding.ELSEWHERE)

    return may_live
