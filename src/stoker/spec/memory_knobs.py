"""Which settings of a run make its ranks hold less. See docs/design/layout.md, "Out of memory".

None of them changes what is learnt: losses are those of the run as it was, on every layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from stoker.spec.layout import LayoutSpec, Recompute
from stoker.spec.model import ModelSpec
from stoker.spec.run import RunSpec

LOSS_CHUNKS: Final = 8
"""In how many pieces logits are proposed to exist."""

_MORE: Final = {
    Recompute.NONE: (Recompute.SELECTIVE, Recompute.FULL),
    Recompute.SELECTIVE: (Recompute.FULL,),
    Recompute.BUDGET: (Recompute.FULL,),
    Recompute.FULL: (),
}
"""What keeps less than each, the quicker first."""


@dataclass(frozen=True, slots=True)
class Knob:
    """`overrides` of the run file, why they help, and the run with them."""

    overrides: str
    why: str
    spec: RunSpec

    def __str__(self) -> str:
        return f"{self.overrides} ({self.why})"


def step_knobs(spec: RunSpec) -> Iterator[Knob]:
    """What makes the activations of a pass fewer, the cheapest first; only what may run."""
    layout = spec.layout.resolved(spec.launch.ranks)
    rows = spec.train.global_batch // layout.data_ranks
    for pieces in range(layout.micro_batches + 1, rows + 1):
        if rows % pieces == 0:
            why = f"{rows // pieces} rows at a time instead of {rows // layout.micro_batches}"
            found = _knob(spec, why, micro_batches=pieces)
            if found is not None:
                yield found
                break
    for way in _MORE[layout.recompute]:
        what = "cheap operators" if way is Recompute.SELECTIVE else "blocks"
        found = _knob(spec, f"{what} are computed again on the way back", recompute=way)
        if found is not None:
            yield found
    if isinstance(spec.trained, ModelSpec) and layout.loss_chunks < LOSS_CHUNKS:
        found = _knob(spec, f"logits of 1/{LOSS_CHUNKS} of the tokens at a time", loss_chunks=LOSS_CHUNKS)
        if found is not None:
            yield found


def state_knobs(spec: RunSpec, *, offload: bool) -> Iterator[Knob]:
    """What makes a rank's share of weights, gradients and optimizer state smaller; only what may run.

    `offload`: the device has a memory of its own, so the host's helps.
    """
    layout = spec.layout
    if layout.dp_replicate > 1:
        found = _knob(spec, "shards instead of copies", dp_replicate=1, dp_shard=0)
        if found is not None:
            yield found
    if offload and not layout.cpu_offload:
        found = _knob(spec, "they lie in the host's memory between their uses", cpu_offload=True)
        if found is not None:
            yield found
    ranks = 2 * spec.launch.ranks
    wider = replace(spec, launch=replace(spec.launch, ranks=ranks))
    shards = {"dp_shard": 2 * layout.dp_shard} if layout.dp_shard else {}
    found = _knob(wider, "each has half of them", **shards)
    if found is not None:
        yield replace(found, overrides=" ".join((f"launch.ranks={ranks}", found.overrides)).strip())


def _knob(spec: RunSpec, why: str, **changes: object) -> Knob | None:
    """None where no such run may begin."""
    layout: LayoutSpec = replace(spec.layout, **changes)  # type: ignore[arg-type]
    changed = replace(spec, layout=layout)
    if any(True for _ in (*layout.problems(), *changed.problems())):
        return None
    said = " ".join(f"layout.{name}={str(value).lower()}" for name, value in changes.items())
    return Knob(said, why, changed)
