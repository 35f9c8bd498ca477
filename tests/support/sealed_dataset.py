"""A small prepared dataset, really sealed: two splits of samples and a tokenizer, under a signed manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stoker.core.clock import Clock
from stoker.core.signing import Ed25519Signer
from stoker.feed.dataset import ARTEFACT_SCHEMA, Dataset
from stoker.keys.partition import KeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.store.cache import NodeCache
from stoker.store.header import StreamKind, StreamLabel
from stoker.store.manifest import ManifestWriter, shard_key
from stoker.store.objects import ObjectStore
from stoker.store.sealed import PartitionSeal
from stoker.store.shards import SHARD_SCHEMA, ShardWriter, shard_entry
from stoker.store.superblock import Artefact, SampleSchema, Split, Superblock
from support.sealed_samples import KEK

NAME = "own-text"
VERSION = "ab" * 16
REVIEW = bytes(range(32))
TOKENIZER = b'{"tokens": 1024}'
SCHEMA = SampleSchema.fit(vocabulary=1024, sample_tokens=65, chunk_log2=14, samples_per_shard=400)
"""125 samples a chunk, 375 a shard."""


@dataclass(frozen=True)
class SealedDataset:
    """Where a dataset lies, what opens it, and what was written into it."""

    store: ObjectStore
    folder: Path
    keys: KeySource
    root: str
    public_key: bytes
    written: dict[str, np.ndarray]

    def open(
        self,
        *,
        cache: NodeCache | None = None,
        keys: KeySource | None = None,
        clock: Clock | None = None,
        name: str = NAME,
        review: bytes = REVIEW,
    ) -> Dataset:
        return Dataset.open(
            self.store,
            cache,
            name=name,
            version=VERSION,
            root=self.root,
            public_key=self.public_key,
            keys=keys or self.keys,
            review_digest=review,
            clock=clock,
        )

    def shard_path(self, shard: int) -> Path:
        return self.folder / shard_key(f"datasets/{NAME}/{VERSION}", shard)


def sealed_dataset(
    folder: Path,
    keys: KeySource,
    *,
    train: int = 800,
    heldout: int = 130,
    kek: KekRef = KEK,
    schema: SampleSchema = SCHEMA,
    claimed_shards: int | None = None,
) -> SealedDataset:
    """Write it. `claimed_shards` makes the manifest lie about how many shards "train" has."""
    store, signer = ObjectStore.open(folder.as_uri()), Ed25519Signer.from_seed(bytes(32))
    prefix, manifest = f"datasets/{NAME}/{VERSION}", ManifestWriter()
    random = np.random.default_rng(0)
    splits, written = [], {}
    with PartitionSeal(keys, kek, Purpose.DATASET) as seal:
        for name, count in (("train", train), ("heldout", heldout)):
            tokens = random.integers(0, 1024, (count, schema.sample_tokens))
            tokens[:, 0] = np.arange(count)
            first = manifest.shards
            for start in range(0, count, schema.samples_per_shard):
                label = _label(StreamKind.SHARD, manifest.shards, SHARD_SCHEMA)
                writer = ShardWriter(seal, label, schema)
                writer.add(tokens[start : start + schema.samples_per_shard])
                sealed, entry = writer.finish()
                store.create(shard_key(prefix, manifest.add(entry)), sealed.data)
            splits.append(Split(name, first, manifest.shards - first, count))
            written[name] = tokens
        label = _label(StreamKind.ARTEFACT, manifest.shards, ARTEFACT_SCHEMA)
        sealed = seal.seal(label, TOKENIZER, chunk_log2=14)
        tokenizer = manifest.add(shard_entry(sealed, 0))
        store.create(shard_key(prefix, tokenizer), sealed.data)
    if claimed_shards is not None:
        splits[0] = Split("train", 0, claimed_shards, train)
    superblock = Superblock(
        subject=f"dataset/{NAME}",
        version=VERSION,
        kek=str(kek),
        review_digest=REVIEW,
        chunk_log2=schema.chunk_log2,
        schema=schema,
        splits=tuple(splits),
        artefacts=(Artefact("tokenizer", tokenizer),),
    )
    root = manifest.finish(superblock, signer, store, prefix)
    return SealedDataset(store, folder, keys, root, signer.public_key, written)


def _label(kind: StreamKind, shard: int, schema: int) -> StreamLabel:
    return StreamLabel(kind, f"dataset/{NAME}", VERSION, shard, schema, REVIEW)
