"""Records into a dataset: the phases treat, tokenizer, judge, layout and pack, and the commit.

See docs/design/intake.md, "Records" and "Tasks and executors".
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from stoker.core.canonical import JsonValue, canonical_json
from stoker.core.signing import Signer
from stoker.intake.building import (
    JUDGE,
    LAYOUT,
    PACK,
    SPLITS,
    TOKENIZER,
    TOKENIZER_ARTEFACT,
    tokenizer_phase,
)
from stoker.intake.dataset_writer import DatasetCommit
from stoker.intake.errors import LabelMismatch, RecordFault, TooLittleText
from stoker.intake.packing import heldout_of, tokenizer_sample
from stoker.intake.policy.pages import TREAT, TreatedPage, open_page, treat_phase
from stoker.intake.records.grouping import Record, group, in_no_record
from stoker.intake.records.judging import (
    QUARANTINED,
    JudgedPage,
    JudgedRecord,
    JudgingSettings,
    RecordBytes,
    decode_records,
    is_text,
    start_judging_records,
)
from stoker.intake.sharding import entries_of, entry_facts
from stoker.intake.sources.media import LABEL_EXTENSION, extension_of
from stoker.intake.tasks import BuildResult, Making, Phase
from stoker.intake.tokenizer import vocabulary_size
from stoker.intake.walk import printable
from stoker.intake.workplace import Intermediate, Workplace
from stoker.spec.recipe import Kind, RecipeSpec
from stoker.spec.records import RecordPart
from stoker.spec.source import OnFault
from stoker.store.header import StreamKind
from stoker.store.manifest import shard_key
from stoker.store.record_schema import FieldKind, RecordField, RecordSchema
from stoker.store.records import RECORD_SHARD_SCHEMA, RecordShardWriter
from stoker.store.repeatable import create_same
from stoker.store.superblock import Split, Superblock

CLASSES_ARTEFACT: Final = "classes"

_MEDIA: Final = {RecordPart.IMAGE: "image/*", RecordPart.AUDIO: "audio/*"}
_OPEN_PAGES: Final = 4


def record_phases(recipe: RecipeSpec) -> tuple[str, ...]:
    """The phases that a recipe of records takes, in order."""
    treating = (TREAT,) if RecordPart.TEXT in recipe.records.parts else ()
    tokenizing = (TOKENIZER,) if recipe.records.makes_tokens else ()
    return (*treating, *tokenizing, JUDGE, LAYOUT, PACK)


def record_schema(recipe: RecipeSpec) -> RecordSchema:
    """The fields of a recipe's records, in the order of its parts."""
    spec = recipe.records

    def field(part: RecordPart) -> RecordField:
        if part is RecordPart.LABEL:
            return RecordField(part.value, FieldKind.NUMBER, "int64")
        if part is RecordPart.TEXT and spec.makes_tokens:
            return RecordField(part.value, FieldKind.TOKENS, f"uint{8 * recipe.token_bytes}")
        return RecordField(part.value, FieldKind.BYTES, "uint8", media=_MEDIA.get(part, "text/utf-8"))

    fields = tuple(field(part) for part in spec.parts)
    return RecordSchema(fields, spec.records_per_block, spec.blocks_per_shard, recipe.chunk_log2)


@dataclass(frozen=True, slots=True)
class _Judged:
    """A judged page: its records, where what is kept of each begins in the body, and the body."""

    records: tuple[JudgedRecord, ...]
    starts: Sequence[int]
    body: Intermediate


class RecordsForm:
    """A preparation of records at one workplace."""

    def __init__(self, work: Workplace) -> None:
        self._work = work
        self._plan = work.plan
        self._recipe = work.plan.recipe
        self._spec = work.plan.recipe.records
        self._judged: dict[int, _Judged] = {}
        self._treated: dict[int, TreatedPage] = {}

    @cached_property
    def _records(self) -> tuple[Record, ...]:
        return group(self._work.source.files)

    def phase(self, name: str) -> Phase:
        """The phase of this name; those before it have been done. Raises TooLittleText, RecordFault."""
        makers = {
            TREAT: self._treat,
            TOKENIZER: self._tokenizer,
            JUDGE: self._judge,
            LAYOUT: self._layout,
            PACK: self._pack,
        }
        return makers[name]()

    def _page(self, page: int) -> range:
        return self._plan.page(page, len(self._records))

    def _treat(self) -> Phase:
        return treat_phase(self._work, self._amounts(), self._texts)

    def _amounts(self) -> list[float]:
        return [
            float(sum(self._records[number].size_bytes for number in self._page(page)))
            for page in range(self._plan.pages)
        ]

    def _texts(self, page: int) -> list[bytes]:
        """The texts of a page's records; nothing for a record without one or whose text is not UTF-8."""
        found: list[bytes] = []
        for number in self._page(page):
            file = self._records[number].parts.get(RecordPart.TEXT)
            text = b"" if file is None else bytes(self._work.source.read(file))
            found.append(text if is_text(text) else b"")
        return found

    def _tokenizer(self) -> Phase:
        texts = {
            each.parts[RecordPart.TEXT]: number
            for number, each in enumerate(self._records)
            if RecordPart.TEXT in each.parts
        }
        if not texts:
            raise TooLittleText(
                f"No record of source {self._plan.source.name} has a text.",
                hint="Import texts as .txt files beside the others, or take text out of records.parts.",
            )
        files = tokenizer_sample(list(texts), self._recipe.tokenizer_sample_bytes, self._recipe.seed)
        return tokenizer_phase(self._work, files, lambda: [self._treated_text(texts[file]) for file in files])

    def _treated_text(self, number: int) -> bytes:
        page = bisect.bisect_right(self._plan.page_starts, number) - 1
        return self._treated_page(page).text(number - self._plan.page_starts[page])

    def _treated_page(self, page: int) -> TreatedPage:
        if page not in self._treated:
            while len(self._treated) >= _OPEN_PAGES:
                del self._treated[next(iter(self._treated))]
            self._treated[page] = open_page(self._work, page)
        return self._treated[page]

    def _tokenizer_json(self) -> str:
        return self._work.get(TOKENIZER, 0).read_all().decode() if self._spec.makes_tokens else ""

    def _judge(self) -> Phase:
        def load(page: int) -> list[RecordBytes]:
            return [self._bytes_of(page, number) for number in self._page(page)]

        def store(page: int, judged: JudgedPage) -> None:
            records = judged.encode_records()
            facts: dict[str, JsonValue] = {"records_bytes": len(records)}
            self._work.put(JUDGE, page, facts, records + judged.kept, first_stands=True)

        def settings() -> JudgingSettings:
            return JudgingSettings(self._spec, self._tokenizer_json(), self._recipe.token_bytes)

        making = Making(start_judging_records, settings)
        label = f"judge the records of {self._plan.name}"
        return Phase(JUDGE, label, "bytes", self._amounts(), load, making, store)

    def _bytes_of(self, page: int, number: int) -> RecordBytes:
        record = self._records[number]
        parts = {
            part: bytes(self._work.source.read(file))
            for part, file in record.parts.items()
            if part in self._spec.parts
        }
        label = record.parts.get(RecordPart.LABEL)
        named = label is not None and extension_of(label.path) == LABEL_EXTENSION
        held = ""
        if is_text(parts.get(RecordPart.TEXT, b"\xff")):
            treated = self._treated_page(page)
            at = number - self._plan.page_starts[page]
            parts[RecordPart.TEXT], held = treated.text(at), treated.held[at]
        return RecordBytes(parts, record.twice, named, held)

    def _judged_page(self, page: int) -> _Judged:
        if page not in self._judged:
            while len(self._judged) >= _OPEN_PAGES:
                del self._judged[next(iter(self._judged))]
            found = self._work.get(JUDGE, page)
            length = found.facts["records_bytes"]
            assert isinstance(length, int)
            records = decode_records(found.read(0, length))
            starts = np.cumsum([length, *(each.kept_bytes for each in records)]).tolist()
            self._judged[page] = _Judged(records, starts, found)
        return self._judged[page]

    def _layout(self) -> Phase:
        """One task: which records stay, on which side, and what their classes are called."""

        def load(_: int) -> dict[str, Any]:
            stays: list[int] = []
            redactions = {kind.value: 0 for kind in Kind}
            left_out: dict[str, int] = {}
            names: set[str] = set()
            numbers: set[int] = set()
            for page in range(self._plan.pages):
                opened = self._judged_page(page)
                counts = self._treated_page(page).counts if TREAT in self._plan.phases else None
                for at, (number, judged) in enumerate(zip(self._page(page), opened.records, strict=True)):
                    if judged.fault:
                        self._allow(number, judged.fault)
                        left_out[judged.fault] = left_out.get(judged.fault, 0) + 1
                        continue
                    stays.append(number)
                    for kind, count in (counts[at] if counts is not None else {}).items():
                        redactions[kind] += count
                    if RecordPart.LABEL in self._spec.parts:
                        named = self._named(number)
                        names.update([judged.label] if named else [])
                        numbers.update([] if named else [int(judged.label)])
            if names and numbers:
                raise LabelMismatch(
                    f"Source {self._plan.source.name} has labels that are class names and labels that are "
                    "numbers.",
                    hint="Import one kind: .label files with names, or .cls files with numbers.",
                )
            sides = self._sides(stays)
            return {
                "redactions": redactions,
                "left_out": dict(sorted(left_out.items())),
                "classes": sorted(names),
                "labels": len(names or numbers),
                "sides": sides,
                "body": np.array([each for side in sides for each in side], dtype="<i8").tobytes(),
            }

        def store(_: int, found: dict[str, Any]) -> None:
            facts: dict[str, JsonValue] = {
                "redactions": found["redactions"],
                "left_out": found["left_out"],
                "classes": found["classes"],
                "labels": found["labels"],
                "records": [len(side) for side in found["sides"]],
            }
            self._work.put(LAYOUT, 0, facts, found["body"])

        return Phase(LAYOUT, f"lay out {self._plan.name}", "steps", [1.0], load, None, store, here=True)

    def _allow(self, number: int, fault: str) -> None:
        if self._spec.on_fault is OnFault.REFUSE and not fault.startswith(QUARANTINED):
            raise RecordFault(
                f"Record {printable(self._records[number].key)} of source {self._plan.source.name}: {fault}.",
                hint='Mend the source and import it again, or set records.on_fault = "leave_out".',
            )

    def _named(self, number: int) -> bool:
        return extension_of(self._records[number].parts[RecordPart.LABEL].path) == LABEL_EXTENSION

    def _sides(self, stays: Sequence[int]) -> tuple[list[int], list[int]]:
        kept = [self._records[number] for number in stays]
        places = [(record.key, record.sha256) for record in kept]
        heldout = heldout_of(self._plan.source.name, places, self._recipe)
        if not heldout:
            raise TooLittleText(
                f"Of the {len(self._records)} records of source {self._plan.source.name}, {len(stays)} can "
                "be used: too few different ones for a held-out split.",
                hint='Import more records. records.on_fault = "refuse" names the first that cannot be used.',
            )
        train = [number for number in stays if self._records[number].sha256 not in heldout]
        return train, [number for number in stays if self._records[number].sha256 in heldout]

    def _layouts(self, facts: Mapping[str, Any]) -> tuple[Split, ...]:
        first, found = 0, []
        for name, records in zip(SPLITS, facts["records"], strict=True):
            shards = -(-records // self._spec.records_per_shard)
            found.append(Split(name, first, shards, records))
            first += shards
        return tuple(found)

    def _pack(self) -> Phase:
        layout = self._work.get(LAYOUT, 0)
        numbers = np.frombuffer(layout.read_all(), dtype="<i8")
        classes = {name: place for place, name in enumerate(_classes(layout.facts))}
        per_shard = self._spec.records_per_shard
        rows: list[Sequence[int]] = []
        begin = 0
        for split in self._layouts(layout.facts):
            side = numbers[begin : begin + split.samples].tolist()
            rows += [side[start : start + per_shard] for start in range(0, split.samples, per_shard)]
            begin += split.samples

        def store(shard: int, taken: Sequence[int]) -> None:
            self._work.put(PACK, shard, self._seal(shard, taken, classes))

        amounts = [float(len(each)) for each in rows]
        return Phase(
            PACK, f"pack {self._plan.name}", "records", amounts, lambda shard: rows[shard], None, store
        )

    def _seal(self, shard: int, numbers: Sequence[int], classes: Mapping[str, int]) -> dict[str, JsonValue]:
        writer = RecordShardWriter(
            self._work.shard_seal,
            self._plan.place.label(StreamKind.SHARD, shard, RECORD_SHARD_SCHEMA),
            record_schema(self._recipe),
        )
        for number in numbers:
            writer.add(self._row(number, classes))
        sealed, entry = writer.finish()
        create_same(self._work.store, shard_key(self._plan.place.prefix, shard), sealed.data)
        return {"entries": [entry_facts(entry)]}

    def _row(self, number: int, classes: Mapping[str, int]) -> dict[str, Any]:
        record = self._records[number]
        page = bisect.bisect_right(self._plan.page_starts, number) - 1
        judged = self._judged_page(page)
        at = number - self._plan.page_starts[page]
        row: dict[str, Any] = {}
        for part in self._spec.parts:
            if part is RecordPart.LABEL:
                label = judged.records[at].label
                row[part.value] = classes[label] if classes else int(label)
            elif part is RecordPart.TEXT:
                text = judged.body.read(judged.starts[at], judged.records[at].text_bytes)
                row[part.value] = (
                    np.frombuffer(text, dtype=f"<u{self._recipe.token_bytes}")
                    if self._spec.makes_tokens
                    else text
                )
            else:
                row[part.value] = self._media(judged, at, part, record)
        return row

    def _media(self, judged: _Judged, at: int, part: RecordPart, record: Record) -> bytes | bytearray:
        """The picture or clip of a judged record: as it was cleaned, or as the source has it."""
        found = judged.records[at]
        length = found.image_bytes if part is RecordPart.IMAGE else found.audio_bytes
        if length < 0:
            return self._work.source.read(record.parts[part])
        start = judged.starts[at] + found.text_bytes
        return judged.body.read(
            start + (max(0, found.image_bytes) if part is RecordPart.AUDIO else 0), length
        )

    def commit(self, signer: Signer) -> BuildResult:
        """Tokenizer and class names as artefacts, then the manifest."""
        facts: Mapping[str, Any] = self._work.get(LAYOUT, 0).facts
        splits = self._layouts(facts)
        shards = sum(split.shards for split in splits)
        entries = [
            entry for shard in range(shards) for entry in entries_of(self._work.get(PACK, shard).facts)
        ]
        place = self._plan.place
        commit = DatasetCommit(place, self._work.shard_seal, self._work.store, entries)
        tokenizer_json = self._tokenizer_json()
        if tokenizer_json:
            commit.add_artefact(TOKENIZER_ARTEFACT, tokenizer_json.encode())
        if classes := _classes(facts):
            commit.add_artefact(CLASSES_ARTEFACT, canonical_json(list(classes)))
        superblock = Superblock(
            subject=f"dataset/{place.name}",
            version=place.version,
            kek=str(place.kek),
            review_digest=place.review_digest,
            chunk_log2=self._recipe.chunk_log2,
            schema=record_schema(self._recipe),
            splits=splits,
            artefacts=commit.artefacts,
            source_root=self._plan.source.manifest_root,
            recipe_digest=self._plan.recipe_digest,
        )
        return BuildResult(commit.finish(superblock, signer), self._figures(facts, tokenizer_json))

    def _figures(self, facts: Mapping[str, Any], tokenizer_json: str) -> dict[str, JsonValue]:
        figures: dict[str, JsonValue] = {
            "parts": [part.value for part in self._spec.parts],
            "redactions": facts["redactions"],
            "left_out": facts["left_out"],
            "files_in_no_record": in_no_record(self._work.source.files),
            "classes": facts["labels"],
        }
        if tokenizer_json:
            figures |= {
                "vocabulary": vocabulary_size(tokenizer_json),
                "token_bytes": self._recipe.token_bytes,
            }
        for name, records in zip(SPLITS, facts["records"], strict=True):
            figures[name] = {"records": records}
        return figures


def _classes(facts: Mapping[str, Any]) -> list[str]:
    found: list[str] = facts["classes"]
    return found
