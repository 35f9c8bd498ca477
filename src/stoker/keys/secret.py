"""A secret that is wiped when it is no longer needed and refuses to be shown. See docs/design/keys.md."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from types import TracebackType
from typing import Final, NoReturn
from weakref import WeakValueDictionary

from stoker.keys.errors import SecretWiped
from stoker.keys.memory import LOCKED_PAGES

KEY_BYTES: Final = 32


_LIVING: Final[WeakValueDictionary[int, _LockedBuffer]] = WeakValueDictionary()
"""Every buffer that exists, for a forked child that is to hold none."""


class _LockedBuffer(bytearray):
    """32 bytes that lie in a locked page and are overwritten when nobody, no view either, holds them."""

    __slots__ = ("__weakref__", "locked")

    def __init__(self) -> None:
        self.locked = False  # first, since an interrupt may end this method anywhere
        super().__init__(KEY_BYTES)
        _LIVING[id(self)] = self
        self.locked = LOCKED_PAGES.lock(self._address(), KEY_BYTES)

    def _address(self) -> int:
        # The export ends with this call; the bytes stay where they are, because nothing ever resizes them.
        return ctypes.addressof((ctypes.c_char * KEY_BYTES).from_buffer(self))

    def erase(self) -> None:
        """Overwrite with zeros and unlock. Views may still exist; they read zeros."""
        if not hasattr(self, "locked"):
            return  # interrupted before it held anything
        self[:] = bytes(len(self))
        if self.locked:
            self.locked = False
            LOCKED_PAGES.unlock(self._address(), KEY_BYTES)

    def __del__(self) -> None:
        self.erase()

    def __repr__(self) -> str:
        return "<locked buffer>"


def forget_secrets(but: Iterable[SecretKey] = ()) -> None:
    """Overwrite every secret in this process `but` these: for a forked child that needs no others.

    The parent's are untouched. What OpenSSL holds of them is out of reach.
    """
    kept = {id(each._buffer) for each in but}
    for number, buffer in list(_LIVING.items()):
        if number not in kept:
            buffer[:] = bytes(len(buffer))  # not unlocked: locks do not pass to a child


class SecretKey:
    """32 secret bytes in one locked buffer: not copied by us, not printable, wiped on close.

    The buffer is kept out of swap where the platform allows it (`locked` says so), never moves, and is
    overwritten by `wipe`, at the end of a `with` block, or when neither the object nor a view of it is left.
    What Python and OpenSSL copy for themselves is out of reach: see docs/design/keys.md.
    """

    __slots__ = ("__weakref__", "_buffer")

    def __init__(self) -> None:
        """32 zero bytes, to be filled through `writable_view`. See `generate` and `adopt`."""
        self._buffer: _LockedBuffer | None = _LockedBuffer()

    @classmethod
    def generate(cls) -> SecretKey:
        """32 fresh bytes from the kernel's generator, read straight into the locked buffer."""
        secret = cls()
        if hasattr(os, "getrandom"):
            os.getrandom(1)  # waits, once after boot, until the generator is seeded
        with open("/dev/urandom", "rb", buffering=0) as source:  # noqa: PTH123 (unbuffered: no copy)
            if source.readinto(secret.writable_view()) != KEY_BYTES:
                raise OSError("/dev/urandom gave fewer bytes than asked for")
        return secret

    @classmethod
    def adopt(cls, buffer: bytearray) -> SecretKey:
        """Take over 32 secret bytes: they move into locked memory, and `buffer` is overwritten with zeros."""
        if not isinstance(buffer, bytearray) or len(buffer) != KEY_BYTES:
            raise ValueError(f"a SecretKey takes over a bytearray of {KEY_BYTES} bytes")
        secret = cls()
        secret.writable_view()[:] = buffer
        buffer[:] = bytes(KEY_BYTES)
        return secret

    @property
    def locked(self) -> bool:
        """Whether the bytes are kept out of swap."""
        return self._buffer is not None and self._buffer.locked

    @property
    def wiped(self) -> bool:
        """Whether the bytes are gone."""
        return self._buffer is None

    def view(self) -> memoryview:
        """The bytes, read-only and not copied; all views read zeros after `wipe`. Raises SecretWiped."""
        return self.writable_view().toreadonly()

    def writable_view(self) -> memoryview:
        """The bytes for a derivation that fills them in place. Raises SecretWiped."""
        if self._buffer is None:
            raise SecretWiped("A secret key was used after it had been wiped.")
        return memoryview(self._buffer)

    def wipe(self) -> None:
        """Overwrite the bytes with zeros and unlock their page. Doing it twice is allowed."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            buffer.erase()

    def __enter__(self) -> SecretKey:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError("a SecretKey is never shown, copied or stored")

    __repr__ = __str__ = __format__ = __bytes__ = _refuse
    __copy__ = __deepcopy__ = __reduce__ = __reduce_ex__ = __getstate__ = _refuse
