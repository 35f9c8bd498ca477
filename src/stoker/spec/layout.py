"""How a run is laid over its ranks: degrees on the mesh axes, the pipeline's schedule, what is recomputed.

Every rule is an invariant that either holds or is told with all its values; the nearest layout that keeps
them all is found by `stoker.spec.layout_search`. The axes and rules are explained in docs/design/layout.md.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from stoker.core.errors import StokerError
from stoker.spec.model import ModelSpec
from stoker.spec.moderation import ModerationSpec
from stoker.spec.speech import SpeechSpec
from stoker.spec.vision import VisionSpec


class InvalidLayout(StokerError):
    """A layout that does not fit its model, its batch or its ranks; the message lists every broken rule."""

    exit_code = 105


class Schedule(enum.StrEnum):
    """In which order a pipeline's ranks work on micro-batches."""

    ONE_FORWARD_ONE_BACKWARD = "1f1b"
    """One stage a rank; forward and backward in turn (Narayanan et al. 2019)."""

    INTERLEAVED = "interleaved"
    """`stages_per_rank` stages a rank, dealt in rounds: a smaller bubble (Narayanan et al. 2021)."""

    ZERO_BUBBLE = "zero_bubble"
    """Interleaved, and the weights' gradients fill the bubble (Qi et al. 2024)."""

    ZBV = "zbv"
    """Zero bubble with two stages a rank, there and back: the first rank also has the last stage."""

    DUALPIPEV = "dualpipev"
    """There and back, with forward and backward of two micro-batches side by side (DeepSeek-AI 2024)."""


class Recompute(enum.StrEnum):
    """Which activations of the forward pass are computed again for the backward pass instead of kept."""

    NONE = "none"
    SELECTIVE = "selective"
    """All but the results of matrix products and attention."""
    FULL = "full"
    """All but a block's input."""
    BUDGET = "budget"
    """As many as keep activations within `recompute_budget`; the compiler chooses."""


class CompileUnit(enum.StrEnum):
    """What torch.compile gets."""

    NONE = "none"
    BLOCK = "block"
    WHOLE = "whole"


class ContextParallelism(enum.StrEnum):
    """How ranks that share a sequence compute its attention."""

    ZIGZAG = "zigzag"
    """Each has an early and a late piece of the sequence, and gathers all keys and values."""

    ULYSSES = "ulysses"
    """Each exchanges its piece of the sequence for its share of the heads, and back (Jacobs et al. 2023)."""


class Stack(Protocol):
    """What tensor parallelism needs to know of a stack of blocks."""

    @property
    def heads(self) -> int:
        """How many attention heads."""
        ...

    @property
    def ffn_width(self) -> int:
        """The hidden elements of a feed-forward."""
        ...


V_SCHEDULES = frozenset({Schedule.ZBV, Schedule.DUALPIPEV})
SPLIT_BACKWARD = frozenset({Schedule.ZERO_BUBBLE, Schedule.ZBV, Schedule.DUALPIPEV})
"""Schedules that make the gradients of inputs and of weights at different times."""

AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
"""The axes whose product is the number of ranks, outermost first; ep lies inside dp_shard and cp."""


@dataclass(frozen=True, slots=True)
class LayoutSpec:
    """Degrees on the mesh axes and how the step uses them. `dp_shard` 0 is: as many ranks as are left.

    `micro_batches` is into how many pieces a step cuts each data rank's rows, with or without a pipeline.
    `stages_per_rank` is of the interleaved schedules; `recompute_budget` the share of activations that is
    kept; `loss_chunks` in how many pieces logits exist, one after the other.
    """

    pp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 0
    cp: int = 1
    tp: int = 1
    ep: int = 1
    micro_batches: int = 1
    schedule: Schedule = Schedule.ONE_FORWARD_ONE_BACKWARD
    stages_per_rank: int = 2
    sequence_parallel: bool = True
    context: ContextParallelism = ContextParallelism.ZIGZAG
    recompute: Recompute = Recompute.NONE
    recompute_budget: float = 0.5
    compile: CompileUnit = CompileUnit.NONE
    loss_chunks: int = 1
    cpu_offload: bool = False

    def problems(
        self,
        model: object | None = None,
        vocabulary: int | None = None,
        sequence_tokens: int | None = None,
        global_batch: int | None = None,
        ranks: int | None = None,
    ) -> Iterator[str]:
        """One sentence for each rule that is broken, with every value; what is None is not looked at.

        `model` is the specification of any family; `sequence_tokens` are those a decoder sees at once, one
        less than a sample has.
        """
        broken = list(self._own_problems())
        yield from broken
        if broken or (model, vocabulary, sequence_tokens, global_batch, ranks) == (None,) * 5:
            return  # the rules below count with these degrees
        if ranks is not None:
            sized = self._ranks_problem(ranks)
            if sized is not None:
                yield sized
                return
        known = self.resolved(ranks) if ranks is not None else self
        yield from known._pipeline_problems(model)
        if known.dp_shard:
            if global_batch is not None:
                yield from known._batch_problems(global_batch)
            if known.dp_shard * known.cp % known.ep:
                yield (
                    f"ep is {known.ep}, dp_shard {known.dp_shard} and cp {known.cp}; "
                    f"ep must divide dp_shard · cp = {known.dp_shard * known.cp}."
                )
        if isinstance(model, ModelSpec):
            yield from known._model_problems(model)
        elif model is not None:
            yield from known._encoder_problems(model)
        if vocabulary is not None and vocabulary % self.tp:
            yield f"tp is {self.tp} and the vocabulary {vocabulary}; tp must divide it."
        if sequence_tokens is not None:
            yield from self._sequence_problems(sequence_tokens)

    def _own_problems(self) -> Iterator[str]:
        for name in (
            "pp",
            "dp_replicate",
            "cp",
            "tp",
            "ep",
            "micro_batches",
            "stages_per_rank",
            "loss_chunks",
        ):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; it must be at least 1."
        if self.dp_shard < 0:
            yield f"dp_shard is {self.dp_shard}; it must be at least 1, or 0 for what is left."
        if not 0.0 < self.recompute_budget < 1.0:
            yield f"recompute_budget is {self.recompute_budget}; it must be above 0 and below 1."
        if self.recompute is Recompute.BUDGET and self.compile is CompileUnit.NONE:
            yield "recompute is 'budget' and compile 'none'; the compiler chooses, so it has to compile."
        if self.recompute is Recompute.SELECTIVE and self.pp > 1 and self.schedule in SPLIT_BACKWARD:
            yield (
                f"recompute is 'selective', pp {self.pp} and schedule '{self.schedule}', which goes back "
                "twice through a block; what selective recompute kept is gone by then: take 'full' or 'none'."
            )
        if self.compile is CompileUnit.WHOLE and self.pp > 1:
            yield f"compile is 'whole' and pp {self.pp}; a pipeline runs stages, so compile must be 'block'."

    def _ranks_problem(self, ranks: int) -> str | None:
        fixed = self.pp * self.dp_replicate * self.cp * self.tp
        if self.dp_shard:
            product = fixed * self.dp_shard
            if product == ranks:
                return None
            return (
                f"pp · dp_replicate · dp_shard · cp · tp = {self.pp} · {self.dp_replicate} · "
                f"{self.dp_shard} · {self.cp} · {self.tp} = {product}, and launch.ranks is {ranks}; "
                "they must be equal."
            )
        if ranks % fixed == 0 and ranks >= fixed:
            return None
        return (
            f"pp · dp_replicate · cp · tp = {self.pp} · {self.dp_replicate} · {self.cp} · {self.tp} = "
            f"{fixed}, and launch.ranks is {ranks}; with dp_shard 0, for what is left, the "
            "product must divide it."
        )

    def _pipeline_problems(self, model: object | None) -> Iterator[str]:
        if self.pp == 1:
            return
        stages = self.stages
        if isinstance(model, ModelSpec | VisionSpec | SpeechSpec) and model.layers < stages:
            yield (
                f"layers is {model.layers}, pp {self.pp} and a rank has {stages // self.pp} stages under "
                f"schedule '{self.schedule}'; each of the {stages} stages needs a block."
            )
        if self.schedule in (Schedule.INTERLEAVED, Schedule.ZERO_BUBBLE):
            rounds = max(1, self.micro_batches // self.pp)
            if self.micro_batches % rounds:
                yield (
                    f"micro_batches is {self.micro_batches} and pp {self.pp}; schedule '{self.schedule}' "
                    f"works in {rounds} rounds, which must divide micro_batches."
                )
            if self.stages_per_rank < 2:
                yield f"stages_per_rank is 1 and schedule '{self.schedule}'; interleaving needs at least 2."
        least = self._least_micro_batches
        if self.micro_batches < least:
            yield (
                f"micro_batches is {self.micro_batches}, pp {self.pp} and schedule '{self.schedule}' with "
                f"{stages} stages; micro_batches must be at least {least}."
            )
        if isinstance(model, ModelSpec) and model.tied_embeddings:
            yield (
                f"pp is {self.pp} and tied_embeddings true; the first and the last stage cannot share "
                "a matrix, so tied_embeddings must be false."
            )

    def _batch_problems(self, global_batch: int) -> Iterator[str]:
        pieces = self.data_ranks * self.micro_batches
        if global_batch % pieces:
            yield (
                f"train.global_batch is {global_batch} and dp_replicate · dp_shard · micro_batches = "
                f"{self.dp_replicate} · {self.dp_shard} · {self.micro_batches} = {pieces}; "
                "the product must divide it."
            )

    def _encoder_problems(self, model: object) -> Iterator[str]:
        if self.ep > 1:
            yield f"ep is {self.ep} and the model has no experts; ep must be 1."
        one_way = isinstance(model, SpeechSpec) or (isinstance(model, VisionSpec) and not model.masked)
        for name in ("pp", "cp"):
            if getattr(self, name) > 1 and not one_way:
                yield (
                    f"{name} is {getattr(self, name)}; the model has more than one way through its blocks, "
                    "so it must be 1."
                )
        for place, stack in stacks_of(model):
            if (
                self.cp > 1
                and self.context is ContextParallelism.ULYSSES
                and stack.heads % (self.tp * self.cp)
            ):
                yield (
                    f"cp is {self.cp}, tp {self.tp}, context 'ulysses' and {place}heads {stack.heads}; "
                    f"tp · cp = {self.tp * self.cp} must divide it."
                )
            for name in ("heads", "ffn_width"):
                if getattr(stack, name) % self.tp:
                    yield f"tp is {self.tp} and {place}{name} {getattr(stack, name)}; tp must divide it."

    def _model_problems(self, model: ModelSpec) -> Iterator[str]:
        sizes = {"heads": model.heads, "kv_heads": model.kv_heads, "ffn_width": model.ffn_width}
        for name, size in sizes.items():
            if size % self.tp:
                yield f"tp is {self.tp} and {name} {size}; tp must divide it."
        if self.cp > 1 and self.context is ContextParallelism.ULYSSES:
            for name in ("heads", "kv_heads"):
                if sizes[name] % (self.tp * self.cp):
                    yield (
                        f"cp is {self.cp}, tp {self.tp}, context 'ulysses' and {name} {sizes[name]}; "
                        f"tp · cp = {self.tp * self.cp} must divide it."
                    )
        experts = model.moe.experts if model.moe is not None else 0
        if self.ep > 1 and not experts:
            yield f"ep is {self.ep} and the model has no experts; ep must be 1."
        elif self.ep > 1 and experts % self.ep:
            yield f"ep is {self.ep} and experts {experts}; ep must divide it."

    def _sequence_problems(self, sequence_tokens: int) -> Iterator[str]:
        zigzag = self.cp > 1 and self.context is ContextParallelism.ZIGZAG
        pieces = 2 * self.cp if zigzag else self.cp
        if sequence_tokens % pieces:
            what = f"2 · cp = {pieces} (each rank has two pieces)" if zigzag else f"cp = {pieces}"
            yield f"cp is {self.cp} and a sequence has {sequence_tokens} tokens; {what} must divide it."
        elif self.tp > 1 and self.sequence_parallel and sequence_tokens // self.cp % self.tp:
            yield (
                f"tp is {self.tp}, cp {self.cp}, sequence_parallel true and a sequence has {sequence_tokens} "
                f"tokens; tp must divide the {sequence_tokens // self.cp} of a rank."
            )

    def resolved(self, ranks: int) -> LayoutSpec:
        """The same with `dp_shard` said, for as many ranks. Raises InvalidLayout when there is no such."""
        problem = self._ranks_problem(ranks)
        if problem is not None:
            raise InvalidLayout(problem, hint="Change [layout] or launch.ranks.")
        return replace(self, dp_shard=ranks // (self.pp * self.dp_replicate * self.cp * self.tp))

    def validate(
        self,
        model: object,
        vocabulary: int | None,
        sequence_tokens: int | None,
        global_batch: int,
        ranks: int,
    ) -> None:
        """Raise InvalidLayout with every broken rule, and the nearest layout that keeps all of them."""
        problems = list(self.problems(model, vocabulary, sequence_tokens, global_batch, ranks))
        if not problems:
            return
        # The search asks this class what is legal, so it can only be loaded later.
        from stoker.spec.layout_search import nearest_sentence

        raise InvalidLayout(
            f"This layout cannot run: {' '.join(problems)}",
            hint=nearest_sentence(self, model, vocabulary, sequence_tokens, global_batch, ranks),
        )

    @property
    def data_ranks(self) -> int:
        """How many shares the global batch has; `dp_shard` must be known."""
        return self.dp_replicate * self.dp_shard

    @property
    def stages(self) -> int:
        """How many stages the pipeline has over all its ranks."""
        if self.pp == 1:
            return 1
        if self.schedule is Schedule.ONE_FORWARD_ONE_BACKWARD:
            return self.pp
        return self.pp * (2 if self.schedule in V_SCHEDULES else self.stages_per_rank)

    @property
    def _least_micro_batches(self) -> int:
        """With fewer, torch's schedules refuse, or give wrong gradients in silence (decision 0631)."""
        if self.schedule in (Schedule.ZERO_BUBBLE, Schedule.DUALPIPEV):
            return 2 * self.pp
        return 2 * self.pp - 1 if self.schedule is Schedule.ZBV else self.pp

    @property
    def plain(self) -> bool:
        """Whether a step is one pass over sharded data parallelism, and nothing else."""
        degrees = (self.pp, self.dp_replicate, self.cp, self.tp, self.ep, self.micro_batches)
        return max(degrees) == 1


def stacks_of(model: object) -> Iterator[tuple[str, Stack]]:
    """The stacks of blocks of an encoder's specification, each with the place of its keys in the run file."""
    if isinstance(model, VisionSpec):
        yield "", model
        if model.masked:
            yield "decoder's ", model.decoder
    elif isinstance(model, ModerationSpec):
        if model.text is not None:
            yield "text.", model.text
        if model.image is not None:
            yield "image.", model.image
    elif isinstance(model, SpeechSpec):
        yield "", model


def log_distance(one: int, other: int) -> float:
    """How far apart two degrees are, in doublings."""
    return abs(math.log2(one) - math.log2(other))
