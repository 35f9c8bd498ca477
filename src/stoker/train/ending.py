"""What a run shows at its end: bits per byte beside its baselines, and a redacted sample.

See docs/design/train.md. All ranks call this, since the model is spread over them; rank 0 tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, cast

import numpy as np
import torch
from torch import nn

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock
from stoker.core.events import EventKind, Section
from stoker.feed.source import FeedDataset, SampleDataset, SampleSplit
from stoker.spec.recipe import Kind
from stoker.spec.run import RunSpec
from stoker.train.baselines import BigramModel, evaluate_compressors
from stoker.train.device import HOST
from stoker.train.evaluate import Evaluation, evaluate_model
from stoker.train.exposure import Exposure, find_canary, measure_exposure
from stoker.train.generate import generate
from stoker.train.telemetry import Telemetry
from stoker.train.token_bytes import TokenBytes

END_OF_TEXT: Final = 0
MAX_SAMPLE_CHARACTERS: Final = 8000


def end_run(
    model: nn.Module,
    dataset: SampleDataset,
    tokenizer: bytearray,
    token_bytes: TokenBytes,
    *,
    spec: RunSpec,
    others: Mapping[str, FeedDataset] = MappingProxyType({}),
    rows: int,
    leads: bool,
    telemetry: Telemetry,
    clock: Clock,
    device: torch.device = HOST,
) -> None:
    """Evaluate and write a sample on `device`, as far as `spec.evaluate` asks for it.

    Of a mixture, `dataset` is the first part, which the baselines are compared on; on each of `others`, by
    name, the model's bits per byte are told as "model on NAME".
    """
    telemetry.enter(Section.EVALUATE)
    for evaluation in _evaluations(model, dataset, token_bytes, spec, rows, telemetry, clock, device):
        if leads:
            tell_evaluation(evaluation, telemetry)
    for name, other in others.items() if spec.evaluate.heldout else ():
        heldout = cast("SampleSplit", other.split("heldout"))  # the mixture has refused any other form
        enter = telemetry.enter
        found = evaluate_model(
            model, heldout, token_bytes, rows=rows, clock=clock, section=enter, device=device
        )
        heldout.wipe()
        if leads:
            tell_evaluation(replace(found, name=f"model on {name}"), telemetry)
    if spec.evaluate.exposure_candidates > 0:
        for name, each in {spec.datasets[0]: dataset, **others}.items():
            exposure = _exposure(model, each, tokenizer, token_bytes, spec, telemetry, device)
            if exposure is not None and leads:
                telemetry.emit(
                    EventKind.EXPOSURE,
                    dataset=name,
                    bits=round(exposure.bits, 3),
                    rank_among=exposure.rank,
                    candidates=exposure.candidates,
                )
    if spec.evaluate.sample_tokens > 0:
        text = _sample(model, dataset, tokenizer, token_bytes, spec, telemetry, device)
        if leads:
            telemetry.emit(EventKind.SAMPLE, text=text[:MAX_SAMPLE_CHARACTERS])


def _evaluations(
    model: nn.Module,
    dataset: SampleDataset,
    token_bytes: TokenBytes,
    spec: RunSpec,
    rows: int,
    telemetry: Telemetry,
    clock: Clock,
    device: torch.device,
) -> Iterator[Evaluation]:
    if not spec.evaluate.heldout:
        return
    heldout = dataset.split("heldout")
    enter = telemetry.enter
    yield evaluate_model(model, heldout, token_bytes, rows=rows, clock=clock, section=enter, device=device)
    if spec.evaluate.baselines:
        counted = dataset.split("train")
        bigram = BigramModel.count(counted, len(token_bytes.table), section=telemetry.enter)
        counted.wipe()
        yield bigram.evaluate(heldout, token_bytes, clock=clock, section=telemetry.enter)
        yield from evaluate_compressors(heldout, token_bytes, clock=clock, section=telemetry.enter)
    heldout.wipe()


def tell_evaluation(evaluation: Evaluation, telemetry: Telemetry, **more: JsonValue) -> None:
    """One evaluation's figures, as an event; `more` are further fields of it."""
    telemetry.emit(
        EventKind.EVALUATION,
        name=evaluation.name,
        bits_per_byte=evaluation.bits_per_byte,
        bytes=evaluation.bytes,
        tokens=evaluation.tokens,
        seconds=round(evaluation.seconds, 6),
        **more,
    )


def _exposure(
    model: nn.Module,
    dataset: FeedDataset,
    tokenizer: bytearray,
    token_bytes: TokenBytes,
    spec: RunSpec,
    telemetry: Telemetry,
    device: torch.device,
) -> Exposure | None:
    """How well the model knows the dataset's canary; None where the dataset holds none."""
    split = cast("SampleSplit", dataset.split("train"))
    canary = find_canary(split, token_bytes)
    split.wipe()
    if canary is None:
        return None
    return measure_exposure(
        model,
        canary,
        lambda text: encode(tokenizer, text),
        context_tokens=split.sample_tokens - 1,
        candidates=spec.evaluate.exposure_candidates,
        section=telemetry.enter,
        device=device,
    )


def _sample(
    model: nn.Module,
    dataset: SampleDataset,
    tokenizer: bytearray,
    token_bytes: TokenBytes,
    spec: RunSpec,
    telemetry: Telemetry,
    device: torch.device,
) -> str:
    prompt = encode(tokenizer, spec.evaluate.sample_prompt) or [END_OF_TEXT]
    written = generate(
        model,
        prompt,
        tokens=spec.evaluate.sample_tokens,
        context_tokens=dataset.split("train").sample_tokens - 1,
        seed=spec.train.seed,
        section=telemetry.enter,
        device=device,
    )
    return redacted(token_bytes.decode(np.array(written)))


def encode(tokenizer: bytearray, text: str) -> list[int]:
    """The tokens of `text`, by the dataset's own tokenizer."""
    from tokenizers import Tokenizer

    ids: list[int] = Tokenizer.from_buffer(bytes(tokenizer)).encode(text, add_special_tokens=False).ids
    return ids


def redacted(text: bytes) -> str:
    """What may be shown of a model's own words: it may have learnt what a policy let through."""
    from stoker.intake.detect.scan import redact

    shown, _ = redact(text, tuple(Kind))
    return shown.decode(errors="replace")
