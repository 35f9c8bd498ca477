"""Promise 2: plaintext lives in memory only. Every source carries a canary; here it is searched for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from stoker.promises.canaries import Canaries, find_canaries
from stoker.promises.house import OpenHouse
from stoker.promises.promise import Check, PromiseReport, judged
from stoker.promises.search import Matcher, Needles, Remembered, Searched, search, search_store

_PROCESSES = Path("/proc")


def shared_folders() -> tuple[Path, ...]:
    """Where every process of the machine may write: shared memory and the temporary folder."""
    return (Path("/dev/shm"), Path(tempfile.gettempdir()))  # noqa: S108 - searched, not written


def check_plaintext(
    house: OpenHouse, outside: Sequence[Path], since_s: float, remembered: Remembered | None = None
) -> PromiseReport:
    """Prove that the canaries are inside, then look for them outside: files, shared memory, processes.

    Of the folders `outside` of STOKER_HOME, files that changed since `since_s` are read, but not those that
    `remembered` knows.
    """
    canaries = find_canaries(house)
    if not canaries.needles:
        return judged(2, [], missing="No source has been imported, so there is no canary to search for.")
    checks = [*canaries.checks, _home(house, canaries)]
    if not Path(house.store.place).is_relative_to(house.home.root.resolve()):
        checks.append(_store_elsewhere(house, canaries))
    found = search(outside, canaries.needles, newer_s=since_s, remembered=remembered)
    checks.append(
        _judged("shared memory and the temporary folder, files since this house was made", found, canaries)
    )
    checks.append(_processes(canaries.needles))
    checks.append(_swap())
    return judged(2, checks)


def _home(house: OpenHouse, canaries: Canaries) -> Check:
    linked = [part.resolve() for part in house.home.root.iterdir() if part.is_symlink()]
    found = search([house.home.root, *linked], canaries.needles)
    where = "STOKER_HOME: store, cache, runs, keys, ledger"
    if found.foreign and not found.hits:
        return Check(where, False, f"{_some(found.foreign)} may be read by another user only")
    return _judged(where, found, canaries)


def _store_elsewhere(house: OpenHouse, canaries: Canaries) -> Check:
    place = house.store.place
    local = Path(place)
    remote = not local.is_absolute()
    found = search_store(house.store, canaries.needles) if remote else search([local], canaries.needles)
    return _judged(f"the store {place}", found, canaries)


def _judged(where: str, found: Searched, canaries: Canaries) -> Check:
    size = f"{found.files:,} files, {found.content_bytes:,} bytes"
    seen = f"{size}: the canaries in none of {canaries.forms} forms"
    if found.foreign:
        seen += f"; {len(found.foreign)} may be read by other users only"
    if found.hits:
        seen = "; ".join(f"{hit.path} at byte {hit.offset} ({hit.form})" for hit in found.hits[:5])
    elif found.unreadable:
        seen = f"could not read {_some(found.unreadable)}"
    return Check(where, not found.hits and not found.unreadable, seen)


def _some(paths: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in paths[:5])


def _processes(needles: Needles) -> Check:
    """Command lines and environments of every process that may be looked at."""
    matcher = Matcher(needles)
    looked, closed, leaks = 0, 0, []
    for folder in _PROCESSES.glob("[0-9]*"):
        for leaf in ("cmdline", "environ"):
            try:
                content = (folder / leaf).read_bytes()
            except PermissionError:
                closed += 1
                continue
            except OSError:
                continue  # it has ended
            looked += 1
            leaks += [f"process {folder.name}, {leaf} ({form})" for _, form, _ in matcher.find(content)]
    seen = f"{looked} looked at, no canary"
    if closed:
        seen += f"; {closed} could not be looked at"
    return Check("command lines and environments of processes", not leaks, "; ".join(leaks[:5]) or seen)


def _swap() -> Check:
    """Keys are locked in memory, but data pages can be swapped out where there is swap."""
    try:
        swaps = (_PROCESSES / "swaps").read_text().splitlines()[1:]
    except OSError:
        return Check("swap", os.name != "posix", "cannot be looked at on this system")
    names = ", ".join(line.split()[0] for line in swaps if line.strip())
    return Check(
        "swap", not names, f"active: {names}; data pages may reach it" if names else "none is active"
    )
