"""The session on one PKCS#11 token: found by its label, logged in by a PIN out of a file.

python-pkcs11 initialises a library for one thread at a time (`C_Initialize(NULL)`), so all calls into one
library take turns, whichever vault and thread they come from.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pkcs11
from pkcs11 import Attribute, ObjectClass, TokenFlag

from stoker.keys.errors import BadKeysUrl, VaultRefused, VaultUnreachable
from stoker.keys.vaults.secret_file import read_secret_file

_TURNS: dict[Path, threading.RLock] = {}
"""One lock for each library of this process."""

REFUSALS: Final = (
    pkcs11.PinIncorrect,
    pkcs11.PinLocked,
    pkcs11.PinExpired,
    pkcs11.PinInvalid,
    pkcs11.PinLenRange,
    pkcs11.UserPinNotInitialized,
    pkcs11.UserNotLoggedIn,
    pkcs11.AnotherUserAlreadyLoggedIn,
    pkcs11.SessionReadOnly,
    pkcs11.TokenWriteProtected,
)
"""What no further try can mend. A PIN that is wrong is never tried twice: tokens lock themselves."""

_HINT: Final = "Expected pkcs11:token=LABEL?module-path=/PATH/OF/LIBRARY.so&pin-source=/PATH/OF/PIN-FILE."


@dataclass(frozen=True, slots=True)
class TokenPlace:
    """Where a token is. The form is a PKCS#11 URI, RFC 7512; a PIN in it is refused."""

    label: str
    module: Path
    pin_file: Path | None
    """None: the token asks for the PIN by itself (a pad, a card reader)."""
    serial: str | None = None
    algorithm: str = "gcm"
    """`gcm`, or `kwp` for a token without it."""

    @classmethod
    def parse(cls, url: str) -> TokenPlace:
        """Raises BadKeysUrl, which shows no part of the URL that may hold a PIN."""
        scheme, _, rest = url.partition(":")
        path, _, query = rest.partition("?")
        named = _named(path, ";") | _named(query, "&")
        known = {"token", "serial", "module-path", "pin-source", "algorithm"}
        if scheme != "pkcs11" or not set(named) <= known or not {"token", "module-path"} <= set(named):
            unknown = sorted(set(named) - known)
            said = f"it has {', '.join(each[:40] for each in unknown)}" if unknown else "it names too little"
            raise BadKeysUrl(f"A PKCS#11 token is not named so: {said}.", hint=_HINT)
        pin = named.get("pin-source", "").removeprefix("file:")
        algorithm = named.get("algorithm", "gcm")
        for each in (named["module-path"], pin or "/"):
            if not each.startswith("/"):
                raise BadKeysUrl(f"{each!a} is no absolute path.", hint=_HINT)
        if algorithm not in ("gcm", "kwp"):
            raise BadKeysUrl(f"{algorithm!a} is no algorithm of a token.", hint="Expected gcm or kwp.")
        return cls(
            label=named["token"],
            module=Path(named["module-path"]),
            pin_file=Path(pin) if pin else None,
            serial=named.get("serial"),
            algorithm=algorithm,
        )


def _named(text: str, between: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(between) if part)
    return {name: unquote(value) for name, _, value in pairs}


@dataclass(slots=True)
class Seat:
    """The session, and the KEKs that were found in it and could be used, by handle and label."""

    session: Any
    keys: dict[tuple[str, str], Any] = field(default_factory=dict)

    def find(self, handle: str, label: str) -> Any | None:
        """The object of a KEK, or None where the token has none of this id and label."""
        found = self.keys.get((handle, label))
        if found is None:
            wanted = {
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.ID: bytes.fromhex(handle),
                Attribute.LABEL: label,
            }
            found = next(iter(list(self.session.get_objects(wanted))), None)
            # The library decides on finding an object what can be called on it: one disabled is not kept.
            if found is not None and is_usable(found):
                self.keys[handle, label] = found
        return found

    def forget(self, handle: str, label: str) -> None:
        """Look for it anew the next time."""
        self.keys.pop((handle, label), None)


def is_usable(kek: Any) -> bool:
    """Whether the token let it be used when it was found."""
    return hasattr(kek, "decrypt") or hasattr(kek, "unwrap_key")


class TokenSession:
    """This process's session on one token, opened at the first use and after it was lost."""

    def __init__(self, place: TokenPlace) -> None:
        self._place = place
        self._seat: Seat | None = None
        self._turn = _TURNS.setdefault(place.module, threading.RLock())
        self._process = os.getpid()
        self._closed = False

    @property
    def name(self) -> str:
        """For people."""
        return f"pkcs11 token {self._place.label}"

    @contextmanager
    def seat(self) -> Iterator[Seat]:
        """The session, for this thread alone. Raises VaultUnreachable or VaultRefused.

        One that the token has dropped is closed, so that the next try logs in again.
        """
        if self._closed or self._process != os.getpid():
            raise VaultUnreachable(
                f"{self.name} was opened by another process, or closed.",
                hint="A token's session does not survive a fork. Open the key back end in this process.",
            )
        with self._turn:
            if self._seat is None:
                self._seat = Seat(self._open())
            try:
                yield self._seat
            except LOST as error:
                self._drop()
                raise VaultUnreachable(
                    f"{self.name} does not answer ({type(error).__name__}).", hint=_LOST_HINT
                ) from error

    def _drop(self) -> None:
        seat, self._seat = self._seat, None
        if seat is not None:
            try:
                seat.session.close()
            except pkcs11.PKCS11Error:
                return  # it was gone already

    def _open(self) -> Any:
        place = self._place
        try:
            library = pkcs11.lib(str(place.module))
            serial = None if place.serial is None else place.serial.encode("utf-8")
            token = library.get_token(token_label=place.label, token_serial=serial)
            if place.pin_file is not None:
                pin: Any = read_secret_file(place.pin_file, f"the PIN of token {place.label}")
            elif token.flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH:
                pin = pkcs11.PROTECTED_AUTH
            else:
                raise VaultRefused(f"{self.name} needs a PIN, and no file with it is named.", hint=_HINT)
            try:
                return token.open(rw=True, user_pin=pin)
            except pkcs11.UserAlreadyLoggedIn:
                return token.open(rw=True)  # logged in is the process, not the session
        except REFUSALS as error:
            raise VaultRefused(
                f"{self.name} refuses the login ({type(error).__name__}).",
                hint="Check the PIN file and the token's state. A token locks itself after a few wrong PINs.",
            ) from error
        except pkcs11.MultipleTokensReturned as error:
            raise VaultUnreachable(
                f"Several tokens are called {place.label}.", hint="Add `serial=` to the URL."
            ) from error
        except (pkcs11.PKCS11Error, RuntimeError, OSError) as error:
            raise VaultUnreachable(
                f"{self.name} is not found through {place.module} ({type(error).__name__}).", hint=_LOST_HINT
            ) from error

    def close(self) -> None:
        """Close the session; a forked child leaves its parent's alone."""
        self._closed = True
        if self._process == os.getpid():
            with self._turn:
                self._drop()


LOST: Final = (
    pkcs11.DeviceError,
    pkcs11.DeviceMemory,
    pkcs11.DeviceRemoved,
    pkcs11.HostMemory,
    pkcs11.SessionClosed,
    pkcs11.SessionHandleInvalid,
    pkcs11.TokenNotPresent,
    pkcs11.TokenNotRecognised,
    pkcs11.SlotIDInvalid,
    pkcs11.UserNotLoggedIn,
)
"""The session or the token is gone: another try begins with another login."""

_LOST_HINT: Final = "Check that the token is there, its library, and the service behind it. Nothing was lost."
