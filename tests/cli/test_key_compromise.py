"""After a key is compromised: what an operator does, what that mends, and what it cannot mend.

The thief has a copy of the key store and of every stream from before; what opens with that is tried.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from stoker.core.clock import SystemClock
from stoker.keys.errors import KeyNotActive, KeyUnknown
from stoker.keys.open import open_backend
from stoker.keys.partition import BackendKeySource
from stoker.promises.house import read_header
from stoker.store.objects import ObjectStore
from stoker.store.reader import StreamReader
from support.cli_home import PREPARE, CliHome
from support.warm_cli import WarmHome, warm_commands


class Thief:
    """Whoever copied the key store and the store on one day, and reads the store on any later one."""

    def __init__(self, home: CliHome, place: Path) -> None:
        shutil.copytree(home.root / "keys", place / "keys")
        shutil.copytree(home.store, place / "store")
        self._keys = BackendKeySource(
            open_backend((place / "keys").as_uri(), clock=SystemClock(), passphrase=None)
        )
        self.copied = ObjectStore.open((place / "store").as_uri())
        self.there = ObjectStore.open(home.store.as_uri())

    def opens(self, store: ObjectStore, version: str) -> int:
        """How many of a version's streams open; each that is there is tried."""
        opened = 0
        for key in sorted(store.list(f"datasets/text/{version}")):
            if key.endswith(".stk"):
                header = read_header(store, key)
                try:
                    StreamReader.open(store.source(key), self._keys, header.label, place=key).read_all(
                        1 << 26
                    )
                except KeyUnknown:
                    continue
                opened += 1
        return opened


def versions(home: CliHome) -> list[str]:
    return [each["version"] for each in home.data("dataset", "ls")["datasets"]]


def figures(home: CliHome, version: str) -> dict[str, object]:
    found = [each for each in home.data("dataset", "ls")["datasets"] if each["version"] == version]
    return dict(found[0]["figures"])


def test_after_a_compromise_what_survives_moves_and_what_is_sealed_anew_is_out_of_the_thiefs_reach(
    home_at: Callable[[str], CliHome], tmp_path: Path
) -> None:
    prepared = home_at("prepared")
    with warm_commands() as commands:
        home = WarmHome(prepared.place, prepared.environment, commands=commands)
        home.stoker("identity", "create", "hands", "--role", "operator", by="")
        (old,) = versions(home)
        thief = Thief(home, tmp_path / "thief")
        streams = thief.opens(thief.there, old)
        assert streams > 0
        first, second = f"dataset/text/{old}#1", f"dataset/text/{old}#2"

        # declared: nothing opens any more, but for who moves what survives
        home.stoker("key", "compromise", first, "--reason", "a lost laptop", by="decider")
        home.refused(KeyNotActive, "dataset", "sample", "text", by="decider")
        home.stoker("key", "rotate", first, by="hands")
        moved = home.data("key", "rewrap", first, by="hands")
        assert (moved["to"], moved["left_keys"]) == (second, 0)
        home.stoker("dataset", "sample", "text", by="decider")

        # which heals nothing: the partition keys are the same ones
        assert thief.opens(thief.there, old) == streams

        # sealed anew: the same samples in another version, under keys that nobody had
        sealed = home.data(*PREPARE)
        assert not sealed["found"], "what a compromised key sealed is not taken for what was asked for"
        new = sealed["record"]["version"]
        assert versions(home) == [old, new]
        assert sealed["record"]["figures"] == figures(home, old)
        assert thief.opens(thief.there, new) == 0
        assert home.data(*PREPARE)["found"], "and that is found from then on"

        # both epochs of the old one die, and the objects go; what was copied stays the thief's
        for kek in (first, second):
            home.stoker("key", "destroy", kek)
            home.stoker("key", "destroy", kek, "--emergency", "--reason", "a lost laptop", by="decider")
        home.stoker("dataset", "gc", by="hands")
        assert thief.opens(thief.there, old) == 0
        assert thief.opens(thief.copied, old) == streams, "no key management takes back what was taken"
        home.stoker("dataset", "sample", "text", by="decider")
        standings = {each["number"]: each["standing"] for each in home.data("verify")["promises"]}
        assert "not kept" not in standings.values()


def test_a_dataset_can_be_sealed_anew_before_any_key_is_declared_compromised(
    home_at: Callable[[str], CliHome],
) -> None:
    home = home_at("prepared")
    (old,) = versions(home)
    assert home.data(*PREPARE)["found"]
    again = home.data(*PREPARE, "--reseal")
    assert not again["found"]
    assert versions(home) == [old, again["record"]["version"]]
    streams = ObjectStore.open(home.store.as_uri())
    wrapped = {
        version: {
            read_header(streams, key).wrapped_key
            for key in streams.list(f"datasets/text/{version}")
            if key.endswith(".stk")
        }
        for version in versions(home)
    }
    assert not wrapped[old] & wrapped[again["record"]["version"]]
