"""Where tasks of a preparation were done, and how closed off it was from every network.

A task's process closes itself off before it opens a key, wherever all that it needs lies in folders. See
docs/design/intake.md, "Workers".
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from stoker.core import bubblewrap
from stoker.core.errors import ConfigError
from stoker.core.home import Home
from stoker.core.isolation import Closing, Isolation, IsolationState, isolate, listening_outside, probe
from stoker.core.powers import FILES, give_up_powers
from stoker.core.seccomp import refuse_ways_out
from stoker.core.settings import Settings, load_settings
from stoker.intake.closed import ask_for_closing, found_closed, try_closing
from stoker.intake.errors import WorkerLost
from stoker.keys.memory import harden_process

BEGUN: Final = "--begun"
"""The last word of a task's command line, once it runs in bubblewrap."""

_MAX_WORDS: Final = 300


@dataclass(frozen=True, slots=True)
class TaskRoom:
    """A node on which tasks were done, and what was found of its processes' network."""

    node: str
    state: IsolationState
    reason: str

    @classmethod
    def here(cls, found: Isolation) -> TaskRoom:
        """This machine, with what was found on it."""
        return cls(socket.gethostname()[:_MAX_WORDS], found.state, found.reason[:_MAX_WORDS])

    def told(self) -> str:
        """One line of JSON, for the output of a task."""
        return json.dumps({"room": [self.node, self.state.value, self.reason]})


def in_order(rooms: Iterable[TaskRoom]) -> tuple[TaskRoom, ...]:
    """Those that were open first, and then by node."""
    return tuple(
        sorted(rooms, key=lambda room: (room.state is IsolationState.ISOLATED, room.node, room.reason))
    )


def rooms_told(said: str) -> Iterator[TaskRoom]:
    """The rooms in what tasks have said; lines that are anything else are passed over."""
    for line in said.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            node, state, reason = json.loads(line)["room"]
            yield TaskRoom(str(node)[:_MAX_WORDS], IsolationState(state), str(reason)[:_MAX_WORDS])


def enter_room(job: Path, arguments: Sequence[str]) -> TaskRoom | None:
    """Close this process off, which is to do the tasks of `job`, before anything of the home is opened.

    The process must have one thread and hold no key. It may go on as another process, in bubblewrap, with the
    same `arguments` and BEGUN behind them. None when the job cannot be read, which whoever does it will tell.
    Raises ConfigError, and WorkerLost where closing is required and nothing closes.
    """
    begun = arguments[-1:] == [BEGUN]
    settings, home = _settings_of(job)
    if settings is None:
        return None
    ask_for_closing(settings.preparing.isolation)
    if afar := _reached_over_a_network(settings, home):
        tried = try_closing()
        reason = (
            f"{tried.reason}, where documents are read; what opens and seals reaches {' and '.join(afar)}"
        )
        found = Isolation(tried.state, reason)
    else:
        found = _closed_whole(arguments, begun)
    if settings.preparing.isolation is Closing.REQUIRED and found.state is not IsolationState.ISOLATED:
        raise WorkerLost(
            f"Tasks on {socket.gethostname()[:_MAX_WORDS]!a} would have a network and must have none: "
            f"{found.reason}.",
            hint="Allow user namespaces there, install bubblewrap, or run as root; what is required stands "
            "in [preparing] of stoker.toml.",
        )
    return TaskRoom.here(found)


def _settings_of(job: Path) -> tuple[Settings | None, Home]:
    try:
        body = json.loads(job.read_bytes())
        home, project = Home(Path(body["home"])), Path(body["project"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, Home(Path())
    with contextlib.suppress(ConfigError):
        return load_settings(home, project).value, home
    return None, home


def _reached_over_a_network(settings: Settings, home: Home) -> list[str]:
    places = {"the store": settings.store_url(home), "the keys": settings.keys_url(home)}
    return [
        f"{what} by {urlsplit(url).scheme}" for what, url in places.items() if not url.startswith("file:")
    ]


def _closed_whole(arguments: Sequence[str], begun: bool) -> Isolation:
    """This process and all that it starts have no network from here on, if the platform lets it."""
    if begun:
        refuse_ways_out()
        found = probe(None)
    else:
        with listening_outside() as outside:
            found = isolate(loopback=False)
            if found.state is IsolationState.ISOLATED:
                found = probe(outside, loopback=False)
        if found.state is IsolationState.REFUSED:
            program, why = bubblewrap.usable()
            if program is None:
                return Isolation(found.state, f"{found.reason}, and {why}")
            task = [sys.executable, *sys.orig_argv[1 : -len(arguments)], *arguments, BEGUN]
            os.execv(program, bubblewrap.inside(program, task))  # noqa: S606
    if found.state is IsolationState.ISOLATED:
        give_up_powers(but=FILES)
        harden_process()
        found_closed(found)
    return found
