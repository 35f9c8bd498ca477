"""People who do not exist, one from each number, with everything that a scan should find of them. Pure."""

from __future__ import annotations

import base64
import random
import string
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

from stoker.intake.canaries.locale import Locale
from stoker.intake.canaries.locales import LOCALES, STATES, STREET_KINDS
from stoker.intake.canaries.numbers import card, driver_licence, fill, iban, national_id
from stoker.spec.kinds import Kind

_TODAY: Final = date(2026, 1, 1)
_INVENTED_NAMES: Final = 0.5
"""So many family names are put together from syllables: in nobody's list."""


@dataclass(frozen=True, slots=True)
class Identity:
    """`values` by the word that marks their place in a sentence; those to be found have a kind in `KINDS`."""

    locale: Locale
    values: Mapping[str, str]


KINDS: Final[Mapping[str, Kind]] = {
    "name": Kind.PERSON,
    "email": Kind.EMAIL,
    "phone": Kind.PHONE,
    "address": Kind.STREET_ADDRESS,
    "postcode": Kind.POSTCODE,
    "born": Kind.BIRTH_DATE,
    "age": Kind.AGE,
    "title": Kind.TITLE,
    "employer": Kind.ORGANISATION,
    "nationality": Kind.NATIONALITY,
    "city": Kind.LOCATION,
    "account": Kind.IBAN,
    "card": Kind.CARD,
    "id": Kind.NATIONAL_ID,
    "licence": Kind.DRIVER_LICENCE,
    "ip": Kind.IPV4,
    "ip6": Kind.IPV6,
    "mac": Kind.MAC,
    "password": Kind.SECRET,
    "login": Kind.URL_CREDENTIALS,
    "position": Kind.COORDINATES,
    "date": Kind.DATE,
    "site": Kind.DOMAIN,
}
assert set(KINDS.values()) == set(Kind)


def identity(number: int, seed: bytes) -> Identity:
    """The `number`th person of a seed: the same whenever it is asked for."""
    rng = random.Random(seed + number.to_bytes(8, "big"))  # noqa: S311 - people who do not exist
    locale = LOCALES[number % len(LOCALES)]
    given, family = rng.choice(locale.given), _family(locale, rng)
    born = date.fromordinal(rng.randint(date(1935, 1, 1).toordinal(), date(2007, 12, 31).toordinal()))
    signed = date.fromordinal(rng.randint(date(2015, 1, 1).toordinal(), _TODAY.toordinal()))
    city, postcode = rng.choice(locale.cities), fill(locale.postcode, rng)
    employer = rng.choice(locale.organisations).format(family=_family(locale, rng), city=city)
    host = f"{ascii_of(family)}-{ascii_of(rng.choice(locale.syllables))}.{locale.domain}"
    mailbox = rng.choice(
        [
            f"{ascii_of(given)}.{ascii_of(family)}",
            f"{ascii_of(given)[0]}{ascii_of(family)}{rng.randint(1, 99)}",
            f"{ascii_of(family)}_{born.year}",
        ]
    )
    values = {
        "name": _named(given, family, rng, locale),
        "email": f"{mailbox}@{host}",
        "phone": fill(rng.choice(locale.phones), rng),
        "address": _street(locale, rng),
        "postcode": postcode,
        "born": born.strftime(locale.date),
        "age": str((_TODAY - born).days // 365),
        "title": rng.choice(locale.titles),
        "employer": employer,
        "nationality": locale.nationality,
        "city": city,
        "account": iban(locale.iban, rng),
        "card": card(rng),
        "id": national_id(locale.country, born, rng),
        "licence": driver_licence(locale.country, ascii_of(family), rng),
        "ip": f"{rng.choice([62, 81, 93, 145, 193, 203])}."
        + ".".join(str(rng.randint(1, 254)) for _ in "123"),
        "ip6": f"2a{rng.randint(0, 255):02x}:" + ":".join(f"{rng.randint(1, 0xFFFF):x}" for _ in range(7)),
        "mac": ":".join(f"{rng.randint(0, 255):02x}" for _ in range(6)),
        "password": _password(rng),
        "login": f"{ascii_of(given)}:{_password(rng)}",
        "position": f"{rng.uniform(36, 60):.5f}, {rng.uniform(-9, 25):.5f}",
        "date": signed.strftime(locale.date),
        "site": f"www.{host}",
        "state": rng.choice(STATES),
    }
    return Identity(locale, values)


def ascii_of(text: str) -> str:
    """Lower-case ASCII letters of a name, as mailboxes have them."""
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss").replace("ł", "l").replace("Ł", "L"))
    return "".join(letter for letter in plain.lower() if letter in string.ascii_lowercase)


def _family(locale: Locale, rng: random.Random) -> str:
    if rng.random() < _INVENTED_NAMES:
        return rng.choice(locale.syllables) + rng.choice(locale.endings)
    return rng.choice(locale.family)


def _named(given: str, family: str, rng: random.Random, locale: Locale) -> str:
    kind = rng.random()
    if kind < 0.65:
        return f"{given} {family}"
    if kind < 0.8:
        return f"{given} {rng.choice(string.ascii_uppercase)}. {family}"
    if kind < 0.9:
        return f"{given} {rng.choice(locale.given)} {family}"
    return f"{family}, {given}"


def _street(locale: Locale, rng: random.Random) -> str:
    kind = rng.choice(STREET_KINDS[locale.country])
    name = rng.choice(locale.streets)
    return locale.street.format(number=rng.randint(1, 299), name=name, kind=kind)


def _password(rng: random.Random) -> str:
    """Sixteen base64url characters, with a digit and both cases."""
    while True:
        made = base64.urlsafe_b64encode(rng.randbytes(12)).decode().replace("-", "x").replace("_", "Y")
        if any(each.isdigit() for each in made) and made.lower() != made != made.upper():
            return made
