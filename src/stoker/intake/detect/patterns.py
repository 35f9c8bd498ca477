"""The shapes that personal and secret data come in, each with its exact recogniser.

A pattern is RE2 over bytes and errs on the side of matching; its recogniser then decides. All patterns run at
once as one RE2 set, so a text without candidates costs a single pass. See docs/design/intake.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import re2

from stoker.core.canonical import digest_of
from stoker.intake.detect import recognise
from stoker.intake.detect.recognise import Span
from stoker.spec.recipe import Kind

RECOGNISERS_VERSION: Final = 1
"""Raised whenever a recogniser decides differently, so that old scans are not taken for new ones."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One shape of one kind of data."""

    name: str
    kind: Kind
    expression: bytes
    recogniser: Callable[[bytes, int, int], Iterator[Span]]


PATTERNS: Final[tuple[Pattern, ...]] = (
    Pattern(
        "e-mail address",
        Kind.EMAIL,
        rb"[A-Za-z0-9._%+\-\x80-\xff]+@[A-Za-z0-9\-\x80-\xff]+(?:\.[A-Za-z0-9\-\x80-\xff]+)*\.[A-Za-z]{2,}",
        recognise.email,
    ),
    Pattern(
        "international phone number",
        Kind.PHONE,
        rb"\+[1-9](?:[ \-./]?\(?\d\)?){6,}",
        recognise.phone_international,
    ),
    Pattern(
        "North American phone number",
        Kind.PHONE,
        rb"(?:\([2-9]\d\d\) ?|[2-9]\d\d[\-.])[2-9]\d\d[\-.]\d{4}",
        recognise.phone_north_american,
    ),
    Pattern(
        "phone number after a word",
        Kind.PHONE,
        rb"(?i)(?:phone|tel|telephone|mobile|fax)(?: no| number)?\.?[\"']?[:= ][ \t\"']{0,3}"
        rb"\+?\(?\d(?:[ \-./]?\(?\d\)?){6,}",
        recognise.phone_in_context,
    ),
    Pattern("IPv4 address", Kind.IPV4, rb"\d+(?:\.\d+){3,}", recognise.ipv4),
    Pattern(
        "IPv6 address",
        Kind.IPV6,
        rb"[0-9A-Fa-f]{1,4}:(?:[0-9A-Fa-f]{0,4}:)+[0-9A-Fa-f.]*|::(?:[0-9A-Fa-f]{1,4}:)+[0-9A-Fa-f.]*",
        recognise.ipv6,
    ),
    Pattern("card number", Kind.CARD, rb"\d(?:[ \-]?\d){12,}", recognise.card),
    Pattern("IBAN", Kind.IBAN, rb"[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}", recognise.iban),
    Pattern(
        "AWS access key id",
        Kind.SECRET,
        rb"(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA)[A-Z0-9]{16}",
        recognise.token,
    ),
    Pattern(
        "GitHub token",
        Kind.SECRET,
        rb"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}",
        recognise.token,
    ),
    Pattern(
        "token with a published prefix",
        Kind.SECRET,
        rb"glpat-[A-Za-z0-9_\-]{20,}|xox[abeprs]-[A-Za-z0-9\-]{10,}|AIza[A-Za-z0-9_\-]{35}"
        rb"|[sr]k_(?:live|test)_[A-Za-z0-9]{16,}|pypi-AgE[A-Za-z0-9_\-]{50,}|hf_[A-Za-z0-9]{30,}"
        rb"|npm_[A-Za-z0-9]{36,}|sk-[A-Za-z0-9_\-]{32,}",
        recognise.token,
    ),
    Pattern(
        "private key block",
        Kind.SECRET,
        rb"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----",
        recognise.private_key,
    ),
    Pattern(
        "JSON web token",
        Kind.SECRET,
        rb"eyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*",
        recognise.jwt,
    ),
    Pattern(
        "value assigned to a secret's name",
        Kind.SECRET,
        rb"(?i)(?:api_?key|access_?key|secret|passwd|password|pwd|token|credential)[A-Za-z0-9_]*[\"']?"
        rb"[ \t]*(?:=>|:=|=|:)[ \t]*[\"']?[A-Za-z0-9+/_\-=!@#$%^&*.~]{8,}",
        recognise.assigned_secret,
    ),
    Pattern(
        "URL with credentials",
        Kind.URL_CREDENTIALS,
        rb"[A-Za-z][A-Za-z0-9+.\-]*://[^\s/?#:@\"'<>\\]*:[^\s/?#@\"'<>\\]+@",
        recognise.url_credentials,
    ),
)

PATTERNS_DIGEST: Final = digest_of(
    {
        "recognisers": RECOGNISERS_VERSION,
        "patterns": [
            [pattern.name, pattern.kind, pattern.expression.decode("latin-1")] for pattern in PATTERNS
        ],
    }
)
"""Names this set of patterns and recognisers; part of every scan report and every recipe digest."""


def byte_options() -> Any:
    """RE2 options for bytes; the memory limit is far above what these patterns need."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = 64 * 1024 * 1024
    options.log_errors = False
    return options
