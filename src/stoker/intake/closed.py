"""Processes that see plaintext while something is prepared have no network, no keys and no file to write.

They are forked from the command, so they forget its secrets first. See docs/design/intake.md, "Workers".
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Final, TypeGuard

from stoker.core.clock import Clock, SystemClock
from stoker.core.isolation import Closing, Isolation, IsolationState, Outside, isolate, probe
from stoker.core.landlock import hold_to, writing_only_in
from stoker.core.powers import READING, give_up_powers
from stoker.keys.memory import harden_process, let_be_looked_into
from stoker.keys.secret import SecretKey, forget_secrets

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PROBE_EVERY_S: Final = 10.0
"""A worker tries again after so long, before its next task, whether it has a way out."""


@dataclass(slots=True)
class _Closed:
    """What holds for this process and, as they are forked, for its children."""

    wanted: Closing = Closing.WHEN_POSSIBLE
    found: Isolation | None = None
    held: bool = False
    """It may write no file, and has no power of root's."""


_CLOSED: Final = _Closed()


class NotClosed(Exception):
    """A process that must not have a network has one; it names the way, and ends."""


def ask_for_closing(wanted: Closing) -> None:
    """What workers of this process are held to from now on: the word of `stoker.toml`."""
    _CLOSED.wanted = wanted


def found_closed(found: Isolation) -> None:
    """This process was closed off whole, so its children are as they are forked."""
    _CLOSED.found = found


def is_closed() -> bool:
    """Whether this process has no network any more."""
    return _CLOSED.found is not None and _CLOSED.found.state is IsolationState.ISOLATED


def try_closing() -> Isolation:
    """What would come of closing off a child of this process; one is forked, closes itself off and ends."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            found = close_off()
            os.write(writing, f"{found.state.value} {found.reason}".encode()[:512])
        except NotClosed as way:
            os.write(writing, f"{IsolationState.REFUSED.value} {way}".encode()[:512])
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        state, _, reason = pipe.read().decode(errors="replace").partition(" ")
    os.waitpid(child, 0)
    if not state:
        return Isolation(IsolationState.REFUSED, "the process that tried it died")
    return Isolation(IsolationState(state), reason)


def close_off(settings: object = None) -> Isolation:
    """For a forked child, first of all: no secrets, no network, no file to write, nobody looks into it.

    A secret that is a field of `settings` is meant for the child and stays. Where the platform refuses, that
    is what comes back, unless closing is required: then NotClosed is raised. A child of a child that did this
    is closed already.
    """
    held = [getattr(settings, each.name) for each in fields(settings)] if _is_record(settings) else []
    forget_secrets(but=[each for each in held if isinstance(each, SecretKey)])
    if _CLOSED.found is None:
        let_be_looked_into()  # or it could not write the map of its own users; it holds no secret any more
        _CLOSED.found = isolate(loopback=False)
        harden_process()
    if is_closed() and not _CLOSED.held:
        with contextlib.suppress(OSError):  # a kernel without it; workers are given no file anyway
            _write_nothing()
        give_up_powers(but=READING)  # or root could go back into the network that it left
        _CLOSED.held = True
    if _CLOSED.wanted is Closing.REQUIRED and _CLOSED.found.state is not IsolationState.ISOLATED:
        raise NotClosed(_CLOSED.found.reason)
    return _CLOSED.found


def _is_record(settings: object) -> TypeGuard[DataclassInstance]:
    return is_dataclass(settings) and not isinstance(settings, type)


def _write_nothing() -> None:
    ruleset = writing_only_in([])
    if ruleset is not None:
        try:
            hold_to(ruleset)
        finally:
            os.close(ruleset)


@dataclass(slots=True)
class Watch:
    """A closed process's own look-out: `look` before each task, and it tries the ways out now and then."""

    outside: Outside | None
    every_s: float = PROBE_EVERY_S
    clock: Clock = field(default_factory=SystemClock)
    _next_s: float = 0.0

    def look(self) -> None:
        """Raises NotClosed, naming the ways, when this process was closed and is not any more."""
        if not is_closed():
            return
        if self.clock.monotonic_s() < self._next_s:
            return
        self._next_s = self.clock.monotonic_s() + self.every_s
        found = probe(self.outside, loopback=False)
        if found.state is not IsolationState.ISOLATED:
            raise NotClosed(found.reason)
