"""Reading a source back: for scanning and preparing, never for anything else. See docs/design/intake.md."""

from __future__ import annotations

from functools import cached_property

from stoker.core.ids import VersionId
from stoker.intake.documents import documents
from stoker.intake.errors import BrokenRecord
from stoker.intake.importing import INDEX_ARTEFACT, SOURCE_SCHEMA, source_prefix
from stoker.intake.source_index import INDEX_SCHEMA, MAX_INDEX_BYTES, SourceFile, decode_index
from stoker.intake.sources.files import CANARY_NAME
from stoker.keys.partition import KeySource
from stoker.ledger.records import SourceRecord
from stoker.store.header import StreamKind
from stoker.store.manifest import Manifest
from stoker.store.objects import ObjectStore
from stoker.store.opened import OpenedKeys
from stoker.store.reader import StreamReader


class SourceReader:
    """The files of one source version, verified against the manifest root that the ledger holds.

    `files` are the person's files in the order of import; `canary` is the record that import added.
    Close it to wipe the partition key.
    """

    def __init__(
        self, record: SourceRecord, manifest: Manifest, keys: OpenedKeys, files: tuple[SourceFile, ...]
    ) -> None:
        """Use `open`."""
        self.record = record
        self.files = tuple(file for file in files if file.path != CANARY_NAME)
        self.canary = next((file for file in files if file.path == CANARY_NAME), None)
        self._manifest = manifest
        self._keys = keys
        self._shard = -1
        self._stream: StreamReader | None = None

    @classmethod
    def open(
        cls, record: SourceRecord, store: ObjectStore, keys: KeySource, public_key: bytes
    ) -> SourceReader:
        """Verify manifest and index. Raises the store's errors, the key back end's, BrokenRecord."""
        prefix = source_prefix(record.name, record.version)
        manifest = Manifest.open(store, prefix, record.manifest_root, public_key)
        index = manifest.superblock.artefact(INDEX_ARTEFACT)
        named = (manifest.superblock.subject, manifest.superblock.version)
        if index is None or named != (f"source/{record.name}", record.version):
            raise BrokenRecord(
                f"{prefix} holds the manifest of another source or version.", hint="Import the source again."
            )
        opened = OpenedKeys(keys)
        try:
            stream = manifest.open_stream(index.shard, opened, StreamKind.INDEX, INDEX_SCHEMA)
            files = decode_index(stream.read_all(MAX_INDEX_BYTES), manifest.shard_key(index.shard))
        except BaseException:
            opened.close()
            raise
        return cls(record, manifest, opened, files)

    @property
    def version(self) -> VersionId:
        return self.record.version

    @cached_property
    def documents(self) -> tuple[SourceFile, ...]:
        """The files that are text which stands for itself, in the order of import."""
        return documents(self.files)

    def read(self, file: SourceFile) -> bytearray:
        """The file's bytes. Reading in the order of `files` opens every chunk once."""
        return self._shard_of(file).read(file.offset, file.size_bytes)

    def head(self, file: SourceFile, length: int) -> bytearray:
        """The file's first bytes, at most `length`."""
        return self._shard_of(file).read(file.offset, min(length, file.size_bytes))

    def _shard_of(self, file: SourceFile) -> StreamReader:
        if self._stream is None or self._shard != file.shard:
            self._stream = self._manifest.open_stream(
                file.shard, self._keys, StreamKind.SOURCE, SOURCE_SCHEMA
            )
            self._shard = file.shard
        return self._stream

    def close(self) -> None:
        """Wipe the keys."""
        self._stream = None
        self._keys.close()

    def __enter__(self) -> SourceReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
