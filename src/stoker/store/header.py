"""The committing header of a sealed stream: its bytes, its caps and the keys made from it.

Byte by byte in docs/design/store.md, "Sealed stream"; the choices in docs/decisions/0303-sealed-stream.md.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
import struct
from dataclasses import dataclass
from typing import Final

from stoker.keys.errors import BadKekRef
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey
from stoker.store.errors import (
    BadLabel,
    CommitmentMismatch,
    CorruptStream,
    NotSealed,
    SwappedStream,
    TruncatedStream,
    UnknownVersion,
)
from stoker.store.ranges import BytesLike

MAGIC: Final = b"STK1"
VERSION: Final = 1
SUITE: Final = 1
MIN_CHUNK_LOG2: Final = 14
MAX_CHUNK_LOG2: Final = 22
DEFAULT_CHUNK_LOG2: Final = 20
MAX_SUBJECT_BYTES: Final = 200
MAX_KEK_BYTES: Final = 200
MAX_WRAPPED_BYTES: Final = 1024
SALT_BYTES: Final = 32
COMMITMENT_BYTES: Final = 32

_FIXED: Final = struct.Struct(">4sBBHHBBBBHQ16s32s32sHHH")
FIXED_BYTES: Final = _FIXED.size
MIN_HEADER_BYTES: Final = FIXED_BYTES + 3 + COMMITMENT_BYTES
MAX_HEADER_BYTES: Final = (
    FIXED_BYTES + MAX_SUBJECT_BYTES + MAX_KEK_BYTES + MAX_WRAPPED_BYTES + COMMITMENT_BYTES
)

_COMMITMENT_LABEL: Final = b"stoker sealed stream 1 commitment"
_STREAM_KEY_LABEL: Final = b"stoker sealed stream 1 stream key"

_SUBJECT = re.compile(r"[a-z]{1,16}(?:/[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?){1,3}")
_VERSION_ID = re.compile(r"[0-9a-f]{32}")
_RESTORE = "The object was changed or damaged. Restore it from a copy."

_PURPOSES: Final = (Purpose.SOURCE, Purpose.DATASET, Purpose.CHECKPOINT, Purpose.REPORT)


class StreamKind(enum.IntEnum):
    """What a sealed stream holds."""

    SOURCE = 1
    SHARD = 2
    ARTEFACT = 3
    REPORT = 4
    CHECKPOINT_PART = 5
    CHECKPOINT_RECORD = 6
    INDEX = 7
    WORK = 8


@dataclass(frozen=True, slots=True)
class StreamLabel:
    """What a stream says it is, and what a reader must ask for to get it.

    `subject` is "source/NAME", "dataset/NAME" or "run/ID"; `version` 32 hex digits; `schema` the version of
    what is inside; `review_digest` 32 bytes, zeros before there is a review.
    """

    kind: StreamKind
    subject: str
    version: str
    shard: int
    schema: int
    review_digest: bytes

    def __post_init__(self) -> None:
        """Raises BadLabel unless every field fits the format."""
        if _SUBJECT.fullmatch(self.subject) is None or ".." in self.subject:
            raise _bad_label(
                f"subject {self.subject[:MAX_SUBJECT_BYTES]!a}", "a name such as dataset/own-text"
            )
        if _VERSION_ID.fullmatch(self.version) is None:
            raise _bad_label(f"version {self.version[:64]!a}", "32 hexadecimal digits")
        if not 0 <= self.shard < 1 << 64:
            raise _bad_label(f"shard {self.shard}", "0 to 2^64 - 1")
        if not 0 <= self.schema < 1 << 16:
            raise _bad_label(f"schema {self.schema}", "0 to 65535")
        if len(self.review_digest) != 32:
            raise _bad_label(f"review digest of {len(self.review_digest)} bytes", "32 bytes")


@dataclass(frozen=True, slots=True)
class StreamHeader:
    """A whole header. `encoded` is exactly the bytes at the beginning of the stream."""

    label: StreamLabel
    chunk_log2: int
    purpose: Purpose
    kek: KekRef
    wrapped_key: bytes
    salt: bytes
    commitment: bytes
    encoded: bytes

    @property
    def digest(self) -> bytes:
        """SHA-256 of the whole header: the payload's associated data."""
        return hashlib.sha256(self.encoded).digest()

    def stream_key(self, partition_key: SecretKey, place: str) -> bytes:
        """The payload's key; raises CommitmentMismatch unless the header was made for `partition_key`."""
        commitment, stream_key = _derive(partition_key, self.salt, self.encoded[:-COMMITMENT_BYTES])
        if hmac.compare_digest(commitment, self.commitment):
            return stream_key
        raise CommitmentMismatch(
            f"{place}, header: the commitment does not hold. A field of the header was changed, or the "
            "stream was made to open under another key.",
            hint=_RESTORE,
        )


def build_header(
    label: StreamLabel,
    chunk_log2: int,
    purpose: Purpose,
    kek: KekRef,
    wrapped_key: bytes,
    salt: bytes,
    partition_key: SecretKey,
) -> tuple[StreamHeader, bytes]:
    """The header for a new stream, and its stream key. `salt` is 32 random bytes, never used twice."""
    uncommitted = encode_uncommitted(label, chunk_log2, purpose, kek, wrapped_key, salt)
    commitment, stream_key = _derive(partition_key, salt, uncommitted)
    encoded = uncommitted + commitment
    header = StreamHeader(label, chunk_log2, purpose, kek, wrapped_key, salt, commitment, encoded)
    return header, stream_key


def encode_uncommitted(
    label: StreamLabel, chunk_log2: int, purpose: Purpose, kek: KekRef, wrapped_key: bytes, salt: bytes
) -> bytes:
    """A header's bytes without its commitment. Raises BadLabel when a field does not fit the format."""
    if not MIN_CHUNK_LOG2 <= chunk_log2 <= MAX_CHUNK_LOG2:
        raise _bad_label(f"chunk size 2^{chunk_log2}", f"2^{MIN_CHUNK_LOG2} to 2^{MAX_CHUNK_LOG2} bytes")
    if not 1 <= len(wrapped_key) <= MAX_WRAPPED_BYTES:
        raise _bad_label(f"wrapped key of {len(wrapped_key)} bytes", f"1 to {MAX_WRAPPED_BYTES} bytes")
    subject, reference = label.subject.encode("ascii"), str(kek).encode("ascii")
    variable = subject + reference + wrapped_key
    fixed = _FIXED.pack(
        MAGIC,
        VERSION,
        SUITE,
        0,
        FIXED_BYTES + len(variable) + COMMITMENT_BYTES,
        chunk_log2,
        label.kind,
        _PURPOSES.index(purpose) + 1,
        0,
        label.schema,
        label.shard,
        bytes.fromhex(label.version),
        label.review_digest,
        salt,
        len(subject),
        len(reference),
        len(wrapped_key),
    )
    return fixed + variable


def parse_header(start: BytesLike, object_bytes: int, place: str) -> StreamHeader:
    """Read a header from the first bytes of an object: at most MAX_HEADER_BYTES of them, or all there are.

    Nothing is trusted yet: only caps and forms are checked. Raises NotSealed, UnknownVersion,
    TruncatedStream, CorruptStream.
    """
    view = memoryview(start).cast("B")
    if bytes(view[: len(MAGIC)]) != MAGIC:
        raise NotSealed(
            f"{place} is no sealed stream: it does not begin with {MAGIC.decode()}.",
            hint="It was written by another program, or its beginning was changed. Restore it from a copy.",
        )
    if len(view) < 8:
        raise _cut(place, object_bytes)
    version, suite, flags = view[4], view[5], int.from_bytes(view[6:8], "big")
    for found, known, name in ((version, VERSION, "version"), (suite, SUITE, "suite"), (flags, 0, "flags")):
        if found != known:
            raise UnknownVersion(
                f"{place}, header: {name} {found}; this Stoker knows {known}.",
                hint="A newer Stoker wrote it, or it was changed: use that one, or restore it from a copy.",
            )
    if len(view) < MIN_HEADER_BYTES:
        raise _cut(place, object_bytes)
    (_, _, _, _, header_bytes, chunk_log2, kind, purpose, reserved, schema, shard, version_id, review, salt,
     subject_bytes, kek_bytes, wrapped_bytes) = _FIXED.unpack(view[:FIXED_BYTES])  # fmt: skip
    for length, most, name in (
        (subject_bytes, MAX_SUBJECT_BYTES, "subject"),
        (kek_bytes, MAX_KEK_BYTES, "KEK reference"),
        (wrapped_bytes, MAX_WRAPPED_BYTES, "wrapped key"),
    ):
        if not 1 <= length <= most:
            raise _changed(place, f"the {name} has {length} bytes, where 1 to {most} are allowed")
    if header_bytes != FIXED_BYTES + subject_bytes + kek_bytes + wrapped_bytes + COMMITMENT_BYTES:
        raise _changed(place, f"its length {header_bytes} does not fit its fields")
    if reserved != 0:
        raise _changed(place, f"the reserved byte is {reserved}, not 0")
    if not MIN_CHUNK_LOG2 <= chunk_log2 <= MAX_CHUNK_LOG2:
        raise _changed(place, f"the chunk size is 2^{chunk_log2} bytes")
    if not 1 <= purpose <= len(_PURPOSES):
        raise _changed(place, f"the purpose {purpose} is not known")
    if len(view) < header_bytes:
        raise _cut(place, object_bytes)
    encoded = bytes(view[:header_bytes])
    kek_start = FIXED_BYTES + subject_bytes
    wrapped_start = kek_start + kek_bytes
    try:
        label = StreamLabel(
            StreamKind(kind),
            encoded[FIXED_BYTES:kek_start].decode("ascii"),
            version_id.hex(),
            shard,
            schema,
            review,
        )
        kek = KekRef.parse(encoded[kek_start:wrapped_start].decode("ascii"))
    except (ValueError, BadLabel, BadKekRef) as error:
        raise _changed(place, f"a field does not follow its form ({error})") from error
    wrapped = encoded[wrapped_start : wrapped_start + wrapped_bytes]
    commitment = encoded[-COMMITMENT_BYTES:]
    return StreamHeader(label, chunk_log2, _PURPOSES[purpose - 1], kek, wrapped, salt, commitment, encoded)


def check_label(found: StreamLabel, expected: StreamLabel, place: str) -> None:
    """Raise SwappedStream, naming the first field that differs, unless the labels are equal."""
    for name in ("kind", "subject", "version", "shard", "schema", "review_digest"):
        have, want = getattr(found, name), getattr(expected, name)
        if have != want:
            raise SwappedStream(
                f"{place} is another stream than expected: its {name.replace('_', ' ')} is {_shown(have)}, "
                f"not {_shown(want)}.",
                hint="Objects were renamed or swapped in the store. Restore the right one from a copy.",
            )


def _derive(partition_key: SecretKey, salt: bytes, uncommitted: bytes) -> tuple[bytes, bytes]:
    """HKDF-SHA256 (RFC 5869) of the partition key: commitment and stream key, 32 bytes each."""
    header_digest = hashlib.sha256(uncommitted).digest()
    with partition_key.view() as secret:
        # Extract is HMAC with the salt as its key; each Expand is one block, so T(1) is the output.
        extract = hmac.new(salt, digestmod=hashlib.sha256)
        extract.update(secret)
    prk = extract.digest()
    commitment = hmac.digest(prk, _COMMITMENT_LABEL + header_digest + b"\x01", "sha256")
    stream_key = hmac.digest(prk, _STREAM_KEY_LABEL + header_digest + b"\x01", "sha256")
    return commitment, stream_key


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, enum.IntEnum):
        return value.name.lower()
    return str(value)


def _bad_label(found: str, expected: str) -> BadLabel:
    return BadLabel(f"A sealed stream cannot have {found}.", hint=f"Expected: {expected}.")


def _cut(place: str, object_bytes: int) -> TruncatedStream:
    return TruncatedStream(f"{place} ends inside its header, after {object_bytes} bytes.", hint=_RESTORE)


def _changed(place: str, what: str) -> CorruptStream:
    return CorruptStream(f"{place}, header: {what}.", hint=_RESTORE)
