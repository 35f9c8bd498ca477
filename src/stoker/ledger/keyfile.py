"""`ledger.key`: the Ed25519 seed that signs checkpoints. See docs/design/ledger.md, "The key file"."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from stoker.core.atomic import write_atomic
from stoker.core.signing import Ed25519Signer
from stoker.ledger.errors import BadLedgerKey

_HEADING: Final = "stoker-ledger-key 1 ed25519"
_MAX_BYTES: Final = 4096


def create_key(path: Path) -> Ed25519Signer:
    """Write a fresh key with mode 0600 and return its signer. Raises BadLedgerKey, DiskFull."""
    seed = secrets.token_bytes(32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(path, f"{_HEADING}\n{seed.hex()}\n".encode(), mode=0o600)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise BadLedgerKey(
            f"The ledger's key cannot be written to {path}: {error.strerror}.",
            hint="Choose a folder that you own.",
        ) from error
    return Ed25519Signer.from_seed(seed)


def read_key(path: Path) -> Ed25519Signer:
    """The signer whose seed is in `path`.

    Raises BadLedgerKey when the file is absent, malformed, no plain file, or open to other users.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BadLedgerKey(
            f"The ledger's key {path} cannot be read: {error.strerror}.",
            hint="Restore it from your copy; without it nothing can be added to this ledger.",
        ) from error
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise BadLedgerKey(f"The ledger's key {path} is not a plain file.", hint="Restore it.")
        loose = stat.S_IMODE(facts.st_mode) & 0o077
        if loose:
            raise BadLedgerKey(
                f"The ledger's key {path} has mode {stat.S_IMODE(facts.st_mode):04o}; others could use it.",
                hint=f"Run: chmod 600 {path} — and if someone may have read it, start a new ledger.",
            )
        data = os.read(descriptor, _MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    try:
        heading, seed_text, rest = data.decode("ascii").split("\n")
        seed = bytes.fromhex(seed_text)
    except ValueError:
        heading, seed, rest = "", b"", ""
    if heading != _HEADING or len(seed) != 32 or rest:
        raise BadLedgerKey(
            f"{path} is not a ledger key: expected the line {_HEADING!r} and 64 hexadecimal digits.",
            hint="Restore it from your copy.",
        )
    return Ed25519Signer.from_seed(seed)
