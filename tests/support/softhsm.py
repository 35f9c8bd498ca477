"""SoftHSM tokens of their own for a test: `with soft_token(tmp_path) as token: Pkcs11Vault(token.place)`.

SoftHSM reads SOFTHSM2_CONF when its library is initialised, once a process, so it is initialised anew for
each token; vaults of an earlier test are of no use afterwards.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pkcs11

from stoker.keys.vaults.pkcs11_token import TokenPlace

MODULE: Final = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN: Final = "correct-horse-1234"
LABEL: Final = "stoker test"


@dataclass(frozen=True)
class SoftToken:
    """A token in a folder, its PIN in a file of mode 0600."""

    folder: Path
    pin_file: Path

    @property
    def url(self) -> str:
        return f"pkcs11:token={quote(LABEL)}?module-path={MODULE}&pin-source={quote(str(self.pin_file))}"

    @property
    def place(self) -> TokenPlace:
        return TokenPlace.parse(self.url)

    @property
    def environment(self) -> dict[str, str]:
        """For other processes that use the token."""
        return {"SOFTHSM2_CONF": str(self.folder / "softhsm2.conf")}

    def session(self) -> pkcs11.Session:
        """One of our own on the token, to look at what the vault did."""
        token = pkcs11.lib(str(MODULE)).get_token(token_label=LABEL)
        try:
            return token.open(rw=True, user_pin=PIN)
        except pkcs11.UserAlreadyLoggedIn:
            return token.open(rw=True)


@contextlib.contextmanager
def soft_token(folder: Path) -> Iterator[SoftToken]:
    """A fresh token in `folder`; the environment and the library are as before afterwards."""
    tokens = folder / "tokens"
    tokens.mkdir(parents=True)
    settings = {
        "directories.tokendir": str(tokens),
        "objectstore.backend": "file",
        "log.level": "ERROR",
        "slots.removable": "false",
    }
    (folder / "softhsm2.conf").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
    pin_file = folder / "pin"
    pin_file.touch(0o600)
    pin_file.write_text(PIN + "\n")
    token = SoftToken(folder, pin_file)
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ.update(token.environment)
    try:
        command = ["softhsm2-util", "--init-token", "--free", "--label", LABEL]
        done = subprocess.run(
            [*command, "--pin", PIN, "--so-pin", "only-for-tests"], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        pkcs11.lib(str(MODULE)).reinitialize()
        yield token
    finally:
        if before is None:
            del os.environ["SOFTHSM2_CONF"]
        else:
            os.environ["SOFTHSM2_CONF"] = before
