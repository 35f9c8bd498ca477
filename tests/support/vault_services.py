"""Vaults for the conformance suite: a SoftHSM token, OpenBao, a KMS that keeps to key states.

One of each for a module. KEKs of one test do not meet those of another: each test has a registry of its
own, and handles are random.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stoker.keys.vault import KekVault
from stoker.keys.vaults.aws_kms import open_aws_kms
from stoker.keys.vaults.openbao import open_openbao
from stoker.keys.vaults.pkcs11 import open_pkcs11
from support.kms_server import kms_server
from support.openbao import openbao
from support.softhsm import soft_token


@dataclass(frozen=True)
class VaultServices:
    """What runs, by URL."""

    token_url: str
    kms_url: str
    bao_url: str

    def vault(self, kind: str) -> KekVault:
        """A fresh vault, as after a restart: `openbao`, `pkcs11-gcm`, `pkcs11-kwp`, `aws`, `aws-external`."""
        match kind:
            case "openbao":
                return open_openbao(self.bao_url)
            case "pkcs11-gcm" | "pkcs11-kwp":
                return open_pkcs11(f"{self.token_url}&algorithm={kind.removeprefix('pkcs11-')}")
            case "aws":
                return open_aws_kms(self.kms_url)
            case "aws-external":
                return open_aws_kms(f"{self.kms_url}&origin=external")
        raise ValueError(kind)


@contextlib.contextmanager
def vault_services(folder: Path) -> Iterator[VaultServices]:
    """All of them, until the end of the block."""
    with contextlib.ExitStack() as stack:
        token = stack.enter_context(soft_token(folder / "hsm"))
        kms = stack.enter_context(kms_server())
        bao = stack.enter_context(openbao(folder / "bao"))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in kms.environment().items():
            patch.setenv(name, value)
        yield VaultServices(token.url, kms.url, bao.url)
