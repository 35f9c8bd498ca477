"""What a check may look at: the open house, and every sealed thing that its ledger knows of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stoker.core.clock import Clock
from stoker.core.home import Home
from stoker.feed.dataset import Dataset
from stoker.intake.review_request import review_digest
from stoker.keys.backend import KeyBackend
from stoker.keys.moves import is_gone
from stoker.keys.partition import BackendKeySource
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetRecord, DatasetState
from stoker.store.cache import NodeCache
from stoker.store.header import MAX_HEADER_BYTES, StreamHeader, parse_header
from stoker.store.manifest import Manifest
from stoker.store.objects import ObjectStore


@dataclass(frozen=True, slots=True)
class SealedThing:
    """A source or dataset in the store, by what the ledger recorded of it."""

    what: str
    prefix: str
    root: str
    kek: str
    expires_s: float | None
    destroyed: bool = False


@dataclass(frozen=True, slots=True)
class OpenHouse:
    """The parts that promises are checked on."""

    home: Home
    ledger: Ledger
    backend: KeyBackend
    store: ObjectStore
    cache: NodeCache
    clock: Clock

    @property
    def keys(self) -> BackendKeySource:
        return BackendKeySource(self.backend)

    @property
    def manifest_key(self) -> bytes:
        """The raw public key that every manifest of this house is signed with."""
        return self.backend.signer("manifest").public_key

    def sealed_things(self) -> Iterator[SealedThing]:
        """Every source and dataset version, newest first, datasets before sources."""
        catalogue = self.ledger.catalogue
        yield from (self.sealed_dataset(record) for record in reversed(catalogue.datasets()))
        for source in reversed(catalogue.sources()):
            yield SealedThing(
                what=f"source {source.name} {source.version[:8]}",
                prefix=f"sources/{source.name}/{source.version}",
                root=source.manifest_root,
                kek=source.kek,
                expires_s=None,
            )

    def is_lost(self, thing: SealedThing) -> bool:
        """Whether the ledger says that nothing can open this any more."""
        expired = thing.expires_s is not None and self.clock.now_s() >= thing.expires_s
        return expired or thing.destroyed or is_gone(self.ledger, thing.kek)

    def sealed_dataset(self, record: DatasetRecord) -> SealedThing:
        """A dataset's record as the thing that lies in the store."""
        return SealedThing(
            what=f"dataset {record.name} {record.version[:8]}",
            prefix=f"datasets/{record.name}/{record.version}",
            root=record.root,
            kek=record.kek,
            expires_s=record.expires_s,
            destroyed=record.state is DatasetState.DESTROYED,
        )

    def manifest(self, thing: SealedThing) -> Manifest:
        """Its manifest, verified against the recorded root. Raises what Manifest.open raises."""
        return Manifest.open(self.store, thing.prefix, thing.root, self.manifest_key)

    def dataset(self, record: DatasetRecord) -> Dataset:
        """The dataset as a run would open it, from the store alone. Raises what Dataset.open raises."""
        return Dataset.open(
            self.store,
            None,
            name=record.name,
            version=record.version,
            root=record.root,
            public_key=self.manifest_key,
            keys=self.keys,
            review_digest=review_digest(self.ledger.catalogue.review(record.review)),
        )

    def header(self, key: str) -> StreamHeader:
        """What the stored stream says of itself, before anything of it is verified."""
        return read_header(self.store, key)


def read_header(store: ObjectStore, key: str) -> StreamHeader:
    """What the stream stored in `store` says of itself, before anything of it is verified."""
    size = store.size(key)
    return parse_header(store.get_range(key, 0, min(size, MAX_HEADER_BYTES)), size, key)
