"""The manifest: one root that names every byte of a source or dataset. See docs/design/store.md, "Manifest".

Written pages first, then the superblock, then the signature by conditional create: without the signature
there is no manifest. Opening reads the signature, the superblock and the top page, whatever the size.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from stoker.core.progress import Progress
from stoker.core.signing import Signer, verify_signature
from stoker.keys.partition import KeySource
from stoker.keys.refs import KekRef
from stoker.store.errors import (
    BadLabel,
    CorruptManifest,
    ObjectMissing,
    ObjectTooLarge,
    OutOfRange,
    RolledBack,
    SaltReused,
    UnknownVersion,
)
from stoker.store.header import StreamKind, StreamLabel
from stoker.store.objects import ObjectStore, StoredObject
from stoker.store.pages import (
    FAN_OUT,
    MAX_PAGE_BYTES,
    Page,
    PageShape,
    ShardEntry,
    build_pages,
    decode_page,
    page_digest,
    page_key,
)
from stoker.store.ranges import RangeSource
from stoker.store.reader import StreamReader
from stoker.store.reread import reread_once
from stoker.store.superblock import MAX_SUPERBLOCK_BYTES, Superblock, manifest_root

_SIGNATURE: Final = struct.Struct(">4sBBH32s64s")
_SIGNATURE_MAGIC: Final = b"STKS"
_SIGNATURE_VERSION: Final = 1
_ED25519: Final = 1
_SIGNED_LABEL: Final = b"stoker manifest signature 1\x00"
_ROOT = re.compile(r"[0-9a-f]{64}")
_CACHED_PAGES: Final = 64
_CACHED_ENTRIES: Final = 4096
"""So that who reads a shard finds the entry that was looked up to bring it in."""
_VERIFY_BYTES: Final = 1 << 22
_RESTORE: Final = "The manifest was changed or damaged. Restore it from a copy."


def shard_key(prefix: str, shard: int) -> str:
    """The object name of a shard: its number in at least eight decimal digits."""
    return f"{prefix}/{shard:08d}.stk"


class ManifestWriter:
    """Collects entries in order of shard number (some 200 bytes of memory each), then writes the manifest."""

    def __init__(self, *, fan_out: int = FAN_OUT) -> None:
        self._fan_out = fan_out
        self._entries = bytearray()
        self._headers: dict[bytes, int] = {}
        self._samples = 0
        self._object_bytes = 0

    @property
    def shards(self) -> int:
        """How many entries there are; also the number of the next shard."""
        return len(self._headers)

    def add(self, entry: ShardEntry) -> int:
        """Append the entry and say its shard number. Raises SaltReused when its header was seen before."""
        number = len(self._headers)
        encoded = entry.encode()
        earlier = self._headers.setdefault(entry.header_check, number)
        if earlier != number:
            raise SaltReused(
                f"Shards {earlier} and {number} have the same header, so the same key.",
                hint="Random numbers repeat here, or a shard was added twice. Nothing was committed.",
            )
        self._entries += encoded
        self._samples += entry.samples
        self._object_bytes += entry.object_bytes
        return number

    def finish(self, superblock: Superblock, signer: Signer, store: ObjectStore, prefix: str) -> str:
        """Write pages, superblock and, last, the signature; the root as 64 hex digits.

        The counts in `superblock` are filled in here. Raises BadLabel, ObjectExists, DiskFull.
        """
        shape = PageShape(self.shards, self._fan_out)
        block = dataclasses.replace(
            superblock,
            shards=self.shards,
            samples=self._samples,
            object_bytes=self._object_bytes,
            fan_out=self._fan_out,
            levels=shape.levels,
        ).encode()
        top = b""
        for level, index, data in build_pages(bytes(self._entries), self._fan_out):
            store.create(page_key(prefix, level, index), data)
            top = page_digest(data)
        root = manifest_root(block, top)
        store.create(_superblock_key(prefix), block)
        signature = signer.sign(_SIGNED_LABEL + bytes.fromhex(root))
        store.create(
            _signature_key(prefix),
            _SIGNATURE.pack(
                _SIGNATURE_MAGIC, _SIGNATURE_VERSION, _ED25519, 0, bytes.fromhex(root), signature
            ),
        )
        return root


@dataclass(frozen=True, slots=True)
class ObjectFinding:
    """An object that is not what the manifest says."""

    shard: int
    key: str
    problem: str


@dataclass(frozen=True, slots=True)
class ObjectsReport:
    """What checking every object of a manifest found; `findings` is empty when all hold."""

    objects: int
    object_bytes: int
    findings: tuple[ObjectFinding, ...]


class Manifest:
    """A verified manifest, read page by page as entries are asked for. For any number of threads."""

    def __init__(self, store: ObjectStore, prefix: str, root: str, superblock: Superblock, top: Page) -> None:
        """Use `open`."""
        self.prefix = prefix
        self.root = root
        self.superblock = superblock
        self._store = store
        self._shape = PageShape(superblock.shards, superblock.fan_out)
        self._top = top
        self._pages: OrderedDict[tuple[int, int], Page] = OrderedDict()
        self._entries: OrderedDict[int, ShardEntry] = OrderedDict()
        self._caching = threading.Lock()  # of both; never held while a page is read

    @classmethod
    def open(cls, store: ObjectStore, prefix: str, root: str, public_key: bytes) -> Manifest:
        """Read signature, superblock and top page, and check them against the recorded `root`.

        Raises ObjectMissing, RolledBack (another manifest than the recorded one), BadSignature,
        UnknownVersion, CorruptManifest. What does not hold, here and in pages, was read twice.
        """
        return reread_once(partial(cls._open, store, prefix, root, public_key))

    @classmethod
    def _open(cls, store: ObjectStore, prefix: str, root: str, public_key: bytes) -> Manifest:
        if _ROOT.fullmatch(root) is None:
            raise CorruptManifest(
                f"{root[:80]!a} is no manifest root.", hint="A root is 64 hexadecimal digits."
            )
        place = _signature_key(prefix)
        found, signature = _decode_signature(_get(store, place, _SIGNATURE.size), place)
        verify_signature(public_key, signature, _SIGNED_LABEL + found, f"the manifest {prefix}")
        if not hmac.compare_digest(found.hex(), root):
            raise RolledBack(
                f"The manifest {prefix} has the root {found.hex()}; {root} was recorded.",
                hint="An older or another manifest took its place. Restore the recorded one from a copy.",
            )
        block = _get(store, _superblock_key(prefix), MAX_SUPERBLOCK_BYTES)
        superblock = Superblock.decode(block, _superblock_key(prefix))
        try:
            shape = PageShape(superblock.shards, superblock.fan_out)
        except BadLabel as error:
            raise CorruptManifest(f"{_superblock_key(prefix)}: {error.message}", hint=_RESTORE) from error
        level = shape.levels - 1
        key = page_key(prefix, level, 0)
        data = _get(store, key, MAX_PAGE_BYTES)
        if manifest_root(block, page_digest(data)) != root:
            raise CorruptManifest(
                f"The superblock or the top page of {prefix} is not the one under the root {root}.",
                hint=_RESTORE,
            )
        return cls(store, prefix, root, superblock, decode_page(data, shape, level, 0, None, key))

    @property
    def shards(self) -> int:
        return self.superblock.shards

    def entry(self, shard: int) -> ShardEntry:
        """The entry of a shard, verified up to the root. Raises OutOfRange, CorruptManifest."""
        if not 0 <= shard < self.shards:
            raise OutOfRange(f"Shard {shard} was asked of {self.prefix}, which has {self.shards}.")
        with self._caching:
            known = self._entries.get(shard)
        if known is not None:
            return known
        page = self._top
        for level in range(self._shape.levels - 2, -1, -1):
            digest = page.entry(self._shape.place(shard, level + 1)[1]).digest
            page = self._page(level, self._shape.place(shard, level)[0], digest)
        entry = page.entry(self._shape.place(shard, 0)[1])
        with self._caching:
            self._entries[shard] = entry
            if len(self._entries) > _CACHED_ENTRIES:
                self._entries.popitem(last=False)
        return entry

    def entries(self, first: int = 0, count: int | None = None) -> Iterator[ShardEntry]:
        """The entries from `first`, in order."""
        for shard in range(first, self.shards if count is None else first + count):
            yield self.entry(shard)

    def _page(self, level: int, index: int, digest: bytes) -> Page:
        with self._caching:
            page = self._pages.get((level, index))
            if page is not None:
                self._pages.move_to_end((level, index))
                return page
        key = page_key(self.prefix, level, index)

        def read() -> Page:
            data = _get(self._store, key, MAX_PAGE_BYTES)
            return decode_page(data, self._shape, level, index, digest, key)

        page = reread_once(read)
        with self._caching:
            self._pages[level, index] = page
            if len(self._pages) > _CACHED_PAGES:
                self._pages.popitem(last=False)
        return page

    def shard_key(self, shard: int) -> str:
        """The object name of a shard."""
        return shard_key(self.prefix, shard)

    def label(self, shard: int, kind: StreamKind, schema: int) -> StreamLabel:
        """What the stream of this shard must say it is."""
        block = self.superblock
        return StreamLabel(kind, block.subject, block.version, shard, schema, block.review_digest)

    def open_stream(
        self,
        shard: int,
        keys: KeySource,
        kind: StreamKind,
        schema: int,
        *,
        source: RangeSource | None = None,
    ) -> StreamReader:
        """The shard's stream, bound to its entry: label, header digest, length. `source` may be a cache's."""
        entry, key = self.entry(shard), self.shard_key(shard)
        return StreamReader.open(
            source if source is not None else StoredObject(self._store, key),
            keys,
            self.label(shard, kind, schema),
            header_digest=entry.header_check,
            object_bytes=entry.object_bytes,
            kek=KekRef.parse(self.superblock.kek),
            place=key,
        )

    def verify_objects(self, progress: Progress) -> ObjectsReport:
        """Read every object and compare its SHA-256 with its entry. Needs no key: for auditors.

        Raises CorruptManifest when a page does not hold; a bad object is a finding, not an error.
        """
        findings = []
        block = self.superblock
        with progress.task(f"verify {self.prefix}", float(block.object_bytes), "bytes") as task:
            for shard, entry in enumerate(self.entries()):
                key = self.shard_key(shard)
                if problem := _object_problem(self._store, key, entry):
                    findings.append(ObjectFinding(shard, key, problem))
                task.advance(entry.object_bytes)
        return ObjectsReport(block.shards, block.object_bytes, tuple(findings))


def _object_problem(store: ObjectStore, key: str, entry: ShardEntry) -> str | None:
    try:
        size = store.size(key)
        if size != entry.object_bytes:
            return f"has {size} bytes, where {entry.object_bytes} were recorded"
        digest = hashlib.sha256()
        for start in range(0, size, _VERIFY_BYTES):
            digest.update(store.get_range(key, start, min(_VERIFY_BYTES, size - start)))
    except ObjectMissing:
        return "is missing"
    except OutOfRange:
        return "became shorter while it was read"
    return None if digest.digest() == entry.digest else "was changed: its SHA-256 is not the recorded one"


def _superblock_key(prefix: str) -> str:
    return f"{prefix}/manifest/superblock.json"


def _signature_key(prefix: str) -> str:
    return f"{prefix}/manifest/signature"


def _get(store: ObjectStore, key: str, max_bytes: int) -> bytes:
    try:
        return store.get(key, max_bytes=max_bytes)
    except ObjectTooLarge as error:
        raise CorruptManifest(error.message, hint=_RESTORE) from error


def _decode_signature(data: bytes, place: str) -> tuple[bytes, bytes]:
    if len(data) != _SIGNATURE.size or data[:4] != _SIGNATURE_MAGIC:
        raise CorruptManifest(f"{place} is no manifest signature.", hint=_RESTORE)
    _, version, algorithm, zero, root, signature = _SIGNATURE.unpack(data)
    if (version, algorithm, zero) != (_SIGNATURE_VERSION, _ED25519, 0):
        raise UnknownVersion(
            f"{place}: signature version {version}, algorithm {algorithm}; this Stoker knows version "
            f"{_SIGNATURE_VERSION}, algorithm {_ED25519}.",
            hint="A newer Stoker wrote it, or it was changed: use that one, or restore it from a copy.",
        )
    return root, signature
