"""The plan of a preparation: everything its tasks need to know, fixed before the first of them runs.

It is sealed beside the dataset's objects as `work/plan.stk`. Whoever has it and the keys makes the same
dataset, byte for byte. See docs/design/intake.md, "Tasks and executors".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from stoker.core.canonical import canonical_json
from stoker.core.config import from_plain
from stoker.core.errors import ConfigError
from stoker.core.ids import VersionId
from stoker.core.result import plain
from stoker.intake.dataset_writer import DatasetPlace
from stoker.intake.task_errors import BrokenPlan
from stoker.keys.partition import KeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.ledger.records import SourceRecord
from stoker.spec.recipe import RecipeSpec
from stoker.store.header import StreamKind
from stoker.store.objects import ObjectStore, StoredObject
from stoker.store.reader import StreamReader
from stoker.store.sealed import MAX_STREAMS_PER_KEY, PartitionSeal

PLAN_FORMAT: Final = 1
WORK_SCHEMA: Final = 1
"""The schema version in the header of a plan and of every intermediate."""

MAX_PLAN_BYTES: Final = 1 << 28
_PLAN_CHUNK_LOG2: Final = 16

MIN_PAGE_BYTES: Final = 1 << 19
MAX_PAGE_BYTES: Final = 1 << 25
_PAGES_AIMED_AT: Final = 16


@dataclass(frozen=True, slots=True)
class PreparationPlan:
    """One preparation, before it has run. Digests and wrapped keys are hex digits.

    `phases` run one after the other. Page n holds the source's documents (or records) `page_starts[n]` up
    to `page_starts[n + 1]`, the last one up to the end. `shard_keys` seal the dataset's shards and artefacts,
    `work_keys[i]` the intermediates of phase i: one wrapped partition key for each 4,096 objects.
    `pseudonym_key` is one more, which seals nothing: pseudonyms are made under it, where the policy has any.
    `name_model` is `names_model.installed()` of the coordinator, where the policy asks for the name model.
    """

    format: int
    name: str
    version: VersionId
    kek: str
    review: str
    review_digest: str
    purpose: str
    source: SourceRecord
    recipe: RecipeSpec
    recipe_digest: str
    expires_s: float
    phases: tuple[str, ...]
    page_starts: tuple[int, ...]
    shards_per_task: int
    shard_keys: tuple[str, ...]
    work_keys: tuple[tuple[str, ...], ...]
    pseudonym_key: str = ""
    name_model: str = ""

    @property
    def place(self) -> DatasetPlace:
        """Where the dataset is written and what every header in it says."""
        return DatasetPlace(
            self.name, self.version, KekRef.parse(self.kek), bytes.fromhex(self.review_digest)
        )

    @property
    def pages(self) -> int:
        return len(self.page_starts)

    def page(self, number: int, documents: int) -> range:
        """The documents of a page, of a source that has so many."""
        following = (*self.page_starts, documents)[number + 1]
        return range(self.page_starts[number], following)


def page_bytes_for(content_bytes: int) -> int:
    """About how large a page of a source should be: some sixteen pages, within 512 KiB and 32 MiB each."""
    return min(MAX_PAGE_BYTES, max(MIN_PAGE_BYTES, content_bytes // _PAGES_AIMED_AT))


class Unit(Protocol):
    """What a page holds whole: a document or a record."""

    @property
    def size_bytes(self) -> int:
        """How large it is."""
        ...


def page_starts(files: Sequence[Unit], page_bytes: int) -> tuple[int, ...]:
    """The first document or record of each page: pages hold about `page_bytes` and one at least."""
    starts = [0] if files else []
    held = 0
    for number, file in enumerate(files):
        if held and held + file.size_bytes > page_bytes:
            starts.append(number)
            held = 0
        held += file.size_bytes
    return tuple(starts)


def wrapped_keys(keys: KeySource, kek: KekRef, streams: int) -> tuple[str, ...]:
    """Wrapped partition keys for so many streams, one for each 4,096; the keys themselves are wiped."""
    found = []
    for _ in range(-(-streams // MAX_STREAMS_PER_KEY)):
        key, wrapped = keys.new_partition_key(kek, Purpose.DATASET)
        key.wipe()
        found.append(wrapped.hex())
    return tuple(found)


def plan_key(prefix: str) -> str:
    """The object name of the plan of the dataset at `prefix`."""
    return f"{work_prefix(prefix)}/plan.stk"


def work_prefix(prefix: str) -> str:
    """Where the intermediates of the dataset at `prefix` lie until it is committed."""
    return f"{prefix}/work"


def write_plan(plan: PreparationPlan, store: ObjectStore, keys: KeySource) -> None:
    """Seal the plan and store it. Raises ObjectExists, DiskFull and what the key source raises."""
    place = plan.place
    with PartitionSeal(keys, place.kek, Purpose.DATASET) as seal:
        label = place.label(StreamKind.WORK, 0, WORK_SCHEMA)
        sealed = seal.seal(label, canonical_json(plain(plan)), chunk_log2=_PLAN_CHUNK_LOG2)
    store.create(plan_key(place.prefix), sealed.data)


def read_plan(place: DatasetPlace, store: ObjectStore, keys: KeySource) -> PreparationPlan:
    """The plan of the preparation at `place`.

    Raises ObjectMissing, BrokenPlan, and what opening a sealed stream raises: SwappedStream when it was made
    under another review.
    """
    key = plan_key(place.prefix)
    label = place.label(StreamKind.WORK, 0, WORK_SCHEMA)
    reader = StreamReader.open(StoredObject(store, key), keys, label, kek=place.kek, place=key)
    try:
        plan = from_plain(PreparationPlan, json.loads(reader.read_all(MAX_PLAN_BYTES)), key)
    except (ValueError, ConfigError) as error:
        raise BrokenPlan(f"{key} is no plan that this Stoker understands.", hint=START_ANEW) from error
    if plan.format != PLAN_FORMAT or plan.place != place:
        raise BrokenPlan(f"{key} is the plan of another preparation or format.", hint=START_ANEW)
    return plan


START_ANEW: Final = "Prepare with --fresh, which removes what is unfinished and starts anew."
