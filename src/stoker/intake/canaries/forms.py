"""How a planted identity stands in a text: a letter, JSON, CSV, HTML, a mail, a log line and others. Pure.

A record is a list of pieces; a piece that is to be found knows its kind. What lies between is not counted.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from stoker.intake.canaries.identities import KINDS, Identity
from stoker.spec.kinds import Kind

_PLACE: Final = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a record; `kind` is None for what is only context."""

    text: str
    kind: Kind | None = None


Record: TypeAlias = list[Piece]
Writing: TypeAlias = Callable[[str], str]
Form: TypeAlias = Callable[[Identity], Record]


def _filled(pattern: str, values: Mapping[str, str], escape: Writing = str) -> Record:
    """The pattern with values in the places of their words."""
    record: Record = []
    at = 0
    for place in _PLACE.finditer(pattern):
        record.append(Piece(pattern[at : place.start()]))
        word = place[1]
        record.append(Piece(escape(values[word]), KINDS.get(word)))
        at = place.end()
    record.append(Piece(pattern[at:]))
    return record


def _written(pattern: str, person: Identity, escape: Writing = str) -> Record:
    """The pattern for a person, whose postcode stands in a line with the city as in their country."""
    return _filled(pattern.replace("{postcode}", person.locale.last_line), person.values, escape)


def letter(person: Identity) -> Record:
    """A sentence or two in the person's language."""
    return _written(person.locale.sentence, person)


def json_object(person: Identity) -> Record:
    """One object of a JSON lines file, with English names of fields."""
    return _object(person, lambda text: json.dumps(text, ensure_ascii=False)[1:-1])


def json_ascii(person: Identity) -> Record:
    """The same with every letter beyond ASCII as an escape, as many programs write it."""
    return _object(person, lambda text: json.dumps(text)[1:-1])


_FIELDS: Final = (
    ("full_name", "name"),
    ("email", "email"),
    ("phone_number", "phone"),
    ("street_address", "address"),
    ("postal_code", "postcode"),
    ("date_of_birth", "born"),
    ("company", "employer"),
    ("city", "city"),
    ("iban", "account"),
    ("credit_card", "card"),
    ("national_id", "id"),
    ("driver_license", "licence"),
    ("ip_address", "ip"),
    ("password", "password"),
)


def _object(person: Identity, escape: Writing) -> Record:
    record: Record = []
    for number, (field, word) in enumerate(_FIELDS):
        record.append(Piece(f'{", " if number else "{"}"{field}": "'))
        record.append(Piece(escape(person.values[word]), KINDS[word]))
        record.append(Piece('"'))
    return [*record, Piece("}\n")]


def form_lines(person: Identity) -> Record:
    """Lines of label and value in the person's language."""
    record: Record = []
    for word, label in person.locale.words.items():
        if word in ("position", "ip", "mac", "password"):
            continue
        record += (Piece(f"{label}: "), Piece(person.values[word], KINDS[word]), Piece("\n"))
    return record


_COLUMNS: Final = ("name", "email", "phone", "address", "city", "born", "id", "account", "card")


def csv_rows(person: Identity) -> Record:
    """A header and a row, cells in quotes where they hold a comma."""
    record = [Piece(",".join(person.locale.words[word] for word in _COLUMNS) + "\n")]
    for number, word in enumerate(_COLUMNS):
        value = person.values[word]
        quote = '"' if "," in value else ""
        record += (Piece(("," if number else "") + quote), Piece(value, KINDS[word]), Piece(quote))
    return [*record, Piece("\n")]


def html_table(person: Identity) -> Record:
    """A definition list, escaped as HTML is."""
    record = [Piece("<dl>\n")]
    for word in (
        "name",
        "born",
        "address",
        "postcode",
        "phone",
        "email",
        "employer",
        "id",
        "account",
        "card",
    ):
        label = html.escape(person.locale.words.get(word, word))
        record += (Piece(f"<dt>{label}</dt><dd>"), Piece(html.escape(person.values[word]), KINDS[word]))
        record.append(Piece("</dd>\n"))
    return [*record, Piece("</dl>\n")]


def mail(person: Identity) -> Record:
    """A mail's head and the end of it."""
    return _written(
        "From: {name} <{email}>\nDate: Mon, 4 May 2020 09:12:44 +0200\nReceived: from [{ip}] by mx1\n\n"
        "Please find the papers attached.\n\nKind regards\n{name}\n{employer}\n{address}\n{postcode}\n"
        "Tel. {phone}\n{site}\n",
        person,
    )


def log_lines(person: Identity) -> Record:
    """What a server writes down."""
    return _written(
        "2024-03-11T07:22:41Z INFO auth ok user={email} from {ip} mac={mac}\n"
        "2024-03-11T07:22:43Z DEBUG peer [{ip6}]:443 token: password={password}\n"
        "2024-03-11T07:22:44Z WARN retry postgres://{login}@db.internal:5432/app\n"
        "2024-03-11T07:22:45Z INFO gps fix lat/lon {position}\n",
        person,
    )


def chat(person: Identity) -> Record:
    """What people write to each other."""
    return _written(
        "hi, this is {name}, can you send it to {email}? or text me on {phone}. my card is {card}, "
        "iban {account}. "
        "I live at {address}, {postcode}. born {born}, I am {age} years old\n",
        person,
    )


def sql_insert(person: Identity) -> Record:
    """A row of a dump."""
    return _written(
        "INSERT INTO customers (name, email, phone, street, dob, iban) VALUES ('{name}', '{email}', "
        "'{phone}', "
        "'{address}', '{born}', '{account}');\n",
        person,
        lambda text: text.replace("'", "''"),
    )


FORMS: Final[Mapping[str, Form]] = {
    "letter": letter,
    "form": form_lines,
    "json": json_object,
    "json_ascii": json_ascii,
    "csv": csv_rows,
    "html": html_table,
    "mail": mail,
    "log": log_lines,
    "chat": chat,
    "sql": sql_insert,
}


def kinds_of(records: Sequence[Record]) -> set[Kind]:
    """Which kinds have a piece in them."""
    return {piece.kind for record in records for piece in record if piece.kind is not None}
