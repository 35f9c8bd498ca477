"""The root of a file key store: a key file or a passphrase, and the keys derived from it.

See docs/design/keys.md, "root.key", "Passphrase" and "Derived keys".
"""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from stoker.keys.errors import KeystoreDamaged, LooseKeyFile, WrongPassphrase, WrongRootKey
from stoker.keys.secret import KEY_BYTES, SecretKey

ROOT_FILE_BYTES: Final = 48
SALT_BYTES: Final = 32
CHECK_BYTES: Final = 16
MIN_PASSPHRASE_LETTERS: Final = 8

_ROOT_HEAD: Final = b"STKROOT\x01"
_LABEL: Final = b"stoker/keys/v1/"
_MAX_SCRYPT_BYTES: Final = 2**30


@dataclass(frozen=True, slots=True)
class ScryptCost:
    """What one guess at the passphrase costs: 128 · 2^log2_n · r bytes of memory, p times."""

    log2_n: int = 17
    r: int = 8
    p: int = 1

    def check(self, floor: ScryptCost, place: Path) -> None:
        """Raises KeystoreDamaged unless the cost lies between `floor` and what a machine can bear."""
        fits = (
            min(15, floor.log2_n) <= self.log2_n <= 20
            and 1 <= self.r <= 16
            and 1 <= self.p <= 4
            and 128 * 2**self.log2_n * self.r <= _MAX_SCRYPT_BYTES
        )
        if not fits:
            raise KeystoreDamaged(
                f"{place} asks for scrypt with n = 2^{self.log2_n}, r = {self.r}, p = {self.p}, "
                "outside of what Stoker writes or bears.",
                hint="The file was changed. Restore it from a copy you trust.",
            )


def root_from_passphrase(passphrase: str, salt: bytes, cost: ScryptCost) -> SecretKey:
    """The root that scrypt makes of the passphrase in Unicode form NFC."""
    root = SecretKey()
    try:
        material = unicodedata.normalize("NFC", passphrase).encode()
    except UnicodeEncodeError as error:
        raise WrongPassphrase(
            "The passphrase holds characters that are not Unicode text.",
            hint="Check the terminal's or the environment's encoding.",
        ) from error
    scrypt = Scrypt(salt=salt, length=KEY_BYTES, n=2**cost.log2_n, r=cost.r, p=cost.p)
    scrypt.derive_into(material, root.writable_view())
    return root


def check_new_passphrase(passphrase: str) -> None:
    """Raises WrongPassphrase for one that is too short to protect a new key store."""
    if len(passphrase) < MIN_PASSPHRASE_LETTERS:
        raise WrongPassphrase(
            f"A new key store's passphrase has at least {MIN_PASSPHRASE_LETTERS} characters.",
            hint="Use several random words.",
        )


def encode_root_file(root: SecretKey) -> bytearray:
    """The 48 bytes of `root.key`; the caller overwrites them after writing."""
    content = bytearray(_ROOT_HEAD)
    content += root.view()
    content += hashlib.sha256(content).digest()[:8]
    return content


def read_root_file(path: Path) -> SecretKey:
    """The root in the key file at `path`. Raises LooseKeyFile or WrongRootKey."""
    descriptor = open_private(path)
    if descriptor is None:
        raise WrongRootKey(
            f"The root key file {path} is missing.",
            hint="Put the root.key of this key store back; without it nothing that it sealed can be read.",
        )
    content = bytearray(ROOT_FILE_BYTES + 1)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        length = file.readinto(content)
    try:
        digest = hashlib.sha256(memoryview(content)[:40]).digest()[:8]
        if length != ROOT_FILE_BYTES or content[:8] != _ROOT_HEAD or content[40:48] != digest:
            raise WrongRootKey(
                f"{path} is not a whole root key file of version 1 ({length} bytes were read, "
                f"{ROOT_FILE_BYTES} expected).",
                hint="Restore root.key from the copy you keep apart.",
            )
        return SecretKey.adopt(content[8:40])
    finally:
        content[:] = bytes(len(content))


def open_private(path: Path) -> int | None:
    """A descriptor for reading the file at `path`, or None when there is none.

    Raises LooseKeyFile unless it is a plain file of this user that nobody else may touch.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise LooseKeyFile(
            f"{path} belongs to another user.", hint="Run Stoker as the user that owns its keys."
        ) from error
    try:
        _check_private(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_private(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise LooseKeyFile(f"{path} is not a plain file.", hint="Put a plain file of mode 0600 there.")
    if found.st_uid != os.geteuid():
        raise LooseKeyFile(
            f"{path} belongs to user {found.st_uid}, not to user {os.geteuid()}, who runs Stoker.",
            hint="Run Stoker as the user that owns its keys.",
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise LooseKeyFile(
            f"{path} has mode {mode:04o}: other users of this machine can open it. Expected 0600.",
            hint=f"Run: chmod 600 {path} — and if others may have read it, move the data to a new key store.",
        )


class RootKeys:
    """The keys derived from one root; the root itself is not kept."""

    def __init__(self, root: SecretKey, store_id: bytes) -> None:
        """Derive all keys and wipe `root`."""
        with root:
            self.kek_wrap = _derive(root, store_id, b"kek-wrap")
            self.signer_wrap = _derive(root, store_id, b"signer-wrap")
            self.canary = _derive(root, store_id, b"canary")
            self.mask = _derive(root, store_id, b"mask")
            self.keystore_mac = _derive(root, store_id, b"keystore-mac")
            self.tombstone_mac = _derive(root, store_id, b"tombstone-mac")
            with _derive(root, store_id, b"root-check") as check:
                self.check = bytes(check.view()[:CHECK_BYTES])

    def wipe(self) -> None:
        """Overwrite every derived key."""
        for key in (
            self.kek_wrap,
            self.signer_wrap,
            self.canary,
            self.mask,
            self.keystore_mac,
            self.tombstone_mac,
        ):
            key.wipe()

    def __enter__(self) -> RootKeys:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()


def _derive(root: SecretKey, store_id: bytes, label: bytes) -> SecretKey:
    derived = SecretKey()
    hkdf = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=store_id, info=_LABEL + label)
    hkdf.derive_into(root.view(), derived.writable_view())
    return derived
