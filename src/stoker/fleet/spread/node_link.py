"""The supervisor's end of one node: the process that is the link, and what has been heard over it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass, field
from typing import IO, Final

from stoker.core.atomic import naming_full_disk
from stoker.core.events import MAX_LINE_BYTES
from stoker.fleet.errors import AgentFailed
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.spread.node_lines import (
    FromHost,
    NodePlan,
    Over,
    ToHost,
    decode_from_host,
    encode_plan,
    encode_to_host,
)

_READ_BYTES: Final = 256 * 1024


@dataclass(slots=True)
class NodeLink:
    """One node of an attempt. `ranks` are its numbers of ranks; `heard_s` is when it last said anything."""

    node: str
    ranks: range
    process: subprocess.Popen[bytes]
    heard_s: float
    clock_ahead_s: float | None = None
    """How far our monotonic clock is ahead of the node's; None until it has said hello."""
    strangers: int = 0
    ended: bool = False
    """Nothing more is heard over it."""
    well: bool = False
    """It said that no process of the attempt is left there."""
    lost: bool = False
    released: bool = False
    """It was started ahead and is not needed: what it says is of no interest."""
    _partial: bytearray = field(default_factory=bytearray)

    @classmethod
    def start(
        cls, command: tuple[str, ...], plan: NodePlan, folder: RunFolder, ranks: range, now_s: float
    ) -> NodeLink:
        """Start the link's process, in a session of its own, and hand it the plan. Raises AgentFailed."""
        log = folder.agent_log(plan.attempt, plan.node)
        with naming_full_disk(log):
            said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise AgentFailed(f"No link to node {plan.node} could be started: {error.strerror}.") from error
        finally:
            os.close(said)
        link = cls(plan.node, ranks, process, now_s)
        os.set_blocking(link.fileno(), False)
        link._write(encode_plan(plan))
        return link

    def fileno(self) -> int:
        """For a selector: readable when the node has said something, or the link has ended."""
        return self._output.fileno()

    def tell(self, order: ToHost) -> None:
        """Say something; a link that has ended shows where it is read."""
        self._write(encode_to_host(order))

    def read(self) -> list[FromHost]:
        """What was said since. Raises AgentFailed on a line that does not end, BadEvent on nonsense."""
        try:
            data = os.read(self.fileno(), _READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        self.ended = not data
        self._partial += data
        said = []
        while (end := self._partial.find(b"\n")) >= 0:
            said.append(decode_from_host(bytes(self._partial[: end + 1])))
            del self._partial[: end + 1]
            self.well = self.well or isinstance(said[-1], Over)
        if len(self._partial) > MAX_LINE_BYTES:
            raise AgentFailed(f"Node {self.node} sent a line that does not end.", hint="Start the run again.")
        return said

    def hang_up(self) -> None:
        """Close our side: the host ends its ranks, then itself."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def kill(self) -> None:
        """SIGKILL to the process that is the link, and to its group; a host that lives sees it end."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def gone(self) -> bool:
        """Whether the process that is the link has ended; it is reaped then."""
        return self.process.poll() is not None

    def close(self) -> None:
        """Give the descriptors back."""
        self.hang_up()
        self._output.close()

    @property
    def _output(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def _write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        rest = memoryview(line)
        with contextlib.suppress(OSError, ValueError):
            while rest:
                rest = rest[self.process.stdin.write(rest) or 0 :]
