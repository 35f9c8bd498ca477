"""How well a model knows the canary of its training data: exposure, after Carlini et al. 2019.

Preparation ends the training split with the source's canary, a text that is random and stands nowhere else. A
model that gives it a higher probability than other texts of the same form has learnt it by heart, and with it
perhaps what else stood there once. See docs/design/train.md, "Exposure".
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

from stoker.core.events import Section
from stoker.feed.source import SampleSplit
from stoker.train.device import HOST
from stoker.train.step import no_section
from stoker.train.token_bytes import TokenBytes

CANDIDATES: Final = 512
_CANARY: Final = re.compile(rb"stoker-canary-[0-9a-f]{32}")
_PREFIX: Final = b"stoker-canary-"
_TAIL_SAMPLES: Final = 16
_MAX_BITS: Final = 128.0
"""A canary has 128 random bits: no more can be learnt of it."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """What a model knows of a canary; the same on every rank.

    `rank` is the canary's place among `candidates` random texts of its form and itself, the likeliest first.
    `bits` is the exposure, log2 of one over the share of all such texts that would be likelier: 1 is chance,
    128 is knowing it. Beyond what ranks can show it is extrapolated by a normal distribution of the texts'
    log-probabilities.
    """

    bits: float
    rank: int
    candidates: int


def find_canary(split: SampleSplit, token_bytes: TokenBytes) -> bytes | None:
    """The canary at the end of a training split, None when there is none, as in one of records."""
    chunk = (split.samples - 1) // split.chunk_samples
    samples = split.read_chunk(chunk)
    if len(samples) < _TAIL_SAMPLES and chunk > 0:
        samples = np.concatenate((split.read_chunk(chunk - 1), samples))
    # The last token of a sample is the first of the next one.
    tail = samples[-_TAIL_SAMPLES:]
    stream = np.append(tail[:, :-1].ravel(), tail[-1, -1])
    found: list[bytes] = _CANARY.findall(token_bytes.decode(stream))
    return found[-1] if found else None


def measure_exposure(
    model: nn.Module,
    canary: bytes,
    encode: Callable[[str], Sequence[int]],
    *,
    end_of_text: int = 0,
    context_tokens: int,
    candidates: int = CANDIDATES,
    rows: int = 64,
    section: Callable[[Section], None] = no_section,
    device: torch.device = HOST,
) -> Exposure:
    """The exposure of `canary` beside `candidates` other texts of its form, which follow from it alone.

    Every rank calls this and computes the same, since each forward pass gathers parameters from all. A text
    follows the end of another, as in training, and is cut to `context_tokens` tokens. The model computes on
    `device`.
    """
    texts = [canary, *(_another(canary, number) for number in range(candidates))]
    nats: list[float] = []
    training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(texts), rows):
            section(Section.EVALUATE)
            tokens = [
                [end_of_text, *encode(text.decode() + "\n")][: context_tokens + 1]
                for text in texts[start : start + rows]
            ]
            nats += _nats(model, tokens, device)
    model.train(training)
    return exposure_of(nats[0], nats[1:])


def exposure_of(canary_nats: float, others_nats: Sequence[float]) -> Exposure:
    """The exposure of a text whose -ln p is `canary_nats`, beside those of at least two others."""
    others = np.asarray(others_nats)
    rank = 1 + int((others < canary_nats).sum())
    deviation = float(others.std(ddof=1))
    z = (float(others.mean()) - canary_nats) / max(deviation, 1e-9)
    share = 0.5 * math.erfc(z / math.sqrt(2.0))
    extrapolated = -math.log2(share) if share > 2.0**-_MAX_BITS else _MAX_BITS
    by_rank = math.log2((len(others) + 1) / rank)
    # Where others were likelier the rank says it; where none was, only that it is above log2 of their number.
    bits = by_rank if rank > 1 else max(extrapolated, 0.0)
    return Exposure(bits=min(bits, _MAX_BITS), rank=rank, candidates=len(others))


def _another(canary: bytes, number: int) -> bytes:
    """A text of the canary's form; drawn by hashing, so that all ranks draw the same."""
    drawn = hashlib.sha256(b"stoker exposure candidate\0" + canary + number.to_bytes(4, "big")).hexdigest()
    return _PREFIX + drawn[:32].encode()


def _nats(model: nn.Module, tokens: Sequence[Sequence[int]], device: torch.device) -> list[float]:
    """-ln p of each row after its first token."""
    longest = max(len(row) for row in tokens)
    padded = torch.zeros((len(tokens), longest), dtype=torch.int64)
    inside = torch.zeros((len(tokens), longest - 1), dtype=torch.float32)
    for number, row in enumerate(tokens):
        padded[number, : len(row)] = torch.tensor(row)
        inside[number, : len(row) - 1] = 1.0
    padded, inside = padded.to(device), inside.to(device)
    logits = model(padded[:, :-1]).float()
    losses = functional.cross_entropy(logits.flatten(0, 1), padded[:, 1:].flatten(), reduction="none")
    found: list[float] = (losses.view_as(inside) * inside).double().sum(1).tolist()
    return found
