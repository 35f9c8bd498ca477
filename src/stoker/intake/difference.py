"""What differs between two versions of datasets, from the ledger, the manifests and the sealed indexes.

Which files differ is told only to somebody who may open the sources; everyone else gets counts and roots. See
docs/design/intake.md, "Difference".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock
from stoker.core.result import plain
from stoker.intake.errors import (
    NotAllowed,
    OtherPurpose,
    ReviewDenied,
    ReviewExpired,
    ReviewMissing,
    ReviewRevoked,
    ReviewStale,
    ReviewUndecided,
)
from stoker.intake.life import standing_of
from stoker.intake.permission import MAY_SEE_FILES, require_permission, require_role, source_of
from stoker.intake.reading import DatasetRows
from stoker.intake.source_reader import SourceReader
from stoker.keys.backend import KeyBackend
from stoker.keys.errors import KeyDestroyed, KeyExpired, KeyUnknown
from stoker.keys.partition import BackendKeySource
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetRecord, DatasetState, SourceRecord
from stoker.store.errors import ObjectMissing
from stoker.store.objects import ObjectStore
from stoker.store.record_schema import RecordSchema
from stoker.store.superblock import Superblock

DIFF_ACT: Final = "dataset.diff"
_EXAMPLES: Final = 20
_REFUSALS: Final = (
    NotAllowed,
    OtherPurpose,
    ReviewDenied,
    ReviewExpired,
    ReviewMissing,
    ReviewRevoked,
    ReviewStale,
    ReviewUndecided,
)
"""Why somebody may not open a source: told in place of its files."""


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs, by its dotted name; None where a side has none."""

    field: str
    before: JsonValue
    after: JsonValue


@dataclass(frozen=True, slots=True)
class FileChanges:
    """Which files of the sources differ, by path and by the SHA-256 in the sealed index.

    The counts are of all; the paths are the first twenty of each kind in the order of import.
    """

    added: int
    removed: int
    changed: int
    same: int
    added_paths: tuple[str, ...]
    removed_paths: tuple[str, ...]
    changed_paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two versions."""

    name: str
    version: str
    root: str
    state: str


@dataclass(frozen=True, slots=True)
class DifferenceReport:
    """What differs from `before` to `after`. `files` is None when it could not be told, for `files_why`."""

    kind: ClassVar[str] = "dataset-diff"
    version: ClassVar[int] = 1

    before: Side
    after: Side
    source: tuple[Change, ...]
    recipe: tuple[Change, ...]
    review: tuple[Change, ...]
    figures: tuple[Change, ...]
    splits: tuple[Change, ...]
    schema: tuple[Change, ...]
    files: FileChanges | None
    files_why: str

    @property
    def same(self) -> bool:
        """Whether nothing that was looked at differs."""
        parts = (self.source, self.recipe, self.review, self.figures, self.splits, self.schema)
        return not any(parts)


def compare_datasets(
    before: DatasetRecord,
    after: DatasetRecord,
    *,
    actor: str | None,
    ledger: Ledger,
    backend: KeyBackend,
    store: ObjectStore,
    clock: Clock,
) -> DifferenceReport:
    """Compare two versions, of one dataset or of two.

    Recipe, review, figures and source roots come from the ledger, for anyone. With an `actor` who may look at
    samples of both, the sealed indexes of the two sources are opened too, which is recorded. Raises what
    reading the ledger raises.
    """
    now_s = clock.now_s()
    layouts = [layout_of(record, ledger=ledger, backend=backend, store=store) for record in (before, after)]
    files, why = _files(before, after, actor, ledger, backend, store, clock)
    sides = [Side(each.name, each.version, each.root, standing_of(each, now_s)) for each in (before, after)]
    return DifferenceReport(
        before=sides[0],
        after=sides[1],
        source=tuple(changes(_source_facts(before, ledger), _source_facts(after, ledger))),
        recipe=tuple(changes(before.recipe, after.recipe)),
        review=tuple(changes(_review_facts(before, ledger), _review_facts(after, ledger))),
        figures=tuple(changes(before.figures, after.figures)),
        splits=tuple(changes(_splits(layouts[0][0]), _splits(layouts[1][0]))),
        schema=tuple(changes(layouts[0][1], layouts[1][1])),
        files=files,
        files_why=why,
    )


def changes(before: JsonValue, after: JsonValue, place: str = "") -> Iterator[Change]:
    """Every leaf that differs, in the order of the first side's fields, then what only the second has."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in [*before, *(name for name in after if name not in before)]:
            yield from changes(before.get(name), after.get(name), f"{place}.{name}" if place else name)
    elif before != after:
        yield Change(place, before, after)


def _source_facts(record: DatasetRecord, ledger: Ledger) -> Mapping[str, JsonValue]:
    source = source_of(ledger, record)
    facts: dict[str, JsonValue] = {
        "name": record.source,
        "version": record.source_version,
        "root": record.source_root,
    }
    if source is not None:
        facts |= {
            "files": source.files,
            "content_bytes": source.content_bytes,
            "left_out": dict(source.left_out),
        }
    return facts


def _review_facts(record: DatasetRecord, ledger: Ledger) -> Mapping[str, JsonValue]:
    review = ledger.catalogue.review(record.review)
    return {
        "id": review.id,
        "purpose": review.purpose,
        "policy_digest": review.policy_digest,
        "requested_by": review.requested_by,
        "decided_by": review.decided_by,
        "state": review.state.value,
    }


def layout_of(
    record: DatasetRecord, *, ledger: Ledger, backend: KeyBackend, store: ObjectStore
) -> tuple[Superblock | None, Mapping[str, JsonValue]]:
    """What the manifest says of the whole, and the schema as names and values; None and none when it is gone.

    No key is asked for. Raises what Manifest.open raises, but for a manifest that is not there.
    """
    if record.state is DatasetState.COLLECTED:
        return None, {}
    try:
        rows = DatasetRows.open(record, ledger=ledger, backend=backend, store=store)
    except ObjectMissing:
        return None, {}
    return rows.superblock, schema_facts(rows)


def _splits(block: Superblock | None) -> Mapping[str, JsonValue]:
    if block is None:
        return {}
    return {split.name: {"samples": split.samples, "shards": split.shards} for split in block.splits}


def schema_facts(rows: DatasetRows) -> Mapping[str, JsonValue]:
    """The schema as names and values: of records by field, of samples as it is."""
    schema = rows.schema
    facts: dict[str, JsonValue] = {}
    if isinstance(schema, RecordSchema):
        for field in schema.fields:
            facts[field.name] = {
                "kind": field.kind.value,
                "dtype": field.dtype,
                "shape": list(field.shape),
                "media": field.media,
            }
        facts["records_per_block"] = schema.records_per_block
        facts["chunk_log2"] = schema.chunk_log2
        return facts
    raw = plain(schema)
    assert isinstance(raw, Mapping)
    return raw


def _files(
    before: DatasetRecord,
    after: DatasetRecord,
    actor: str | None,
    ledger: Ledger,
    backend: KeyBackend,
    store: ObjectStore,
    clock: Clock,
) -> tuple[FileChanges | None, str]:
    """The files that differ, or why that is not told."""
    if before.source_root == after.source_root:
        return None, "both were prepared from the same source version"
    sources = [source_of(ledger, record) for record in (before, after)]
    if sources[0] is None or sources[1] is None:
        return None, "a source version is not in this ledger"
    if actor is None:
        return None, "it takes an identity that may open both sources"
    try:
        require_role(ledger, actor, MAY_SEE_FILES, "see which files are in a source")
        for record in (before, after):
            require_permission(ledger, record, ledger.catalogue.review(record.review).purpose, clock)
    except _REFUSALS as refusal:
        return None, refusal.message
    detail: Mapping[str, JsonValue] = {
        "before": before.root,
        "after": after.root,
        "sources": [before.source_root, after.source_root],
    }
    with ledger.act(actor=actor, action=DIFF_ACT, subject=f"dataset/{after.name}", detail=detail):
        pass
    try:
        return _compare_files(*(_digests(each, backend, store) for each in sources if each)), ""
    except (KeyDestroyed, KeyExpired, KeyUnknown, ObjectMissing) as gone:
        return None, gone.message


def _digests(source: SourceRecord, backend: KeyBackend, store: ObjectStore) -> dict[str, bytes]:
    keys, public_key = BackendKeySource(backend), backend.signer("manifest").public_key
    with SourceReader.open(source, store, keys, public_key) as reader:
        return {file.path: file.sha256 for file in reader.files}


def _compare_files(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> FileChanges:
    added = [path for path in after if path not in before]
    removed = [path for path in before if path not in after]
    changed = [path for path, digest in before.items() if path in after and after[path] != digest]
    return FileChanges(
        added=len(added),
        removed=len(removed),
        changed=len(changed),
        same=len(before) - len(removed) - len(changed),
        added_paths=tuple(added[:_EXAMPLES]),
        removed_paths=tuple(removed[:_EXAMPLES]),
        changed_paths=tuple(changed[:_EXAMPLES]),
    )
