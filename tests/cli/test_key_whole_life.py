"""The whole life of a dataset's key, command by command, in every vault that Stoker knows.

Import, prepare, rotate, move what survives, destroy with two identities (withdrawn once, then after its
window, then in an emergency), an old backup that comes back, proofs of death, and `stoker verify` at the end.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest

from stoker.core.clock import SystemClock
from stoker.core.home import Home
from stoker.intake.errors import DatasetEnded
from stoker.keys.death import DeathProof, Outcome, recorded_proofs
from stoker.keys.errors import DualControlRefused, KeyNotActive
from stoker.ledger.ledger import Ledger
from support.cli_home import DAY_S, PREPARE, write_texts
from support.kms_server import Kms, kms_server
from support.openbao import openbao
from support.softhsm import soft_token
from support.warm_cli import Commands, WarmHome, warm_commands

KINDS: Final = ("file", "openbao", "pkcs11", "aws")


@dataclass(frozen=True)
class Keys:
    """A home whose keys lie in one vault; `registry` is the folder that a backup copies."""

    home: WarmHome
    registry: Path
    kms: Kms | None

    def later(self, days: float) -> Keys:
        """The same, so many days later: all commands from then on."""
        if self.kms is not None:
            self.kms.advance_days(days)
        ahead_s = float(self.home.environment.get("ODD_MACHINE_AHEAD_S", "0")) + days * DAY_S
        environment = {**self.home.environment, "ODD_MACHINE_AHEAD_S": str(ahead_s)}
        return replace(self, home=replace(self.home, environment=environment))

    def row(self, kek: str) -> dict[str, Any]:
        (row,) = self.home.data("key", "show", kek)["keys"]
        return dict(row)

    def sampled(self) -> None:
        """The data opens, for the one who may look."""
        self.home.stoker("dataset", "sample", "text", by="decider")

    def promises_are_kept(self) -> None:
        promises = {each["number"]: each for each in self.home.data("verify")["promises"]}
        assert promises[3]["standing"] == "kept"
        assert "not kept" not in {each["standing"] for each in promises.values()}

    def recorded(self, kek: str) -> DeathProof:
        """The newest proof of death that the ledger holds."""
        place = Home(self.home.root)
        with Ledger.open(f"sqlite:///{place.ledger_path}", place.ledger_key_path, SystemClock()) as ledger:
            return recorded_proofs(ledger)[kek]

    def proved(self, kek: str) -> str:
        """Prove the death by command; the verdict, the same as recorded. Nothing opened, nothing was left."""
        shown = self.home.stoker("key", "prove", kek, by="hands").out
        proof = self.recorded(kek)
        assert {trial.outcome for trial in proof.trials} <= {
            Outcome.REFUSED,
            Outcome.ABSENT,
            Outcome.UNUSABLE,
        }
        by_replica = {trial.replica: trial for trial in proof.trials}
        assert by_replica["key back end"].refused == {"key-destroyed": 1}
        assert proof.canary is not None and proof.canary.startswith("store: ")
        assert proof.verdict in shown
        assert self.row(kek)["proof"] == proof.verdict
        return proof.verdict


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with warm_commands() as waiting:
        yield waiting


@contextlib.contextmanager
def keys_in(kind: str, folder: Path, commands: Commands) -> Iterator[Keys]:
    registry, kms = folder / "registry", None
    with contextlib.ExitStack() as stack:
        url, environment = "", dict[str, str]()
        if kind == "openbao":
            url = f"{stack.enter_context(openbao(folder / 'bao')).url}&"
        elif kind == "pkcs11":
            token = stack.enter_context(soft_token(folder / "hsm"))
            url, environment = f"{token.url}&", token.environment
        elif kind == "aws":
            kms = stack.enter_context(kms_server())
            kms.now_s = time.time()
            url, environment = f"{kms.url}&", kms.environment()
        home = WarmHome(folder / "place", environment, commands=commands)
        home.place.mkdir()
        home.root.mkdir(0o700)
        if url:
            url += f"registry={quote(str(registry))}"
            (home.root / "stoker.toml").write_text(f"[keys]\nurl = {json.dumps(url)}\n")
        else:
            registry = home.root / "keys"
        write_texts(home.texts, files=12)
        for name, role in (("asker", "researcher"), ("decider", "reviewer"), ("hands", "operator")):
            home.stoker("identity", "create", name, "--role", role, by="")
        yield Keys(home, registry, kms)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_life_of_a_datasets_key(kind: str, tmp_path: Path, commands: Commands) -> None:
    with keys_in(kind, tmp_path, commands) as keys:
        home = keys.home
        home.stoker("import", "notes", "texts")
        home.stoker("review", "scan", "notes")
        home.approve(home.data("review", "request", "notes", "--purpose", "research")["reviews"][0])
        home.stoker(*PREPARE)
        first = next(
            each["kek"] for each in home.data("key", "ls")["keys"] if each["kek"].startswith("dataset/")
        )

        # the next epoch, and what survives is moved to it
        second = home.data("key", "rotate", first, by="hands")["after"]
        moved = home.data("key", "rewrap", first, by="hands")
        assert (moved["to"], moved["left_keys"]) == (second, 0)
        assert moved["partition_keys"] > 0
        keys.sampled()
        shutil.copytree(keys.registry, tmp_path / "backup")

        # two identities; withdrawn once, then for good after its window
        home.stoker("key", "destroy", first, "--reason", "its time is over")
        home.refused(DualControlRefused, "key", "destroy", first, "--approve")
        home.stoker("key", "destroy", first, "--approve", by="decider")
        assert keys.row(first)["state"] == "pending-destroy"
        keys.sampled()
        home.stoker("key", "destroy", first, "--withdraw", by="decider")
        assert keys.row(first)["state"] == "deactivated"
        home.stoker("key", "destroy", first)
        home.stoker("key", "destroy", first, "--approve", by="decider")
        assert home.data("key", "sweep", by="hands")["expired"] == []
        assert keys.row(first)["state"] == "pending-destroy"
        keys = keys.later(8)
        home = keys.home
        swept = home.data("key", "sweep", by="hands")
        assert [(each["kek"], each["did"]) for each in swept["done"] if each["did"] != "warn"] == [
            (first, "destroy"),
            (first, "prove"),
        ]
        row = keys.row(first)
        assert (row["state"], row["survivors"]) == ("destroyed", second)
        keys.proved(first)
        keys.sampled()

        # an old backup of the registry brings nothing back
        shutil.rmtree(keys.registry)
        shutil.copytree(tmp_path / "backup", keys.registry)
        assert keys.row(first)["state"] == "destroyed"
        keys.proved(first)
        keys.sampled()

        # the epoch that keeps it counts as compromised: what survives moves again, past the dead first one
        home.stoker("key", "compromise", second, "--reason", "a lost laptop", by="decider")
        home.refused(KeyNotActive, "dataset", "sample", "text", by="decider")
        third = home.data("key", "rotate", second, by="hands")["after"]
        moved = home.data("key", "rewrap", second, by="hands")
        assert (moved["to"], moved["left_keys"]) == (third, 0)
        keys.sampled()

        # the last epochs die in an emergency, by two, and with them the data
        for kek in (second, third):
            home.stoker("key", "destroy", kek, by="decider")
            reason = ("--emergency", "--reason", "consent withdrawn")
            home.refused(DualControlRefused, "key", "destroy", kek, *reason, by="decider")
            home.stoker("key", "destroy", kek, *reason, by="hands")
        home.refused(DatasetEnded, "dataset", "sample", "text", by="decider")
        for kek in (first, second, third):
            verdict = keys.proved(kek)
            assert verdict == "holds" if keys.kms is None else verdict.startswith("holds for now: unusable")
        keys.promises_are_kept()
        if keys.kms is not None:
            until_kms_has_deleted_it(keys, third)


def until_kms_has_deleted_it(keys: Keys, kek: str) -> None:
    """A deletion is only scheduled: what is said until then, and when somebody cancels it."""
    home, kms = keys.home, keys.kms
    assert kms is not None
    shown = home.stoker("key", "prove", kek, by="hands").out
    assert re.search(r"unusable until \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ, then deleted", shown)
    assert "unusable since" in shown and "destroyed  " not in shown
    words = {"KeyId": next(arn for arn, key in kms.keys.items() if key.description == f"Stoker KEK {kek}")}
    kms.answer("CancelKeyDeletion", "SUPERVISOR", words)
    assert "the vault still has the key" in home.stoker("key", "prove", kek, by="hands", code=1).out
    assert "the vault still has the key" in home.stoker("verify", code=1).out
    kms.answer("ScheduleKeyDeletion", "SUPERVISOR", {**words, "PendingWindowInDays": 7})
    assert keys.proved(kek).startswith("holds for now")
    keys = keys.later(8)
    proved = [each["kek"] for each in keys.home.data("key", "sweep", by="hands")["done"]]
    assert kek in proved, "the sweep tries it again once KMS has deleted it"
    assert keys.recorded(kek).verdict == "holds"
    keys.promises_are_kept()
