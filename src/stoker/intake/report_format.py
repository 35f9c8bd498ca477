"""What a scan report holds, and its canonical JSON, byte by byte in docs/design/measured.md, "Scan report".

Versions 1 and 2 are still read and keep their digests; what they lack is empty.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Final

from stoker.core.canonical import JsonValue, canonical_json
from stoker.intake.errors import BrokenRecord
from stoker.intake.measures import Measures
from stoker.intake.proportion import Share, share
from stoker.spec.kinds import Kind

REPORT_FORMAT: Final = "stoker scan report 3"
"""What is written. Version 1 knew texts only, version 2 also what no scan looks into."""

REPORT_FORMATS: Final = ("stoker scan report 1", "stoker scan report 2", REPORT_FORMAT)
MAX_REPORT_BYTES: Final = 16 * 1024 * 1024
EXAMPLES: Final = 8
"""Examples kept of each kind: those whose place hashes lowest, so a sample that nobody chose."""

_NONE: Final = Measures()


@dataclass(frozen=True, slots=True)
class Example:
    """One finding as a reviewer sees it: where it is, and its line with every finding masked."""

    finding: Kind
    file: str
    offset: int
    text: str


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A file of which nothing is known, and why: `died`, `timed_out`, `failed`."""

    file: str
    why: str


@dataclass(frozen=True, slots=True)
class NamesSeen:
    """What the name model saw near hits that no exact recogniser found.

    `spans` pieces of text lie near hits; `looked_into` of them, chosen by nobody, were given to the model.
    `found` counts by kind, and `spans_with` in how many of those pieces there was something.
    """

    model: str
    spans: int
    looked_into: int
    found: Mapping[str, int]
    spans_with: Share


@dataclass(frozen=True, slots=True)
class Left:
    """The audit sample: of `windows` pieces of text of `window_bytes`, drawn from `of_windows` at random.

    `windows_with` says in what share of them the name model sees something that no exact recogniser found,
    with the Clopper–Pearson interval for the whole source; `by_kind` the same for each kind it can see.
    """

    model: str
    window_bytes: int
    of_windows: int
    windows_with: Share
    by_kind: Mapping[str, Share]


@dataclass(frozen=True, slots=True)
class MediaSeen:
    """Pictures or clips: how many there are, and in how many of them there is which metadata, and faces."""

    files: int = 0
    with_metadata: Mapping[str, int] = field(default_factory=dict)
    findings_in_metadata: Mapping[str, int] = field(default_factory=dict)
    not_stripped: int = 0
    looked_for_faces: int = 0
    with_faces: int = 0
    faces: int = 0


@dataclass(frozen=True, slots=True)
class ScanReport:
    """What a scan of one source version found. `digest` names the report, 64 hex digits."""

    kind: ClassVar[str] = "scan"
    version: ClassVar[int] = 2

    source: str
    source_version: str
    manifest_root: str
    patterns_digest: str
    files: int
    content_bytes: int
    counts: Mapping[str, int]
    files_with: Mapping[str, int]
    examples: tuple[Example, ...]
    not_looked_into: Mapping[str, int] = field(default_factory=dict)
    """Items whose pixels or samples no pattern was tried on, by kind: `image`, `audio`."""
    duplicates: int = 0
    """Texts that are the same, byte for byte, as one that was scanned: counted, not scanned again."""
    quarantined: Mapping[str, int] = field(default_factory=dict)
    """Texts of which nothing is known, by why: `died`, `timed_out`, `failed`."""
    held_back: tuple[HeldBack, ...] = ()
    media: Mapping[str, MediaSeen] = field(default_factory=dict)
    names: NamesSeen | None = None
    left: Left | None = None
    recall: Mapping[str, Share] = field(default_factory=dict)
    """Of planted canaries, what share was found, by kind; empty when none were planted."""
    recall_by: Mapping[str, Mapping[str, Share]] = field(default_factory=dict)
    """The same over all kinds by `language`, `form` and `writing`."""
    not_covered: tuple[str, ...] = ()
    """What this scan says nothing about, in sentences."""
    measures: Measures = _NONE
    format: int = 3

    @property
    def digest(self) -> str:
        """SHA-256 of the report's canonical bytes."""
        return hashlib.sha256(encode_report(self)).hexdigest()


def encode_report(report: ScanReport) -> bytes:
    """The canonical JSON that is digested and sealed."""
    examples: list[JsonValue] = [
        {"kind": example.finding.value, "file": example.file, "offset": example.offset, "text": example.text}
        for example in report.examples
    ]
    body: dict[str, JsonValue] = {
        "format": REPORT_FORMATS[report.format - 1],
        "source": report.source,
        "source_version": report.source_version,
        "manifest_root": report.manifest_root,
        "patterns_digest": report.patterns_digest,
        "files": report.files,
        "content_bytes": report.content_bytes,
        "counts": dict(report.counts),
        "files_with": dict(report.files_with),
        "examples": examples,
    }
    if report.format >= 2:
        body["not_looked_into"] = dict(report.not_looked_into)
    if report.format >= 3:
        body |= {
            "duplicates": report.duplicates,
            "quarantined": dict(report.quarantined),
            "held_back": [{"file": each.file, "why": each.why} for each in report.held_back],
            "media": {name: asdict(seen) for name, seen in report.media.items()},
            "names": None if report.names is None else asdict(report.names),
            "left": None if report.left is None else asdict(report.left),
            "recall": _shares(report.recall),
            "recall_by": {group: _shares(shares) for group, shares in report.recall_by.items()},
            "not_covered": list(report.not_covered),
            "measures": asdict(report.measures),
        }
    return canonical_json(body)


def _shares(shares: Mapping[str, Share]) -> dict[str, JsonValue]:
    return {name: asdict(each) for name, each in shares.items()}


def decode_report(data: bytes | bytearray, place: str) -> ScanReport:
    """The report in `data`. Raises BrokenRecord, naming `place`, when it does not follow the format."""
    try:
        raw: Any = json.loads(bytes(data))
        form = REPORT_FORMATS.index(raw.pop("format")) + 1
        examples = tuple(
            Example(Kind(one["kind"]), str(one["file"]), int(one["offset"]), str(one["text"]))
            for one in raw.pop("examples")
        )
        if form == 3:
            raw |= _decoded(raw)
        report = ScanReport(**raw, examples=examples, format=form)
        if encode_report(report) != bytes(data):
            raise ValueError("not canonical")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise BrokenRecord(f"{place} is no scan report.", hint="Scan the source again.") from error
    return report


def _decoded(raw: dict[str, Any]) -> dict[str, Any]:
    """The parts of version 3 that are more than plain values."""
    names, left = raw["names"], raw["left"]
    return {
        "held_back": tuple(HeldBack(str(one["file"]), str(one["why"])) for one in raw["held_back"]),
        "media": {name: MediaSeen(**seen) for name, seen in raw["media"].items()},
        "names": None if names is None else NamesSeen(**{**names, "spans_with": _share(names["spans_with"])}),
        "left": None
        if left is None
        else Left(
            **{
                **left,
                "windows_with": _share(left["windows_with"]),
                "by_kind": _read_shares(left["by_kind"]),
            }
        ),
        "recall": _read_shares(raw["recall"]),
        "recall_by": {group: _read_shares(shares) for group, shares in raw["recall_by"].items()},
        "not_covered": tuple(str(one) for one in raw["not_covered"]),
        "measures": Measures(**raw["measures"]),
    }


def _share(raw: dict[str, Any]) -> Share:
    """The interval is computed anew: a report whose interval does not fit its counts is broken."""
    return share(int(raw["found"]), int(raw["of"]))


def _read_shares(raw: dict[str, Any]) -> dict[str, Share]:
    return {name: _share(each) for name, each in raw.items()}


def examples_by_kind(report: ScanReport) -> Iterator[tuple[Kind, tuple[Example, ...]]]:
    """The report's examples, kind by kind, for showing."""
    for kind in Kind:
        examples = tuple(example for example in report.examples if example.finding is kind)
        if examples:
            yield kind, examples
