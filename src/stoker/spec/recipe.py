"""A recipe file: the deterministic preparation of a source into a dataset; and a policy file for reviews.

Meaning and limits of every field: docs/design/intake.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from stoker.spec.kinds import Kind as Kind
from stoker.spec.policy import PolicySpec as PolicySpec
from stoker.spec.quality import QualitySpec
from stoker.spec.records import RecordsSpec
from stoker.spec.source import ImportSpec as ImportSpec
from stoker.spec.source import NotText as NotText
from stoker.spec.source import OnFault as OnFault


@dataclass(frozen=True, slots=True)
class RecipeSpec:
    """Judge documents, redact, tokenise, pack, split, seal.

    `tokenizer_of` names a dataset whose tokenizer is used, so that the two can be mixed; empty: one is
    trained. `heldout_paths` are patterns (`*`, `?`) of paths that are held out, in place of a fraction by
    content: to split by time, sender or speaker, lay them in folders. With `records.parts` the source's
    records are kept, not its text alone: then `sequence_tokens` and `samples_per_shard` do not matter.
    """

    vocabulary: int = 2048
    tokenizer_of: str = ""
    tokenizer_sample_bytes: int = 8 * 1024 * 1024
    sequence_tokens: int = 128
    heldout_fraction: float = 0.03
    heldout_paths: tuple[str, ...] = ()
    chunk_log2: int = 16
    samples_per_shard: int = 4096
    seed: int = 0
    expires_after_days: float = 30.0
    policy: PolicySpec = field(default_factory=PolicySpec)
    quality: QualitySpec = field(default_factory=QualitySpec)
    records: RecordsSpec = field(default_factory=RecordsSpec)

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the field and its value."""
        if not 257 <= self.vocabulary <= 262_144:
            yield (f"vocabulary is {self.vocabulary}; it must be 257 (256 bytes and end of text) to 262144.")
        if not 1 <= self.tokenizer_sample_bytes <= 1 << 30:
            yield f"tokenizer_sample_bytes is {self.tokenizer_sample_bytes}; it must be 1 to 2^30."
        if not 2 <= self.sequence_tokens <= 1 << 20:
            yield f"sequence_tokens is {self.sequence_tokens}; it must be 2 to 2^20."
        if not 0.0 < self.heldout_fraction < 1.0:
            yield f"heldout_fraction is {self.heldout_fraction}; it must lie between 0 and 1."
        if "" in self.heldout_paths:
            yield 'heldout_paths holds an empty pattern; name a path such as "later/*".'
        if not 14 <= self.chunk_log2 <= 22:
            yield f"chunk_log2 is {self.chunk_log2}; it must be 14 to 22 (16 KiB to 4 MiB)."
        elif self.records.parts:
            if self.quality.judges_documents:
                yield "quality judges the documents of text; of records only quality.normalise is followed."
            if self.tokenizer_of:
                yield f"tokenizer_of is {self.tokenizer_of!r}; records train a tokenizer of their own."
        elif (self.sequence_tokens + 1) * self.token_bytes > (1 << self.chunk_log2) - 64:
            yield (
                f"sequence_tokens is {self.sequence_tokens}; a sample of {self.sequence_tokens + 1} tokens "
                f"of {self.token_bytes} bytes does not fit into a chunk of 2^{self.chunk_log2} bytes."
            )
        if not 1 <= self.samples_per_shard <= 1 << 20:
            yield f"samples_per_shard is {self.samples_per_shard}; it must be 1 to 2^20."
        if not 0 <= self.seed < 1 << 63:
            yield f"seed is {self.seed}; it must be 0 to 2^63 - 1."
        if not 0.0 < self.expires_after_days <= 3650.0:
            yield f"expires_after_days is {self.expires_after_days}; it must be more than 0, at most 3650."

    @property
    def token_bytes(self) -> int:
        """How wide a stored token is: 2 bytes up to a vocabulary of 65,536, else 4."""
        return 2 if self.vocabulary <= 1 << 16 else 4
