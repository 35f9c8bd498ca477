"""What runs on each node of a run over several: `python -m stoker.cli.node_host`.

Its standard input and output are the link to the supervisor. It opens the keys of the same home, as every
command does. See docs/design/spread.md, "The host".
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from stoker.cli.secret_files import passphrase_source
from stoker.core.clock import SystemClock
from stoker.core.home import Home
from stoker.core.settings import load_settings
from stoker.fleet.spread.node_host import NodeHost
from stoker.keys.backend import KeyBackend
from stoker.keys.memory import harden_process
from stoker.keys.open import open_backend
from stoker.keys.rewrap import with_moves
from stoker.store.objects import ObjectStore
from stoker.store.rewraps import StoredRewraps


def open_keys(home: Path, project: Path) -> KeyBackend:
    """The keys of the home at `home`, with the settings that count in `project`."""
    place = Home(home)
    settings = load_settings(place, project).value
    clock = SystemClock()
    backend = open_backend(
        settings.keys_url(place), clock=clock, passphrase=passphrase_source(), folder=place.keys_dir
    )
    return with_moves(backend, StoredRewraps(lambda: ObjectStore.open(settings.store_url(place))))


def main() -> int:
    """Serve the supervisor until no process of its attempt is left here. Returns the exit code."""
    harden_process()
    reader, writer = os.dup(0), os.dup(1)
    silent = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):  # nothing but the link's own lines goes over it
        os.dup2(silent, descriptor)
    return NodeHost(reader, writer, open_keys, SystemClock()).serve()


if __name__ == "__main__":
    sys.exit(main())
