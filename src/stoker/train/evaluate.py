"""Bits per byte of a model over a split, sharded over the ranks. See docs/design/train-model.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as distributed
import torch.nn.functional as functional
from torch import Tensor, nn

from stoker.core.clock import Clock
from stoker.core.errors import StokerError
from stoker.core.events import Section
from stoker.feed.source import Samples, SampleSplit
from stoker.train.device import HOST
from stoker.train.step import no_section
from stoker.train.token_bytes import TokenBytes


class NothingToEvaluate(StokerError):
    """A split without a sample, or whose tokens stand for no bytes."""

    exit_code = 123


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well one way of predicting (or packing) did on a split; the same on every rank.

    `tokens` and `bytes` are those predicted: every token of a sample but its first.
    """

    name: str
    bits_per_byte: float
    bytes: int
    tokens: int
    seconds: float


def evaluate_model(
    model: nn.Module,
    split: SampleSplit,
    token_bytes: TokenBytes,
    *,
    rows: int,
    clock: Clock,
    section: Callable[[Section], None] = no_section,
    device: torch.device = HOST,
) -> Evaluation:
    """The model's bits per byte: the sum of -log2 p over all predicted tokens, over their bytes.

    Every rank calls this; the model computes on `device`. A rank reads only its own chunks, `rows` samples at
    a time; all ranks take as many forward passes as the rank with the most samples, since each gathers
    parameters from all.
    """
    begun_s = clock.monotonic_s()
    rank, world_size = data_share(model)
    passes = -(-max(_samples_of(split, other, world_size) for other in range(world_size)) // rows)
    batches = _batches(split, rank, world_size, rows)
    nats, counted_bytes, counted_tokens = 0.0, 0, 0
    training = model.training
    model.eval()
    with torch.no_grad():
        for _ in range(passes):
            section(Section.EVALUATE)
            batch = next(batches, None)
            if batch is None:
                model(torch.zeros((1, split.sample_tokens - 1), dtype=torch.int64, device=device))
                continue
            nats += _nats(model, torch.from_numpy(batch.astype(np.int64)).to(device))
            counted_bytes += token_bytes.count(batch[:, 1:])
            counted_tokens += batch[:, 1:].size
    model.train(training)
    return finish_evaluation(
        "model",
        nats / math.log(2.0),
        counted_bytes,
        counted_tokens,
        begun_s=begun_s,
        clock=clock,
        copies=rank_and_world()[1] // world_size,
    )


def finish_evaluation(
    name: str,
    bits: float,
    counted_bytes: int,
    counted_tokens: int,
    *,
    begun_s: float,
    clock: Clock,
    copies: int = 1,
) -> Evaluation:
    """Sum every rank's share, each brought by `copies` ranks. Raises NothingToEvaluate without any."""
    total = torch.tensor([bits, counted_bytes, counted_tokens], dtype=torch.float64)
    if distributed.is_initialized():
        distributed.all_reduce(total)
    total /= copies
    if total[1].item() == 0:
        raise NothingToEvaluate(
            f"The held-out split holds {int(total[2].item())} predicted tokens that stand for 0 bytes.",
            hint="Prepare the dataset with a larger held-out fraction.",
        )
    return Evaluation(
        name=name,
        bits_per_byte=float(total[0] / total[1]),
        bytes=int(total[1].item()),
        tokens=int(total[2].item()),
        seconds=clock.monotonic_s() - begun_s,
    )


def rank_and_world() -> tuple[int, int]:
    """This process's rank and how many there are; (0, 1) without a process group."""
    if distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def data_share(model: nn.Module) -> tuple[int, int]:
    """Which of how many shares of the samples this rank evaluates; ranks of one share have one model."""
    share: tuple[int, int] = getattr(model, "share", None) or rank_and_world()
    return share


def own_chunks(split: SampleSplit, rank: int, world_size: int) -> range:
    """The chunks that `rank` reads when the ranks share a split."""
    return range(rank, -(-split.samples // split.chunk_samples), world_size)


def _samples_of(split: SampleSplit, rank: int, world_size: int) -> int:
    return sum(
        min(split.chunk_samples, split.samples - chunk * split.chunk_samples)
        for chunk in own_chunks(split, rank, world_size)
    )


def _batches(split: SampleSplit, rank: int, world_size: int, rows: int) -> Iterator[Samples]:
    """This rank's samples, `rows` at a time across chunk borders, the last batch shorter."""
    held: list[Samples] = []
    count = 0
    for chunk in own_chunks(split, rank, world_size):
        held.append(split.read_chunk(chunk))
        count += len(held[-1])
        if count >= rows:
            joined = np.concatenate(held)
            whole = count - count % rows
            for start in range(0, whole, rows):
                yield joined[start : start + rows]
            held, count = [joined[whole:]], count - whole
    if count:
        yield np.concatenate(held)


def _nats(model: nn.Module, tokens: Tensor) -> float:
    logits = model(tokens[:, :-1]).float().flatten(0, 1)
    losses = functional.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="none")
    return float(losses.double().sum().item())
