"""`[nodes]` in `stoker.toml`: what a node is expected to have, and which programs judge it beside ours.

See docs/design/nodes.md. Zero, or an empty list, means that nothing is expected.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

LONGEST_CHECK_S: Final = 4.0
"""No limit of one check may be longer: the whole report has five seconds."""


class Severity(enum.StrEnum):
    """What a failed check asks for."""

    EVICT_NOW = "evict-now"
    """The node does harm, or does nothing: what runs on it is ended, and goes on elsewhere."""

    DRAIN_AFTER = "drain-after"
    """What runs on the node may end; nothing new is begun there."""


@dataclass(frozen=True, slots=True)
class ExternalCheck:
    """A program that judges the node and says so by its exit code, such as NHC, dcgmi or GCM's health checks.

    Codes in `ok` and `warn` mean that; every other code, and death by a signal, is a failure. What it prints
    is shown as evidence and never interpreted.
    """

    name: str
    command: tuple[str, ...]
    ok: tuple[int, ...] = (0,)
    warn: tuple[int, ...] = ()
    severity: Severity = Severity.DRAIN_AFTER
    limit_s: float = 1.0

    def problems(self) -> Iterator[str]:
        """What types cannot say."""
        if not self.command:
            yield f"the command of external {self.name!a} is empty"
        if not 0 < self.limit_s <= LONGEST_CHECK_S:
            named = f"limit_s = {self.limit_s} of external {self.name!a}"
            yield f"{named} is not above 0 and at most {LONGEST_CHECK_S}"


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What `stoker node check` holds a node to.

    `memory_bytes` is met within 5 %, since firmware keeps some. `writable` are folders that must take a
    file; `mounts` are mount points that must be there and answer. `interfaces` must be up; without any,
    every device that was brought up must have a carrier. `peer` is HOST:PORT of a node that throws away what
    it is sent (RFC 863) and then closes; `peer_bytes_per_s` is the least speed to it.
    `xid_window_s` and `kernel_window_s` say how far back the kernel's log is held against the node.
    """

    cpus: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    gpu_driver: str = ""
    gpu_power_cap_w: float = 0.0
    gpu_temperature_limit_c: float = 90.0
    infiniband_ports: int = 0
    infiniband_gbit_per_s: float = 0.0
    interfaces: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    disk_free_fraction: float = 0.05
    disk_latency_s: float = 0.5
    clock_offset_s: float = 0.1
    zombies: int = 20
    memory_corrected_errors: int = 1000
    interface_error_fraction: float = 1e-4
    loopback_bytes_per_s: float = 100e6
    peer: str = ""
    peer_bytes_per_s: float = 0.0
    xid_window_s: float = 3600.0
    kernel_window_s: float = 3600.0
    limit_s: float = 1.0
    external: tuple[ExternalCheck, ...] = ()

    def problems(self) -> Iterator[str]:
        """What types cannot say."""
        if not 0 < self.limit_s <= LONGEST_CHECK_S:
            yield f"limit_s = {self.limit_s} is not above 0 and at most {LONGEST_CHECK_S}"
        if not 0 <= self.disk_free_fraction < 1:
            yield f"disk_free_fraction = {self.disk_free_fraction} is no fraction"
        if self.peer and not self.peer.rpartition(":")[2].isdigit():
            yield f"peer = {self.peer!a} is not HOST:PORT"
        names = [each.name for each in self.external]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"external names {name!a} twice"
        for each in self.external:
            yield from each.problems()
