"""A real Slurm for tests: tests/testbed/slurm-up.sh in a folder of its own, ended by the pids it recorded."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SCRIPTS: Final = Path(__file__).parents[1] / "testbed"
_OFFSETS: Final = (1, 2, 3, 4, 900)
"""Beside the base port: four nodes, and the controller."""


@dataclass(frozen=True, slots=True)
class Slurm:
    """A running Slurm. `root` holds everything it writes; commands find it by SLURM_CONF = `conf`."""

    root: Path

    @property
    def conf(self) -> Path:
        return self.root / "etc/slurm.conf"

    def queue(self) -> list[str]:
        """The names of all jobs that wait or run."""
        listed = subprocess.run(
            ["squeue", "--noheader", "--format=%j"],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "SLURM_CONF": str(self.conf)},
        )
        return listed.stdout.split()


@contextmanager
def slurm_testbed() -> Iterator[Slurm]:
    """Four nodes on this machine; the folder is short, since it holds a socket, and is removed at the end."""
    root = Path(tempfile.mkdtemp(prefix="stoker-slurm-"))
    try:
        root.chmod(0o755)
        environment = {**os.environ, "BASEPORT": str(_free_base_port())}
        up = [str(_SCRIPTS / "slurm-up.sh"), "--nodes", "4", "--root", str(root)]
        subprocess.run(up, check=True, env=environment, stdout=subprocess.DEVNULL)
        yield Slurm(root)
    finally:
        subprocess.run([str(_SCRIPTS / "slurm-down.sh"), "--root", str(root)], check=True)
        shutil.rmtree(root, ignore_errors=True)


def _free_base_port() -> int:
    for base in range(21_000 + os.getpid() % 1000 * 10, 60_000, 13):
        with ExitStack() as held:
            try:
                for offset in _OFFSETS:
                    each = held.enter_context(socket.socket())
                    each.bind(("127.0.0.1", base + offset))
            except OSError:
                continue
            return base
    raise AssertionError("no ports are free")
