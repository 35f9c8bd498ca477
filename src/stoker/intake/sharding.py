"""From token pages to shards: which tokens each shard takes, and how it is sealed.

The pages of a split, one after the other, are its stream of tokens; a shard takes its part wherever page
borders lie, so the shards are those of one packer that went through everything. See docs/design/intake.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from stoker.core.canonical import JsonValue
from stoker.intake.packing import Packed, Tokens, cut, packed
from stoker.intake.plan import PreparationPlan
from stoker.intake.tokenizer import END_OF_TEXT_ID
from stoker.intake.workplace import Intermediate, Workplace
from stoker.spec.recipe import RecipeSpec
from stoker.store.header import StreamKind
from stoker.store.manifest import shard_key
from stoker.store.pages import ShardEntry
from stoker.store.repeatable import create_same
from stoker.store.shards import SHARD_SCHEMA, ShardWriter
from stoker.store.superblock import SampleSchema, Split

_OPEN_PAGES: Final = 4


def sample_schema(recipe: RecipeSpec) -> SampleSchema:
    """How the recipe's samples lie in shards."""
    return SampleSchema.fit(
        vocabulary=recipe.vocabulary,
        sample_tokens=recipe.sequence_tokens + 1,
        chunk_log2=recipe.chunk_log2,
        samples_per_shard=recipe.samples_per_shard,
    )


@dataclass(frozen=True, slots=True)
class SplitLayout:
    """One split: its stream has `starts[p]` tokens before page p, which lie in that page from `skips[p]`."""

    name: str
    first_shard: int
    shards: int
    packed: Packed
    starts: Tokens
    skips: Tokens

    @property
    def split(self) -> Split:
        return Split(self.name, self.first_shard, self.shards, self.packed.samples)


def lay_out(pages: Mapping[str, Sequence[int]], padded: str, recipe: RecipeSpec) -> tuple[SplitLayout, ...]:
    """The layout of splits from the tokens that each page holds of each; `padded` names the one that pads.

    In a page the splits' tokens lie one after the other, in the order of `pages`.
    """
    per_shard = sample_schema(recipe).samples_per_shard
    layouts: list[SplitLayout] = []
    skips = np.zeros(len(next(iter(pages.values()))), dtype=np.int64)
    first_shard = 0
    for name, counts in pages.items():
        starts = np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))])
        made = packed(int(starts[-1]), recipe.sequence_tokens, padded=name == padded)
        shards = -(-made.samples // per_shard)
        layouts.append(SplitLayout(name, first_shard, shards, made, starts, skips))
        skips = skips + np.asarray(counts, dtype=np.int64)
        first_shard += shards
    return tuple(layouts)


class Sharding:
    """Packs shards out of the token pages of the phase `pages`."""

    def __init__(self, work: Workplace, pages: str, layouts: Sequence[SplitLayout]) -> None:
        self._work = work
        self._plan: PreparationPlan = work.plan
        self._phase = pages
        self._layouts = layouts
        self._schema = sample_schema(work.plan.recipe)
        self._dtype: np.dtype[Any] = np.dtype(f"<u{work.plan.recipe.token_bytes}")
        self._open: dict[int, Intermediate] = {}

    @property
    def shards(self) -> int:
        return sum(layout.shards for layout in self._layouts)

    def tasks(self) -> list[range]:
        """The shards of each task."""
        step = self._plan.shards_per_task
        return [range(first, min(first + step, self.shards)) for first in range(0, self.shards, step)]

    def samples_of(self, shards: range) -> int:
        """How many samples these shards have."""
        return sum(len(self._rows(self._layout(shard), shard)) for shard in shards)

    def seal(self, shards: range) -> dict[str, JsonValue]:
        """Pack, seal and store shards; the facts of their entries. Raises ObjectDiffers, DiskFull."""
        entries: list[JsonValue] = []
        for shard in shards:
            layout = self._layout(shard)
            writer = ShardWriter(
                self._work.shard_seal,
                self._plan.place.label(StreamKind.SHARD, shard, SHARD_SCHEMA),
                self._schema,
            )
            writer.add(self._samples(layout, self._rows(layout, shard)))
            sealed, entry = writer.finish()
            create_same(self._work.store, shard_key(self._plan.place.prefix, shard), sealed.data)
            entries.append(entry_facts(entry))
        return {"entries": entries}

    def _layout(self, shard: int) -> SplitLayout:
        return next(one for one in self._layouts if shard < one.first_shard + one.shards)

    def _rows(self, layout: SplitLayout, shard: int) -> range:
        first = (shard - layout.first_shard) * self._schema.samples_per_shard
        return range(first, min(first + self._schema.samples_per_shard, layout.packed.samples))

    def _samples(self, layout: SplitLayout, rows: range) -> Tokens:
        length = self._plan.recipe.sequence_tokens
        begin, end = rows.start * length, rows.stop * length + 1
        stream = np.full(end - begin, END_OF_TEXT_ID, dtype=self._dtype)
        end = min(end, layout.packed.tokens)
        page = int(np.searchsorted(layout.starts, begin, side="right")) - 1
        while begin < end:
            upto = min(end, int(layout.starts[page + 1]))
            if upto > begin:
                offset = int(layout.skips[page]) + begin - int(layout.starts[page])
                found = self._page(page).read(
                    offset * self._dtype.itemsize, (upto - begin) * self._dtype.itemsize
                )
                into = begin - rows.start * length
                stream[into : into + upto - begin] = np.frombuffer(found, dtype=self._dtype)
                begin = upto
            page += 1
        return cut(stream, length)

    def _page(self, page: int) -> Intermediate:
        if page not in self._open:
            while len(self._open) >= _OPEN_PAGES:
                del self._open[next(iter(self._open))]
            self._open[page] = self._work.get(self._phase, page)
        return self._open[page]


def entry_facts(entry: ShardEntry) -> JsonValue:
    """A manifest entry as a packing task's facts hold it."""
    return [entry.digest.hex(), entry.header_check.hex(), entry.object_bytes, entry.samples]


def entries_of(facts: Mapping[str, JsonValue]) -> list[ShardEntry]:
    """The manifest entries in the facts of a packing task: `entry_facts` of each, under "entries"."""
    found = facts["entries"]
    assert isinstance(found, list)
    return [
        ShardEntry(bytes.fromhex(digest), bytes.fromhex(header), object_bytes, samples)
        for digest, header, object_bytes, samples in found
    ]
