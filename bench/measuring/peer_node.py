"""One node of bench/peers.py: a cache, a server for the others, and a dataset to read. See that file.

Arguments: store folder, cache folder, name, descriptor of the secret, MB/s of the link to the store. On
standard output one JSON value a line: the address, then what was done. On standard input: the nodes (none:
everybody for himself) and the objects to read; then a line that ends it.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from pathlib import Path

from stoker.store.cache import NodeCache
from stoker.store.objects import ObjectStore
from stoker.store.peers import PeerNode, PeerSource
from stoker.store.peers_server import PeerServer
from stoker.store.peers_wire import PeerTimes, read_secret

RUN = "bench"
PATIENT = PeerTimes(connect_s=60, handshake_s=60, silent_s=60, patience_s=300, avoid_s=600)


class FarStore(ObjectStore):
    """A folder behind a link that all nodes share: one request at a time, at so many bytes a second.

    What has been carried is written into the file `link`, a line each.
    """

    def __init__(self, folder: Path, megabytes_s: float) -> None:
        super().__init__(ObjectStore.open(folder.as_uri())._backend)
        self._link = os.open(folder / "link", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._bytes_s = megabytes_s * 1e6

    def get_range(self, key: str, start: int, length: int) -> memoryview:
        """The bytes, once the link has carried them."""
        fcntl.lockf(self._link, fcntl.LOCK_EX)
        try:
            time.sleep(length / self._bytes_s)
            os.write(self._link, f"{key} {length}\n".encode())
        finally:
            fcntl.lockf(self._link, fcntl.LOCK_UN)
        return super().get_range(key, start, length)


def main(store: str, folder: str, name: str, descriptor: str, megabytes_s: str) -> None:
    """Serve, be told, read, say, and serve on until told to end."""
    secret = read_secret(int(descriptor))
    peers = PeerSource([], name, secret, RUN, times=PATIENT)
    cache = NodeCache(Path(folder), FarStore(Path(store), float(megabytes_s)), 1 << 40, peers)
    with PeerServer(cache, secret, RUN, prefixes=["datasets"], times=PATIENT) as server:
        print(json.dumps(server.address), flush=True)
        told = json.loads(sys.stdin.readline())
        peers.learn([PeerNode(*node) for node in told["nodes"]])
        for key, size, digest in told["objects"]:
            cache.fetch(key, size, digest=bytes.fromhex(digest), check=False).read(0, size)
            print(json.dumps({"read": key}), flush=True)
        print(json.dumps({"from_nodes": cache.counts().peer_bytes}), flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])
