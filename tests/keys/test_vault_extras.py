"""Without the extra `kms` a remote vault says so; with it, nothing of it is loaded before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

MISSING = """
import sys
sys.modules[{package!r}] = None
from stoker.core.errors import MissingExtra
try:
    {use}
except MissingExtra as error:
    print(error.message, error.hint)
"""

USES = {
    "pkcs11": "import stoker.keys.vaults.pkcs11",
    "boto3": "import stoker.keys.vaults.aws_kms",
    "requests": "from stoker.keys.vaults.tls import TlsRules, session; session('https://x', TlsRules())",
}


def said_by(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    ).stdout


@pytest.mark.parametrize("package", USES)
def test_a_package_that_is_missing_is_named_with_its_extra(package: str) -> None:
    said = said_by(MISSING.format(package=package, use=USES[package]))
    assert package in said
    assert "stoker[kms]" in said


def test_keys_alone_load_no_client_library() -> None:
    loaded = said_by(
        "import sys, stoker.keys.registry, stoker.keys.open, stoker.keys.vaults.tls;"
        "print([each for each in ('pkcs11', 'boto3', 'botocore', 'requests', 'hvac') if each in sys.modules])"
    )
    assert loaded.strip() == "[]"
