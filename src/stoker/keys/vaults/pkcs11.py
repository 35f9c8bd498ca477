"""KEKs in a PKCS#11 token, such as an HSM: made and used there, never outside. See docs/design/vaults.md."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from stoker.keys.errors import (
    KeyDestroyed,
    KeyNotActive,
    VaultRefused,
    VaultUnreachable,
    WrongContext,
)
from stoker.keys.refs import KekRef
from stoker.keys.secret import SecretKey
from stoker.keys.vaults.batch import open_each
from stoker.keys.vaults.patience import Patience
from stoker.keys.vaults.tls import missing_extra

try:
    import pkcs11
    from pkcs11 import Attribute, KeyType
except ImportError as error:
    raise missing_extra("python-pkcs11") from error

from stoker.keys.vaults.pkcs11_token import LOST, REFUSALS, Seat, TokenPlace, TokenSession, is_usable
from stoker.keys.vaults.pkcs11_wrap import (
    ABILITIES,
    GCM,
    KWP,
    MAX_WRAPS,
    NOT_OPENED,
    NotThisKey,
    unwrap,
    well_formed,
    wrap,
)

Answer = TypeVar("Answer")

_HANDLE: Final = re.compile(r"[0-9a-f]{32}")
_GONE: Final = (pkcs11.ObjectHandleInvalid, pkcs11.KeyHandleInvalid)
_NOT_PERMITTED: Final = "0x68"
"""CKR_KEY_FUNCTION_NOT_PERMITTED, which python-pkcs11 has no class for."""

_KEPT: Final = {
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.ALWAYS_SENSITIVE: True,
    Attribute.NEVER_EXTRACTABLE: True,
    Attribute.LOCAL: True,
}
"""What a token must say of a KEK that it made: generated inside, and never to be had in the clear."""


class Pkcs11Vault:
    """A KekVault on one token. A handle is the object's CKA_ID, 32 hexadecimal digits."""

    embedded: Final = False

    def __init__(self, place: TokenPlace, *, patience: Patience | None = None) -> None:
        """Logs in at the first use. See `open_pkcs11`."""
        self._session = TokenSession(place)
        self._patience = patience or Patience()
        self._algorithm = KWP if place.algorithm == "kwp" else GCM

    @property
    def name(self) -> str:
        """See KekVault."""
        return self._session.name

    @property
    def max_wraps(self) -> int:
        """See KekVault."""
        return MAX_WRAPS[self._algorithm]

    def create(self, ref: KekRef) -> str:
        """See KekVault. Raises VaultRefused when the token would not keep the KEK inside."""
        handle = secrets.token_hex(16)

        def make(seat: Seat) -> str:
            kek = seat.session.generate_key(
                KeyType.AES,
                256,
                id=bytes.fromhex(handle),
                label=_label(ref),
                store=True,
                template={
                    Attribute.PRIVATE: True,
                    Attribute.SENSITIVE: True,
                    Attribute.EXTRACTABLE: False,
                    Attribute.MODIFIABLE: True,
                    Attribute.SIGN: False,
                    Attribute.VERIFY: False,
                    Attribute.DERIVE: False,
                    **ABILITIES[self._algorithm],
                },
            )
            if any(kek[attribute] != must for attribute, must in _KEPT.items()):
                kek.destroy()
                raise VaultRefused(
                    f"{self.name} made a key that could leave it; it was destroyed again.",
                    hint="Let the token generate AES keys that are sensitive and not extractable.",
                )
            return handle

        return self._ask(ref, make)

    def wrap(self, handle: str, ref: KekRef, key: SecretKey, context: bytes) -> bytes:
        """See KekVault."""

        def call(seat: Seat) -> bytes:
            with self._errors(seat, handle, ref):
                kek = self._usable(seat, handle, ref)
                return wrap(self._algorithm, seat.session, kek, key, context)

        return self._ask(ref, call)

    def unwrap(self, handle: str, ref: KekRef, wrapped: bytes, context: bytes) -> SecretKey:
        """See KekVault."""
        return self.unwrap_many(handle, ref, [(wrapped, context)])[0]

    def unwrap_many(
        self, handle: str, ref: KekRef, wrapped: Sequence[tuple[bytes, bytes]]
    ) -> list[SecretKey]:
        """See KekVault: one after the other, in one turn."""
        for each, _ in wrapped:
            if not well_formed(each):
                raise WrongContext(
                    f"A wrapped key of {ref} has {len(each)} bytes or a head that no token's key has.",
                    hint="It was cut, changed, or wrapped by another key back end.",
                )

        def call(seat: Seat) -> list[SecretKey]:
            def open_one(one: bytes, context: bytes) -> SecretKey:
                with self._errors(seat, handle, ref):
                    return unwrap(self._usable(seat, handle, ref), one, context)

            return open_each(wrapped, open_one)

        return self._ask(ref, call)

    def disable(self, handle: str, ref: KekRef) -> None:
        """See KekVault: the token itself refuses every use, for every machine, until `enable`."""
        self._allow(handle, ref, dict.fromkeys(ABILITIES[self._algorithm], False))

    def enable(self, handle: str, ref: KekRef) -> None:
        """See KekVault."""
        self._allow(handle, ref, ABILITIES[self._algorithm])

    def _allow(self, handle: str, ref: KekRef, abilities: dict[Any, bool]) -> None:
        def call(seat: Seat) -> None:
            with self._errors(seat, handle, ref):
                kek = self._kek(seat, handle, ref)
                seat.forget(handle, _label(ref))
                for attribute, allowed in abilities.items():
                    if kek[attribute] != allowed:
                        kek[attribute] = allowed

        self._ask(ref, call)

    def destroy(self, handle: str, ref: KekRef) -> None:
        """See KekVault."""

        def call(seat: Seat) -> None:
            kek = seat.find(handle, _label(ref)) if _HANDLE.fullmatch(handle) else None
            seat.forget(handle, _label(ref))
            if kek is not None:
                try:
                    kek.destroy()
                except _GONE:
                    return  # by somebody else, just before

        self._ask(ref, call)

    def exists(self, handle: str, ref: KekRef) -> bool:
        """See KekVault."""

        def call(seat: Seat) -> bool:
            seat.forget(handle, _label(ref))
            return _HANDLE.fullmatch(handle) is not None and seat.find(handle, _label(ref)) is not None

        return self._ask(ref, call)

    def erased_at_s(self, handle: str, ref: KekRef) -> float | None:
        """See KekVault: None, since an object is destroyed at once."""
        return None

    def close(self) -> None:
        """See KekVault."""
        self._session.close()

    def __enter__(self) -> Pkcs11Vault:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, ref: KekRef, use: Callable[[Seat], Answer]) -> Answer:
        def call() -> Answer:
            try:
                with self._session.seat() as seat:
                    return use(seat)
            except REFUSALS as error:
                raise VaultRefused(
                    f"{self.name} refuses ({type(error).__name__}).",
                    hint="Check what this user of the token may do.",
                ) from error
            except pkcs11.PKCS11Error as error:
                raise VaultUnreachable(
                    f"{self.name} fails ({type(error).__name__}).", hint="Look into the token's own log."
                ) from error

        return self._patience.ask(str(ref), call)

    def _kek(self, seat: Seat, handle: str, ref: KekRef) -> Any:
        kek = seat.find(handle, _label(ref)) if _HANDLE.fullmatch(handle) else None
        if kek is None:
            raise KeyDestroyed(
                f"{self.name} has no KEK {ref} any more.",
                hint="It was destroyed, or this is another token than the one that made it.",
            )
        return kek

    def _usable(self, seat: Seat, handle: str, ref: KekRef) -> Any:
        kek = self._kek(seat, handle, ref)
        if not is_usable(kek):
            raise self._disabled(ref)
        return kek

    def _disabled(self, ref: KekRef) -> KeyNotActive:
        return KeyNotActive(
            f"{self.name} has KEK {ref} disabled.", hint="A destruction is pending, or it is suspended."
        )

    @contextmanager
    def _errors(self, seat: Seat, handle: str, ref: KekRef) -> Iterator[None]:
        """What the token's answers mean for a KEK."""
        try:
            yield
        except NotThisKey as error:
            raise _wrong(ref) from error
        except _GONE as error:
            seat.forget(handle, _label(ref))
            self._kek(seat, handle, ref)  # gone for good, or made known anew
            raise VaultUnreachable(
                f"{self.name} has renumbered its objects.", hint="Try again: the KEK is there."
            ) from error
        except (*LOST, *REFUSALS):
            raise
        except NOT_OPENED as error:
            seat.forget(handle, _label(ref))
            kek = self._kek(seat, handle, ref)
            _ = kek[Attribute.LABEL]  # raises one of LOST when it is the token that fails
            raise _wrong(ref) from error
        except pkcs11.PKCS11Error as error:
            if _NOT_PERMITTED in str(error):
                raise KeyNotActive(
                    f"{self.name} has KEK {ref} disabled.",
                    hint="A destruction is pending, or it is suspended.",
                ) from error
            raise


def _wrong(ref: KekRef) -> WrongContext:
    return WrongContext(
        f"The wrapped key of {ref} does not open.",
        hint="It was changed, belongs to another KEK, or was wrapped for another place or purpose.",
    )


def _label(ref: KekRef) -> str:
    return f"stoker {ref}"


def open_pkcs11(url: str) -> Pkcs11Vault:
    """The token that a PKCS#11 URI names: `pkcs11:token=LABEL?module-path=/….so&pin-source=/…`.

    Raises BadKeysUrl; everything else at the first use.
    """
    return Pkcs11Vault(TokenPlace.parse(url))
