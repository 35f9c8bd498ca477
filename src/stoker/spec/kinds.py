"""The kinds of personal and secret data that a scan tells apart. See docs/design/detect.md."""

from __future__ import annotations

import enum
from typing import Final


class Kind(enum.StrEnum):
    """What a finding is. The value is the word in policies, reports and on the command line."""

    EMAIL = "email"
    PHONE = "phone"
    IPV4 = "ipv4"
    IPV6 = "ipv6"
    MAC = "mac"
    CARD = "card"
    IBAN = "iban"
    NATIONAL_ID = "national_id"
    DRIVER_LICENCE = "driver_licence"
    SECRET = "secret"  # noqa: S105 - the name of a kind
    URL_CREDENTIALS = "url_credentials"
    PERSON = "person"
    STREET_ADDRESS = "street_address"
    POSTCODE = "postcode"
    BIRTH_DATE = "birth_date"
    COORDINATES = "coordinates"
    ORGANISATION = "organisation"
    LOCATION = "location"
    NATIONALITY = "nationality"
    TITLE = "title"
    AGE = "age"
    DATE = "date"
    DOMAIN = "domain"


ALL_KINDS: Final = frozenset(Kind)

DEFAULT_KINDS: Final = ALL_KINDS - {
    Kind.ORGANISATION,
    Kind.LOCATION,
    Kind.NATIONALITY,
    Kind.TITLE,
    Kind.AGE,
    Kind.DATE,
    Kind.DOMAIN,
}
"""What a policy redacts unless it says otherwise: all but what alone seldom points at one person."""

NAME_MODEL_KINDS: Final = frozenset(
    {Kind.PERSON, Kind.ORGANISATION, Kind.LOCATION, Kind.NATIONALITY, Kind.AGE, Kind.DATE}
)
"""The kinds that the optional name model can tell. See docs/design/measured.md, "Names"."""
