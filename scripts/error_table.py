"""Prints docs/design/errors.md from the error classes in the code."""

from __future__ import annotations

import importlib
import pkgutil

import stoker
from stoker.core.errors import ERROR_CLASSES, EXIT_CANCELLED, EXIT_DONE, EXIT_FINDING, EXIT_USAGE


def error_table() -> str:
    """The page as text: exit code, id, room, and the first line of each class's docstring."""
    for module in pkgutil.walk_packages(stoker.__path__, "stoker."):
        if not module.name.endswith("__main__") and ".migrations" not in module.name:
            importlib.import_module(module.name)
    lines = [
        "# Errors and exit codes",
        "",
        "Made by `python scripts/error_table.py > docs/design/errors.md`; a test compares page and code.",
        "",
        "| exit code | id | room | meaning |",
        "|---|---|---|---|",
        f"| {EXIT_DONE} | | | done |",
        f"| {EXIT_FINDING} | | | a finding: a check or a promise that does not hold |",
        f"| {EXIT_USAGE} | usage | cli | the command line cannot be understood |",
        f"| {EXIT_CANCELLED} | cancelled | cli | interrupted; the same command cleans up or continues |",
    ]
    for code, error in sorted(ERROR_CLASSES.items()):
        meaning = " ".join((error.__doc__ or "").split("\n\n")[0].split())
        lines.append(f"| {code} | {error.id} | {error.__module__.split('.')[1]} | {meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(error_table(), end="")
