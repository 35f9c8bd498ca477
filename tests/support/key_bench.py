"""The key back ends under test: `bench` is each of them in turn. A new one is one more entry in VAULTS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from stoker.core.clock import ManualClock
from stoker.keys.backend import KeyBackend
from stoker.keys.open import open_registry
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey
from support.key_stores import PASSPHRASE, SCOPE, open_store
from support.vault_services import VaultServices, vault_services

Opener = Callable[[Path, ManualClock, int], KeyBackend]

BACKENDS: Final[dict[str, Opener]] = {
    "file with a key file": lambda place, clock, wraps: open_store(
        place / "keys", clock=clock, max_wraps=wraps
    ),
    "file with a passphrase": lambda place, clock, wraps: open_store(
        place / "keys", clock=clock, max_wraps=wraps, passphrase=PASSPHRASE
    ),
}

VAULTS: Final = ("openbao", "pkcs11-gcm", "pkcs11-kwp", "aws", "aws-external")
"""Vaults that real services stand behind, each under a registry in a folder."""


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VaultServices]:
    with vault_services(tmp_path_factory.mktemp("services")) as running:
        yield running


CONTEXT = b"dataset/own-text 1 dataset"


@dataclass
class Bench:
    """One back end under test, which can be opened again as after a restart."""

    name: str
    place: Path
    opener: Opener
    clock: ManualClock
    backend: KeyBackend

    def reopen(self, max_wraps: int = 2**32) -> KeyBackend:
        self.backend = self.opener(self.place, self.clock, max_wraps)
        return self.backend

    def kek(self, expires_in_s: float | None = None) -> KekRef:
        expires_s = None if expires_in_s is None else self.clock.now_s() + expires_in_s
        return self.backend.create_kek(SCOPE, Purpose.DATASET, expires_s=expires_s)

    def wrapped(self, ref: KekRef) -> bytes:
        with SecretKey.generate() as key:
            return self.backend.wrap(ref, key, CONTEXT)

    def destroy(self, ref: KekRef) -> None:
        self.backend.request_destroy(ref, "alice")
        self.backend.destroy(ref, "bob")


def opener_of(name: str, request: pytest.FixtureRequest) -> Opener:
    """How the back end called `name` is opened."""
    if name in BACKENDS:
        return BACKENDS[name]
    services: VaultServices = request.getfixturevalue("services")
    return lambda place, clock, wraps: open_registry(
        services.vault(name), place / "keys", clock=clock, max_wraps=wraps
    )


@pytest.fixture(params=[*BACKENDS, *VAULTS])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    clock = ManualClock()
    opener = opener_of(request.param, request)
    yield Bench(request.param, tmp_path, opener, clock, opener(tmp_path, clock, 2**32))
