"""A secret that is wiped when it is no longer needed and refuses to be shown. See docs/design/keys.md."""

from __future__ import annotations

import ctypes
import os
from types import TracebackType
from typing import Final, NoReturn

from stoker.keys.errors import SecretWiped
from stoker.keys.memory import LOCKED_PAGES

KEY_BYTES: Final = 32


class SecretKey:
    """32 secret bytes in one locked buffer: not copied by us, not printable, wiped on close.

    The buffer is kept out of swap where the platform allows it (`locked` says so), never moves, and is
    overwritten by `wipe`, at the end of a `with` block, or when the object goes. What Python and OpenSSL
    copy for themselves is out of reach: docs/design/keys.md says what is not promised.
    """

    __slots__ = ("__weakref__", "_buffer", "_locked", "_pinned")

    def __init__(self, buffer: bytearray) -> None:
        """Take over `buffer`: the caller must not keep it. See `adopt` and `generate`."""
        self._pinned: ctypes.Array[ctypes.c_char] | None = None
        self._locked = False
        if type(buffer) is not bytearray or len(buffer) != KEY_BYTES:
            raise ValueError(f"a SecretKey takes over a bytearray of {KEY_BYTES} bytes")
        self._buffer = buffer
        self._pinned = (ctypes.c_char * KEY_BYTES).from_buffer(buffer)  # the export forbids any resize
        self._locked = LOCKED_PAGES.lock(ctypes.addressof(self._pinned), KEY_BYTES)

    @classmethod
    def generate(cls) -> SecretKey:
        """32 fresh bytes from the kernel's generator, read straight into the locked buffer."""
        secret = cls(bytearray(KEY_BYTES))
        if hasattr(os, "getrandom"):
            os.getrandom(1)  # waits, once after boot, until the generator is seeded
        with open("/dev/urandom", "rb", buffering=0) as source:  # noqa: PTH123 (unbuffered: no copy)
            if source.readinto(secret._buffer) != KEY_BYTES:
                raise OSError("/dev/urandom gave fewer bytes than asked for")
        return secret

    @classmethod
    def adopt(cls, buffer: bytearray) -> SecretKey:
        """Take over 32 secret bytes without copying them; `buffer` is wiped with the secret."""
        return cls(buffer)

    @property
    def locked(self) -> bool:
        """Whether the bytes are kept out of swap."""
        return self._locked

    @property
    def wiped(self) -> bool:
        """Whether the bytes are gone."""
        return self._pinned is None

    def view(self) -> memoryview:
        """The bytes, read-only and not copied; all views read zeros after `wipe`. Raises SecretWiped."""
        self._require()
        return memoryview(self._buffer).toreadonly()

    def writable_view(self) -> memoryview:
        """The bytes for a derivation that fills them in place. Raises SecretWiped."""
        self._require()
        return memoryview(self._buffer)

    def _require(self) -> None:
        if self._pinned is None:
            raise SecretWiped("A secret key was used after it had been wiped.")

    def wipe(self) -> None:
        """Overwrite the bytes with zeros and unlock their page. Doing it twice is allowed."""
        if self._pinned is None:
            return
        self._buffer[:] = bytes(KEY_BYTES)
        address = ctypes.addressof(self._pinned)
        self._pinned = None
        if self._locked:
            self._locked = False
            LOCKED_PAGES.unlock(address, KEY_BYTES)

    def __enter__(self) -> SecretKey:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()

    def __del__(self) -> None:
        self.wipe()

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError("a SecretKey is never shown, copied or stored")

    __repr__ = __str__ = __format__ = __bytes__ = _refuse
    __copy__ = __deepcopy__ = __reduce__ = __reduce_ex__ = __getstate__ = _refuse
