"""What the nodes of a run fetch from a store behind one slow link, each for himself and asking each other.

Run `python bench/peers.py`, or with `--json` for one object. See docs/design/store.md, "Peers".
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from measuring.command import Size, run
from measuring.figures import Measured, at_most, median_of, ratio_of
from measuring.turns import take_turns
from stoker.core.canonical import JsonValue
from stoker.store.manifest import shard_key
from stoker.store.objects import ObjectStore

NODES: Final = 4
NODE: Final = Path(__file__).parent / "measuring/peer_node.py"
METHOD: Final = (
    "Four processes, each with a cache of its own, read every shard of a dataset once, in four orders. The "
    "store is a folder behind a link that carries one request at a time at a fixed rate, as between sites. "
    "In turn: each for himself; asking each other first; the same, and one of the four is "
    "killed after half of its shards. Seconds by the wall clock, from the moment that all know the addresses "
    "until all that live have read everything. Copies are the bytes that the link carried, to whomever, over "
    "the dataset's. Medians and quartiles of the rounds."
)

Told = tuple[str, int, str]
"""An object's name, length and SHA-256 in hexadecimal."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading the dataset on all nodes came to."""

    seconds: float
    carried: tuple[tuple[str, int], ...]
    """What the link carried: name and bytes of each request."""
    from_nodes: int
    """Bytes that nodes had from each other."""

    @property
    def most_often(self) -> int:
        """How often the object was carried that was carried most often."""
        return max(Counter(key for key, _ in self.carried).values())


class Node:
    """One process of measuring/peer_node.py."""

    def __init__(self, name: str, folder: Path, store: Path, secret: bytes, megabytes_s: int) -> None:
        self.name = name
        reading, writing = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, NODE, store, folder / name, name, str(reading), str(megabytes_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(reading,),
        )
        os.close(reading)
        os.write(writing, secret)
        os.close(writing)

    def hear(self) -> Any:
        """The next value it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with {self.process.wait()}")
        return json.loads(line)

    def tell(self, value: JsonValue) -> None:
        """Say one value to it."""
        assert self.process.stdin is not None
        print(json.dumps(value), file=self.process.stdin, flush=True)


def write_objects(folder: Path, megabytes: int, shards: int) -> list[Told]:
    """Shards of random bytes: to a cache, ciphertext is nothing else."""
    store, objects = ObjectStore.open(folder.as_uri()), []
    for number in range(shards):
        data, key = random.randbytes(megabytes * 1_000_000 // shards), shard_key("datasets/bench/1", number)
        store.create(key, data)
        objects.append((key, len(data), hashlib.sha256(data).hexdigest()))
    return objects


def read_everywhere(
    store: Path, objects: Sequence[Told], megabytes_s: int, *, asking: bool, kill: bool = False
) -> Reading:
    """Have four fresh nodes read all objects; with `kill`, one ends in the middle."""
    with tempfile.TemporaryDirectory() as folder:
        secret = secrets.token_bytes(32)
        nodes = [Node(f"node{n}", Path(folder), store, secret, megabytes_s) for n in range(NODES)]
        addresses = [(node.name, *node.hear()) for node in nodes]
        link = store / "link"
        link.write_bytes(b"")
        began_s = time.perf_counter()
        for number, node in enumerate(nodes):
            order = list(objects)
            random.Random(number).shuffle(order)
            node.tell({"nodes": addresses if asking else [], "objects": order})
        if kill:
            victim = nodes.pop()
            for _ in range(len(objects) // 2):
                victim.hear()
            victim.process.kill()
            victim.process.communicate()
        from_nodes = 0
        for node in nodes:
            while "read" in (said := node.hear()):
                pass
            from_nodes += said["from_nodes"]
        seconds = time.perf_counter() - began_s
        for node in nodes:
            node.tell("end")
            node.process.communicate()
        lines = [line.split() for line in link.read_text().splitlines()]
        return Reading(seconds, tuple((key, int(size)) for key, size in lines), from_nodes)


def measure(megabytes: int, shards: int, link: int, rounds: int) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        objects = write_objects(store, megabytes, shards)
        whole = sum(size for _, size, _ in objects)
        readings: dict[str, list[Reading]] = {"alone": [], "asking": [], "killed": []}

        def probe(name: str, **how: bool) -> float:
            reading = read_everywhere(store, objects, link, **how)
            readings[name].append(reading)
            return reading.seconds

        seconds = take_turns(
            {
                "alone": lambda: probe("alone", asking=False),
                "asking": lambda: probe("asking", asking=True),
                "killed": lambda: probe("killed", asking=True, kill=True),
            },
            rounds,
        )
    copies = {
        name: [sum(size for _, size in each.carried) / whole for each in found[1:]]
        for name, found in readings.items()
    }
    most_often = [float(each.most_often) for each in readings["killed"][1:]]
    between = [each.from_nodes / whole for each in readings["asking"][1:]]
    return Measured(
        {
            "copies_asking": median_of(copies["asking"], "copies", at_most(1)),
            "copies_one_killed": median_of(copies["killed"], "copies", at_most(2)),
            "most_often_one_killed": median_of(most_often, "times", at_most(2)),
            "copies_alone": median_of(copies["alone"], "copies"),
            "copies_between_nodes": median_of(between, "copies"),
            "asking_to_alone": ratio_of(seconds["asking"], seconds["alone"], at_most(0.5)),
            "asking": median_of(seconds["asking"], "s"),
            "one_killed": median_of(seconds["killed"], "s"),
            "alone": median_of(seconds["alone"], "s"),
        },
        METHOD,
        environment={"nodes": NODES, "object_bytes": whole},
    )


SIZES: Final = (
    Size("megabytes", 64, 2, "the dataset's size"),
    Size("shards", 32, 8, "the objects it lies in"),
    Size("link", 100, 100, "MB/s of the link to the store, shared by the nodes"),
    Size("rounds", 5, 1, "rounds"),
)

if __name__ == "__main__":
    sys.exit(run("peers", __doc__, SIZES, measure))
