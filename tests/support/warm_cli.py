"""The `stoker` command from a process that has imported it already: for tests of many commands in a row.

    with warm_commands() as commands:
        home = WarmHome(place, environment, commands)

Each command is a process of its own, forked from one that has done nothing but import; it gets its arguments,
environment and working folder as any other, and ends by `stoker.cli.main`. Only the second of importing is
saved.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from support.cli_home import CliHome, Done

_SERVER: Final = Path(__file__).parent / "warm_cli_server.py"


@dataclass(frozen=True, slots=True)
class Commands:
    """A process that waits for commands on its standard input."""

    process: subprocess.Popen[str]

    def run(self, arguments: tuple[str, ...], environment: Mapping[str, str], folder: Path) -> Done:
        assert self.process.stdin is not None and self.process.stdout is not None
        with tempfile.TemporaryDirectory() as said:
            order = {"arguments": arguments, "environment": environment, "folder": str(folder), "said": said}
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
            assert answer, "the process that starts commands has ended"
            return Done(
                int(answer), (Path(said) / "out").read_text("utf-8"), (Path(said) / "err").read_text("utf-8")
            )


@contextlib.contextmanager
def warm_commands() -> Iterator[Commands]:
    """Until the end of the block."""
    with subprocess.Popen(
        [sys.executable, str(_SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Commands(process)


@dataclass(frozen=True, slots=True)
class WarmHome(CliHome):
    """A CliHome whose commands come from such a process."""

    commands: Commands = field(kw_only=True)

    def stoker(self, *arguments: str, code: int = 0, by: str = "asker", **more: Any) -> Done:
        """See CliHome."""
        assert not more, more
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.place),
            "STOKER_HOME": str(self.root),
            "STOKER_IDENTITY": by,
            **self.environment,
        }
        done = self.commands.run(arguments, environment, self.place)
        assert done.code == code, f"{arguments} ended with {done.code}, not {code}\n{done.out}\n{done.err}"
        return done
