"""Who may do what: the one table that every command, every route of the page and every room asks.

Pure, and without a database. A command or route names its `Deed`; the table says which roles may do it,
whether it needs an identity at all, and what else a room looks at. See docs/design/ledger.md, "Permissions".
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from stoker.ledger.errors import PermissionRefused
from stoker.ledger.records import Role

ALL_SCOPES: Final = "all"
"""The scope of a token that may be used for everything that its identity may do."""


class Deed(enum.StrEnum):
    """What somebody may want to do, as `group.deed`; the group is what a token can be limited to as well."""

    LOOK = "look.lists"
    """Lists, lineages, states, reports and proofs: nothing that shows raw data, and nothing that changes."""

    WITNESS = "witness.sign"
    """Cosigning checkpoints of another house, on a host that has no ledger and no keys of this one."""

    QUICKSTART = "quickstart.run"
    """The demonstration, which plays two people itself: only where `--as` is trusted."""

    IDENTITY_CREATE = "identity.create"
    TOKEN_CREATE = "token.create"  # noqa: S105 - a deed, no token
    TOKEN_REVOKE = "token.revoke"  # noqa: S105
    SERVE = "serve.run"

    SOURCE_IMPORT = "source.import"
    REVIEW_SCAN = "review.scan"
    REVIEW_REQUEST = "review.request"
    REVIEW_DECIDE = "review.decide"
    REVIEW_REVOKE = "review.revoke"
    REVIEW_EXAMPLES = "review.examples"

    DATASET_PREPARE = "dataset.prepare"
    DATASET_SAMPLE = "dataset.sample"
    DATASET_EXPORT = "dataset.export"
    DATASET_EXPIRE = "dataset.expire"
    DATASET_COLLECT = "dataset.collect"

    RUN_START = "run.start"
    RUN_RESUME = "run.resume"
    RUN_EXPORT = "run.export"
    """Taking a run's model out of the house, in plain."""

    RUN_RELEASE = "run.release"
    """Letting a model go out that is not to be released, and taking that back."""

    NODE_RECORD = "node.record"
    """Letting the checks of a node decide about it, in the ledger; for the service that runs on nodes."""

    NODE_DRAIN = "node.drain"
    NODE_RESUME = "node.resume"
    NODE_EXCLUDE = "node.exclude"

    KEY_ROTATE = "key.rotate"
    KEY_REWRAP = "key.rewrap"
    KEY_SUSPEND = "key.suspend"
    KEY_COMPROMISE = "key.compromise"
    KEY_REQUEST_DESTROY = "key.request_destroy"
    KEY_APPROVE_DESTROY = "key.approve_destroy"
    KEY_WITHDRAW_DESTROY = "key.withdraw_destroy"
    KEY_SWEEP = "key.sweep"
    KEY_PROVE = "key.prove"

    AUDIT_ACCEPT = "audit.accept"

    @property
    def group(self) -> str:
        """What stands before the point."""
        return self.value.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may do one thing.

    `roles`: those who may. `anyone`: no identity is needed where `--as` is trusted. `at_the_machine`: whoever
    sits at the machine may too, in nobody's name, where `--as` is trusted. `room_looks_at`: what the room
    below judges beside, or in place of, the role; the face then lets every known identity through to it.
    """

    roles: frozenset[Role]
    anyone: bool = False
    at_the_machine: bool = False
    room_looks_at: str = ""


_ALL: Final = frozenset(Role)
_MAKERS: Final = frozenset({Role.RESEARCHER, Role.ADMIN})
_DECIDERS: Final = frozenset({Role.REVIEWER, Role.ADMIN})
_KEEPERS: Final = frozenset({Role.OPERATOR, Role.ADMIN})
_GUARDS: Final = frozenset({Role.REVIEWER, Role.OPERATOR, Role.ADMIN})
_ADMIN: Final = frozenset({Role.ADMIN})
_CHANGERS: Final = _ALL - {Role.AUDITOR}

RULES: Final[Mapping[Deed, Rule]] = {
    Deed.LOOK: Rule(_ALL, anyone=True),
    Deed.WITNESS: Rule(_ALL, anyone=True),
    Deed.QUICKSTART: Rule(frozenset(), anyone=True),
    Deed.IDENTITY_CREATE: Rule(_ADMIN, at_the_machine=True),
    Deed.TOKEN_CREATE: Rule(
        _ADMIN, at_the_machine=True, room_looks_at="everybody may make one for themselves"
    ),
    Deed.TOKEN_REVOKE: Rule(_ADMIN, at_the_machine=True, room_looks_at="everybody may revoke their own"),
    Deed.SERVE: Rule(_KEEPERS, at_the_machine=True),
    Deed.SOURCE_IMPORT: Rule(_MAKERS),
    Deed.REVIEW_SCAN: Rule(_MAKERS | _DECIDERS),
    Deed.REVIEW_REQUEST: Rule(_MAKERS),
    Deed.REVIEW_DECIDE: Rule(_DECIDERS, room_looks_at="never whoever asked"),
    Deed.REVIEW_REVOKE: Rule(_DECIDERS, room_looks_at="whoever asked may withdraw the request"),
    Deed.REVIEW_EXAMPLES: Rule(_DECIDERS),
    Deed.DATASET_PREPARE: Rule(_MAKERS),
    Deed.DATASET_SAMPLE: Rule(_DECIDERS, room_looks_at="a review must be in force"),
    Deed.DATASET_EXPORT: Rule(_MAKERS, room_looks_at="leave to export, asked for by the same person"),
    Deed.DATASET_EXPIRE: Rule(_DECIDERS, room_looks_at="whoever prepared it may too"),
    Deed.DATASET_COLLECT: Rule(_CHANGERS, room_looks_at="only what nobody can open any more"),
    Deed.RUN_START: Rule(_MAKERS),
    Deed.RUN_RESUME: Rule(_MAKERS | _KEEPERS),
    Deed.RUN_EXPORT: Rule(_MAKERS, room_looks_at="reviews in force; free to be released, or released"),
    Deed.RUN_RELEASE: Rule(_DECIDERS, room_looks_at="never whoever started the run"),
    Deed.NODE_RECORD: Rule(_KEEPERS),
    Deed.NODE_DRAIN: Rule(_KEEPERS),
    Deed.NODE_RESUME: Rule(_KEEPERS),
    Deed.NODE_EXCLUDE: Rule(_KEEPERS),
    Deed.KEY_ROTATE: Rule(_KEEPERS),
    Deed.KEY_REWRAP: Rule(_KEEPERS),
    Deed.KEY_SUSPEND: Rule(_GUARDS),
    Deed.KEY_COMPROMISE: Rule(_GUARDS),
    Deed.KEY_REQUEST_DESTROY: Rule(_CHANGERS),
    Deed.KEY_APPROVE_DESTROY: Rule(_GUARDS, room_looks_at="never whoever asked"),
    Deed.KEY_WITHDRAW_DESTROY: Rule(_ADMIN, room_looks_at="whoever asked or approved may too"),
    Deed.KEY_SWEEP: Rule(_KEEPERS),
    Deed.KEY_PROVE: Rule(_ALL - {Role.RESEARCHER}),
    Deed.AUDIT_ACCEPT: Rule(_ADMIN, at_the_machine=False),
}
"""The table. A deed without a row is a red test; so is a command or a route without a deed."""


def roles_for(deed: Deed) -> frozenset[Role]:
    """The roles that may do `deed`, for rooms that judge it themselves."""
    return RULES[deed].roles


def may(role: Role, deed: Deed) -> bool:
    """Whether the role alone allows `deed`."""
    return role in RULES[deed].roles


def in_scope(scopes: Collection[str], deed: Deed) -> bool:
    """Whether a token with these scopes may be used for `deed`. Looking is part of every scope."""
    if deed is Deed.LOOK:
        return bool(scopes)
    return not {ALL_SCOPES, deed.group, deed.value}.isdisjoint(scopes)


def known_scopes() -> tuple[str, ...]:
    """Every scope that a token can be given: all, the groups, and single deeds."""
    return (ALL_SCOPES, *sorted({deed.group for deed in Deed}), *sorted(deed.value for deed in Deed))


def require(deed: Deed, name: str, role: Role, scopes: Collection[str] | None = None) -> None:
    """Raise PermissionRefused unless `name`, who is `role`, may do `deed`; `scopes` are those of a token.

    Where a room looks at more than the role, that room judges; here only the token's scopes count then.
    """
    rule = RULES[deed]
    if scopes is not None and not in_scope(scopes, deed):
        raise PermissionRefused(
            f"The token of {name} is for {', '.join(sorted(scopes)) or 'nothing'}, not for {deed.value}.",
            hint="Use a token with that scope: stoker token create --scope.",
        )
    if role not in rule.roles and not rule.room_looks_at:
        allowed = ", ".join(each.value for each in Role if each in rule.roles) or "nobody in a name"
        raise PermissionRefused(
            f"{name} is {role.value} and may not do {deed.value}.", hint=f"This takes a role of: {allowed}."
        )
