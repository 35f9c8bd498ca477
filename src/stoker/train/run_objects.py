"""The sealed objects of one run: names, labels, writing and reading them whole. See docs/design/train.md."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Final

from stoker.keys.partition import KeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.store.errors import ObjectMissing
from stoker.store.header import StreamKind, StreamLabel
from stoker.store.local_sink import Together
from stoker.store.objects import ObjectStore
from stoker.store.ranges import BytesLike, BytesSource, RangeSource
from stoker.store.reader import StreamReader
from stoker.store.sealed import PartitionSeal
from stoker.train.checkpoint_errors import BadCheckpointPart, BadCommitLog
from stoker.train.commit_record import MAX_RECORD_BYTES, Part, Record, decode_record, encode_record

PART_SCHEMA: Final = 1
RECORD_SCHEMA: Final = 1
LOG_VERSION: Final = "0" * 32
"""The version in a record's label: a run has one log, so there is nothing to tell apart."""

_SEALED_OVERHEAD_BYTES: Final = 1024 * 1024


class RunObjects:
    """Everything that a run keeps in the store, sealed under the run's own KEK."""

    def __init__(
        self, store: ObjectStore, keys: KeySource, *, run: str, kek: KekRef, review_digest: bytes
    ) -> None:
        self.run = run
        self._store = store
        self._keys = keys
        self._review_digest = review_digest
        self._seal = PartitionSeal(keys, kek, Purpose.CHECKPOINT)

    @classmethod
    def over(cls, store: ObjectStore, other: RunObjects) -> RunObjects:
        """The same run's objects in another store."""
        keys, kek, digest = other._keys, other._seal.kek, other._review_digest
        return cls(store, keys, run=other.run, kek=kek, review_digest=digest)

    @property
    def store(self) -> ObjectStore:
        """Where they are."""
        return self._store

    def __enter__(self) -> RunObjects:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._seal.close()

    def prefix_of(self, sequence: int, version: str) -> str:
        """Where the parts of one checkpoint lie: its expected place in the log, and a fresh version."""
        return f"runs/{self.run}/checkpoints/{sequence:08d}-{version}"

    def record_key(self, sequence: int) -> str:
        """The object that holds record `sequence` of the commit log."""
        return f"runs/{self.run}/log/{sequence:08d}.stk"

    def write_part(
        self,
        prefix: str,
        version: str,
        number: int,
        pieces: Iterable[BytesLike],
        together: Together | None = None,
    ) -> Part:
        """Seal `pieces` as part `number`; durable on return, or at the end of `together`.

        Raises DiskFull and what the store raises; then nothing of it is left behind.
        """
        key = f"{prefix}/part-{number:05d}.stk"
        with self._store.writing(key) as sink:
            if together is not None:
                together.take(sink)
            writer = self._seal.writer(self._part_label(version, number), sink, digest=False)
            for piece in pieces:
                writer.write(piece)
            facts = writer.finish()
        return Part(
            key=key,
            header_digest=facts.header_digest.hex(),
            object_bytes=facts.object_bytes,
            plaintext_bytes=facts.plaintext_bytes,
        )

    def read_part(self, part: Part, version: str, number: int, room: memoryview | None = None) -> memoryview:
        """The whole plaintext of a part, after every byte of it was verified against the record.

        It is in the first bytes of `room`, when that is given and long enough. Raises what the store's reader
        raises, naming the object, and BadCheckpointPart on another length; then `room` holds no plaintext.
        """
        with self._store.reading(part.key) as source:
            reader = self._open_part(source, part, version, number)
            if room is None or len(room) < part.plaintext_bytes:
                room = memoryview(bytearray(part.plaintext_bytes))
            plain = room[: part.plaintext_bytes]
            reader.read_into(0, plain)
            return plain

    def read_part_into(self, part: Part, version: str, number: int, targets: Iterable[memoryview]) -> None:
        """Fill `targets` one after the other with the plaintext of a part, which they must hold all of.

        When this returns, every byte was verified against the record. Raises as `read_part`; then the target
        that was being filled is wiped, and the others are of no use.
        """
        with self._store.reading(part.key) as source:
            reader = self._open_part(source, part, version, number)
            position = 0
            for target in targets:
                reader.read_into(position, target)
                position += len(target)
            assert position == part.plaintext_bytes

    def open_part(self, part: Part, version: str, number: int) -> StreamReader:
        """A part to read in places; each byte is verified before it is handed on. Raises as `read_part`."""
        return self._open_part(self._store.source(part.key), part, version, number)

    def _open_part(self, source: RangeSource, part: Part, version: str, number: int) -> StreamReader:
        reader = StreamReader.open(
            source,
            self._keys,
            self._part_label(version, number),
            header_digest=bytes.fromhex(part.header_digest),
            object_bytes=part.object_bytes,
            kek=self._seal.kek,
            place=part.key,
        )
        if reader.plaintext_bytes != part.plaintext_bytes:
            raise BadCheckpointPart(
                f"{part.key} holds {reader.plaintext_bytes} bytes; {part.plaintext_bytes} were recorded."
            )
        return reader

    def write_record(self, record: Record) -> tuple[str, int]:
        """Create the record under its number; says its digest and length. Raises ObjectExists when taken."""
        sealed = self._seal.seal(self._record_label(record.sequence), encode_record(record))
        self._store.create(self.record_key(record.sequence), sealed.data)
        return sealed.facts.digest.hex(), sealed.facts.object_bytes

    def read_record(self, sequence: int) -> tuple[Record, str] | None:
        """Record `sequence` and the digest of its sealed bytes; None when there is none."""
        key = self.record_key(sequence)
        try:
            sealed = self._store.get(key, max_bytes=MAX_RECORD_BYTES + _SEALED_OVERHEAD_BYTES)
        except ObjectMissing:
            return None
        return self.open_record(sequence, sealed), hashlib.sha256(sealed).hexdigest()

    def record_facts(self, sequence: int) -> tuple[str, int]:
        """Digest and length of the sealed bytes of record `sequence`, which is there."""
        sealed = self._store.get(
            self.record_key(sequence), max_bytes=MAX_RECORD_BYTES + _SEALED_OVERHEAD_BYTES
        )
        return hashlib.sha256(sealed).hexdigest(), len(sealed)

    def sealed_record(self, sequence: int, digest: str) -> bytes:
        """The sealed bytes of record `sequence`, which must have `digest`. Raises BadCommitLog."""
        key = self.record_key(sequence)
        try:
            sealed = self._store.get(key, max_bytes=MAX_RECORD_BYTES + _SEALED_OVERHEAD_BYTES)
        except ObjectMissing as error:
            raise BadCommitLog(
                f"{key} is missing: the ledger knows a checkpoint that the store does not have.",
                hint="The store was rolled back or is another one. Restore it from a copy you trust.",
            ) from error
        found = hashlib.sha256(sealed).hexdigest()
        if found != digest:
            raise BadCommitLog(
                f"{key} has digest {found[:16]}…, where the ledger recorded {digest[:16]}….",
                hint="The record was changed, replaced or rolled back. Restore it from a copy you trust.",
            )
        return sealed

    def open_record(self, sequence: int, sealed: bytes) -> Record:
        """The record inside `sealed`, which must be record `sequence` of this run."""
        key = self.record_key(sequence)
        reader = StreamReader.open(
            BytesSource(sealed), self._keys, self._record_label(sequence), kek=self._seal.kek, place=key
        )
        return decode_record(reader.read_all(MAX_RECORD_BYTES), key)

    def checkpoint_prefixes(self) -> Iterator[str]:
        """Every prefix under which parts lie, committed or not, each once."""
        seen = set()
        for key in self._store.list(f"runs/{self.run}/checkpoints"):
            prefix = key.rpartition("/")[0]
            if prefix not in seen:
                seen.add(prefix)
                yield prefix

    def delete_parts(self, prefix: str) -> int:
        """Remove every part under `prefix`; says how many."""
        return self._store.delete_prefix(prefix)

    def _part_label(self, version: str, number: int) -> StreamLabel:
        return StreamLabel(
            kind=StreamKind.CHECKPOINT_PART,
            subject=f"run/{self.run}",
            version=version,
            shard=number,
            schema=PART_SCHEMA,
            review_digest=self._review_digest,
        )

    def _record_label(self, sequence: int) -> StreamLabel:
        return StreamLabel(
            kind=StreamKind.CHECKPOINT_RECORD,
            subject=f"run/{self.run}",
            version=LOG_VERSION,
            shard=sequence,
            schema=RECORD_SCHEMA,
            review_digest=self._review_digest,
        )


def number_of(key: str) -> int:
    """The number in a part's name `PREFIX/part-RRRRR.stk`. Raises BadCheckpointPart on another name."""
    name = key.rpartition("/")[2]
    digits = name.removeprefix("part-").removesuffix(".stk")
    if name != f"part-{digits}.stk" or not digits.isdecimal() or len(digits) > 9:
        raise BadCheckpointPart(f"{key[:200]!a} is no name of a part.")
    return int(digits)
