"""KEKs in AWS KMS: one KMS key for each KEK, which never leaves it. See docs/design/vaults.md, "AWS KMS"."""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from stoker.keys.errors import (
    KeyDestroyed,
    KeyNotActive,
    VaultRefused,
    VaultUnreachable,
    WrongContext,
)
from stoker.keys.refs import KekRef
from stoker.keys.secret import KEY_BYTES, SecretKey
from stoker.keys.vault import MAX_WRAPPED_BYTES
from stoker.keys.vaults.aws_link import KmsLink, KmsPlace
from stoker.keys.vaults.batch import open_all, open_each
from stoker.keys.vaults.patience import Patience

MAGIC: Final = b"STKA\x01"
THREADS: Final = 8
"""Requests at once when many keys are opened: KMS has no request for several."""

DELETION_DAYS: Final = 7
"""The shortest waiting time that KMS takes."""

_ARN: Final = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]{1,64}")
Meaning = Callable[[str], Exception]
_DEAD: Final = ("PendingDeletion", "PendingReplicaDeletion", "PendingImport")


class AwsKmsVault:
    """A KekVault whose handles are ARNs of KMS keys."""

    embedded: Final = False
    max_wraps: Final = 2**32
    """KMS derives a key of its own for each encryption; the registry's count still has an end."""

    def __init__(self, place: KmsPlace, *, patience: Patience | None = None) -> None:
        """See `open_aws_kms`."""
        self._link = KmsLink(place)
        self._external = place.external
        self._patience = patience or Patience()

    @property
    def name(self) -> str:
        """See KekVault."""
        return self._link.name

    def create(self, ref: KekRef) -> str:
        """See KekVault. With `origin=external` the KEK is made here, in locked memory, and sent wrapped."""
        made = self._ask(
            ref,
            "create_key",
            Description=f"Stoker KEK {ref}",
            KeyUsage="ENCRYPT_DECRYPT",
            KeySpec="SYMMETRIC_DEFAULT",
            Origin="EXTERNAL" if self._external else "AWS_KMS",
            Tags=[
                {"TagKey": "stoker-scope", "TagValue": ref.scope},
                {"TagKey": "stoker-epoch", "TagValue": str(ref.epoch)},
            ],
        )
        handle = str(made["KeyMetadata"]["Arn"])
        if self._external:
            self._import(handle, ref)
        return handle

    def _import(self, handle: str, ref: KekRef) -> None:
        wanted = self._ask(
            ref,
            "get_parameters_for_import",
            KeyId=handle,
            WrappingAlgorithm="RSAES_OAEP_SHA_256",
            WrappingKeySpec="RSA_4096",
        )
        public = load_der_public_key(wanted["PublicKey"])
        if not isinstance(public, RSAPublicKey) or public.key_size < 3072:
            raise VaultRefused(f"{self.name} gave no RSA key of 3,072 bits or more to import with.")
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
        with SecretKey.generate() as kek:
            sealed = public.encrypt(bytes(kek.view()), oaep)  # the library takes nothing else
        self._ask(
            ref,
            "import_key_material",
            KeyId=handle,
            ImportToken=wanted["ImportToken"],
            EncryptedKeyMaterial=sealed,
            ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
        )

    def wrap(self, handle: str, ref: KekRef, key: SecretKey, context: bytes) -> bytes:
        """See KekVault."""
        answer = self._use(
            handle,
            ref,
            "encrypt",
            Plaintext=bytes(key.view()),
            EncryptionContext=_encryption_context(ref, context),
            EncryptionAlgorithm="SYMMETRIC_DEFAULT",
        )
        wrapped = MAGIC + bytes(answer["CiphertextBlob"])
        if len(wrapped) > MAX_WRAPPED_BYTES:
            raise VaultUnreachable(f"{self.name} made {len(wrapped)} bytes of a key of {KEY_BYTES}.")
        return wrapped

    def unwrap(self, handle: str, ref: KekRef, wrapped: bytes, context: bytes) -> SecretKey:
        """See KekVault."""
        _check(wrapped, ref)
        answer = self._use(
            handle,
            ref,
            "decrypt",
            CiphertextBlob=wrapped[len(MAGIC) :],
            EncryptionContext=_encryption_context(ref, context),
            EncryptionAlgorithm="SYMMETRIC_DEFAULT",
        )
        plain = bytearray(answer["Plaintext"])
        if len(plain) != KEY_BYTES or answer.get("KeyId") != handle:
            plain[:] = bytes(len(plain))
            raise _wrong(ref)
        return SecretKey.adopt(plain)

    def unwrap_many(
        self, handle: str, ref: KekRef, wrapped: Sequence[tuple[bytes, bytes]]
    ) -> list[SecretKey]:
        """See KekVault: a request each, eight at once."""
        for each, _ in wrapped:
            _check(each, ref)

        def open_slice(part: Sequence[tuple[bytes, bytes]]) -> list[SecretKey]:
            return open_each(part, lambda one, context: self.unwrap(handle, ref, one, context))

        return open_all(wrapped, open_slice, THREADS)

    def disable(self, handle: str, ref: KekRef) -> None:
        """See KekVault."""
        self._use(handle, ref, "disable_key")

    def enable(self, handle: str, ref: KekRef) -> None:
        """See KekVault. A deletion that is scheduled in KMS is not undone by it."""
        self._use(handle, ref, "enable_key")

    def destroy(self, handle: str, ref: KekRef) -> None:
        """See KekVault.

        Imported bytes are deleted at once and for good. A KEK that KMS made opens nothing from now on, and is
        erased by KMS after seven days, in which an administrator of the AWS account can still call it back.
        """
        found = self._describe(handle, ref)
        if found is None:
            return
        gone = {"NotFoundException": self._gone(ref), "KMSInvalidStateException": self._gone(ref)}
        try:
            if found.get("Origin") == "EXTERNAL" and found.get("KeyState") != "PendingImport":
                self._ask(ref, "delete_imported_key_material", gone, KeyId=handle)
            if not str(found.get("KeyState")).endswith("Deletion"):
                self._ask(ref, "schedule_key_deletion", gone, KeyId=handle, PendingWindowInDays=DELETION_DAYS)
        except KeyDestroyed:
            return  # by another machine, just before

    def exists(self, handle: str, ref: KekRef) -> bool:
        """See KekVault. A KEK whose deletion is scheduled counts as gone: it opens nothing."""
        found = self._describe(handle, ref)
        return found is not None and found.get("KeyState") not in _DEAD

    def erased_at_s(self, handle: str, ref: KekRef) -> float | None:
        """See KekVault. Of an imported KEK nothing is left to erase once its bytes were deleted."""
        found = self._describe(handle, ref)
        scheduled = found is not None and str(found.get("KeyState")).endswith("Deletion")
        if found is None or not scheduled or found.get("Origin") == "EXTERNAL":
            return None
        at = found.get("DeletionDate")
        if not isinstance(at, datetime.datetime):
            raise VaultUnreachable(
                f"{self.name} has the deletion of KEK {ref} scheduled and does not say when."
            )
        return at.timestamp()

    def close(self) -> None:
        """See KekVault."""
        self._link.close()

    def __enter__(self) -> AwsKmsVault:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _describe(self, handle: str, ref: KekRef) -> dict[str, Any] | None:
        if _ARN.fullmatch(handle) is None:
            return None
        try:
            answer = self._ask(ref, "describe_key", {"NotFoundException": self._gone(ref)}, KeyId=handle)
        except KeyDestroyed:
            return None
        return dict(answer["KeyMetadata"])

    def _use(self, handle: str, ref: KekRef, action: str, **words: Any) -> Any:
        """One request about a KEK; what KMS says of its state is said in our words."""
        if _ARN.fullmatch(handle) is None:
            raise self._gone(ref)("")
        meanings: dict[str, Meaning] = {
            "NotFoundException": self._gone(ref),
            "KMSInvalidStateException": lambda _: _InState(),
            "DisabledException": lambda _: KeyNotActive(
                f"{self.name} has KEK {ref} disabled.", hint="A destruction is pending, or it is suspended."
            ),
            "InvalidCiphertextException": lambda _: _wrong(ref),
            "IncorrectKeyException": lambda _: _wrong(ref),
        }
        try:
            return self._ask(ref, action, meanings, KeyId=handle, **words)
        except _InState as error:
            found = self._describe(handle, ref)
            if found is None or found.get("KeyState") in _DEAD:
                raise self._gone(ref)("") from error
            if found.get("KeyState") == "Disabled":
                raise meanings["DisabledException"]("") from error
            raise VaultUnreachable(
                f"{self.name} has KEK {ref} in state {str(found.get('KeyState'))[:40]}.",
                hint="Run it again later.",
            ) from error

    def _gone(self, ref: KekRef) -> Meaning:
        return lambda _: KeyDestroyed(
            f"{self.name} has no KEK {ref} any more, or has its deletion scheduled.",
            hint="It was destroyed, or this is another account or region than the one that made it.",
        )

    def _ask(
        self,
        ref: KekRef,
        action: str,
        meanings: dict[str, Meaning] | None = None,
        **words: Any,
    ) -> Any:
        return self._patience.ask(str(ref), lambda: self._link.ask(action, meanings or {}, **words))


class _InState(Exception):
    """KMS says that the key's state does not allow it; which state is asked for next."""


def _encryption_context(ref: KekRef, context: bytes) -> dict[str, str]:
    """What KMS binds the ciphertext to, and writes into CloudTrail: the KEK's name and a digest, no more."""
    return {
        "stoker-scope": ref.scope,
        "stoker-epoch": str(ref.epoch),
        "stoker-context": hashlib.sha256(context).hexdigest(),
    }


def _check(wrapped: bytes, ref: KekRef) -> None:
    if not len(MAGIC) < len(wrapped) <= MAX_WRAPPED_BYTES or not wrapped.startswith(MAGIC):
        raise WrongContext(
            f"A wrapped key of {ref} has {len(wrapped)} bytes or a head that no key of AWS KMS has.",
            hint="It was cut, changed, or wrapped by another key back end.",
        )


def _wrong(ref: KekRef) -> WrongContext:
    return WrongContext(
        f"The wrapped key of {ref} does not open.",
        hint="It was changed, belongs to another KEK, or was wrapped for another place or purpose.",
    )


def open_aws_kms(url: str) -> AwsKmsVault:
    """The KMS that `aws-kms://REGION?…` names. Raises BadKeysUrl, InsecureLink or VaultRefused."""
    return AwsKmsVault(KmsPlace.parse(url))
