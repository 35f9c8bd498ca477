"""The kinds of faults of a campaign: how each is done, undone, and what it should be put down to."""

from __future__ import annotations

import enum
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final, TypeAlias

from stoker.fleet.taxonomy import CODES, Component, FailureKind
from support.chaos.house import HANG_S

if TYPE_CHECKING:
    from support.chaos.campaign import Campaign

Cause: TypeAlias = tuple[FailureKind, Component]
Deed: TypeAlias = "Callable[[Campaign, Random], Injected]"

_K, _C = FailureKind, Component


class Course(enum.StrEnum):
    """What a run does about a fault."""

    GOES_ON = "goes on"
    """No attempt needs to fail; if one does, it is told why."""

    RESTARTS = "restarts"
    """The attempt fails, and the supervisor starts the next one."""

    WAITS = "waits for a person"
    """The run ends, and goes on when a person has mended what is wrong."""


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that was done: what its failures may be put down to, and how and when it is undone."""

    causes: frozenset[Cause]
    rank: int = -1
    undo: Callable[[], None] = lambda: None
    after_s: float = 0.0
    settled: Callable[[], bool] = lambda: True
    """What else has to have happened before it is over."""
    trigger: bool = False
    """A rank was killed besides, so that the run meets what is wrong: the first failure is that one's."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the campaign's table."""

    name: str
    course: Course
    do: Deed


def _signal(campaign: Campaign, pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        campaign.missed += 1


def _causes(*causes: Cause) -> frozenset[Cause]:
    return frozenset(causes)


AGAIN_CODES: Final = (52, 204, 210, 243)
PERSON_CODES: Final = (35, 67, 93, 100, 110, 125)
"""Exit codes of errors that ranks are told to raise, of rooms that each of them imports."""

PROCESS: Final = (_K.SYSTEM_SOFTWARE, _C.PROCESS)


# -- processes


def kill_rank(campaign: Campaign, random: Random) -> Injected:
    rank = random.randrange(2)
    _signal(campaign, campaign.story.pids[rank], signal.SIGKILL)
    return Injected(_causes(PROCESS), rank)


def end_rank(campaign: Campaign, random: Random) -> Injected:
    rank = random.randrange(2)
    _signal(campaign, campaign.story.pids[rank], signal.SIGTERM)
    return Injected(_causes(PROCESS), rank)


def kill_agent(campaign: Campaign, random: Random) -> Injected:
    _signal(campaign, campaign.agent(), signal.SIGKILL)
    return Injected(_causes((_K.SYSTEM_SOFTWARE, _C.AGENT)))


def kill_supervisor(campaign: Campaign, random: Random) -> Injected:
    campaign.supervisor.kill()
    return Injected(_causes((_K.SYSTEM_SOFTWARE, _C.SUPERVISOR)))


def pause_supervisor(campaign: Campaign, random: Random) -> Injected:
    """Its time stands still for longer than ranks may be silent; that is not held against them."""
    pid = campaign.supervisor.pid
    _signal(campaign, pid, signal.SIGSTOP)
    return Injected(frozenset(), undo=lambda: _signal(campaign, pid, signal.SIGCONT), after_s=HANG_S + 0.5)


def kill_standby(campaign: Campaign, random: Random) -> Injected:
    """A process of the attempt that was started ahead; where there is none, nothing is to be killed."""
    waiting = campaign.standby_ranks()
    if not waiting:
        campaign.missed += 1
        return Injected(frozenset())
    lost = campaign.story.standbys_lost
    _signal(campaign, random.choice(waiting), signal.SIGKILL)
    return Injected(frozenset(), settled=lambda: campaign.story.standbys_lost > lost)


# -- ranks that hang or end by themselves


def stop_rank(campaign: Campaign, random: Random) -> Injected:
    rank = random.randrange(2)
    _signal(campaign, campaign.story.pids[rank], signal.SIGSTOP)
    return Injected(_causes(PROCESS), rank)


def stick_rank(campaign: Campaign, random: Random) -> Injected:
    """It reads what never comes, and its heart beats on."""
    rank = random.randrange(2)
    campaign.order("stick", rank=rank)
    return Injected(_causes((_K.UNKNOWN, _C.DATASET)), rank)


def slow_rank(campaign: Campaign, random: Random) -> Injected:
    campaign.order("slow", rank=random.randrange(2), steps=3)
    return Injected(frozenset())


def crash_rank(campaign: Campaign, random: Random) -> Injected:
    """An error that is none of ours, or a code that nobody knows."""
    rank = random.randrange(2)
    if random.random() < 0.5:
        campaign.order("crash", rank=rank)
    else:
        campaign.order("exit", rank=rank, code=random.choice((1, 130, 255)))
    return Injected(_causes((_K.UNKNOWN, _C.NONE), (_K.UNKNOWN, _C.PROCESS)), rank)


def segfault_rank(campaign: Campaign, random: Random) -> Injected:
    rank = random.randrange(2)
    campaign.order("segfault", rank=rank)
    return Injected(_causes((_K.SYSTEM_SOFTWARE, _C.LIBRARY)), rank)


def raise_again(campaign: Campaign, random: Random) -> Injected:
    """A known error after which another attempt may go well."""
    return _raise(campaign, random, AGAIN_CODES)


def raise_for_person(campaign: Campaign, random: Random) -> Injected:
    """A known error for which a person has to change something."""
    return _raise(campaign, random, PERSON_CODES)


def _raise(campaign: Campaign, random: Random, codes: tuple[int, ...]) -> Injected:
    rank, code = random.randrange(2), random.choice(codes)
    campaign.order("raise", rank=rank, code=code)
    meaning = CODES[code].meaning
    return Injected(_causes((meaning.kind, meaning.component)), rank)


def spoil_step(campaign: Campaign, random: Random) -> Injected:
    """A loss or a gradient that is no number: the guard stops the run before any weight has changed."""
    campaign.order("spoil", rank=random.randrange(2), what=random.choice(("loss", "gradient")))
    return Injected(_causes((_K.USER_ERROR, _C.MODEL)))


def orphan(campaign: Campaign, random: Random) -> Injected:
    """A process of the attempt outlives it, and tries to write and to commit when the next one has begun."""
    number = campaign.order("orphan", rank=0)
    story = campaign.story
    attempt = story.attempt

    def killed() -> None:
        campaign.await_file(f"attempt-*/orphan-{number}")
        _signal(campaign, campaign.agent(), signal.SIGKILL)

    def asked() -> bool:
        if story.attempt == attempt or not story.training:
            return False
        return campaign.ask_orphan(number)

    killed()
    return Injected(_causes((_K.SYSTEM_SOFTWARE, _C.AGENT)), settled=asked)


# -- disk, store and keys


def fill_disk(campaign: Campaign, random: Random) -> Injected:
    campaign.site.disk.fill()
    return Injected(_causes((_K.SYSTEM_SOFTWARE, _C.FILE_SYSTEM)))


def damage_dataset(campaign: Campaign, random: Random) -> Injected:
    return _harm(campaign, random, "datasets/", _C.DATASET, missing=False)


def lose_dataset(campaign: Campaign, random: Random) -> Injected:
    return _harm(campaign, random, "datasets/", _C.DATASET, missing=True)


def damage_checkpoint(campaign: Campaign, random: Random) -> Injected:
    return _harm(campaign, random, campaign.checkpoints(), _C.CHECKPOINT, missing=False)


def lose_checkpoint(campaign: Campaign, random: Random) -> Injected:
    return _harm(campaign, random, campaign.checkpoints(), _C.CHECKPOINT, missing=True)


def _harm(campaign: Campaign, random: Random, prefix: str, what: Component, *, missing: bool) -> Injected:
    """Objects of the store are gone, or hold other bytes; a killed rank makes the run read them."""
    with campaign.supervisor_held():
        undo = campaign.harm_objects(prefix, random, missing=missing)
        _signal(campaign, campaign.story.pids[1], signal.SIGKILL)
    return Injected(_causes((_K.DATA, what)), undo=undo, trigger=True)


def slow_store(campaign: Campaign, random: Random) -> Injected:
    campaign.site.store.latency_s = random.uniform(0.05, 0.3)
    return _until(campaign, random)


def failing_store(campaign: Campaign, random: Random) -> Injected:
    """Every request is refused for a while, for longer than one is repeated."""
    from support.slow_store import Fault

    campaign.site.store.plan(Fault.UNAVAILABLE, times=1 << 30)
    return _until(campaign, random, (_K.NETWORK, _C.STORE), most_s=HANG_S)


def slow_keys(campaign: Campaign, random: Random) -> Injected:
    campaign.site.keys.slow_s = random.uniform(0.1, 0.5)
    return _until(campaign, random)


def dead_keys(campaign: Campaign, random: Random) -> Injected:
    campaign.site.keys.dead = True
    return _until(campaign, random, (_K.NETWORK, _C.KEYS), most_s=HANG_S)


# -- links and clocks


def cut_link(campaign: Campaign, random: Random) -> Injected:
    return _link(campaign, random, "cut")


def half_open_link(campaign: Campaign, random: Random) -> Injected:
    return _link(campaign, random, "half_open")


def _link(campaign: Campaign, random: Random, how: str) -> Injected:
    service = random.choice((_C.STORE, _C.KEYS))
    link = campaign.site.store_link if service is _C.STORE else campaign.site.keys_link
    getattr(link, how)()
    return _until(campaign, random, (_K.NETWORK, service), most_s=HANG_S if how == "cut" else HANG_S / 2)


def slow_link(campaign: Campaign, random: Random) -> Injected:
    from support.chaos.site import slow_links

    slow_links()
    return _until(campaign, random)


def cut_ranks(campaign: Campaign, random: Random) -> Injected:
    """The network that the ranks have among themselves goes down under them."""
    pid = campaign.story.pids[random.randrange(2)]
    words = f"nsenter -t {pid} -n ip link set lo down".split()
    if subprocess.run(words, check=False, capture_output=True).returncode:
        campaign.missed += 1
    return Injected(_causes((_K.NETWORK, _C.LINK)))


def jump_clock(campaign: Campaign, random: Random) -> Injected:
    """The wall clock of the supervisor goes forward or back, by seconds or by days."""
    offset_s = random.choice((-1, 1)) * 10 ** random.uniform(0.5, 5.2)
    path = campaign.site.places.clock
    path.with_suffix(".part").write_text(repr(offset_s))
    path.with_suffix(".part").replace(path)
    return Injected(_causes(PROCESS))


def _until(campaign: Campaign, random: Random, *causes: Cause, most_s: float = HANG_S / 2) -> Injected:
    """It is mended after a while."""
    return Injected(frozenset(causes), undo=campaign.site.mend, after_s=random.uniform(0.5, most_s))


ON, AGAIN, PERSON = Course.GOES_ON, Course.RESTARTS, Course.WAITS

KINDS: Final = (
    Kind("rank killed", AGAIN, kill_rank),
    Kind("rank ended politely", AGAIN, end_rank),
    Kind("agent killed", AGAIN, kill_agent),
    Kind("supervisor killed", PERSON, kill_supervisor),
    Kind("supervisor paused", ON, pause_supervisor),
    Kind("standby killed", ON, kill_standby),
    Kind("rank stopped", AGAIN, stop_rank),
    Kind("rank stuck", AGAIN, stick_rank),
    Kind("rank slow", ON, slow_rank),
    Kind("rank crashed", AGAIN, crash_rank),
    Kind("rank segfaulted", AGAIN, segfault_rank),
    Kind("error, tried again", AGAIN, raise_again),
    Kind("error, for a person", PERSON, raise_for_person),
    Kind("NaN", PERSON, spoil_step),
    Kind("orphan", AGAIN, orphan),
    Kind("disk full", PERSON, fill_disk),
    Kind("dataset damaged", PERSON, damage_dataset),
    Kind("dataset missing", PERSON, lose_dataset),
    Kind("checkpoint damaged", PERSON, damage_checkpoint),
    Kind("checkpoint missing", PERSON, lose_checkpoint),
    Kind("store slow", ON, slow_store),
    Kind("store failing", ON, failing_store),
    Kind("keys slow", ON, slow_keys),
    Kind("keys dead", ON, dead_keys),
    Kind("link cut", ON, cut_link),
    Kind("link half-open", ON, half_open_link),
    Kind("link slow", ON, slow_link),
    Kind("ranks' link cut", AGAIN, cut_ranks),
    Kind("clock jumps", ON, jump_clock),
)


def drawn(count: int, seed: int) -> list[Kind]:
    """`count` kinds, each as often as any other, in an order that the seed gives."""
    random = Random(seed)
    found: list[Kind] = []
    while len(found) < count:
        found += random.sample(KINDS, len(KINDS))
    return found[:count]
