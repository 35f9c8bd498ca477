"""The world around a campaign's run, which it can break: a store and a key service behind links, and a disk.

All of it is in namespaces of the campaign's own (`python -m support.chaos` enters them), so nothing of the
machine is touched and nothing is left of it. Both services listen on loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from support.chaos.house import Places
from support.kms_server import Kms, Refused, kms_server
from support.slow_store import SlowStore

DISK_BYTES: Final = 192 << 20
STORE_SETTINGS: Final = "attempts=3&deadline_s=4&answer_s=1.5"
"""A store that does not answer is given up soon, so that an outage of seconds is a failure."""

SLOW_ANSWER_S: Final = 0.3
SLOW_RATE: Final = "2mbit"
_LOCAL_RULE, _REQUESTS, _ANSWERS = "100", "50", "51"


@dataclass(slots=True)
class Link:
    """The loopback link to the service on `port`, both of its directions."""

    port: int

    def cut(self) -> None:
        """Nothing gets through."""
        _rule("add", _REQUESTS, f"dport {self.port}")
        _rule("add", _ANSWERS, f"sport {self.port}")

    def half_open(self) -> None:
        """Requests arrive, and answers do not."""
        _rule("add", _ANSWERS, f"sport {self.port}")

    def mend(self) -> None:
        for place in (_REQUESTS, _ANSWERS):
            while _rule("del", place, ""):
                pass


def slow_links() -> None:
    """Everything on loopback shares a narrow link."""
    _ran("tc qdisc add dev lo root tbf rate", SLOW_RATE, "burst 16kb latency 400ms")


def fast_links() -> None:
    _tried("tc qdisc del dev lo root")


class KeyService:
    """A KMS that answers slowly, or not at all, when it is told to."""

    def __init__(self, kms: Kms) -> None:
        self.kms = kms
        self.dead = False
        self.slow_s = 0.0
        honest = kms.answer

        def answer(action: str, signer: str, words: dict[str, Any]) -> dict[str, Any]:
            if self.slow_s:
                time.sleep(self.slow_s)
            if self.dead:
                raise Refused("KMSInternalException", 500)
            return honest(action, signer, words)

        kms.answer = answer  # type: ignore[method-assign]


@dataclass(slots=True)
class Disk:
    """The file system that holds the home."""

    folder: Path
    _filler: Path = field(init=False)

    def __post_init__(self) -> None:
        self._filler = self.folder / "filler"

    def fill(self) -> None:
        """Until nothing more fits."""
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)):
                        pass

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Site:
    """All of it."""

    places: Places
    store: SlowStore
    keys: KeyService
    store_link: Link
    keys_link: Link
    disk: Disk

    def mend(self) -> None:
        """Everything works again; bytes that were changed are not brought back."""
        self.store.no_more_faults()
        self.store.latency_s, self.store.bytes_per_s = 0.0, None
        self.keys.dead, self.keys.slow_s = False, 0.0
        self.store_link.mend()
        self.keys_link.mend()
        fast_links()
        self.disk.free()


@contextlib.contextmanager
def open_site(root: Path) -> Iterator[Site]:
    """In namespaces of our own: a disk, and both services, which the environment then points at."""
    places = Places(root)
    places.disk.mkdir()
    places.room.mkdir()
    places.clock.write_text("0")
    _ran("ip link set lo up")
    _ran("ip rule add pref", _LOCAL_RULE, "lookup local")
    _ran("ip rule del pref 0")  # so that what is said of a port is asked before
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "chaos", str(places.disk)], check=True
    )
    try:
        with SlowStore() as store, kms_server() as kms:
            os.environ.update(store.environment | kms.environment())
            urls = {"store": f"{store.url}?{STORE_SETTINGS}", "keys": kms.url}
            places.urls.write_text(json.dumps(urls))
            links = Link(_port(store.endpoint)), Link(_port(kms.endpoint))
            yield Site(places, store, KeyService(kms), *links, Disk(places.disk))
    finally:
        _ran("umount --lazy", str(places.disk))


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def _rule(verb: str, place: str, match: str) -> bool:
    what = f"ipproto tcp {match} blackhole" if match else ""
    return _tried("ip rule", verb, "pref", place, what)


def _ran(*words: str) -> None:
    subprocess.run(" ".join(words).split(), check=True, capture_output=True)


def _tried(*words: str) -> bool:
    return subprocess.run(" ".join(words).split(), check=False, capture_output=True).returncode == 0
