"""The policy of a recipe: what becomes of each kind of personal and secret data that is found in a text.

Meaning of every treatment, and what a policy is refused for: docs/design/policy.md.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from stoker.core.canonical import JsonValue
from stoker.spec.kinds import DEFAULT_KINDS, NAME_MODEL_KINDS, Kind


class Treatment(enum.StrEnum):
    """What becomes of a finding; the value is the word in files."""

    REMOVE = "remove"
    MASK = "mask"
    PSEUDONYM = "pseudonym"
    GENERALISE = "generalise"
    QUARANTINE = "quarantine"
    KEEP = "keep"

    @classmethod
    def why_not(cls, word: object) -> str | None:
        """Why a word that others use for this is no treatment here; None for a word that nobody uses."""
        if isinstance(word, str) and word.lower().replace("-", "").replace("_", "") in HASHES:
            return (
                f"{word!r} is undone by whoever tries every value of a small domain, all telephone numbers "
                "in minutes, and a salt that is kept does not hinder them; use 'pseudonym', an HMAC under "
                "a key that is destroyed with the dataset"
            )
        return None


HASHES: Final = frozenset(
    {
        *("hash", "hashed", "unsaltedhash", "saltedhash", "digest", "checksum", "fingerprint"),
        *("md5", "sha", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3", "sha3256", "sha3512"),
        *("blake2", "blake2b", "blake2s", "blake3", "crc32", "xxhash", "murmur3", "ripemd160", "bcrypt"),
        *("base64", "hex", "rot13"),
    }
)
"""Words for treatments that can be undone by trying or by decoding; none is offered, all are understood."""

DOMAIN_BITS: Final[Mapping[Kind, int]] = {
    Kind.TITLE: 7,
    Kind.AGE: 7,
    Kind.NATIONALITY: 8,
    Kind.DATE: 16,
    Kind.BIRTH_DATE: 16,
    Kind.POSTCODE: 17,
    Kind.LOCATION: 19,
    Kind.PERSON: 28,
    Kind.ORGANISATION: 28,
    Kind.STREET_ADDRESS: 28,
    Kind.DOMAIN: 29,
    Kind.NATIONAL_ID: 30,
    Kind.DRIVER_LICENCE: 30,
    Kind.IPV4: 32,
    Kind.PHONE: 33,
    Kind.EMAIL: 33,
    Kind.IBAN: 34,
    Kind.COORDINATES: 35,
    Kind.CARD: 37,
    Kind.MAC: 48,
}
"""About how many values of a kind there are to try, as a power of two. All of these are brute-forced."""

LEAST_PSEUDONYM_BITS: Final = 10
"""Below some thousand values, how often each pseudonym comes tells which value it stands for, key or none."""

GENERALISED: Final = frozenset(
    {
        Kind.DATE,
        Kind.BIRTH_DATE,
        Kind.AGE,
        Kind.IPV4,
        Kind.IPV6,
        Kind.MAC,
        Kind.COORDINATES,
        Kind.POSTCODE,
        Kind.DOMAIN,
    }
)
"""The kinds that have something more general to be replaced by."""

_DEFAULT_REDACT: Final = tuple(kind for kind in Kind if kind in DEFAULT_KINDS)


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """What becomes of what is found: the reviewer's side of the recipe.

    `redact` names kinds that are masked; `kinds` says for a kind what becomes of it, whatever `redact` says.
    Kinds in neither stay as they are. With `name_model` findings are also what only the optional name model
    sees. Treating one document takes at most `document_s` seconds and `worker_bytes` of memory, or it is
    quarantined.
    """

    redact: tuple[Kind, ...] = _DEFAULT_REDACT
    kinds: Mapping[Kind, Treatment] = field(default_factory=dict)
    document_s: float = 60.0
    worker_bytes: int = 2 << 30
    name_model: bool = False

    def treatment(self, kind: Kind) -> Treatment:
        """What becomes of a finding of this kind."""
        return self.kinds.get(kind, Treatment.MASK if kind in self.redact else Treatment.KEEP)

    @property
    def treatments(self) -> dict[Kind, Treatment]:
        """What becomes of every kind that does not stay as it is, in the order of the kinds."""
        every = {kind: self.treatment(kind) for kind in Kind}
        return {kind: each for kind, each in every.items() if each is not Treatment.KEEP}

    @property
    def makes_pseudonyms(self) -> bool:
        """Whether a key is needed."""
        return Treatment.PSEUDONYM in self.treatments.values()

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken: what can be undone by trying is refused here."""
        twice = sorted({kind for kind in self.redact if self.redact.count(kind) > 1})
        if twice:
            yield f"redact names {', '.join(twice)} more than once."
        for kind, treatment in self.kinds.items():
            yield from _lint(kind, treatment)
        if self.name_model and not NAME_MODEL_KINDS & set(self.treatments):
            yield (
                "name_model is true, and no kind that it can tell is treated; treat one of "
                f"{', '.join(each for each in Kind if each in NAME_MODEL_KINDS)}, or leave the model out."
            )
        if not 0.05 <= self.document_s <= 3600.0:
            yield f"document_s is {self.document_s}; it must be 0.05 to 3600 seconds."
        if not 1 << 26 <= self.worker_bytes <= 1 << 40:
            yield f"worker_bytes is {self.worker_bytes}; it must be 64 MiB to 1 TiB."


def _lint(kind: Kind, treatment: Treatment) -> Iterator[str]:
    bits = DOMAIN_BITS.get(kind, 64)
    if treatment is Treatment.PSEUDONYM and bits < LEAST_PSEUDONYM_BITS:
        yield (
            f"kinds.{kind} is 'pseudonym', but there are only about {1 << bits} values: how often each "
            "pseudonym comes tells which value it stands for; use 'generalise', 'mask' or 'remove'."
        )
    if treatment is Treatment.GENERALISE and kind not in GENERALISED:
        yield (
            f"kinds.{kind} is 'generalise', and there is nothing more general to put in its place; that "
            f"works for {', '.join(each for each in Kind if each in GENERALISED)}."
        )


def policy_table(policy: PolicySpec) -> dict[str, JsonValue]:
    """What a policy does, in one form however it is written: what its digest is made of.

    A policy that masks and nothing else has the form that policies had when that was all they could do.
    """
    every = policy.treatments
    table: dict[str, JsonValue] = {
        "redact": sorted(kind.value for kind, each in every.items() if each is Treatment.MASK)
    }
    others = {kind.value: each.value for kind, each in every.items() if each is not Treatment.MASK}
    if others:
        table["kinds"] = others
    if policy.name_model:
        table["name_model"] = True
    return table
