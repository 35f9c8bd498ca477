"""Several datasets as one stream of batches with exact weights. See docs/design/feed.md, "Mixtures"."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import numpy as np
import numpy.typing as npt

from stoker.core.clock import Clock, SystemClock
from stoker.feed.errors import BadMixture
from stoker.feed.feed import filled_split
from stoker.feed.lease import lease_of_splits
from stoker.feed.mixture_pattern import Turns, pattern_of_turns, turns_of_parts, turns_of_weights
from stoker.feed.mixture_reader import MixtureReader
from stoker.feed.mixture_state import MixtureState, PartState
from stoker.feed.order import MIXTURE_ORDER_FORMAT, Order
from stoker.feed.shard_prefetch import DEFAULT_SHARDS_AHEAD_S, prefetch_of
from stoker.feed.source import INT64, FeedDataset, SampleSplit
from stoker.feed.stream import (
    DEFAULT_WINDOW_CHUNKS,
    BatchStream,
    check_settings,
    check_share,
    read_settings,
)

_PERSON: Final = b"stoker mixture 2"


class MixedDataset(FeedDataset, Protocol):
    """A dataset as a mixture sees it."""

    def tokenizer_digest(self) -> bytes | None:
        """SHA-256 of the tokenizer that made the samples; None when the dataset has none."""
        ...


@dataclass(frozen=True, slots=True)
class MixturePart:
    """One dataset of a mixture; `weight` is its share of the samples, a multiple of 1/1000."""

    dataset: MixedDataset
    weight: float
    split: str = "train"


class Mixture(BatchStream):
    """This rank's share of every global batch of a mixture, in an order that no world size changes.

    Any 1,000 consecutive samples of the global stream hold exactly weight · 1,000 of each part. Each part has
    epochs of its own. Raises BadFeedSetting, BadWorldSize, BadRank, BadMixture or EmptySplit when made; while
    iterating, what opening a chunk raises, at the step that needs the chunk.
    """

    def __init__(
        self,
        parts: Sequence[MixturePart],
        *,
        global_batch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        window_chunks: int = DEFAULT_WINDOW_CHUNKS,
        prefetch_batches: int | None = None,
        dtype: str = INT64,
        read_threads: int | None = None,
        reuse_batches: bool = False,
        pin_memory: bool = False,
        shards_ahead_s: float = DEFAULT_SHARDS_AHEAD_S,
        clock: Clock | None = None,
    ) -> None:
        """Settings as for `Feed`."""
        reading = read_settings(prefetch_batches, dtype, read_threads, reuse_batches, pin_memory)
        check_settings(global_batch, seed, window_chunks, prefetch_batches, reading)
        check_share(global_batch, rank, world_size)
        turns = turns_of_weights(tuple(part.weight for part in parts))
        splits = _splits_that_mix(parts)
        self._orders = tuple(
            Order.of(split, global_batch, window_chunks, part_seed(seed, number), each)
            for number, (split, each) in enumerate(zip(splits, turns_of_parts(turns), strict=True))
        )
        self._named = MixtureState(
            format=MIXTURE_ORDER_FORMAT,
            parts=tuple(
                PartState(part.dataset.root, part.split, count)
                for part, count in zip(parts, turns, strict=True)
            ),
            seed=seed,
            global_batch=global_batch,
            window_chunks=window_chunks,
            consumed=0,
        )
        rows = global_batch // world_size
        pattern, clock = pattern_of_turns(turns), clock or SystemClock()
        self._reader = MixtureReader(splits, self._orders, pattern, rank * rows, rows, reading)
        prefetch = prefetch_of(splits, self._orders, rank * rows, rows, shards_ahead_s, clock, pattern)
        self._last_step: int | None = None
        lease = lease_of_splits(splits)
        super().__init__(self._reader, global_batch, prefetch_batches, clock, prefetch, lease)

    @property
    def drawn(self) -> tuple[int, ...]:
        """Samples that the whole world was given of each part."""
        return tuple(int(_turns(order).samples_before(np.array(self._consumed))) for order in self._orders)

    @property
    def epochs(self) -> tuple[int, ...]:
        """The epoch of each part's next sample."""
        return tuple(drawn // order.samples for drawn, order in zip(self.drawn, self._orders, strict=True))

    @property
    def sources(self) -> npt.NDArray[np.int16]:
        """The number of the part that each row of the latest batch came from, int16 [rows]."""
        if self._last_step is None:
            return np.empty(0, dtype=np.int16)
        return self._reader.sources(self._last_step)

    def next_array(self) -> Any:
        """The next share as one numpy array, [global_batch / world_size, sample_tokens]."""
        step = self._step
        batch = super().next_array()
        self._last_step = step
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch begins, as JSON values. Batches that were only read ahead do not count."""
        return {**self._named.as_dict(), "consumed": self._consumed}

    def _consumed_of(self, state_dict: Mapping[str, Any]) -> int:
        state = MixtureState.from_dict(state_dict)
        state.check_fits(self._named)
        return state.consumed


def part_seed(seed: int, number: int) -> int:
    """The seed of a part's order, so that two parts of one size are not shuffled alike."""
    digest = hashlib.blake2b(struct.pack("<2Q", seed, number), digest_size=8, person=_PERSON).digest()
    return int.from_bytes(digest, "little")


def _splits_that_mix(parts: Sequence[MixturePart]) -> list[SampleSplit]:
    """Every part's split. Raises BadMixture, naming all parts that cannot share a batch with the first."""
    names = [(part.dataset.root, part.split) for part in parts]
    splits = [cast("SampleSplit", filled_split(part.dataset, part.split)) for part in parts]
    wrong = [
        f"{_shown(part)} is there twice" for place, part in enumerate(parts) if names[place] in names[:place]
    ]
    wrong += [
        f"{_shown(part)} has no fixed-length samples of tokens"
        for part, split in zip(parts, splits, strict=True)
        if not hasattr(split, "sample_tokens")
    ]
    if not wrong:
        lengths = [f"samples of {split.sample_tokens} tokens" for split in splits]
        digests = [part.dataset.tokenizer_digest() for part in parts]
        dtypes = [f"tokens of {split.dtype.name}" for split in splits]
        tokenizers = ["no tokenizer" if each is None else f"the tokenizer {each.hex()}" for each in digests]
        wrong = [*_unlike(parts, lengths), *_unlike(parts, dtypes), *_unlike(parts, tokenizers)]
    if wrong:
        raise BadMixture(
            f"These parts cannot be mixed: {'; '.join(wrong)}.",
            hint="Name each split once, and prepare the datasets with one length and one tokenizer: a "
            "recipe's tokenizer_of takes another dataset's.",
        )
    return splits


def _unlike(parts: Sequence[MixturePart], traits: Sequence[str]) -> Iterator[str]:
    """One phrase for each part whose trait is not the first's."""
    for part, trait in zip(parts, traits, strict=True):
        if trait != traits[0]:
            yield f"{_shown(part)} has {trait}, {_shown(parts[0])} {traits[0]}"


def _shown(part: MixturePart) -> str:
    return f"{part.split!r} of {part.dataset.root[:16]}…"


def _turns(order: Order) -> Turns:
    assert order.turns is not None
    return order.turns
