"""The table of permissions, tried over every command: each role, nobody, and tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from stoker.cli.command import NEEDS
from stoker.cli.house import House, NoIdentity, OtherIdentity
from stoker.cli.main import cli
from stoker.cli.secret_files import TokenNeeded
from stoker.core.clock import SystemClock
from stoker.core.errors import StokerError
from stoker.core.home import Home
from stoker.intake import permission, review_machine
from stoker.keys import destruction
from stoker.ledger.access import create_token
from stoker.ledger.errors import PermissionRefused, TokenRefused
from stoker.ledger.ledger import Ledger
from stoker.ledger.permissions import RULES, Deed, Rule, known_scopes, roles_for
from stoker.ledger.records import IdentityRecord, Role


def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(cli))
RUNS = [
    (path, deed, option)
    for path, command in COMMANDS.items()
    for option, deed in NEEDS.get(command, {}).items()
]


def words_of(command: click.Command, option: str | None) -> list[str]:
    """A command line that click takes: every required thing has some value, and `option` is given."""
    words = []
    for each in command.params:
        if isinstance(each, click.Argument):
            words += [_value(each)] if each.required else []
        elif isinstance(each, click.Option) and (each.required or each.name == option):
            words.append(each.opts[0])
            words += [] if each.is_flag else [_value(each)]
    return words


def _value(parameter: click.Parameter) -> str:
    kind = parameter.type
    if isinstance(kind, click.Choice):
        return str(kind.choices[0])
    if isinstance(kind, click.IntRange | click.FloatRange):
        return str(int(kind.min or 0) + (1 if kind.min_open else 0))
    if isinstance(kind, click.Path) and kind.exists:
        return "/" if kind.dir_okay and not kind.file_okay else __file__
    return "thing"


@dataclass(frozen=True, slots=True)
class Town:
    """A home with one identity of each role, named as the role is."""

    home: Home

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        url = f"sqlite:///{self.home.ledger_path}"
        with Ledger.open(url, self.home.ledger_key_path, SystemClock()) as ledger:
            yield ledger

    def token(self, role: Role, *scopes: str) -> Path:
        path = self.home.root.parent / f"{role}-{'-'.join(scopes)}.token"
        with self.ledger() as ledger:
            _, text = create_token(role, scopes, 3600.0, by=None, ledger=ledger, clock=SystemClock())
        path.touch(mode=0o600)
        path.write_text(f"{text}\n")
        return path


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    home = Home(tmp_path / "home").prepare()
    found = Town(home)
    with found.ledger() as ledger:
        for role in Role:
            with ledger.act(actor="test", action="identity.create", subject=role, detail={}) as catalogue:
                catalogue.add_identity(IdentityRecord(role, role, bytes(32), 0.0))
    for name in ("STOKER_TOKEN_FILE", "STOKER_IDENTITY", "STOKER_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return found


class Admitted(Exception):
    """The table let the command in; its body does not run."""


@pytest.fixture
def at_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands end where their body would begin."""
    admit = House.admit

    def stop(self: House, deed: Deed) -> None:
        admit(self, deed)
        raise Admitted(deed)

    monkeypatch.setattr(House, "admit", stop)


def outcome(town: Town, path: tuple[str, ...], option: str | None, acting: str | None) -> str:
    """The deed that was asked for when the door opened, or the id of the refusal."""
    words = [*path, *words_of(COMMANDS[path], option), "--home", str(town.home.root)]
    try:
        cli.main(args=[*words, *(["--as", acting] if acting else [])], standalone_mode=False)
    except Admitted as admitted:
        return str(admitted.args[0])
    except StokerError as refusal:
        return refusal.id
    raise AssertionError(f"{path} ended without asking at the door")


def expected(rule: Rule, role: Role | None) -> type[StokerError] | None:
    """What the table means at the door, where `--as` is trusted."""
    if rule.anyone or (role is None and rule.at_the_machine):
        return None
    if role is None:
        return NoIdentity
    return None if role in rule.roles or rule.room_looks_at else PermissionRefused


def test_every_command_says_what_it_needs_and_every_deed_has_its_row() -> None:
    for path, command in COMMANDS.items():
        assert command in NEEDS, f"stoker {' '.join(path)} declares no need"
    assert set(RULES) == set(Deed)
    assert all(rule.roles or rule.anyone for rule in RULES.values())


@pytest.mark.parametrize(
    ("path", "deed", "option"), RUNS, ids=[" ".join(run[0]) + f" {run[2] or ''}" for run in RUNS]
)
@pytest.mark.usefixtures("at_the_door")
def test_each_role_gets_through_the_door_of_each_command_as_the_table_says(
    town: Town, path: tuple[str, ...], deed: Deed, option: str | None
) -> None:
    for role in (*Role, None):
        refusal = expected(RULES[deed], role)
        assert outcome(town, path, option, role) == (deed if refusal is None else refusal.id), role


@pytest.mark.usefixtures("at_the_door")
def test_where_tokens_are_required_no_command_goes_on_without_one(town: Town) -> None:
    town.home.settings_path.write_text('[access]\ntokens = "required"\n')
    town.token(Role.ADMIN, "all")
    for path, deed, option in RUNS:
        wanted = {Deed.WITNESS: deed, Deed.QUICKSTART: PermissionRefused.id}.get(deed, TokenNeeded.id)
        for role in (Role.ADMIN, None):
            assert outcome(town, path, option, role) == wanted, (path, role)


@pytest.mark.usefixtures("at_the_door")
@pytest.mark.parametrize("role", Role)
def test_a_token_stands_for_its_identity_and_no_other(
    town: Town, role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_TOKEN_FILE", str(town.token(role, "all")))
    other = Role.ADMIN if role is not Role.ADMIN else Role.AUDITOR
    for path, deed, option in RUNS:
        rule = RULES[deed]
        refusal = None if role in rule.roles or rule.room_looks_at else PermissionRefused
        refusal = None if deed is Deed.WITNESS else refusal
        assert outcome(town, path, option, None) == (deed if refusal is None else refusal.id), path
        if deed not in (Deed.WITNESS, Deed.QUICKSTART):
            assert outcome(town, path, option, other) == OtherIdentity.id


@pytest.mark.usefixtures("at_the_door")
def test_a_token_for_one_thing_is_for_nothing_else_but_looking(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_TOKEN_FILE", str(town.token(Role.ADMIN, "review.scan")))
    for path, deed, option in RUNS:
        let_in = deed in (Deed.WITNESS, Deed.LOOK, Deed.REVIEW_SCAN)
        assert outcome(town, path, option, None) == (deed if let_in else PermissionRefused.id), path


def test_the_first_identity_and_the_first_token_are_made_at_the_machine_and_no_second(
    tmp_path: Path, at_the_door: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    town = Town(Home(tmp_path / "home").prepare())
    town.home.settings_path.write_text('[access]\ntokens = "required"\n')
    assert outcome(town, ("identity", "create"), None, None) == Deed.IDENTITY_CREATE
    with town.ledger() as ledger, ledger.act(actor="a", action="b", subject="c", detail={}) as catalogue:
        catalogue.add_identity(IdentityRecord("root", Role.ADMIN, bytes(32), 0.0))
    assert outcome(town, ("identity", "create"), None, None) == TokenNeeded.id
    assert outcome(town, ("token", "create"), None, None) == Deed.TOKEN_CREATE
    with town.ledger() as ledger:
        create_token("root", ["all"], 3600.0, by=None, ledger=ledger, clock=SystemClock())
    assert outcome(town, ("token", "create"), None, None) == TokenNeeded.id


@pytest.mark.usefixtures("at_the_door")
def test_a_token_that_is_revoked_or_open_to_others_opens_no_door(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = town.token(Role.ADMIN, "all")
    monkeypatch.setenv("STOKER_TOKEN_FILE", str(path))
    assert outcome(town, ("verify",), None, None) == Deed.LOOK
    path.chmod(0o640)
    assert outcome(town, ("verify",), None, None) == "loose-key-file"
    path.chmod(0o600)
    with town.ledger() as ledger, ledger.act(actor="a", action="b", subject="c", detail={}) as catalogue:
        catalogue.revoke_token(path.read_text().split(".")[1], SystemClock().now_s())
    assert outcome(town, ("verify",), None, None) == TokenRefused.id
    path.write_text("stoker-token-1.0123456789abcdef." + "0" * 64)
    assert outcome(town, ("verify",), None, None) == TokenRefused.id


def test_the_rooms_that_judge_roles_ask_the_same_table() -> None:
    assert roles_for(Deed.DATASET_SAMPLE) == permission.MAY_SAMPLE
    assert roles_for(Deed.DATASET_EXPORT) == permission.MAY_EXPORT
    assert roles_for(Deed.DATASET_EXPIRE) == permission.MAY_EXPIRE
    assert roles_for(Deed.DATASET_COLLECT) == permission.MAY_COLLECT
    assert roles_for(Deed.REVIEW_DECIDE) == review_machine.DECIDING_ROLES
    assert roles_for(Deed.REVIEW_REVOKE) == review_machine.DECIDING_ROLES
    assert roles_for(Deed.KEY_APPROVE_DESTROY) == destruction.MAY_APPROVE


def test_nobody_does_everything_alone_but_an_admin_and_an_auditor_changes_nothing() -> None:
    changing = [deed for deed in Deed if deed not in (Deed.LOOK, Deed.WITNESS, Deed.QUICKSTART)]
    assert {deed for deed in changing if Role.AUDITOR in roles_for(deed)} <= {Deed.KEY_PROVE}
    for role in (Role.RESEARCHER, Role.REVIEWER, Role.OPERATOR):
        assert not all(role in roles_for(deed) for deed in changing)
    assert not (roles_for(Deed.REVIEW_REQUEST) & roles_for(Deed.REVIEW_DECIDE)) - {Role.ADMIN}
    assert set(known_scopes()) >= {"all", "review", "review.decide", "key"}
