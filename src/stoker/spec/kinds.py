"""The kinds of personal and secret data that a scan tells apart. See docs/design/intake.md, "Scan"."""

from __future__ import annotations

import enum


class Kind(enum.StrEnum):
    """What a finding is. The value is the word in policies, reports and on the command line."""

    EMAIL = "email"
    PHONE = "phone"
    IPV4 = "ipv4"
    IPV6 = "ipv6"
    CARD = "card"
    IBAN = "iban"
    SECRET = "secret"  # noqa: S105 - the name of a kind
    URL_CREDENTIALS = "url_credentials"
