"""The shapes that personal and secret data come in, each with its exact recogniser.

A pattern is RE2 over bytes and errs on the side of matching; its recogniser then decides. All patterns run at
once as one RE2 set, so a text without candidates costs a single pass. See docs/design/intake.md.
"""

from __future__ import annotations

from typing import Final

from stoker.core.canonical import digest_of
from stoker.intake.detect import (
    borders,
    identity,
    moments,
    recognise,
)
from stoker.intake.detect.options import byte_options as byte_options
from stoker.intake.detect.shape import Pattern as Pattern
from stoker.intake.detect.word_patterns import ANCHORS as ANCHORS
from stoker.intake.detect.word_patterns import WORD_PATTERNS
from stoker.spec.recipe import Kind

RECOGNISERS_VERSION: Final = 6
"""Raised whenever a recogniser decides differently, so that old scans are not taken for new ones."""


_SHAPES: Final[tuple[Pattern, ...]] = (
    Pattern(
        "e-mail address",
        Kind.EMAIL,
        rb"[A-Za-z0-9._%+\-\x80-\xff]+@[A-Za-z0-9\-\x80-\xff]+(?:\.[A-Za-z0-9\-\x80-\xff]+)*\.[A-Za-z]{2,}",
        recognise.email,
        trigger=rb"[A-Za-z0-9._%+\-\x80-\xff]@[A-Za-z0-9\-\x80-\xff]",
    ),
    Pattern(
        "international phone number",
        Kind.PHONE,
        rb"\+[1-9](?:[ \-./]?\(?\d\)?){6,}",
        recognise.phone_international,
        trigger=rb"\+[1-9]",
    ),
    Pattern(
        "North American phone number",
        Kind.PHONE,
        rb"(?:\([2-9]\d\d\) ?|[2-9]\d\d[\-.])[2-9]\d\d[\-.]\d{4}",
        recognise.phone_north_american,
        trigger=rb"\d{3}[\-. ]\d{4}",
    ),
    Pattern(
        "phone number after a word",
        Kind.PHONE,
        rb"(?i)(?:phone|tel|telephone|mobile|fax)(?: no"
        rb"| number)?\.?[\"']?[:= ][ \t\"']{0,3}\+?\(?\d(?:[ \-./]?\(?\d\)?){6,}",
        recognise.phone_in_context,
        trigger=rb"(?i)(?:phone|tel|mobile|fax)(?: no| number)?\.?[\"']?[:= ][ \t\"']{0,3}\+?\(?\d",
    ),
    Pattern("IPv4 address", Kind.IPV4, rb"\d+(?:\.\d+){3,}", recognise.ipv4, trigger=rb"\d\.\d+\.\d+\.\d"),
    Pattern(
        "IPv6 address",
        Kind.IPV6,
        rb"[0-9A-Fa-f]{1,4}:(?:[0-9A-Fa-f]{0,4}:)+[0-9A-Fa-f.]*|::(?:[0-9A-Fa-f]{1,4}:)+[0-9A-Fa-f.]*",
        recognise.ipv6,
        trigger=rb"[0-9A-Fa-f]:[0-9A-Fa-f]{0,4}:|::[0-9A-Fa-f]",
    ),
    Pattern(
        "card number",
        Kind.CARD,
        rb"\d(?:[ \-]?\d){12,}",
        recognise.card,
        trigger=rb"\d(?:[ \-]?\d){12}",
    ),
    Pattern(
        "IBAN",
        Kind.IBAN,
        rb"(?i)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}",
        recognise.iban,
        trigger=borders.IBAN_TRIGGER,
    ),
    Pattern(
        "AWS access key id",
        Kind.SECRET,
        rb"(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA)[A-Z0-9]{16}",
        recognise.token,
        trigger=rb"A[KSGIRN][IPO][AD][A-Z0-9]{16}",
    ),
    Pattern(
        "GitHub token",
        Kind.SECRET,
        rb"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}",
        recognise.token,
        trigger=rb"gh[pousr]_|github_pat_",
    ),
    Pattern(
        "token with a published prefix",
        Kind.SECRET,
        rb"glpat-[A-Za-z0-9_\-]{20,}|xox[abeprs]-[A-Za-z0-9\-]{10,}|AIza[A-Za-z0-9_\-]{35}|[sr]k_(?:live"
        rb"|test)_[A-Za-z0-9]{16,}|pypi-AgE[A-Za-z0-9_\-]{50,}|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36,}"
        rb"|sk-[A-Za-z0-9_\-]{32,}",
        recognise.token,
        trigger=rb"glpat-|xox[abeprs]-|AIza|[sr]k_(?:live|test)_|pypi-AgE|hf_|npm_|sk-",
    ),
    Pattern(
        "private key block",
        Kind.SECRET,
        rb"(?:-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----\s*)+",
        recognise.private_key,
        trigger=rb"PRIVATE KEY",
    ),
    Pattern(
        "JSON web token",
        Kind.SECRET,
        rb"eyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*",
        recognise.jwt,
        trigger=rb"eyJ[A-Za-z0-9_\-]{8}",
    ),
    Pattern(
        "value assigned to a secret's name",
        Kind.SECRET,
        rb"(?i)(?:api_?key|access_?key|secret|passwd|password|pwd|token"
        rb"|credential)[A-Za-z0-9_]*[\"']?[ \t]*(?:=>|:=|=|:)[ \t]*[\"']?[A-Za-z0-9+/_\-=!@#$%^&*.~]{8,}",
        recognise.assigned_secret,
        trigger=rb"(?i)(?:api_?key|access_?key|secret|passwd|password|pwd|token"
        rb"|credential)[A-Za-z0-9_]*[\"']?[ \t]*[=:]",
    ),
    Pattern(
        "URL with credentials",
        Kind.URL_CREDENTIALS,
        rb"[A-Za-z][A-Za-z0-9+.\-]*://[^\s/?#:@\"'<>\\]*:[^\s/?#@\"'<>\\]+@",
        recognise.url_credentials,
        trigger=rb"://[^\s/?#:@]*:",
    ),
    Pattern("card number across a border", Kind.CARD, borders.CARD, borders.card, borders.CARD_TRIGGER),
    Pattern("IBAN across a border", Kind.IBAN, borders.IBAN, borders.iban, borders.IBAN_TRIGGER),
    Pattern("phone number across a border", Kind.PHONE, borders.PHONE, borders.phone, borders.PHONE_TRIGGER),
    Pattern(
        "e-mail address across a border", Kind.EMAIL, borders.EMAIL, borders.email, borders.EMAIL_TRIGGER
    ),
    Pattern(
        "digits announced as a card",
        Kind.CARD,
        rb"\d{12,}",
        identity.announced_card,
        trigger=rb"\d{12}",
    ),
    Pattern(
        "phone number in groups",
        Kind.PHONE,
        rb"\(?\d{1,5}\)?(?:[ .\-/]\(?\d{2,8}\)?)+(?: ?x\d{1,5})?",
        identity.phone_grouped,
        trigger=rb"\d[)]?[ .\-/]\(?\d\d(?:\d\d|\d?[)]?[ .\-/]\(?\d\d)|\d{4}[)]?[ .\-/]\(?\d\d",
    ),
    Pattern(
        "phone number in one piece",
        Kind.PHONE,
        rb"\d{7,}",
        identity.phone_grouped,
        trigger=rb"\d{7}",
    ),
    Pattern(
        "North American number with prefix or extension",
        Kind.PHONE,
        rb"(?:\+?1[\-. ]|001[\-. ])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[\-.])\d{3}[\-.]\d{4}(?: ?x\d{1,5})",
        identity.phone_extended,
        trigger=rb"\d{3}[\-. ]\d{4}",
    ),
    Pattern(
        "bracketed North American number",
        Kind.PHONE,
        rb"(?:\+?1[\-. ]|001[\-. ])\(?[2-9]\d\d\)?[\-. ]\d{3}[\-. ]\d{4}",
        identity.phone_extended,
        trigger=rb"\d{3}[\-. ]\d{4}",
    ),
    Pattern("US social security number", Kind.NATIONAL_ID, rb"\d{3}-\d{2}-\d{4}", identity.ssn),
    Pattern(
        "national number with check digits",
        Kind.NATIONAL_ID,
        rb"[0-9XYZ]\d{7}-?[A-Z]|\d{6}[-+A]\d{3}[0-9A-Y]|[A-Z]{6}\d\d[A-Z]\d\d[A-Z]\d{3}[A-Z]"
        rb"|\d{3}\.\d{3}\.\d{3}-\d\d|\d\d\.\d\d\.\d\d-\d{3}\.\d\d|756\.\d{4}\.\d{4}\.\d\d|\d{17,}[0-9X]"
        rb"|[12] ?\d\d ?\d\d ?\d[0-9AB] ?\d{3} ?\d{3} ?\d\d|[A-Z]{2} ?\d\d ?\d\d ?\d\d ?[A-D]",
        identity.checked_id,
        trigger=rb"\d{7}|\d{6}[-+A]\d|[A-Z]{6}\d\d|\d{3}\.\d{3}\.|\d\d\.\d\d\.\d\d-|756\.|[12] ?\d\d ?\d\d "
        rb"?\d[0-9AB] ?\d|[A-Z]{2} ?\d\d ?\d\d ?\d\d",
    ),
    Pattern(
        "number announced as a national id",
        Kind.NATIONAL_ID,
        rb"[A-Z]{0,2}\d(?:[ \-./]?\d){6,}[A-Z]?",
        identity.announced_id,
        trigger=rb"(?i)ssn|social sec|national i|personal [cin]|id (?:no|num|card)|tax |passport|nino|codice "
        rb"f|pesel|personnum|henkil|dselsn|burgers|aadhaar|steuer|idnr|sozialv|rijksr|registre n|rodn|curp"
        rb"|kennitala|(?:\A|[^a-z])(?:dni|nie|nir|cpr|bsn|cpf|ahv|avs|nhs)",
    ),
    Pattern(
        "number after a driver licence's words",
        Kind.DRIVER_LICENCE,
        rb"[A-Z]{0,3}\d(?:-?[A-Z0-9]){4,}",
        identity.licence,
        trigger=rb"(?i)driver|driving|hrerschein|permis de",
    ),
    Pattern(
        "hardware address",
        Kind.MAC,
        rb"(?i)(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}",
        moments.mac,
        trigger=rb"(?i)[0-9a-f]{2}[:-][0-9a-f]{2}[:-][0-9a-f]{2}[:-]",
    ),
    Pattern(
        "date in numbers",
        Kind.DATE,
        rb"(?:\d{4}-\d{1,2}-\d{1,2}|\d{1,2}-\d{1,2}-\d{4}|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}"
        rb"|\d{4}/\d{1,2}/\d{1,2})(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?Z?)?",
        moments.numeric_date,
        trigger=rb"\d{4}-\d{1,2}-\d|\d-\d{1,2}-\d{4}|\d[/.]\d{1,2}[/.]\d{2}|\d{4}/\d",
    ),
    Pattern(
        "date with a month's name",
        Kind.DATE,
        rb"(?:\d{1,2}(?:st|nd|rd|th|\.)? (?:of )?)?(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May"
        rb"|June?|July?|Aug(?:ust)?|Sep(?:t(?:ember)?)?|Oct(?:ober)?|Nov(?:ember)?"
        rb"|Dec(?:ember)?)\.? \d{1,4}(?:st|nd|rd|th)?(?:,? \d{4})?",
        moments.written_date,
        trigger=rb"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.? \d",
    ),
    Pattern(
        "year after a word",
        Kind.DATE,
        rb"(?i)(?:in|since|of|from|until|till|by|during|circa|before|after|year|between|around) (?:1[5-9]"
        rb"|20)\d\d",
        moments.year,
    ),
    Pattern(
        "birth date",
        Kind.BIRTH_DATE,
        rb"(?i)(?:born|birth|birthday|birthdate|d\.?o\.?b\.?|geboren|n\xc3\xa9e?|nacimiento|nat[oa]"
        rb"|f\xc3\xb6dd|f\xc3\xb8dt)(?: (?:on|is|am|le|il"
        rb"|date))?[\"']?[ :=,\"'(]{1,4}(?:\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}|\d{1,2}\.? [a-z]{3,9} \d{4})",
        moments.birth_date,
        trigger=rb"(?i)born|birth|do\.?b|d\.o|gebor|n\xc3\xa9|nacim|nat[oa]|f\xc3\xb6dd|f\xc3\xb8dt",
    ),
    Pattern(
        "age",
        Kind.AGE,
        rb"(?i)\d{1,3}[ -]?(?:years?|yrs?)[ -]?(?:old|of age)|\d{1,3} ?y/?o\b|(?:aged?:?|turn(?:ed|ing|s)?"
        rb"|when (?:he|she|i) was|when (?:we|they) were) \d{1,3}",
        moments.age,
        trigger=rb"(?i)\d[ -]?(?:year|yr|y/?o)|(?:aged?:?|turn(?:ed|ing|s)?|was|were) \d",
    ),
    Pattern(
        "age in words of other languages", Kind.AGE, moments.AGES, moments.age, trigger=moments.AGES_TRIGGER
    ),
    Pattern(
        "latitude and longitude",
        Kind.COORDINATES,
        rb"[-+]?\d{1,2}\.\d{4,}\xc2?\xb0? ?[NS]?, ?[-+]?\d{1,3}\.\d{4,}",
        moments.coordinates,
        trigger=rb"\d\.\d{4}",
    ),
    Pattern(
        "degrees, minutes, seconds",
        Kind.COORDINATES,
        rb"\d{1,2}\xc2\xb0 ?\d{1,2}['\x80-\xff]{1,3} ?(?:\d{1,2}(?:\.\d+)?(?:''|\""
        rb"|[\x80-\xff]{3}) ?)?[NS],? ?\d{1,3}\xc2\xb0 ?\d{1,2}['\x80-\xff]{1,3} ?(?:\d{1,2}(?:\.\d+)?(?:''"
        rb"|\"|[\x80-\xff]{3}) ?)?[EW]",
        moments.degrees,
        trigger=rb"\xc2\xb0",
    ),
    Pattern(
        "postcode after a word",
        Kind.POSTCODE,
        rb"(?i)(?:zip|zip code|post ?code|postal code|plz"
        rb"|code postal)(?: is)?[\"']?[ :=]{1,3}[\"']?[A-Z0-9]{2,6}(?:[ -][A-Z0-9]{2,4})?",
        moments.postcode,
        trigger=rb"(?i)zip|post ?code|postal c|code postal|plz",
    ),
    Pattern(
        "Canadian or British postcode",
        Kind.POSTCODE,
        rb"[A-CEGHJ-NPR-TVXY]\d[A-Z] \d[A-Z]\d|[A-PR-UWYZ][A-HK-Y]?\d[0-9A-HJKMNP-Y]? \d[ABD-HJLNP-UW-Z]{2}",
        moments.shaped_postcode,
        trigger=rb"[A-Z]\d[0-9A-Z]? \d[A-Z]",
    ),
    Pattern(
        "postcode before a place",
        Kind.POSTCODE,
        moments.BEFORE_PLACE,
        moments.postcode_before_place,
        trigger=rb"\d(?:-\d{3}| [A-Z]{2}| \d\d|\d{3}) [A-Z\xc3-\xd4]",
    ),
    Pattern(
        "postcode between a street's number and a town",
        Kind.POSTCODE,
        moments.IN_ADDRESS,
        moments.postcode_in_address,
        trigger=rb"\d[A-Za-z]?(?:, |,?\r?\n)\d[0-9 A-Z\-]{3,6} [A-Z\xc3-\xd4]",
    ),
    Pattern("ZIP code after a state", Kind.POSTCODE, rb", (?:[A-Z]{2}) \d{5}(?:-\d{4})?", moments.state_zip),
    Pattern(
        "web address",
        Kind.DOMAIN,
        rb"(?i)(?:https?://|ftp://|www\.)[^\s\"'<>|\x00]+",
        moments.web_address,
        trigger=rb"(?i)p?s?://|www\.",
    ),
    Pattern(
        "domain name",
        Kind.DOMAIN,
        rb"(?i)[a-z0-9][a-z0-9\-]*(?:\.[a-z0-9\-]+)*\.(?:com|org|net|edu|gov)(?:\.[a-z]{2})?",
        moments.domain,
        trigger=rb"(?i)\.(?:com|org|net|edu|gov)[^A-Za-z0-9_(@\-]",
    ),
)

PATTERNS: Final = (*_SHAPES, *WORD_PATTERNS)

PATTERNS_DIGEST: Final = digest_of(
    {
        "recognisers": RECOGNISERS_VERSION,
        "patterns": [
            [
                pattern.name,
                pattern.kind,
                pattern.expression.decode("latin-1"),
                pattern.trigger.decode("latin-1"),
            ]
            for pattern in PATTERNS
        ],
    }
)
"""Names this set of patterns and recognisers; part of every scan report and every recipe digest."""
