"""Numbers that hold by their own check digits and belong to nobody that is known. Pure.

Luhn: ISO/IEC 7812-1; IBAN: ISO 13616. National ids: US SSN (SSA), UK NINO (HMRC), German Steuer-ID (ISO 7064
MOD 11,10), French NIR (INSEE), Spanish DNI, Italian codice fiscale (DM 23/12/1976), Dutch BSN, Polish PESEL,
Portuguese NIF, Swedish personnummer, Danish CPR number, Finnish henkilötunnus, Czech rodné číslo.
"""

from __future__ import annotations

import random
import string
from datetime import date
from typing import Final

_DNI_LETTERS: Final = "TRWAGMYFPDXBNJZSQVHLCKE"
_ODD_DIGITS: Final = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21)
_ODD: Final = dict(
    zip(
        string.digits + string.ascii_uppercase,
        (*_ODD_DIGITS, *_ODD_DIGITS, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
        strict=True,
    )
)
_PLACES: Final = {
    "#": string.digits,
    "%": "123456789",
    "@": "ABCDEFGHJKLMNPRSTUVWXY",
    "^": "ABCDEFGHIKLMNOPRSTUWYZ",
    "&": "ABDEFGHJLNPQRSTUWXYZ",
}
_MONTHS: Final = "ABCDEHLMPRST"
_BBAN: Final = {
    "DE": "##################",
    "FR": "#######################",
    "ES": "####################",
    "IT": "@######################",
    "NL": "@@@@##########",
    "PL": "########################",
    "PT": "#####################",
    "SE": "####################",
    "GB": "@@@@##############",
    "DK": "##############",
    "FI": "##############",
    "CZ": "####################",
}


def fill(pattern: str, rng: random.Random) -> str:
    """`pattern` with a digit for `#`, a digit from 1 to 9 for `%`, a capital letter for `@`.

    `^` and `&` are the letters that a British postcode begins and ends with (BS 7666).
    """
    return "".join(rng.choice(_PLACES[each]) if each in _PLACES else each for each in pattern)


def luhn_digit(digits: str) -> str:
    """The digit that makes `digits` followed by it pass the Luhn check."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def card(rng: random.Random) -> str:
    """A card number of Visa's, Mastercard's or American Express's shape, in groups, with hyphens or plain."""
    body = rng.choice(["4" + fill("#" * 14, rng), f"5{rng.randint(1, 5)}" + fill("#" * 13, rng)])
    if rng.random() < 0.15:
        body = "37" + fill("#" * 12, rng)
    number = body + luhn_digit(body)
    separator = rng.choice(["", " ", "-"])
    sizes = (4, 6, 5) if len(number) == 15 else (4, 4, 4, 4)
    parts, at = [], 0
    for size in sizes:
        parts.append(number[at : at + size])
        at += size
    return separator.join(parts)


def iban(country: str, rng: random.Random) -> str:
    """An IBAN of the country with its check digits, in one piece or in fours."""
    bban = fill(_BBAN[country], rng)
    number = "".join(str(int(letter, 36)) for letter in bban + country + "00")
    whole = f"{country}{98 - int(number) % 97:02d}{bban}"
    if rng.random() < 0.5:
        return whole
    return " ".join(whole[at : at + 4] for at in range(0, len(whole), 4))


def national_id(country: str, born: date, rng: random.Random) -> str:
    """The number by which the country's offices know a person born on that day."""
    match country:
        case "US":
            area = rng.choice([each for each in (rng.randint(1, 899) for _ in range(8)) if each != 666])
            return f"{area:03d}-{rng.randint(1, 99):02d}-{rng.randint(1, 9999):04d}"
        case "GB":
            pair = rng.choice(["AB", "CE", "HJ", "KL", "NS", "PW", "RX", "TY"])
            return fill(f"{pair} ## ## ## ", rng) + rng.choice("ABCD")
        case "DE":
            return _steuer_id(rng)
        case "FR":
            body = f"{rng.randint(1, 2)}{born:%y%m}{rng.randint(1, 95):02d}" + fill("######", rng)
            return f"{body}{97 - int(body) % 97:02d}"
        case "ES":
            number = rng.randint(10_000_000, 99_999_999)
            return f"{number}{_DNI_LETTERS[number % 23]}"
        case "IT":
            return _codice_fiscale(born, rng)
        case "NL":
            return _bsn(rng)
        case "PL":
            month = born.month + (20 if born.year >= 2000 else 0)
            body = f"{born:%y}{month:02d}{born.day:02d}" + fill("####", rng)
            weights = (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)
            total = sum(int(digit) * weight for digit, weight in zip(body, weights, strict=True))
            return f"{body}{-total % 10}"
        case "PT":
            body = rng.choice("123") + fill("#######", rng)
            rest = sum(int(digit) * weight for digit, weight in zip(body, range(9, 1, -1), strict=True)) % 11
            return f"{body}{0 if rest < 2 else 11 - rest}"
        case "DK":
            return f"{born:%d%m%y}-" + fill("####", rng)
        case "FI":
            serial = f"{rng.randint(2, 899):03d}"
            check = "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(f"{born:%d%m%y}{serial}") % 31]
            return f"{born:%d%m%y}{'A' if born.year >= 2000 else '-'}{serial}{check}"
        case "CZ":
            return _rodne_cislo(born, rng)
        case _:
            body = f"{born:%y%m%d}" + fill("###", rng)
            return f"{body[:6]}-{body[6:]}{luhn_digit(body)}"


def _rodne_cislo(born: date, rng: random.Random) -> str:
    """Year, month (of women 50 more) and day, then four digits that make the whole a multiple of eleven."""
    while True:
        body = f"{born:%y}{born.month + rng.choice([0, 50]):02d}{born:%d}" + fill("###", rng)
        rest = int(body) % 11
        if rest < 10:
            return f"{body[:6]}/{body[6:]}{rest}"


def _steuer_id(rng: random.Random) -> str:
    """Ten digits of which one stands twice, the first not 0, and the check digit of ISO 7064 MOD 11,10."""
    digits = rng.sample(string.digits, 9)
    digits.append(digits[rng.randrange(9)])
    while True:
        rng.shuffle(digits)
        if digits[0] != "0":
            break
    product = 10
    for digit in digits:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    return "".join(digits) + str((11 - product) % 10)


def _codice_fiscale(born: date, rng: random.Random) -> str:
    day = born.day + rng.choice([0, 40])
    body = fill("@@@@@@", rng) + f"{born:%y}{_MONTHS[born.month - 1]}{day:02d}" + fill("@###", rng)
    total = 0
    for place, letter in enumerate(body):
        total += _ODD[letter] if place % 2 == 0 else int(letter) if letter.isdigit() else ord(letter) - 65
    return body + chr(65 + total % 26)


def _bsn(rng: random.Random) -> str:
    while True:
        body = fill("%#######", rng)
        rest = sum(int(digit) * weight for digit, weight in zip(body, range(9, 1, -1), strict=True)) % 11
        if rest < 10:
            return f"{body}{rest}"


def driver_licence(country: str, family: str, rng: random.Random) -> str:
    """A number as the country's driving licences have them; of the states of the US, California's shape."""
    match country:
        case "GB":
            return (family.upper().replace(" ", "") + "99999")[:5] + fill("7#05#9@@9@@", rng)
        case "DE":
            return fill("@07#%@@##%#", rng)
        case "FR" | "ES" | "PT" | "NL":
            return fill("%#########"[: 12 if country == "FR" else 10], rng)
        case "PL":
            return fill("#####/##/####", rng)
        case "IT":
            return fill("@@#######@", rng)
        case "SE" | "DK":
            return fill("%#######", rng)
        case "FI":
            return fill("######-####", rng)
        case "CZ":
            return fill("@@ ######", rng)
        case _:
            return fill("@#######", rng)
