"""A recipe file: the deterministic preparation of a source into a dataset; and a policy file for reviews."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Kind(enum.StrEnum):
    """The kinds of personal or secret data that a scan finds."""

    EMAIL = "email"
    PHONE = "phone"
    IPV4 = "ipv4"
    IPV6 = "ipv6"
    CARD = "card"
    IBAN = "iban"
    SECRET = "secret"  # noqa: S105 - the name of a kind
    URL_CREDENTIALS = "url_credentials"


class NotText(enum.StrEnum):
    """What happens to a file that is not UTF-8: left out and counted, or the whole import stops."""

    LEAVE_OUT = "leave_out"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class ImportSpec:
    """What is taken from a folder. Patterns are shell globs on the path inside the source."""

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    not_text: NotText = NotText.LEAVE_OUT
    max_file_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """What must be redacted for use: the reviewer's side of the recipe. Kinds not named stay as they are."""

    redact: tuple[Kind, ...] = tuple(Kind)


@dataclass(frozen=True, slots=True)
class RecipeSpec:
    """Redact, tokenise, pack, split, seal."""

    vocabulary: int = 1024
    tokenizer_sample_bytes: int = 8 * 1024 * 1024
    sequence_tokens: int = 256
    heldout_fraction: float = 0.03
    chunk_log2: int = 16
    samples_per_shard: int = 4096
    seed: int = 0
    expires_after_days: float = 30.0
    policy: PolicySpec = field(default_factory=PolicySpec)
