"""A few rows of a dataset, shown to somebody who may see them. See docs/design/intake.md, "Samples".

Which rows is decided by a keyed permutation of all of them, so that nobody chose them and the same seed shows
the same. Nothing is written but the entry in the audit log, which comes before the first byte is opened.
"""

from __future__ import annotations

import hashlib
import importlib.util
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock
from stoker.core.errors import MissingExtra
from stoker.intake.life import SAMPLE_ACT
from stoker.intake.permission import MAY_SAMPLE, require_permission, require_role, require_usable
from stoker.intake.reading import DatasetRows, Rows
from stoker.intake.tokenizer import load_tokenizer
from stoker.keys.backend import KeyBackend
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetRecord
from stoker.store.objects import ObjectStore
from stoker.store.ragged import Ragged
from stoker.store.record_schema import FieldKind, RecordField
from stoker.store.superblock import Split

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_SAMPLES: Final = 100
MAX_CHARACTERS: Final = 100_000
_SHOWN_NUMBERS: Final = 64
_ROUNDS: Final = 8


@dataclass(frozen=True, slots=True)
class ShownField:
    """One field of a row. `text` is what it says, cut and with control characters as escapes; None for media.

    `numbers` are the first values of numbers, and of tokens where no tokenizer is kept.
    """

    name: str
    kind: str
    media: str
    values: int
    bytes: int
    text: str | None
    numbers: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ShownRow:
    """One row by its number in the split."""

    index: int
    fields: tuple[ShownField, ...]


@dataclass(frozen=True, slots=True)
class SampleReport:
    """Rows of one split, in the order of the permutation that `seed` names."""

    kind: ClassVar[str] = "dataset-sample"
    version: ClassVar[int] = 1

    name: str
    dataset_version: str
    root: str
    review: str
    split: str
    samples: int
    seed: int
    rows: tuple[ShownRow, ...]


def sample_dataset(
    record: DatasetRecord,
    *,
    split: str | None,
    count: int,
    seed: int | None,
    purpose: str | None,
    characters: int,
    actor: str,
    ledger: Ledger,
    backend: KeyBackend,
    store: ObjectStore,
    clock: Clock,
) -> SampleReport:
    """Open `count` rows of a split (None: the first), at most `MAX_SAMPLES`, and show them.

    `purpose` None is the purpose that the dataset was reviewed for. A reviewer or admin may,
    while a review is in force; nobody else may. Raises NotAllowed, DatasetEnded, NoSuchSplit,
    what `require_permission` raises, MissingExtra, and what opening raises.
    """
    require_role(ledger, actor, MAY_SAMPLE, "look at samples")
    require_usable(record, clock)
    own = ledger.catalogue.review(record.review)
    review = require_permission(ledger, record, purpose or own.purpose, clock)
    rows = DatasetRows.open(record, ledger=ledger, backend=backend, store=store)
    found = rows.split(split) if split is not None else rows.superblock.splits[0]
    chosen_seed = secrets.randbelow(2**63) if seed is None else seed
    wanted = choose(found.samples, min(count, MAX_SAMPLES), chosen_seed)
    detail: Mapping[str, JsonValue] = {
        "version": record.version,
        "root": record.root,
        "review": review.id,
        "purpose": review.purpose,
        "split": found.name,
        "count": len(wanted),
        "seed": chosen_seed,
    }
    with ledger.act(actor=actor, action=SAMPLE_ACT, subject=f"dataset/{record.name}", detail=detail):
        pass
    shown = _Shown(rows, min(characters, MAX_CHARACTERS))
    return SampleReport(
        record.name,
        record.version,
        record.root,
        review.id,
        found.name,
        found.samples,
        chosen_seed,
        tuple(shown.row(found, index) for index in wanted),
    )


def choose(samples: int, count: int, seed: int) -> tuple[int, ...]:
    """The first `count` numbers of a permutation of [0, samples) that `seed` names; all when there are fewer.

    A Feistel network over the least even number of bits that holds `samples`, walked until it is back below
    `samples`; each round is keyed by BLAKE2b. Asking for more shows the same ones first.
    """
    half = max(1, -(-max(samples - 1, 1).bit_length() // 2))
    mask = (1 << half) - 1
    key = seed.to_bytes(16, "little", signed=True)

    def once(number: int) -> int:
        left, right = number >> half, number & mask
        for turn in range(_ROUNDS):
            told = hashlib.blake2b(
                right.to_bytes(16, "little") + bytes([turn]), digest_size=16, key=key, person=b"stoker sample"
            ).digest()
            left, right = right, left ^ (int.from_bytes(told, "little") & mask)
        return left << half | right

    def walked(number: int) -> int:
        number = once(number)
        while number >= samples:
            number = once(number)
        return number

    return tuple(walked(number) for number in range(min(count, samples)))


def printable(text: str) -> str:
    """`text` with control and format characters but line ends as escapes: it cannot drive a terminal."""
    return "".join(char if char == "\n" or char.isprintable() else ascii(char)[1:-1] for char in text)


class _Shown:
    """Turns rows into what is shown of them."""

    def __init__(self, rows: DatasetRows, characters: int) -> None:
        self._rows = rows
        self._characters = characters
        self._tokenizer: Tokenizer | None = None
        if any(field.kind is FieldKind.TOKENS for field in rows.fields):
            tokenizer_json = rows.tokenizer_json()
            if tokenizer_json is not None:
                require_tokenizers("To show tokens as text")
                self._tokenizer = load_tokenizer(tokenizer_json)

    def row(self, split: Split, index: int) -> ShownRow:
        row = self._rows.row(split, index)
        try:
            return ShownRow(index, tuple(self._field(field, row) for field in self._rows.fields))
        finally:
            row.wipe()

    def _field(self, field: RecordField, row: Rows) -> ShownField:
        column = row.columns[field.name]
        values = (column.row(0) if isinstance(column, Ragged) else column[0]).reshape(-1)
        text: str | None = None
        numbers: tuple[float, ...] = ()
        if field.kind is FieldKind.BYTES:
            if field.media.startswith("text/"):
                text = values[: 4 * self._characters].tobytes().decode(errors="replace")
        elif field.kind is FieldKind.TOKENS and self._tokenizer is not None:
            text = self._tokenizer.decode(values.tolist(), skip_special_tokens=False)
        else:
            numbers = tuple(values[:_SHOWN_NUMBERS].tolist())
        if text is not None:
            text = printable(text[: self._characters])
        size = int(np.prod(values.shape))
        return ShownField(field.name, field.kind.value, field.media, size, int(values.nbytes), text, numbers)


def require_tokenizers(what: str) -> None:
    """Raise MissingExtra unless `tokenizers` is installed; `what` begins the sentence."""
    if importlib.util.find_spec("tokenizers") is None:
        raise MissingExtra(
            f"{what}, the package tokenizers is needed.",
            hint="Run: pip install '.[data]' in Stoker's clone",
        )
