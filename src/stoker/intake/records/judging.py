"""What becomes of each record of a page: a fault, or its label and its text as they are kept.

Bytes in, bytes out; no keys, no store. See docs/design/intake.md, "Records".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stoker.core.canonical import JsonValue, canonical_json
from stoker.intake.records.cleaning import MediaCleaner, NotCleaned
from stoker.intake.records.decoding import Decoder
from stoker.intake.tokenizer import END_OF_TEXT_ID, WordEncoder
from stoker.spec.records import RecordPart, RecordsSpec

QUARANTINED: Final = "quarantined: "
"""How the fault of a record begins that its policy holds back; the reason follows."""

_MAX_LABEL: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class RecordBytes:
    """A record as the source holds it, but for its text, which was treated.

    `named_label` says that its label is a class name, not a number; `held` why its policy holds it back.
    """

    parts: Mapping[RecordPart, bytes]
    twice: frozenset[RecordPart]
    named_label: bool
    held: str = ""


@dataclass(frozen=True, slots=True)
class JudgingSettings:
    """What a worker needs to know; `tokenizer_json` is empty where no tokens are made."""

    spec: RecordsSpec
    tokenizer_json: str
    token_bytes: int


@dataclass(frozen=True, slots=True)
class JudgedRecord:
    """`fault` is empty for a record that stays. `label` is a number in decimal digits, or a class name.

    `image_bytes` and `audio_bytes` are lengths of what is kept beside the text; -1: as the source has it.
    """

    fault: str
    label: str
    text_bytes: int
    image_bytes: int = -1
    audio_bytes: int = -1

    @property
    def kept_bytes(self) -> int:
        """Of all that is kept of this record: its text, then its picture, then its clip."""
        return self.text_bytes + max(0, self.image_bytes) + max(0, self.audio_bytes)


@dataclass(frozen=True, slots=True)
class JudgedPage:
    """The records of a page in order, and what is kept of each, one after the other."""

    records: tuple[JudgedRecord, ...]
    kept: bytes

    def encode_records(self) -> bytes:
        """The records as JSON."""
        rows: list[JsonValue] = [
            [each.fault, each.label, each.text_bytes, each.image_bytes, each.audio_bytes]
            for each in self.records
        ]
        return canonical_json(rows)


def decode_records(data: bytes | bytearray) -> tuple[JudgedRecord, ...]:
    """The records that `encode_records` wrote."""
    return tuple(JudgedRecord(*row) for row in json.loads(data))


def start_judging_records(settings: JudgingSettings) -> Callable[[Sequence[RecordBytes]], JudgedPage]:
    """A function from the records of a page to what becomes of them."""
    encoder = WordEncoder(settings.tokenizer_json, settings.token_bytes) if settings.tokenizer_json else None
    end = END_OF_TEXT_ID.to_bytes(settings.token_bytes, "little")

    def text_of(document: bytes) -> bytes:
        return document if encoder is None else encoder.encode(document.decode()) + end

    def judge(page: Sequence[RecordBytes]) -> JudgedPage:
        kept: list[bytes] = []
        records: list[JudgedRecord] = []
        with Decoder(settings.spec) as decoder, MediaCleaner(settings.spec) as cleaner:
            for record in page:
                if fault := fault_of(record, settings.spec, decoder):
                    records.append(JudgedRecord(fault, "", 0))
                    continue
                try:
                    media = {
                        part: cleaner.cleaned(part, record.parts[part])
                        for part in (RecordPart.IMAGE, RecordPart.AUDIO)
                        if part in settings.spec.parts
                    }
                except NotCleaned as error:
                    records.append(JudgedRecord(QUARANTINED + error.why, "", 0))
                    continue
                text = b""
                if RecordPart.TEXT in settings.spec.parts:
                    text = text_of(record.parts[RecordPart.TEXT])
                label = record.parts.get(RecordPart.LABEL, b"").decode().strip()
                image, audio = media.get(RecordPart.IMAGE), media.get(RecordPart.AUDIO)
                lengths = (-1 if each is None else len(each) for each in (image, audio))
                records.append(JudgedRecord("", label, len(text), *lengths))
                kept += (text, image or b"", audio or b"")
        return JudgedPage(tuple(records), b"".join(kept))

    return judge


def fault_of(record: RecordBytes, spec: RecordsSpec, decoder: Decoder) -> str:
    """Why a record cannot stay; empty when it can. Names no content."""
    if record.held:
        return QUARANTINED + record.held
    for part in spec.parts:
        if part not in record.parts:
            return f"no {part}"
        if part in record.twice:
            return f"more than one {part}"
    for part in (RecordPart.TEXT, RecordPart.LABEL):
        if part in spec.parts and not is_text(record.parts[part]):
            return f"{part} is not UTF-8"
    if RecordPart.LABEL in spec.parts:
        label = record.parts[RecordPart.LABEL].decode().strip()
        if not label or len(label) > 200:
            return "no label"
        if not record.named_label and not (
            label.isdecimal() and label.isascii() and int(label) <= _MAX_LABEL
        ):
            return "label is no number"
    for part in (RecordPart.IMAGE, RecordPart.AUDIO):
        if part in spec.parts and (fault := decoder.fault(part, record.parts[part])):
            return fault
    return ""


def is_text(data: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
