"""Derive the word lists of stoker.intake.detect from packages with free licences. See docs/design/detect.md.

Run once, by hand, in an environment with `mimesis` 22.2, `names` 0.3 and `phonenumbers` 9, with the path of
the word list of Debian's `wamerican-small`: `python scripts/detect_lists.py WORDS DIRECTORY`.
"""

from __future__ import annotations

import importlib.resources
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

SURNAMES_OF_THE_CENSUS = 30_000
FREQUENT_SURNAMES = 6_000
LANGUAGES = (
    "en",
    "fr",
    "pt",
    "de",
    "es",
    "it",
    "nl",
    "sv",
    "hu",
    "pl",
    "fi",
    "ro",
    "tr",
    "cs",
    "hr",
    "sl",
    "bs",
    "ca",
)
LETTERS = re.compile(r"[A-Za-zÀ-ʯͰ-ϿЀ-ӿḀ-ỿἀ-῿]+(?:['’ .-]{1,2}[A-Za-zÀ-ʯͰ-ϿЀ-ӿḀ-ỿἀ-῿]+)*\.?")


def datasets(file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every locale of mimesis with its `file`."""
    for folder in sorted(
        (importlib.resources.files("mimesis") / "datasets").iterdir(), key=lambda one: one.name
    ):
        path = folder / file
        if path.is_file():
            yield folder.name, json.loads(path.read_text(encoding="utf-8"))


def flat(value: Any) -> Iterator[str]:
    """Every text in nested lists and objects."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from flat(one)
    elif isinstance(value, list):
        for one in value:
            yield from flat(one)


def mimesis(file: str, *keys: str) -> Iterator[str]:
    """Every text under `keys` in `file` of every locale."""
    for _, data in datasets(file):
        for key in keys:
            data = data.get(key) if isinstance(data, dict) else None  # type: ignore[assignment]
        yield from flat(data)


def census(file: str, limit: int | None = None) -> Iterator[str]:
    """The names of a list of the US Census of 1990, the most frequent first."""
    lines = (importlib.resources.files("names") / file).read_text().split("\n")
    for line in lines[:limit]:
        if line.strip():
            yield line.split()[0].capitalize()


def places() -> Iterator[str]:
    """Cities and regions in the geocoding tables of phonenumbers, in languages of Latin script."""
    from phonenumbers.geodata import GEOCODE_DATA

    languages = {*LANGUAGES}
    for descriptions in GEOCODE_DATA.values():
        for language, text in descriptions.items():
            if language in languages:
                for part in re.split(r"[/,(]| - ", text):
                    yield part.strip(" )")
    yield from mimesis("address.json", "city")
    yield from mimesis("address.json", "state", "name")


def tidy(words: Iterable[str], *, least: int = 2, most: int = 40) -> list[str]:
    """Words that are letters, without repetition, sorted."""
    found = set()
    for word in words:
        word = re.sub(r"\s+", " ", word).strip()
        if least <= len(word) <= most and LETTERS.fullmatch(word):
            found.add(word)
    return sorted(found)


def main(dictionary: Path, folder: Path) -> None:
    """Write every list into `folder`, a word a line."""
    common = [word for word in dictionary.read_text().split() if re.fullmatch("[a-z]+", word)]
    lists: dict[str, list[str]] = {
        "common": sorted(common),
        "given_names": tidy(
            [*mimesis("person.json", "names"), *census("dist.male.first"), *census("dist.female.first")]
        ),
        "surnames": tidy(
            [*mimesis("person.json", "surnames"), *census("dist.all.last", SURNAMES_OF_THE_CENSUS)]
        ),
        "frequent_surnames": tidy(census("dist.all.last", FREQUENT_SURNAMES)),
        "places": tidy(places(), least=3),
        "countries": tidy(mimesis("address.json", "country", "name"), least=3),
        "occupations": tidy(
            one for locale, data in datasets("person.json") if locale == "en" for one in data["occupation"]
        ),
        "companies": tidy(
            [
                one
                for locale, data in datasets("finance.json")
                if locale in ("en", "de", "fr")
                for one in [*data.get("company", {}).get("name", []), *data.get("banks", [])]
            ],
            least=3,
        ),
    }
    for name, words in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
        print(name, len(words))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
