"""A dataset as it is written: sealed shards of samples, split after split, then artefacts and the manifest.

The layout is documented in docs/design/intake.md, "Dataset"; shards and manifest are the store's formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from stoker.core.ids import VersionId
from stoker.core.signing import Signer
from stoker.keys.refs import KekRef
from stoker.store.header import StreamKind, StreamLabel
from stoker.store.manifest import ManifestWriter, shard_key
from stoker.store.objects import ObjectStore
from stoker.store.sealed import PartitionSeal
from stoker.store.shards import SHARD_SCHEMA, ShardWriter, shard_entry
from stoker.store.superblock import Artefact, SampleSchema, Split, Superblock

Tokens: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

ARTEFACT_SCHEMA: Final = 1
"""The schema version in the header of an artefact's stream."""

_ARTEFACT_CHUNK_LOG2: Final = 16


@dataclass(frozen=True, slots=True)
class DatasetPlace:
    """Where a dataset is written and what every header in it says."""

    name: str
    version: VersionId
    kek: KekRef
    review_digest: bytes

    @property
    def prefix(self) -> str:
        return dataset_prefix(self.name, self.version)

    def label(self, kind: StreamKind, shard: int, schema: int) -> StreamLabel:
        return StreamLabel(kind, f"dataset/{self.name}", self.version, shard, schema, self.review_digest)


def dataset_prefix(name: str, version: str) -> str:
    """Where the objects of a dataset version lie in the store."""
    return f"datasets/{name}/{version}"


class DatasetWriter:
    """Writes splits one after the other, each into shards of its own."""

    def __init__(
        self, place: DatasetPlace, schema: SampleSchema, seal: PartitionSeal, store: ObjectStore
    ) -> None:
        self._place = place
        self._schema = schema
        self._seal = seal
        self._store = store
        self._manifest = ManifestWriter()
        self._splits: list[Split] = []
        self._artefacts: list[Artefact] = []
        self._first_shard = 0
        self._samples = 0
        self._shard: ShardWriter | None = None

    def add(self, samples: Tokens) -> None:
        """More samples of the split under way."""
        done = 0
        while done < len(samples):
            if self._shard is None:
                label = self._place.label(StreamKind.SHARD, self._manifest.shards, SHARD_SCHEMA)
                self._shard = ShardWriter(self._seal, label, self._schema)
            taken = samples[done : done + self._shard.room]
            self._shard.add(taken)
            done += len(taken)
            self._samples += len(taken)
            if self._shard.room == 0:
                self._finish_shard()

    def end_split(self, name: str) -> int:
        """Close the split under way; how many samples it has."""
        self._finish_shard()
        samples, shards = self._samples, self._manifest.shards - self._first_shard
        self._splits.append(Split(name, self._first_shard, shards, samples))
        self._first_shard, self._samples = self._manifest.shards, 0
        return samples

    def add_artefact(self, name: str, data: bytes) -> None:
        """Seal `data` as the artefact `name`. Only after the last split."""
        shard = self._manifest.shards
        label = self._place.label(StreamKind.ARTEFACT, shard, ARTEFACT_SCHEMA)
        sealed = self._seal.seal(label, data, chunk_log2=_ARTEFACT_CHUNK_LOG2)
        self._store.create(shard_key(self._place.prefix, shard), sealed.data)
        self._manifest.add(shard_entry(sealed, 0))
        self._artefacts.append(Artefact(name, shard))

    def finish(self, source_root: str, recipe_digest: str, signer: Signer) -> str:
        """Write the manifest; its root, 64 hex digits."""
        superblock = Superblock(
            subject=f"dataset/{self._place.name}",
            version=self._place.version,
            kek=str(self._place.kek),
            review_digest=self._place.review_digest,
            chunk_log2=self._schema.chunk_log2,
            schema=self._schema,
            splits=tuple(self._splits),
            artefacts=tuple(self._artefacts),
            source_root=source_root,
            recipe_digest=recipe_digest,
        )
        return self._manifest.finish(superblock, signer, self._store, self._place.prefix)

    def _finish_shard(self) -> None:
        if self._shard is not None:
            sealed, entry = self._shard.finish()
            self._store.create(shard_key(self._place.prefix, self._manifest.shards), sealed.data)
            self._manifest.add(entry)
            self._shard = None
