"""A home with people of every role and sealed datasets on record, for tests of a dataset's life.

The datasets are written with the store's own writers, so that no source has to be imported or tokenised.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from stoker.core.clock import ManualClock
from stoker.core.home import Home
from stoker.core.ids import RunId, new_run_id, new_version_id
from stoker.intake.garbage import GarbageCollector, GarbageReport
from stoker.intake.life import RunStanding
from stoker.intake.review import decide_review, request_review
from stoker.intake.review_request import review_digest
from stoker.intake.tokenizer import train_tokenizer
from stoker.keys.backend import KeyBackend
from stoker.keys.identities import create_identity
from stoker.keys.open import open_backend
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import Purpose
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import (
    DatasetRecord,
    DatasetState,
    ReviewRecord,
    Role,
    RunOutcome,
    RunRecord,
    SourceRecord,
)
from stoker.spec.recipe import PolicySpec
from stoker.store.cache import NodeCache
from stoker.store.header import StreamKind, StreamLabel
from stoker.store.manifest import ManifestWriter, shard_key
from stoker.store.objects import ObjectStore
from stoker.store.record_schema import FieldKind, RecordField, RecordSchema
from stoker.store.records import RECORD_SHARD_SCHEMA, RecordShardWriter
from stoker.store.sealed import PartitionSeal
from stoker.store.shards import SHARD_SCHEMA, ShardWriter, shard_entry
from stoker.store.superblock import Artefact, SampleSchema, Split, Superblock
from support.key_death import destroy_at_once

DAY_S: Final = 86_400.0
PEOPLE: Final = {
    "asker": Role.RESEARCHER,
    "other": Role.RESEARCHER,
    "decider": Role.REVIEWER,
    "boss": Role.ADMIN,
    "hands": Role.OPERATOR,
    "watcher": Role.AUDITOR,
}
TEXT: Final = "The stoker feeds the furnace and watches the boiler. \x1b[31mNothing\x07 is written down.\n"
TOKENIZER: Final = train_tokenizer([TEXT], 300)
SCHEMA: Final = SampleSchema.fit(vocabulary=300, sample_tokens=17, chunk_log2=14, samples_per_shard=500)
FIELDS: Final = (
    RecordField("image", FieldKind.BYTES, "uint8", media="image/png"),
    RecordField("text", FieldKind.BYTES, "uint8", media="text/utf-8"),
    RecordField("words", FieldKind.TOKENS, "uint16"),
    RecordField("box", FieldKind.NUMBER, "float32", (2, 2)),
    RecordField("label", FieldKind.NUMBER, "int64"),
)
RECORDS: Final = RecordSchema(FIELDS, records_per_block=4, blocks_per_shard=3, chunk_log2=14)


@dataclass
class FakeWatch:
    """Says of each run what a test tells it; a run that it knows nothing of has ended."""

    standings: dict[str, RunStanding] = field(default_factory=dict)
    signs: dict[str, float] = field(default_factory=dict)

    def standing(self, run: RunRecord) -> RunStanding:
        return self.standings.get(run.id, RunStanding.ENDED)

    def last_sign_s(self, run: RunRecord) -> float | None:
        return self.signs.get(run.id)


@dataclass(frozen=True, slots=True)
class LifeHome:
    """What the functions of a dataset's life take."""

    home: Home
    ledger: Ledger
    backend: KeyBackend
    store: ObjectStore
    cache: NodeCache
    clock: ManualClock
    watch: FakeWatch

    # -- sources and reviews

    def source(self, name: str = "notes") -> SourceRecord:
        version = new_version_id()
        record = SourceRecord(
            name,
            version,
            version * 2,
            f"source/{name}/{version}#1",
            3,
            100,
            {},
            "asker",
            self.clock.now_s(),
        )
        with self.ledger.act(
            actor="asker", action="source.import", subject=f"source/{name}", detail={}
        ) as catalogue:
            catalogue.add_source(record)
        return record

    def review(
        self,
        source: SourceRecord,
        purpose: str = "research",
        *,
        by: str = "asker",
        decider: str | None = "decider",
        policy: PolicySpec | None = None,
        days: float = 365.0,
    ) -> ReviewRecord:
        asked = request_review(
            source,
            "6" * 64,
            policy or PolicySpec(),
            purpose=purpose,
            requested_by=by,
            valid_s=days * DAY_S,
            ledger=self.ledger,
            clock=self.clock,
        )
        if decider is None:
            return asked
        return decide_review(
            asked.id,
            approve=True,
            reason="seen",
            decided_by=decider,
            ledger=self.ledger,
            backend=self.backend,
            clock=self.clock,
        )

    # -- datasets

    def tokens(
        self,
        name: str = "text",
        *,
        review: ReviewRecord | None = None,
        samples: int = 1100,
        days: float = 30.0,
        **changes: Any,
    ) -> tuple[DatasetRecord, dict[str, np.ndarray]]:
        """A dataset of token samples, and what was written into it by split."""
        random = np.random.default_rng(samples)
        written = {
            split: random.integers(1, 300, (count, SCHEMA.sample_tokens)).astype(np.uint16)
            for split, count in (("train", samples), ("heldout", 7))
        }

        def shards(
            seal: PartitionSeal, label: Any, rows: np.ndarray, first: int
        ) -> Iterator[tuple[bytes, Any]]:
            for number, start in enumerate(range(0, len(rows), SCHEMA.samples_per_shard)):
                writer = ShardWriter(seal, label(first + number, SHARD_SCHEMA), SCHEMA)
                writer.add(rows[start : start + SCHEMA.samples_per_shard])
                sealed, entry = writer.finish()
                yield sealed.data, entry

        return self._dataset(name, SCHEMA, written, shards, review, days, changes), written

    def records(
        self,
        name: str = "pictures",
        *,
        review: ReviewRecord | None = None,
        records: int = 30,
        days: float = 30.0,
    ) -> tuple[DatasetRecord, dict[str, list[dict[str, Any]]]]:
        """A dataset of records, and what was written into it by split."""

        def row(number: int) -> dict[str, Any]:
            return {
                "image": bytes([137, 80, 78, 71]) + bytes(number),
                "text": f"Picture {number}: caf\u00e9\x1b]0;title\x07".encode(),
                "words": np.arange(number % 5, dtype=np.uint16),
                "box": np.full((2, 2), number / 2, dtype=np.float32),
                "label": number - 3,
            }

        written = {"train": [row(number) for number in range(records)], "heldout": [row(99)]}

        def shards(
            seal: PartitionSeal, label: Any, rows: Sequence[dict[str, Any]], first: int
        ) -> Iterator[tuple[bytes, Any]]:
            for number, start in enumerate(range(0, len(rows), RECORDS.records_per_shard)):
                writer = RecordShardWriter(seal, label(first + number, RECORD_SHARD_SCHEMA), RECORDS)
                writer.extend(rows[start : start + RECORDS.records_per_shard])
                sealed, entry = writer.finish()
                yield sealed.data, entry

        return self._dataset(name, RECORDS, written, shards, review, days, {}), written

    def _dataset(
        self,
        name: str,
        schema: SampleSchema | RecordSchema,
        written: dict[str, Any],
        shards: Any,
        review: ReviewRecord | None,
        days: float,
        changes: dict[str, Any],
    ) -> DatasetRecord:
        review = review or self.review(self.source(f"{name}-source"))
        version = new_version_id()
        prefix, expires_s = f"datasets/{name}/{version}", self.clock.now_s() + days * DAY_S
        begin = {"version": version, "review": review.id}
        subject = f"dataset/{name}"
        with self.ledger.act(actor="asker", action="dataset.prepare.begin", subject=subject, detail=begin):
            pass
        kek = self.backend.create_kek(f"{subject}/{version}", Purpose.DATASET, expires_s=expires_s)

        def label(shard: int, form: int, kind: StreamKind = StreamKind.SHARD) -> StreamLabel:
            return StreamLabel(kind, subject, version, shard, form, review_digest(review))

        manifest, splits = ManifestWriter(), []
        with PartitionSeal(BackendKeySource(self.backend), kek, Purpose.DATASET) as seal:
            for split, rows in written.items():
                first = manifest.shards
                for data, entry in shards(seal, label, rows, first):
                    self.store.create(shard_key(prefix, manifest.add(entry)), data)
                splits.append(Split(split, first, manifest.shards - first, len(rows)))
            sealed = seal.seal(
                label(manifest.shards, 1, StreamKind.ARTEFACT), TOKENIZER.encode(), chunk_log2=16
            )
            tokenizer = manifest.add(shard_entry(sealed, 0))
            self.store.create(shard_key(prefix, tokenizer), sealed.data)
        block = Superblock(
            subject=subject,
            version=version,
            kek=str(kek),
            review_digest=review_digest(review),
            chunk_log2=schema.chunk_log2,
            schema=schema,
            splits=tuple(splits),
            artefacts=(Artefact("tokenizer", tokenizer),),
            source_root=review.manifest_root,
            recipe_digest="8" * 64,
        )
        root = manifest.finish(block, self.backend.signer("manifest"), self.store, prefix)
        values: dict[str, Any] = {
            "name": name,
            "version": version,
            "root": root,
            "kek": str(kek),
            "source": review.source,
            "source_version": review.source_version,
            "source_root": review.manifest_root,
            "review": review.id,
            "recipe_digest": "8" * 64,
            "recipe": {"vocabulary": 300, "seed": 0, "policy": {"redact": ["email"]}},
            "figures": {split: {"samples": len(rows)} for split, rows in written.items()},
            "prepared_by": "asker",
            "prepared_s": self.clock.now_s(),
            "expires_s": expires_s,
            "state": DatasetState.LIVE,
        }
        record = DatasetRecord(**(values | changes))
        with self.ledger.act(
            actor="asker", action="dataset.prepare", subject=subject, detail={}
        ) as catalogue:
            catalogue.add_dataset(record)
        return record

    def now(self, record: DatasetRecord) -> DatasetRecord:
        """The dataset as the ledger has it now."""
        return self.ledger.catalogue.dataset_of_root(record.root)

    def destroy(self, record: DatasetRecord) -> None:
        """By two identities."""
        destroy_at_once(record.kek, ledger=self.ledger, backend=self.backend)

    def objects(self, record: DatasetRecord) -> list[str]:
        return sorted(self.store.list(f"datasets/{record.name}/{record.version}"))

    # -- runs and gc

    def run(
        self,
        record: DatasetRecord,
        standing: RunStanding | None = None,
        *,
        parts: Sequence[str] = (),
        outcome: RunOutcome = RunOutcome.RUNNING,
    ) -> RunId:
        """A run on record; the watch says that it stands like this."""
        run = new_run_id(self.clock)
        spec: dict[str, Any] = {}
        row = RunRecord(
            id=run,
            name="tiny",
            dataset=record.name,
            dataset_root=record.root,
            review=record.review,
            spec=spec,
            spec_digest="9" * 64,
            kek=f"run/{run}#1",
            started_by="asker",
            started_s=self.clock.now_s(),
            ended_s=None,
            outcome=RunOutcome.RUNNING,
        )
        with self.ledger.act(actor="asker", action="run.start", subject=f"run/{run}", detail={}) as catalogue:
            catalogue.add_run(row, parts)
        if outcome is not RunOutcome.RUNNING:
            self.clock.advance(60.0)
            with self.ledger.act(
                actor="asker", action="run.end", subject=f"run/{run}", detail={}
            ) as catalogue:
                catalogue.end_run(run, outcome, self.clock.now_s())
        if standing is not None:
            self.watch.standings[run] = standing
        return run

    def collector(self, *, by: str = "hands", days: float = 7.0, **changes: Any) -> GarbageCollector:
        made = GarbageCollector(
            actor=by,
            ledger=self.ledger,
            backend=self.backend,
            store=self.store,
            cache=self.cache,
            watch=self.watch,
            clock=self.clock,
            locks=self.home.locks_dir,
            grace_s=days * DAY_S,
        )
        return dataclasses.replace(made, **changes)

    def gc(self, **more: Any) -> GarbageReport:
        return self.collector(**more).run()

    def acts(self, action: str) -> list[dict[str, Any]]:
        """The details of every act of that kind, with who did it."""
        return [{**entry.detail, "actor": entry.actor} for entry in self.ledger.audit.acts((action,))]


@contextmanager
def life_home(root: Path) -> Iterator[LifeHome]:
    """A home under `root`."""
    clock = ManualClock()
    home = Home(root / "home").prepare()
    backend = open_backend(home.keys_dir.as_uri(), clock=clock, passphrase=None)
    store = ObjectStore.open(home.store_dir.as_uri())
    with Ledger.open(f"sqlite:///{home.ledger_path}", home.ledger_key_path, clock) as ledger:
        known = {identity.name for identity in ledger.catalogue.identities()}
        for name, role in PEOPLE.items():
            if name not in known:
                create_identity(name, role, actor=None, ledger=ledger, backend=backend, clock=clock)
        cache = NodeCache(home.cache_dir, store, 1 << 30)
        yield LifeHome(home, ledger, backend, store, cache, clock, FakeWatch())
