"""The batch script of a run: what is asked of Slurm, and the one command. See docs/design/slurm.md."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Final

from stoker.core.slurm import PASSED_ON, exported
from stoker.fleet.errors import LauncherRefused
from stoker.fleet.launchers import JobOrder

ALSO_PASSED_ON: Final = ("STOKER_TOKEN_FILE", "STOKER_PASSPHRASE_FILE", "SLURM_CONF")
"""They name files; what is secret in those stays there."""

_OURS: Final = (
    "requeue",
    "open-mode",
    "signal",
    "output",
    "export",
    "nodes",
    "no-kill",
    "comment",
    "job-name",
)


def batch_script(order: JobOrder) -> str:
    """The script for `sbatch`. Raises LauncherRefused for what would break what the run rests on."""
    options = "".join(f"#SBATCH {each}\n" for each in _options(order))
    return f"#!/bin/bash\n{options}set -euo pipefail\nexec {shlex.join(order.command)}\n"


def _options(order: JobOrder) -> Iterator[str]:
    yield f"--job-name={_word(order.name, 'name')}"
    yield f"--comment={_quoted(order.comment, 'comment')}"
    yield "--requeue"
    yield "--open-mode=append"
    yield f"--output={_quoted(str(order.log).replace('%', '%%'), 'log')}"
    yield f"--signal=B:USR1@{order.early_s}"
    yield f"--nodes={order.nodes + order.spare_nodes}"
    yield "--ntasks-per-node=1"
    yield f"--cpus-per-task={order.cpus}"
    if order.nodes + order.spare_nodes > 1:
        yield "--no-kill"
    if order.time_limit_minutes:
        yield f"--time={order.time_limit_minutes}"
    if order.partition:
        yield f"--partition={_word(order.partition, 'partition')}"
    if order.account:
        yield f"--account={_word(order.account, 'account')}"
    if order.exclude:
        yield f"--exclude={','.join(_word(each, 'exclude') for each in sorted(set(order.exclude)))}"
    if order.switches:
        wait = f"@{order.switches_wait_minutes}" if order.switches_wait_minutes else ""
        yield f"--switches={order.switches}{wait}"
    yield from (_own_option(each) for each in order.options)
    yield f"--export={exported((*PASSED_ON, *ALSO_PASSED_ON))}"


def _own_option(option: str) -> str:
    name = option.removeprefix("--").partition("=")[0].partition(" ")[0]
    if not option.startswith("--") or name in _OURS or not option.isprintable():
        raise LauncherRefused(
            f"[slurm] options holds {option[:80]!a}: no long option, or one that Stoker sets itself.",
            hint=f"Write it as on sbatch's command line, such as --constraint=h100. Not: {', '.join(_OURS)}.",
        )
    return option


def _word(text: str, what: str) -> str:
    if not text or not all(each.isalnum() or each in "._-,[]+@:" for each in text):
        raise LauncherRefused(f"The {what} {text[:80]!a} is no word that Slurm takes.", hint="See [slurm].")
    return text


def _quoted(text: str, what: str) -> str:
    if not text.isprintable() or '"' in text or "\\" in text:
        raise LauncherRefused(f"The {what} {text[:80]!a} cannot stand in a batch script.", hint="Rename it.")
    return f'"{text}"'
