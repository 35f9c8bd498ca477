"""Forks one `stoker` command for each line of JSON on standard input; see warm_cli.py. Runs as a script."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

from stoker.cli.main import COMMANDS, main

_ODD_MACHINE: Final = Path(__file__).parent / "odd_machine" / "sitecustomize.py"
PATIENCE_S: Final = 600
"""A command that hangs is ended by SIGALRM, so that its test fails and does not hang too."""

_ROOMS: Final = (
    "stoker.fleet.liveness",
    "stoker.intake.prepare",
    "stoker.keys.audited",
    "stoker.keys.open",
    "stoker.keys.sweep",
    "stoker.keys.vaults.aws_kms",
    "stoker.keys.vaults.openbao",
    "stoker.ledger.access",
    "stoker.ledger.ledger",
    "stoker.promises.verify",
    "stoker.store.rewraps",
)


def _serve() -> None:
    """Read orders, fork, answer with exit codes."""
    for module in (*(lazy.target.partition(":")[0] for lazy in COMMANDS.values()), *_ROOMS):
        importlib.import_module(module)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(order: dict[str, Any]) -> NoReturn:
    """The command itself."""
    code: object = 1
    try:
        os.setsid()
        signal.alarm(PATIENCE_S)
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(Path(order["said"]) / name, os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(order["environment"])
        os.chdir(order["folder"])
        runpy.run_path(str(_ODD_MACHINE))
        sys.argv = ["stoker", *order["arguments"]]
        main(list(order["arguments"]))
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    _serve()
