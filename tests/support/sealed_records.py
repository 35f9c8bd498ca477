"""A small dataset of records, really sealed: one or two splits under a signed manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker.core.clock import Clock
from stoker.core.signing import Ed25519Signer
from stoker.feed.dataset import Dataset
from stoker.keys.partition import KeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.store.cache import NodeCache
from stoker.store.header import StreamKind, StreamLabel
from stoker.store.manifest import ManifestWriter, shard_key
from stoker.store.objects import ObjectStore
from stoker.store.record_schema import RecordSchema
from stoker.store.records import RECORD_SHARD_SCHEMA, RecordRow, RecordShardWriter
from stoker.store.sealed import PartitionSeal
from stoker.store.superblock import Split, Superblock
from support.sealed_samples import KEK

NAME = "own-records"
VERSION = "cd" * 16
REVIEW = bytes(range(32))


@dataclass(frozen=True)
class SealedRecords:
    """Where a dataset lies, what opens it, and what was written into it."""

    store: ObjectStore
    folder: Path
    keys: KeySource
    root: str
    public_key: bytes
    written: Mapping[str, Sequence[RecordRow]]

    def open(
        self, *, cache: NodeCache | None = None, keys: KeySource | None = None, clock: Clock | None = None
    ) -> Dataset:
        return Dataset.open(
            self.store,
            cache,
            name=NAME,
            version=VERSION,
            root=self.root,
            public_key=self.public_key,
            keys=keys or self.keys,
            review_digest=REVIEW,
            clock=clock,
        )

    def shard_path(self, shard: int) -> Path:
        return self.folder / shard_key(f"datasets/{NAME}/{VERSION}", shard)


def sealed_records(
    folder: Path,
    keys: KeySource,
    schema: RecordSchema,
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    kek: KekRef = KEK,
    claimed_shards: int | None = None,
) -> SealedRecords:
    """Write it. `claimed_shards` makes the manifest lie about how many shards the first split has."""
    store, signer = ObjectStore.open(folder.as_uri()), Ed25519Signer.from_seed(bytes(32))
    prefix, manifest = f"datasets/{NAME}/{VERSION}", ManifestWriter()
    found = []
    with PartitionSeal(keys, kek, Purpose.DATASET) as seal:
        for name, rows in splits.items():
            first = manifest.shards
            for start in range(0, len(rows), schema.records_per_shard):
                label = StreamLabel(
                    StreamKind.SHARD,
                    f"dataset/{NAME}",
                    VERSION,
                    manifest.shards,
                    RECORD_SHARD_SCHEMA,
                    REVIEW,
                )
                writer = RecordShardWriter(seal, label, schema)
                writer.extend(rows[start : start + schema.records_per_shard])
                sealed, entry = writer.finish()
                store.create(shard_key(prefix, manifest.add(entry)), sealed.data)
            found.append(Split(name, first, manifest.shards - first, len(rows)))
    if claimed_shards is not None:
        found[0] = Split(found[0].name, 0, claimed_shards, found[0].samples)
    superblock = Superblock(
        subject=f"dataset/{NAME}",
        version=VERSION,
        kek=str(kek),
        review_digest=REVIEW,
        chunk_log2=schema.chunk_log2,
        schema=schema,
        splits=tuple(found),
    )
    root = manifest.finish(superblock, signer, store, prefix)
    return SealedRecords(store, folder, keys, root, signer.public_key, dict(splits))
