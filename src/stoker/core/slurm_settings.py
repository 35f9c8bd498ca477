"""`[slurm]` in `stoker.toml`: what the site's Slurm is asked for with every run. See docs/design/slurm.md.

It is no part of a run file: a run goes on here or there, and is the same run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

LEAST_EARLY_S: Final = 10
LEAST_LOST_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class SlurmSettings:
    """`early_s` before the time is up a run saves a checkpoint and leaves; a supervisor that gives no sign
    for `lost_after_s` is looked after. `switches` (0: anywhere) bounds over how many a run may spread, which
    is waited for `switches_wait_minutes`. `exclude` are nodes to keep off. `options` are further ones of
    sbatch.
    """

    partition: str = ""
    account: str = ""
    time_limit_minutes: int = 0
    early_s: int = 120
    lost_after_s: float = 4.0
    spare_nodes: int = 0
    exclude: tuple[str, ...] = ()
    switches: int = 0
    switches_wait_minutes: int = 0
    options: tuple[str, ...] = ()

    def problems(self) -> Iterator[str]:
        for name in ("time_limit_minutes", "spare_nodes", "switches", "switches_wait_minutes"):
            if getattr(self, name) < 0:
                yield f"slurm.{name} is {getattr(self, name)}; it must be at least 0"
        if self.early_s < LEAST_EARLY_S:
            yield f"slurm.early_s is {self.early_s}; a checkpoint needs at least {LEAST_EARLY_S} seconds"
        if self.lost_after_s < LEAST_LOST_S:
            yield f"slurm.lost_after_s is {self.lost_after_s}; signs come twice a second, so at least 2"
        if self.time_limit_minutes and self.time_limit_minutes * 60 <= self.early_s:
            yield "slurm.time_limit_minutes is no longer than slurm.early_s; no step would be made"
