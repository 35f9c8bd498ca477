"""What a manifest says of the whole: one canonical JSON object under the root. See docs/design/store.md."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from stoker.core.canonical import JsonValue, canonical_json
from stoker.store.errors import BadLabel, CorruptManifest, UnknownVersion
from stoker.store.payload import ChunkGeometry
from stoker.store.record_schema import RECORDS_FORM, RecordSchema

FORMAT: Final = 1
MAX_SUPERBLOCK_BYTES: Final = 1 << 20

_TOKEN_BYTES: Final = {"uint16": 2, "uint32": 4}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_ROOT_LABEL: Final = b"stoker manifest root 1"


@dataclass(frozen=True, slots=True)
class SampleSchema:
    """Fixed-length samples of tokens. `sample_tokens` is the sequence length and one more.

    Every chunk but a shard's last holds `samples_per_chunk` whole samples, so the place of each sample is
    arithmetic; `samples_per_shard` is a multiple of it.
    """

    dtype: str
    sample_tokens: int
    samples_per_chunk: int
    samples_per_shard: int
    chunk_log2: int

    def __post_init__(self) -> None:
        """Raises BadLabel unless the samples of a chunk fit into a shard's first chunk."""
        if self.dtype not in _TOKEN_BYTES:
            raise BadLabel(f"Tokens are uint16 or uint32, not {self.dtype[:20]!a}.")
        if not (14 <= self.chunk_log2 <= 22 and self.sample_tokens >= 1 and self.samples_per_chunk >= 1):
            raise BadLabel("A sample has a token at least, a chunk a sample at least and 2^14 to 2^22 bytes.")
        if self.samples_per_chunk * self.sample_bytes > ChunkGeometry(1 << self.chunk_log2).first_capacity:
            raise BadLabel(
                f"{self.samples_per_chunk} samples of {self.sample_bytes} bytes do not fit into a chunk of "
                f"2^{self.chunk_log2} bytes.",
                hint="Use larger chunks or fewer samples in each.",
            )
        if self.samples_per_shard < 1 or self.samples_per_shard % self.samples_per_chunk:
            raise BadLabel("A shard holds a whole number of chunks.")

    @classmethod
    def fit(
        cls, *, vocabulary: int, sample_tokens: int, chunk_log2: int, samples_per_shard: int
    ) -> SampleSchema:
        """The schema that fills its chunks; rounds `samples_per_shard` down to whole chunks, at least one."""
        dtype = "uint16" if vocabulary <= 1 << 16 else "uint32"
        room = ChunkGeometry(1 << chunk_log2).first_capacity if 14 <= chunk_log2 <= 22 else 0
        samples_per_chunk = room // (sample_tokens * _TOKEN_BYTES[dtype]) if sample_tokens > 0 else 0
        if samples_per_chunk < 1:
            raise BadLabel(
                f"No sample of {sample_tokens} tokens fits into a chunk of 2^{chunk_log2} bytes.",
                hint="Raise chunk_log2 (at most 22) or shorten the sequences.",
            )
        chunks_per_shard = max(1, samples_per_shard // samples_per_chunk)
        return cls(dtype, sample_tokens, samples_per_chunk, chunks_per_shard * samples_per_chunk, chunk_log2)

    @property
    def token_bytes(self) -> int:
        return _TOKEN_BYTES[self.dtype]

    @property
    def sample_bytes(self) -> int:
        return self.sample_tokens * _TOKEN_BYTES[self.dtype]

    @property
    def chunks_per_shard(self) -> int:
        """Of every shard of a split but its last."""
        return self.samples_per_shard // self.samples_per_chunk


@dataclass(frozen=True, slots=True)
class Split:
    """A run of shards, such as "train"; only its last shard may be short."""

    name: str
    first_shard: int
    shards: int
    samples: int


@dataclass(frozen=True, slots=True)
class Artefact:
    """A shard that is no sample data, such as "tokenizer"."""

    name: str
    shard: int


@dataclass(frozen=True, slots=True)
class Superblock:
    """Everything about a source or dataset that is not in the pages. ManifestWriter fills the last five.

    `subject`, `version` and `review_digest` (32 bytes) are those of every stream's label; `kek` is the KEK
    reference; `source_root` and `recipe_digest` are 64 hex digits, None for a source.
    """

    subject: str
    version: str
    kek: str
    review_digest: bytes
    chunk_log2: int
    schema: SampleSchema | RecordSchema | None = None
    splits: tuple[Split, ...] = ()
    artefacts: tuple[Artefact, ...] = ()
    source_root: str | None = None
    recipe_digest: str | None = None
    shards: int = 0
    samples: int = 0
    object_bytes: int = 0
    fan_out: int = 0
    levels: int = 0

    def split(self, name: str) -> Split | None:
        """The split of this name."""
        return next((split for split in self.splits if split.name == name), None)

    def artefact(self, name: str) -> Artefact | None:
        """The artefact of this name."""
        return next((artefact for artefact in self.artefacts if artefact.name == name), None)

    def encode(self) -> bytes:
        """Canonical JSON; raises BadLabel when it does not follow the format."""
        if problem := _problem(self):
            raise BadLabel(f"The superblock of {self.subject[:200]!a} {problem}.")
        data = canonical_json(_to_json(self))
        if len(data) > MAX_SUPERBLOCK_BYTES:
            raise BadLabel(f"The superblock of {self.subject} has {len(data)} bytes; 1 MiB is the most.")
        return data

    @classmethod
    def decode(cls, data: bytes, place: str) -> Superblock:
        """The superblock that encodes to exactly `data`. Raises UnknownVersion and CorruptManifest."""
        try:
            raw = json.loads(data)
            if not isinstance(raw, dict):
                raise CorruptManifest(f"{place} is no superblock.", hint=_RESTORE)
            if raw.get("format") != FORMAT:
                raise UnknownVersion(
                    f"{place}: manifest format {str(raw.get('format'))[:20]!a}; this Stoker knows {FORMAT}.",
                    hint="A newer Stoker wrote it: use that one.",
                )
            found = _from_json(raw, place)
            if found.encode() == data:
                return found
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, BadLabel) as error:
            raise CorruptManifest(
                f"{place}: the superblock does not follow its format.", hint=_RESTORE
            ) from error
        raise CorruptManifest(f"{place}: the superblock is not in its canonical form.", hint=_RESTORE)


_RESTORE: Final = "The manifest was changed or damaged. Restore it from a copy."


def manifest_root(superblock: bytes, top_page_digest: bytes) -> str:
    """The root: 64 hex digits that name the superblock, every page, and so every object."""
    return hashlib.sha256(_ROOT_LABEL + hashlib.sha256(superblock).digest() + top_page_digest).hexdigest()


def _to_json(block: Superblock) -> JsonValue:
    return {
        "format": FORMAT,
        "subject": block.subject,
        "version": block.version,
        "kek": block.kek,
        "review_digest": block.review_digest.hex(),
        "chunk_log2": block.chunk_log2,
        "schema": _schema_to_json(block.schema),
        "splits": [
            {"name": s.name, "first_shard": s.first_shard, "shards": s.shards, "samples": s.samples}
            for s in block.splits
        ],
        "artefacts": [{"name": artefact.name, "shard": artefact.shard} for artefact in block.artefacts],
        "source_root": block.source_root,
        "recipe_digest": block.recipe_digest,
        "shards": block.shards,
        "samples": block.samples,
        "object_bytes": block.object_bytes,
        "fan_out": block.fan_out,
        "levels": block.levels,
    }


def _schema_to_json(schema: SampleSchema | RecordSchema | None) -> JsonValue:
    if isinstance(schema, SampleSchema):
        return {
            "dtype": schema.dtype,
            "sample_tokens": schema.sample_tokens,
            "samples_per_chunk": schema.samples_per_chunk,
            "samples_per_shard": schema.samples_per_shard,
            "chunk_log2": schema.chunk_log2,
        }
    return None if schema is None else schema.to_json()


def _schema_from_json(raw: dict[str, Any] | None, place: str) -> SampleSchema | RecordSchema | None:
    """Samples have no form: that is how they were written before there were records."""
    if raw is None:
        return None
    if "form" not in raw:
        return SampleSchema(**raw)
    if raw["form"] != RECORDS_FORM:
        raise UnknownVersion(
            f"{place}: a schema of form {str(raw['form'])[:20]!a}; this Stoker knows samples and "
            f"{RECORDS_FORM!a}.",
            hint="A newer Stoker wrote it: use that one.",
        )
    return RecordSchema.from_json(raw)


def _from_json(raw: dict[str, Any], place: str) -> Superblock:
    return Superblock(
        subject=raw["subject"],
        version=raw["version"],
        kek=raw["kek"],
        review_digest=bytes.fromhex(raw["review_digest"]),
        chunk_log2=raw["chunk_log2"],
        schema=_schema_from_json(raw["schema"], place),
        splits=tuple(Split(**split) for split in raw["splits"]),
        artefacts=tuple(Artefact(**artefact) for artefact in raw["artefacts"]),
        source_root=raw["source_root"],
        recipe_digest=raw["recipe_digest"],
        shards=raw["shards"],
        samples=raw["samples"],
        object_bytes=raw["object_bytes"],
        fan_out=raw["fan_out"],
        levels=raw["levels"],
    )


def _problem(block: Superblock) -> str | None:
    counts = [block.chunk_log2, block.shards, block.samples, block.object_bytes, block.fan_out, block.levels]
    texts: list[object] = [block.subject, block.version, block.kek]
    if isinstance(block.schema, SampleSchema):
        counts += [block.schema.sample_tokens, block.schema.samples_per_chunk]
        counts += [block.schema.samples_per_shard, block.schema.chunk_log2]
    for split in block.splits:
        counts += [split.first_shard, split.shards, split.samples]
    counts += [artefact.shard for artefact in block.artefacts]
    names: list[object] = [split.name for split in block.splits]
    names += [artefact.name for artefact in block.artefacts]
    if any(type(count) is not int or not 0 <= count < 1 << 64 for count in counts):
        return "has a count that is no whole number from 0 to 2^64 - 1"
    if any(not isinstance(text, str) or not 0 < len(text) <= 200 for text in texts):
        return "has a subject, version or KEK reference that is no text of 1 to 200 characters"
    if any(not isinstance(name, str) or _NAME.fullmatch(name) is None for name in names):
        return "has a split or artefact whose name is not of a-z, 0-9, '.', '_' and '-'"
    if len(set(names)) != len(names):
        return "has two splits or artefacts of one name"
    digests = [digest for digest in (block.source_root, block.recipe_digest) if digest is not None]
    if len(block.review_digest) != 32 or any(_HEX64.fullmatch(digest) is None for digest in digests):
        return "has a digest that is not of 32 bytes"
    last_shards = [split.first_shard + split.shards for split in block.splits]
    if max([*last_shards, *(artefact.shard + 1 for artefact in block.artefacts)], default=0) > block.shards:
        return f"names a shard past its {block.shards} shards"
    return None
