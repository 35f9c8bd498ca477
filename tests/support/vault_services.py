"""Vaults for the conformance suite: a SoftHSM token and a KMS that keeps to key states, one for a module.

KEKs of one test do not meet those of another: each test has a registry of its own, and handles are random.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stoker.core.clock import Clock
from stoker.keys.keystore_folder import KeystoreFolder
from stoker.keys.open_keystore import open_keystore
from stoker.keys.registry import Registry
from stoker.keys.root_sources import FolderRoot
from stoker.keys.vault import KekVault
from stoker.keys.vaults.aws_kms import open_aws_kms
from stoker.keys.vaults.pkcs11 import open_pkcs11
from support.key_stores import CHEAP
from support.kms_server import kms_server
from support.softhsm import soft_token


@dataclass(frozen=True)
class VaultServices:
    """What runs, by URL."""

    token_url: str
    kms_url: str

    def vault(self, kind: str) -> KekVault:
        """A fresh vault, as after a restart: `pkcs11-gcm`, `pkcs11-kwp`, `aws` or `aws-external`."""
        match kind:
            case "pkcs11-gcm" | "pkcs11-kwp":
                return open_pkcs11(f"{self.token_url}&algorithm={kind.removeprefix('pkcs11-')}")
            case "aws":
                return open_aws_kms(self.kms_url)
            case "aws-external":
                return open_aws_kms(f"{self.kms_url}&origin=external")
        raise ValueError(kind)


@contextlib.contextmanager
def vault_services(folder: Path) -> Iterator[VaultServices]:
    """Both, until the end of the block."""
    with soft_token(folder / "hsm") as token, kms_server() as kms, pytest.MonkeyPatch.context() as patch:
        for name, value in kms.environment().items():
            patch.setenv(name, value)
        yield VaultServices(token.url, kms.url)


def open_registry(vault: KekVault, folder: Path, clock: Clock, max_wraps: int) -> Registry:
    """A key back end with its registry in `folder` and its KEKs in `vault`."""
    place = KeystoreFolder(folder)
    place.prepare()
    store = open_keystore(place, FolderRoot(place, None, CHEAP))
    return Registry(store, vault, clock, max_wraps=max_wraps)
