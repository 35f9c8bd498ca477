"""What `stoker key …` shows to people."""

from __future__ import annotations

from stoker.cli.table import day, pairs, table
from stoker.keys.death import DeathProof
from stoker.keys.overview import KeyRow, Keys
from stoker.keys.rewrap import RewrapReport
from stoker.keys.rotation import Rotation
from stoker.keys.sweep import KeyWarning, SweepReport, SweptKey


def keys_text(result: Keys) -> str:
    """A line a key, and below what is coming to them and to whom that was or will be told."""
    rows = [(row.kek, row.purpose, row.state, day(row.expires_s), row.note or "-") for row in result.keys]
    lines = [table(("key", "purpose", "state", "expires", "note"), rows)]
    warnings = sorted(
        (each for row in result.keys for each in row.warnings), key=lambda each: (each.at_s, each.kek)
    )
    return "\n".join([*lines, *(["", warnings_text(warnings)] if warnings else [])])


def warnings_text(warnings: list[KeyWarning] | tuple[KeyWarning, ...]) -> str:
    """`warning: KEY expires at …  (for ada, bob)`, a line each, soonest first."""
    return "\n".join(
        f"warning: {each.kek} {each.detail}" + (f"  (for {', '.join(each.to)})" if each.to else "")
        for each in warnings
    )


def show_text(result: Keys) -> str:
    """Every figure of each key."""
    return "\n\n".join(_one(row) for row in result.keys)


def _one(row: KeyRow) -> str:
    lines: list[tuple[str, object]] = [
        ("key", row.kek),
        ("purpose", row.purpose),
        ("state", row.state),
        ("held by", row.vault),
        ("seals", f"{day(row.activates_s)} to {day(row.wraps_until_s)}"),
        ("opens", f"{day(row.activates_s)} to {day(row.expires_s)}"),
        ("wraps", f"{row.wraps:,}"),
        ("owner", row.owner or "-"),
        ("reviewer", row.reviewer or "-"),
    ]
    if row.runs:
        lines.append(("live runs", ", ".join(row.runs)))
    if row.suspended_by is not None:
        lines.append(("suspended", f"by {row.suspended_by}"))
    if row.compromised_by is not None:
        lines.append(("compromised", f"says {row.compromised_by}"))
    if row.destroy_requested_by is not None:
        lines.append(("destruction", f"asked for by {row.destroy_requested_by}"))
    if row.destroy_approved_by is not None:
        lines.append(("", f"approved by {row.destroy_approved_by}"))
    if row.destroy_at_s is not None:
        lines.append(("", f"carried out at {day(row.destroy_at_s)}; until then it can be withdrawn"))
    if row.reason:
        lines.append(("reason", row.reason))
    if row.destroyed_s is not None:
        lines.append(("destroyed", day(row.destroyed_s)))
    if row.survivors is not None:
        lines.append(("survivors", f"kept by {row.survivors}"))
    if row.proof:
        lines.append(("proof of death", row.proof))
    if row.note:
        lines.append(("note", row.note))
    return pairs(lines)


def rotation_text(result: Rotation) -> str:
    """Which key seals from now on."""
    if result.after is None:
        return f"{result.before} would be followed by the next epoch, until {day(result.expires_s)}"
    return pairs(
        [
            ("seals no more", result.before),
            ("seals now", f"{result.after}, until {day(result.expires_s)}"),
            ("next", f"stoker key rewrap {result.before}, then two identities may destroy it"),
        ]
    )


def rewrap_text(result: RewrapReport) -> str:
    """What was moved, and what stays behind."""
    moved = "would be moved" if result.dry_run else "moved"
    lines: list[tuple[str, object]] = [
        (moved, f"{result.partition_keys:,} partition keys of {result.streams:,} streams"),
        ("from", result.kek),
        ("to", result.to),
    ]
    lines += [("beside the data", name) for name in result.objects]
    if result.left_keys:
        lines.append(("left behind", f"{result.left_keys:,} keys that do not open: {', '.join(result.left)}"))
    elif not result.dry_run:
        lines.append(("next", f"stoker key destroy {result.kek}: what was moved stays readable"))
    return pairs(lines)


def sweep_text(result: SweepReport) -> str:
    """What was done, what is coming, what failed."""
    lines = []
    would = "would " if result.dry_run else ""
    if result.done:
        lines.append(table(("key", f"{would}do" if would else "did", "what", "told"), _swept(result.done)))
    else:
        lines.append(f"{result.keys:,} keys: nothing was due")
    if result.failed:
        lines += ["", "could not be done:", table(("key", "do", "why", "told"), _swept(result.failed))]
    if result.expired:
        lines += ["", "expired, and waiting for two identities to destroy them:"]
        lines += [f"  {kek}" for kek in result.expired]
    if result.warnings:
        lines += ["", warnings_text(result.warnings)]
    return "\n".join(lines)


def _swept(keys: tuple[SweptKey, ...]) -> list[tuple[str, str, str, str]]:
    return [(each.kek, each.did, each.detail, ", ".join(each.to) or "-") for each in keys]


def proof_text(result: DeathProof) -> str:
    """What was tried on which replica, and what was seen."""
    rows = [(trial.replica, trial.outcome.value, trial.tried, trial.seen) for trial in result.trials]
    return "\n".join(
        [
            pairs(
                [
                    ("key", result.kek),
                    ("destroyed" if result.erased_s is None else "unusable since", day(result.destroyed_s)),
                    ("tried", day(result.proved_s)),
                    ("opened before", result.canary or "nothing was kept to try"),
                    ("proof", result.verdict),
                ]
            ),
            "",
            table(("replica", "outcome", "tried", "seen"), rows),
        ]
    )
