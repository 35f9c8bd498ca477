"""Consistent pseudonyms: a keyed HMAC of a finding's value. See docs/design/policy.md, "Pseudonyms".

Equal values of one kind get equal pseudonyms within one preparation, and nowhere else: the key is made with
the plan of the preparation, lies there wrapped under the dataset's KEK, and is gone with either.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import unicodedata
from typing import Final

from stoker.keys.errors import SecretWiped
from stoker.keys.secret import KEY_BYTES, SecretKey
from stoker.spec.kinds import Kind

LETTERS: Final = "bcdfghjklmnpqrstvwxz"
"""No vowel and no digit: a pseudonym is no word, no name and no number, so no recogniser finds it again."""

PSEUDONYM_LETTERS: Final = 15
"""64.8 bits: among 10^8 values of a kind two share a pseudonym with a probability of 0.02 %."""

_EXTRACT_SALT: Final = b"stoker pseudonym key 1"
_COMPACT: Final = frozenset(
    {Kind.CARD, Kind.IBAN, Kind.NATIONAL_ID, Kind.DRIVER_LICENCE, Kind.MAC, Kind.POSTCODE}
)
_NORTH_AMERICAN_DIGITS: Final = 10


class Pseudonyms:
    """Makes pseudonyms under one key. Close it to wipe the key, or let it be collected."""

    def __init__(self, key: SecretKey) -> None:
        """From a partition key, which the caller wipes. Raises SecretWiped for one that reads zeros."""
        with key.view() as secret:
            if not any(secret):  # memory that was wiped under us: its HMAC would be an unsalted hash
                raise SecretWiped("The key of pseudonyms reads as zeros; no pseudonym is made with it.")
            extract = hmac.new(_EXTRACT_SALT, digestmod=hashlib.sha256)
            extract.update(secret)
        self._key = SecretKey.adopt(bytearray(extract.digest()))

    def pseudonym(self, kind: Kind, value: bytes) -> bytes:
        """What stands for `value`, such as `<EMAIL_bdfkmnqrtvwzxcs>`. Raises SecretWiped after `close`."""
        told = canonical_value(kind, value)
        with self._key.view() as secret:
            if not any(secret):
                raise SecretWiped("The key of pseudonyms reads as zeros.")
            drawn = hmac.digest(secret, kind.encode() + b"\0" + told, "sha256")
        number = int.from_bytes(drawn[: KEY_BYTES // 2])
        letters = []
        for _ in range(PSEUDONYM_LETTERS):
            number, place = divmod(number, len(LETTERS))
            letters.append(LETTERS[place])
        return f"<{kind.name}_{''.join(letters)}>".encode()

    def close(self) -> None:
        """Wipe the key."""
        self._key.wipe()


def canonical_value(kind: Kind, value: bytes) -> bytes:
    """One form for the ways in which a value is written, so that all of them get one pseudonym."""
    text = unicodedata.normalize("NFKC", value.decode(errors="surrogateescape")).casefold()
    match kind:
        case Kind.PHONE:
            digits = "".join(letter for letter in text if letter.isdecimal())
            national = len(digits) == _NORTH_AMERICAN_DIGITS and "+" not in text and digits[0] in "23456789"
            text = "1" + digits if national else digits.removeprefix("00")
        case Kind.IPV4 | Kind.IPV6:
            try:
                text = ipaddress.ip_address(text.strip()).compressed
            except ValueError:
                text = " ".join(text.split())
        case _ if kind in _COMPACT:
            text = "".join(letter for letter in text if letter.isalnum())
        case _:
            text = " ".join(text.split())
    return text.encode(errors="surrogateescape")
