"""A prepared dataset, opened for reading: its splits and its artefacts. See docs/design/feed.md."""

from __future__ import annotations

import hashlib
from typing import Final, TypedDict

from stoker.core.clock import Clock, SystemClock
from stoker.feed.errors import NotSamples, UnknownArtefact, UnknownSplit, WrongDataset
from stoker.feed.record_split import RecordSplitReader
from stoker.feed.split_reader import SplitReader
from stoker.keys.partition import KeySource
from stoker.store.cache import NodeCache
from stoker.store.header import StreamKind
from stoker.store.manifest import Manifest
from stoker.store.objects import ObjectStore
from stoker.store.record_schema import RecordSchema
from stoker.store.superblock import Superblock

ARTEFACT_SCHEMA: Final = 1
"""The schema version in the header of every artefact."""

MAX_ARTEFACT_BYTES: Final = 256 * 1024 * 1024
TOKENIZER_ARTEFACT: Final = "tokenizer"


class _Shared(TypedDict):
    """What the readers of a dataset's splits share."""

    store: ObjectStore
    cache: NodeCache | None
    keys: KeySource
    clock: Clock


class Dataset:
    """One version of a dataset under its verified manifest. For many threads; each split reader for one."""

    def __init__(
        self,
        manifest: Manifest,
        store: ObjectStore,
        cache: NodeCache | None,
        keys: KeySource,
        clock: Clock | None = None,
    ) -> None:
        """Use `open`."""
        self._manifest = manifest
        self._store = store
        self._cache = cache
        self._keys = keys
        self._clock = clock or SystemClock()

    @classmethod
    def open(
        cls,
        store: ObjectStore,
        cache: NodeCache | None,
        *,
        name: str,
        version: str,
        root: str,
        public_key: bytes,
        keys: KeySource,
        review_digest: bytes,
        clock: Clock | None = None,
    ) -> Dataset:
        """The dataset `name` whose manifest has the recorded `root`, signed by `public_key`.

        Reads a fixed number of small objects, whatever its size, and no key. Raises WrongDataset when
        the manifest names another dataset, version or review, and what Manifest.open raises.
        """
        prefix = f"datasets/{name}/{version}"
        manifest = Manifest.open(store, prefix, root, public_key)
        block = manifest.superblock
        found = (block.subject, block.version, block.review_digest.hex())
        expected = (f"dataset/{name}", version, review_digest.hex())
        wrong = [
            f"{what} is {it}, not {that}"
            for what, it, that in zip(("subject", "version", "review"), found, expected, strict=True)
            if it != that
        ]
        if wrong:
            raise WrongDataset(
                f"The manifest {prefix} with root {root} is another one than was asked for: "
                f"{'; '.join(wrong)}.",
                hint="Name, version, root and review belong together: take all four from one record.",
            )
        return cls(manifest, store, cache, keys, clock)

    @property
    def root(self) -> str:
        """The manifest root that names this version, 64 hexadecimal digits."""
        return self._manifest.root

    @property
    def superblock(self) -> Superblock:
        """What the manifest says of the whole dataset."""
        return self._manifest.superblock

    def split(self, name: str) -> SplitReader | RecordSplitReader:
        """A reader of its own of one split: of samples, or of records when the dataset has these.

        Raises UnknownSplit, NotSamples.
        """
        block = self._manifest.superblock
        split = block.split(name)
        if split is None:
            names = ", ".join(repr(each.name) for each in block.splits) or "none"
            raise UnknownSplit(
                f"{block.subject} has no split {name[:80]!r}; it has {names}.", hint="Choose one of these."
            )
        if block.schema is None:
            raise NotSamples(
                f"{block.subject} has no schema of samples, so split {name!r} cannot be read.",
                hint="This is no prepared dataset.",
            )
        opened = _Shared(store=self._store, cache=self._cache, keys=self._keys, clock=self._clock)
        if isinstance(block.schema, RecordSchema):
            return RecordSplitReader(self._manifest, split, block.schema, **opened)
        return SplitReader(self._manifest, split, block.schema, **opened)

    def tokenizer_digest(self) -> bytes | None:
        """SHA-256 of the tokenizer that made the samples; None when the dataset has none.

        Raises what opening the artefact raises.
        """
        if self.superblock.artefact(TOKENIZER_ARTEFACT) is None:
            return None
        tokenizer = self.artefact(TOKENIZER_ARTEFACT)
        digest = hashlib.sha256(tokenizer).digest()
        tokenizer[:] = bytes(len(tokenizer))
        return digest

    def token_split(self, name: str) -> SplitReader:
        """A reader of a split of fixed-length token samples. Raises UnknownSplit, NotSamples."""
        split = self.split(name)
        if isinstance(split, SplitReader):
            return split
        raise NotSamples(
            f"{self._manifest.superblock.subject} holds records, not token samples of one length.",
            hint="Feed it with Feed, or choose a dataset that was prepared from text.",
        )

    def tokens(self) -> TokenDataset:
        """This dataset for those who train on token samples of one length. Raises NotSamples."""
        return TokenDataset(self)

    def artefact(self, name: str) -> bytearray:
        """The whole artefact, such as "tokenizer". Raises UnknownArtefact, and what opening it raises."""
        block = self._manifest.superblock
        artefact = block.artefact(name)
        if artefact is None:
            names = ", ".join(repr(each.name) for each in block.artefacts) or "none"
            raise UnknownArtefact(
                f"{block.subject} has no artefact {name[:80]!r}; it has {names}.", hint="Choose one of these."
            )
        stream = self._manifest.open_stream(artefact.shard, self._keys, StreamKind.ARTEFACT, ARTEFACT_SCHEMA)
        return stream.read_all(MAX_ARTEFACT_BYTES)


class TokenDataset:
    """A dataset whose splits are all of token samples of one length: a SampleDataset."""

    def __init__(self, dataset: Dataset) -> None:
        """Raises NotSamples for a dataset of records."""
        schema = dataset.superblock.schema
        if isinstance(schema, RecordSchema):
            raise NotSamples(
                f"{dataset.superblock.subject} holds records, not token samples of one length.",
                hint="Choose a dataset that was prepared from text.",
            )
        self._dataset = dataset

    @property
    def root(self) -> str:
        """The manifest root that names this version, 64 hexadecimal digits."""
        return self._dataset.root

    def split(self, name: str) -> SplitReader:
        """A reader of its own of one split. Raises UnknownSplit, NotSamples."""
        return self._dataset.token_split(name)

    def artefact(self, name: str) -> bytearray:
        """The whole artefact, such as "tokenizer"."""
        return self._dataset.artefact(name)
