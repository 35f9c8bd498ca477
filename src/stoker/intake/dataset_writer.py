"""A dataset's objects: where they lie, what their headers say, and what names them all at the end.

The layout is documented in docs/design/intake.md, "Dataset"; shards and manifest are the store's formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stoker.core.ids import VersionId
from stoker.core.signing import Signer
from stoker.keys.refs import KekRef
from stoker.store.header import StreamKind, StreamLabel
from stoker.store.manifest import ManifestWriter, shard_key
from stoker.store.objects import ObjectStore
from stoker.store.pages import ShardEntry
from stoker.store.repeatable import create_same
from stoker.store.sealed import StreamSeal
from stoker.store.shards import shard_entry
from stoker.store.superblock import Artefact, Superblock

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


class DatasetCommit:
    """The last step of a preparation: all shards are stored; artefacts follow, then the manifest."""

    def __init__(
        self, place: DatasetPlace, seal: StreamSeal, store: ObjectStore, shards: Sequence[ShardEntry]
    ) -> None:
        """`shards` are the entries of every shard in order."""
        self._place = place
        self._seal = seal
        self._store = store
        self._manifest = ManifestWriter()
        self._artefacts: list[Artefact] = []
        for entry in shards:
            self._manifest.add(entry)

    @property
    def artefacts(self) -> tuple[Artefact, ...]:
        """What has been added, for the superblock."""
        return tuple(self._artefacts)

    def add_artefact(self, name: str, data: bytes) -> None:
        """Seal `data` as the artefact `name`; found when an interrupted commit stored the same."""
        shard = self._manifest.shards
        label = self._place.label(StreamKind.ARTEFACT, shard, ARTEFACT_SCHEMA)
        sealed = self._seal.seal(label, data, chunk_log2=_ARTEFACT_CHUNK_LOG2)
        create_same(self._store, shard_key(self._place.prefix, shard), sealed.data)
        self._manifest.add(shard_entry(sealed, 0))
        self._artefacts.append(Artefact(name, shard))

    def finish(self, superblock: Superblock, signer: Signer) -> str:
        """Write the manifest in place of what an interrupted commit left of one; its root, 64 hex digits."""
        self._store.delete_prefix(f"{self._place.prefix}/manifest")
        return self._manifest.finish(superblock, signer, self._store, self._place.prefix)
