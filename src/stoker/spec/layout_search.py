"""The legal layout that is nearest to one that is not. See docs/design/layout.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, Final

from stoker.spec.layout import (
    AXES,
    SPLIT_BACKWARD,
    CompileUnit,
    ContextParallelism,
    LayoutSpec,
    Recompute,
    Schedule,
    log_distance,
)

WEIGHTS: Final = {"pp": 1.0, "dp_replicate": 0.9, "dp_shard": 0.5, "cp": 1.0, "tp": 1.0}
"""What a doubling on an axis costs: dp_shard is what gives way."""

OTHER_SCHEDULE: Final = 2.0
EXPERTS_WEIGHT: Final = 1.0
MICRO_BATCHES_WEIGHT: Final = 0.25
FLAG: Final = 1.5


def nearest(
    layout: LayoutSpec,
    model: object | None = None,
    vocabulary: int | None = None,
    sequence_tokens: int | None = None,
    global_batch: int | None = None,
    ranks: int = 1,
) -> LayoutSpec | None:
    """The legal layout on `ranks` ranks for which the fewest doublings change; None when there is none.

    The schedule, the way of context parallelism and sequence parallelism may give way too, at a price.
    """
    start = _sane(layout)
    best: LayoutSpec | None = None
    best_cost = float("inf")
    known = (model, vocabulary, sequence_tokens, global_batch, ranks)
    for axes_cost, axes in sorted(_axes(start, ranks), key=lambda pair: pair[0]):
        if axes_cost >= best_cost:
            break
        for way_cost, way in _ways(axes):
            for cost, candidate in _fillings(way, start, global_batch):
                total = axes_cost + way_cost + cost
                if total < best_cost and not any(True for _ in candidate.problems(*known)):
                    best, best_cost = candidate, total
    return best


def nearest_sentence(
    layout: LayoutSpec,
    model: object | None,
    vocabulary: int | None,
    sequence_tokens: int | None,
    global_batch: int | None,
    ranks: int,
) -> str:
    """What to write instead, as overrides of a run file."""
    found = nearest(layout, model, vocabulary, sequence_tokens, global_batch, ranks)
    if found is None:
        return "No layout fits these values: change the model, train.global_batch or launch.ranks."
    return f"The nearest layout that fits: {described(found, layout)}."


def described(found: LayoutSpec, asked: LayoutSpec) -> str:
    """The degrees of `found`, and whatever else is not as `asked`, as overrides."""
    shown = [
        f"layout.{field.name}={str(getattr(found, field.name)).lower()}"
        for field in fields(found)
        if getattr(found, field.name) != getattr(asked, field.name)
        or (field.name in AXES and getattr(found, field.name) != 1)
    ]
    return " ".join(shown) or "layout.dp_shard=0"


def _sane(layout: LayoutSpec) -> LayoutSpec:
    names = ("pp", "dp_replicate", "cp", "tp", "ep", "micro_batches", "stages_per_rank", "loss_chunks")
    least = {name: max(1, getattr(layout, name)) for name in names}
    budget = layout.recompute_budget if 0.0 < layout.recompute_budget < 1.0 else 0.5
    compiled = layout.compile
    if layout.recompute is Recompute.BUDGET and compiled is CompileUnit.NONE:
        compiled = CompileUnit.BLOCK
    if compiled is CompileUnit.WHOLE and layout.pp > 1:
        compiled = CompileUnit.BLOCK
    recompute = layout.recompute
    if recompute is Recompute.SELECTIVE and layout.pp > 1 and layout.schedule in SPLIT_BACKWARD:
        recompute = Recompute.FULL
    return replace(
        layout,
        **least,
        recompute=recompute,
        dp_shard=max(0, layout.dp_shard),
        recompute_budget=budget,
        compile=compiled,
    )


def _axes(start: LayoutSpec, ranks: int) -> Iterator[tuple[float, LayoutSpec]]:
    divisors = [each for each in range(1, ranks + 1) if ranks % each == 0]

    def deal(left: int, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        if len(names) == 1:
            yield {names[0]: left}
            return
        for degree in divisors:
            if degree > left:
                break
            if left % degree == 0:
                for rest in deal(left // degree, names[1:]):
                    yield {names[0]: degree, **rest}

    for degrees in deal(ranks, AXES):
        cost = sum(
            WEIGHTS[name] * log_distance(degree, getattr(start, name))
            for name, degree in degrees.items()
            if getattr(start, name) != 0
        )
        yield cost, replace(start, **degrees)


def _ways(axes: LayoutSpec) -> Iterator[tuple[float, LayoutSpec]]:
    schedules = [(0.0, axes.schedule)]
    if axes.pp > 1:
        schedules += [(OTHER_SCHEDULE, schedule) for schedule in Schedule if schedule is not axes.schedule]
    contexts = [(0.0, axes.context)]
    if axes.cp > 1:
        contexts += [(FLAG, context) for context in ContextParallelism if context is not axes.context]
    flags = [(0.0, axes.sequence_parallel)]
    if axes.tp > 1 and axes.sequence_parallel:
        flags.append((FLAG, False))
    for schedule_cost, schedule in schedules:
        for context_cost, context in contexts:
            for flag_cost, flag in flags:
                yield (
                    schedule_cost + context_cost + flag_cost,
                    replace(axes, schedule=schedule, context=context, sequence_parallel=flag),
                )


def _fillings(
    way: LayoutSpec, start: LayoutSpec, global_batch: int | None
) -> Iterator[tuple[float, LayoutSpec]]:
    """ep and micro_batches: every degree that divides what it is taken from."""
    shards = way.dp_shard * way.cp
    for ep in sorted({1, *(each for each in range(1, min(shards, 4096) + 1) if shards % each == 0)}):
        cost = EXPERTS_WEIGHT * log_distance(ep, start.ep)
        rows = max(1, (global_batch or way.data_ranks * start.micro_batches) // way.data_ranks)
        pieces = {start.micro_batches, *(each for each in range(1, min(rows, 4096) + 1) if rows % each == 0)}
        for micro_batches in sorted(pieces):
            yield (
                cost + MICRO_BATCHES_WEIGHT * log_distance(micro_batches, start.micro_batches),
                replace(way, ep=ep, micro_batches=micro_batches),
            )
