"""A node of a run as a process of its own: its cache, its server, and the objects it reads.

Arguments: cache folder, store URL, its name, descriptor of the secret. On standard output one JSON value a
line: its address, `"half"`, at the end its counts. On standard input one a line: the nodes and the objects to
read, in its order; `"go on"`; `"end"`, before which it goes on serving the others.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stoker.store.cache import NodeCache
from stoker.store.objects import ObjectStore
from stoker.store.peers import PeerNode, PeerSource
from stoker.store.peers_server import PeerServer
from stoker.store.peers_wire import PeerTimes, read_secret

RUN = "run-of-the-test"
PATIENT = PeerTimes(connect_s=60, handshake_s=60, silent_s=60, patience_s=300, avoid_s=600)
LIMIT_BYTES = 1 << 30


def main(folder: str, url: str, name: str, descriptor: str) -> None:
    secret = read_secret(int(descriptor))
    peers = PeerSource([], name, secret, RUN, times=PATIENT)
    cache = NodeCache(Path(folder), ObjectStore.open(url), LIMIT_BYTES, peers)
    with PeerServer(cache, secret, RUN, prefixes=["datasets/d"], times=PATIENT) as server:
        tell(server.address)
        given = json.loads(sys.stdin.readline())
        if given["asking"]:
            peers.learn([PeerNode(*node) for node in given["nodes"]])
        objects = given["objects"]
        for place, (key, size, digest) in enumerate(objects):
            if place == len(objects) // 2:
                tell("half")
                assert json.loads(sys.stdin.readline()) == "go on"
            source = cache.fetch(key, size, digest=bytes.fromhex(digest), check=False)
            assert hashlib.sha256(source.read(0, size)).hexdigest() == digest
        tell({"cache": asdict(cache.counts()), "peers": asdict(peers.counts())})
        assert json.loads(sys.stdin.readline()) == "end"
        tell(asdict(server.counts()))


def tell(value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
