"""Nodes of a run share what one of them fetched; strangers get nothing, liars and the dead cost time only."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from stoker.core.clock import ManualClock, SystemClock
from stoker.keys.secret import SecretKey
from stoker.store.cache import NodeCache
from stoker.store.errors import BadPeerSecret, CannotServePeers, CorruptObject, ObjectMissing
from stoker.store.objects import ObjectStore
from stoker.store.peers import PeerNode, PeerSource, hash_order
from stoker.store.peers_server import PeerServer
from stoker.store.peers_wire import Answer, PeerFault, PeerTimes, Problem, Request, Wire, read_secret
from stoker.store.ranges import FileSource
from support.slow_store import SlowStore, pointed_at

RUN = "run-1"
SECRET = bytes(range(32))
PREFIX = "datasets/d"
PATIENT = PeerTimes(connect_s=60, handshake_s=60, silent_s=60, beat_s=0.05, patience_s=300, avoid_s=600)
NODE_SCRIPT = Path(__file__).parents[1] / "support/peer_node.py"


def _secret(data: bytes = SECRET) -> SecretKey:
    return SecretKey.adopt(bytearray(data))


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class _CountingStore(ObjectStore):
    """Counts the ranges that were read of each object."""

    def __init__(self, url: str) -> None:
        super().__init__(ObjectStore.open(url)._backend)
        self.reads: list[str] = []

    def get_range(self, key: str, start: int, length: int) -> memoryview:
        self.reads.append(key)
        return super().get_range(key, start, length)


@pytest.fixture
def store(tmp_path: Path) -> _CountingStore:
    return _CountingStore(f"file://{tmp_path}/store")


class _Node:
    """A node inside this process."""

    def __init__(self, name: str, folder: Path, store: ObjectStore, **server: Any) -> None:
        secret = _secret(server.pop("secret", SECRET))
        times = server.pop("times", PATIENT)
        self.name = name
        self.folder = folder / name
        self.peers = PeerSource([], name, secret, server.get("run", RUN), times=times)
        self.cache = NodeCache(self.folder, store, 1 << 30, self.peers)
        server = {"run": RUN, "prefixes": [PREFIX]} | server
        self.server = PeerServer(self.cache, secret, times=times, **server)

    def known(self) -> PeerNode:
        return PeerNode(self.name, *self.server.address)


@contextmanager
def _nodes(*nodes: _Node) -> Iterator[None]:
    with ExitStack() as stack:
        for node in nodes:
            stack.enter_context(node.server)
        for node in nodes:
            node.peers.learn([each.known() for each in nodes])
        yield


def _key_of(owner: str, names: list[str]) -> str:
    """An object's name whose order begins with `owner`."""
    return next(key for n in range(1000) if hash_order(key := f"{PREFIX}/{n:08d}.stk", names)[0] == owner)


def test_the_order_of_an_object_keeps_when_a_node_goes() -> None:
    names = [f"node{number}" for number in range(7)]
    first = []
    for number in range(700):
        key = f"{PREFIX}/{number:08d}.stk"
        whole = hash_order(key, names)
        assert sorted(whole) == names and hash_order(key, names[::-1]) == whole
        assert hash_order(key, [name for name in names if name != "node3"]) == [
            name for name in whole if name != "node3"
        ]
        first.append(whole[0])
    assert all(60 < first.count(name) < 140 for name in names), "each node has about a seventh"


def test_one_node_fetches_and_the_other_asks_it(store: _CountingStore, tmp_path: Path) -> None:
    a, b = _Node("a", tmp_path, store), _Node("b", tmp_path, store)
    with _nodes(a, b):
        for owner in ("a", "b"):
            key, data = _key_of(owner, ["a", "b"]), os.urandom(3_000_000)
            store.create(key, data)
            for node in (a, b):
                source = node.cache.fetch(key, len(data), digest=_digest(data), check=False)
                assert isinstance(source, FileSource) and source.read(0, len(data)) == data
            assert store.reads.count(key) == 1
    assert a.cache.counts().peer_bytes == b.cache.counts().peer_bytes == 3_000_000
    assert a.peers.counts().objects == b.peers.counts().objects == 1
    assert a.server.counts().objects == b.server.counts().objects == 1


def test_many_who_ask_at_once_are_one_fetch(store: _CountingStore, tmp_path: Path) -> None:
    names = [f"node{number}" for number in range(6)]
    nodes = [_Node(name, tmp_path, store) for name in names]
    key, data = _key_of("node2", names), os.urandom(100_000)
    store.create(key, data)
    gate, found = threading.Barrier(len(nodes)), []

    def fetch(node: _Node) -> None:
        gate.wait()
        found.append(bytes(node.cache.fetch(key, len(data), digest=_digest(data)).read(0, len(data))))

    with _nodes(*nodes):
        threads = [threading.Thread(target=fetch, args=(node,)) for node in nodes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [data] * 6 and store.reads == [key]


def test_who_waits_hears_that_it_is_on_its_way(store: _CountingStore, tmp_path: Path) -> None:
    release = threading.Event()

    class Slow(ObjectStore):
        def get_range(self, key: str, start: int, length: int) -> memoryview:
            release.wait()
            return super().get_range(key, start, length)

    a = _Node("a", tmp_path, Slow(store._backend))
    key = _key_of("a", ["a"])
    store.create(key, b"sealed")
    with _nodes(a), socket.create_connection(a.server.address) as sock:
        wire = Wire(sock, SystemClock(), time.monotonic() + 300)
        wire.greet(_secret(), RUN)
        wire.send_request(Request(key, 6, _digest(b"sealed")))
        assert [wire.receive_answer()[0] for _ in range(3)] == [Answer.PENDING] * 3
        release.set()
        while (answer := wire.receive_answer())[0] is Answer.PENDING:
            pass
        assert answer == (Answer.FOUND, 6)
        got: list[bytes] = []
        wire.receive_object(6, _digest(b"sealed"), 60, lambda part, _: got.append(bytes(part)))
        assert got == [b"sealed"]


def test_a_node_that_is_gone_is_passed_over_and_asked_again_later(
    store: _CountingStore, tmp_path: Path
) -> None:
    clock = ManualClock()
    gone = PeerNode("gone", "127.0.0.1", _free_port())
    peers = PeerSource([gone, PeerNode("a", "127.0.0.1", 1)], "a", _secret(), RUN, clock=clock)
    cache = NodeCache(tmp_path / "cache", store, 1 << 20, peers)
    keys = [key for n in range(60) if hash_order(key := f"{PREFIX}/{n}", ["gone", "a"])[0] == "gone"]
    for number, key in enumerate(keys):
        store.create(key, b"sealed")
        assert cache.fetch(key, 6, digest=_digest(b"sealed")).read(0, 6) == b"sealed"
        assert peers.counts().unreachable == (1 if number < 5 else 2)
        if number == 4:
            clock.advance(31)
    assert store.reads == keys


def test_bytes_that_were_changed_on_a_node_are_noticed_there(store: _CountingStore, tmp_path: Path) -> None:
    a, b = _Node("a", tmp_path, store), _Node("b", tmp_path, store)
    key = _key_of("a", ["a", "b"])
    store.create(key, b"sealed")
    with _nodes(a, b):
        a.cache.fetch(key, 6)
        (a.folder / "objects" / key).write_bytes(b"Sealed")
        assert b.cache.fetch(key, 6, digest=_digest(b"sealed")).read(0, 6) == b"sealed"
    assert store.reads == [key, key] and a.cache.counts().refetched == 1
    assert b.peers.counts().lied == 0 and b.cache.counts().peer_bytes == 6


def test_what_the_store_does_not_have_is_said_by_whoever_needs_it(
    store: _CountingStore, tmp_path: Path
) -> None:
    a, b = _Node("a", tmp_path, store), _Node("b", tmp_path, store)
    key = _key_of("a", ["a", "b"])
    with _nodes(a, b):
        with pytest.raises(ObjectMissing, match=key):
            b.cache.fetch(key, 6, digest=_digest(b"sealed"))
        store.create(key, b"broken")
        with pytest.raises(CorruptObject, match=key):
            b.cache.fetch(key, 6, digest=_digest(b"sealed"))
    assert b.peers.counts().declined == a.server.counts().declined == 2


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        f"{PREFIX}/../e/x",
        "/etc/passwd",
        "datasets/other/x",
        "datasets/d",
        "datasets/dd/x",
        "",
        "datasets/d/\x00",
        "runs/1/checkpoints/x",
        f"{PREFIX}/.hidden",
    ],
)
def test_only_names_under_the_runs_datasets_are_served(
    name: str, store: _CountingStore, tmp_path: Path
) -> None:
    (tmp_path / "a" / "objects").mkdir(parents=True)
    (tmp_path / "a" / "e").write_bytes(b"sealed")
    store.create("datasets/other/x", b"sealed")
    a = _Node("a", tmp_path, store)
    with _nodes(a), _asking(a) as wire:
        wire.send_request(Request(name, 6, _digest(b"sealed")))
        assert wire.receive_answer() == (Answer.NOT_SERVED, 0)
    assert a.server.counts().names_refused == 1 and store.reads == []


def test_a_request_for_more_than_the_cache_takes_is_declined(store: _CountingStore, tmp_path: Path) -> None:
    a = _Node("a", tmp_path, store)
    store.create(f"{PREFIX}/x", b"sealed")
    with _nodes(a):
        for size in (1 << 31, 7):
            with _asking(a) as wire:
                wire.send_request(Request(f"{PREFIX}/x", size, _digest(b"sealed")))
                assert wire.receive_answer() == (Answer.LACKS, 0)
    assert a.cache.size_bytes() == 0 and store.reads == []


@contextmanager
def _asking(node: _Node) -> Iterator[Wire]:
    """A connection of somebody who holds the secret."""
    with socket.create_connection(node.server.address) as sock:
        wire = Wire(sock, SystemClock(), time.monotonic() + 300)
        wire.greet(_secret(), RUN)
        yield wire


@pytest.mark.parametrize("stranger", [{"secret": bytes(32)}, {"run": "run-2"}])
def test_who_holds_another_secret_or_is_of_another_run_neither_serves_nor_is_served(
    stranger: dict[str, Any], store: _CountingStore, tmp_path: Path
) -> None:
    a, b = _Node("a", tmp_path, store), _Node("b", tmp_path, store, **stranger)
    with _nodes(a, b):
        for owner in ("a", "b"):
            key = _key_of(owner, ["a", "b"])
            store.create(key, b"sealed")
            for node in (a, b):
                assert node.cache.fetch(key, 6, digest=_digest(b"sealed")).read(0, 6) == b"sealed"
    for node in (a, b):
        assert node.peers.counts().stranger == 1 and node.peers.counts().objects == 0
        assert node.server.counts().objects == 0


class _Recorder:
    """A socket that keeps what was sent."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.sent = b""

    def sendall(self, data: bytes) -> None:
        self.sent += bytes(data)
        self._sock.sendall(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def test_a_replayed_handshake_is_refused(store: _CountingStore, tmp_path: Path) -> None:
    a = _Node("a", tmp_path, store)
    store.create(f"{PREFIX}/x", b"sealed")
    with _nodes(a):
        with socket.create_connection(a.server.address) as sock:
            recorder = _Recorder(sock)
            wire = Wire(recorder, SystemClock(), time.monotonic() + 300)  # type: ignore[arg-type]
            wire.greet(_secret(), RUN)
            wire.send_request(Request(f"{PREFIX}/x", 6, _digest(b"sealed")))
            while wire.receive_answer()[0] is Answer.PENDING:
                pass
        with socket.create_connection(a.server.address) as sock:
            sock.sendall(recorder.sent)
            heard = _all_of(sock)
    assert b"sealed" not in heard and len(heard) <= 72, "a challenge and nothing behind it"
    assert a.server.counts().strangers == 1 and a.server.counts().objects == 1


@pytest.mark.parametrize("reflected", [False, True])
def test_a_wrong_proof_is_refused_before_any_request(
    reflected: bool, store: _CountingStore, tmp_path: Path
) -> None:
    a = _Node("a", tmp_path, store)
    with _nodes(a), socket.create_connection(a.server.address) as sock:
        sock.sendall(b"STKN\x01\0\0\0" + bytes(32))
        challenge = sock.recv(72, socket.MSG_WAITALL)
        assert challenge[:5] == b"STKN\x01"
        sock.sendall(challenge[40:] if reflected else bytes(32))
        assert _all_of(sock) == b""
    assert a.server.counts().strangers == 1


def _all_of(sock: socket.socket) -> bytes:
    """What comes until the other side ends the connection."""
    heard = b""
    try:
        while part := sock.recv(4096):
            heard += part
    except ConnectionResetError:
        pass
    return heard


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n" * 10, bytes(100), b"STKN\x02" + bytes(35), b"\xff" * 5000]
)
def test_garbage_is_refused(garbage: bytes, store: _CountingStore, tmp_path: Path) -> None:
    a = _Node("a", tmp_path, store)
    with _nodes(a), socket.create_connection(a.server.address) as sock:
        sock.sendall(garbage)
        assert _all_of(sock) == b""
    assert a.server.counts().strangers == 1


@pytest.mark.parametrize("place", [0, 10, 42, 60, 80])
def test_a_request_that_was_changed_on_its_way_is_refused(
    place: int, store: _CountingStore, tmp_path: Path
) -> None:
    class Changing(_Recorder):
        def sendall(self, data: bytes) -> None:
            if len(data) > 60 and not data.startswith(b"STKN"):
                changed = bytearray(data)
                changed[place] ^= 1
                data = bytes(changed)
            super().sendall(data)

    a = _Node("a", tmp_path, store)
    store.create(f"{PREFIX}/x", b"sealed")
    with _nodes(a), socket.create_connection(a.server.address) as sock:
        wire = Wire(Changing(sock), SystemClock(), time.monotonic() + 300)  # type: ignore[arg-type]
        wire.greet(_secret(), RUN)
        wire.send_request(Request(f"{PREFIX}/x", 6, _digest(b"sealed")))
        sock.shutdown(socket.SHUT_WR)
        assert _all_of(sock) == b""
    assert a.server.counts().strangers + a.server.counts().broke_off == 1 and store.reads == []


def test_a_name_longer_than_names_are_is_refused_unread(store: _CountingStore, tmp_path: Path) -> None:
    a = _Node("a", tmp_path, store)
    with _nodes(a), _asking(a) as wire:
        wire.send_request(Request("x" * 513, 6, bytes(32)))
        with pytest.raises(PeerFault) as caught:
            wire.receive_answer()
    assert caught.value.problem is Problem.BROKE_OFF and a.server.counts().strangers == 1


def test_who_connects_and_says_nothing_is_cut_off(store: _CountingStore, tmp_path: Path) -> None:
    times = PeerTimes(handshake_s=0.3, patience_s=300, silent_s=60)
    a, b = _Node("a", tmp_path, store, times=times, max_connections=2), _Node("b", tmp_path, store)
    key = _key_of("a", ["a", "b"])
    store.create(key, b"sealed")
    with _nodes(a, b), ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(a.server.address)) for _ in range(4)]
        assert all(_all_of(sock) == b"" for sock in silent)
        dripping = stack.enter_context(socket.create_connection(a.server.address))
        with pytest.raises(OSError):
            while True:
                dripping.sendall(b"S")
                time.sleep(0.02)
        assert a.server.counts().slow + a.server.counts().strangers == 5
        assert b.cache.fetch(key, 6, digest=_digest(b"sealed")).read(0, 6) == b"sealed"
    assert store.reads == [key]


def test_more_connections_than_are_served_are_closed_and_counted(
    store: _CountingStore, tmp_path: Path
) -> None:
    a = _Node("a", tmp_path, store, max_connections=1)
    with _nodes(a), ExitStack() as stack:
        held = [stack.enter_context(_asking(a)) for _ in range(2)]
        with socket.create_connection(a.server.address) as sock:
            assert _all_of(sock) == b""
        assert a.server.counts().over_limit == 1
        held[0].send_request(Request("x", 6, bytes(32)))
        assert held[0].receive_answer() == (Answer.NOT_SERVED, 0)


def test_who_is_told_that_a_node_is_busy_comes_again(store: _CountingStore, tmp_path: Path) -> None:
    def busy_once(wire: Wire, request: Request, answers: list[int]) -> None:
        answers.append(1)
        if len(answers) == 1:
            wire.send_answer(Answer.BUSY)
        else:
            wire.send_answer(Answer.FOUND, 6)
            wire.send_part(memoryview(b"sealed"))

    counts, reads = _against(busy_once, store, tmp_path)
    assert counts.objects == 1 and reads == []


def _against(
    answer: Callable[[Wire, Request, list[int]], None],
    store: _CountingStore,
    folder: Path,
    times: PeerTimes = PATIENT,
) -> tuple[Any, list[str]]:
    """Fetch three objects with a node in front that answers so; what the asking counted, what was read."""
    ending, state = threading.Event(), list[int]()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                sock, _ = listener.accept()
                with sock:
                    if ending.is_set():
                        return
                    wire = Wire(sock, SystemClock(), time.monotonic() + 300)
                    try:
                        wire.welcome(_secret(), RUN)
                        answer(wire, wire.receive_request(), state)
                    except PeerFault:
                        continue  # the other side went away, as it may

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            nodes = [PeerNode("bad", *listener.getsockname()[:2]), PeerNode("me", "127.0.0.1", 1)]
            peers = PeerSource(nodes, "me", _secret(), RUN, times=times)
            cache = NodeCache(folder / "cache", store, 1 << 30, peers)
            keys = [key for n in range(60) if hash_order(key := f"{PREFIX}/{n}", ["bad", "me"])[0] == "bad"]
            for key in keys[:3] if answer.__name__ != "busy_once" else keys[:1]:
                store.create(key, b"sealed")
                assert cache.fetch(key, 6, digest=_digest(b"sealed")).read(0, 6) == b"sealed"
            assert list((folder / "cache/partial").iterdir()) == []
        finally:
            ending.set()
            socket.create_connection(listener.getsockname()[:2]).close()
            thread.join()
        return peers.counts(), store.reads


def _wrong_bytes(wire: Wire, request: Request, _: list[int]) -> None:
    wire.send_answer(Answer.FOUND, request.expected_bytes)
    wire.send_part(memoryview(b"SEALED"))


def _too_many(wire: Wire, request: Request, _: list[int]) -> None:
    wire.send_answer(Answer.FOUND, 1 << 60)
    wire.send_part(memoryview(bytes(1 << 16)))


def _too_few(wire: Wire, request: Request, _: list[int]) -> None:
    wire.send_answer(Answer.FOUND, 3)
    wire.send_part(memoryview(b"sea"))


def _cut_short(wire: Wire, request: Request, _: list[int]) -> None:
    wire.send_answer(Answer.FOUND, request.expected_bytes)
    wire.send_part(memoryview(b"sea"))


def _nothing_at_all(wire: Wire, request: Request, _: list[int]) -> None:
    return


def _silence(wire: Wire, request: Request, _: list[int]) -> None:
    with pytest.raises(PeerFault):
        wire.receive_answer()  # until the other side has had enough


def _for_ever_pending(wire: Wire, request: Request, _: list[int]) -> None:
    while True:
        wire.send_answer(Answer.PENDING)
        time.sleep(0.02)


def _an_answer_out_of_turn(wire: Wire, request: Request, _: list[int]) -> None:
    wire._sequence += 1
    wire.send_answer(Answer.FOUND, request.expected_bytes)


IMPATIENT = PeerTimes(connect_s=60, handshake_s=60, silent_s=0.3, patience_s=1, avoid_s=600)


@pytest.mark.parametrize(
    ("answer", "counted", "asked", "times"),
    [
        (_wrong_bytes, "lied", 1, PATIENT),
        (_too_many, "lied", 1, PATIENT),
        (_too_few, "lied", 1, PATIENT),
        (_cut_short, "broke_off", 1, PATIENT),
        (_nothing_at_all, "broke_off", 1, PATIENT),
        (_an_answer_out_of_turn, "stranger", 1, PATIENT),
        (_silence, "slow", 1, IMPATIENT),
        (_for_ever_pending, "slow", 1, IMPATIENT),
    ],
)
def test_a_node_that_misbehaves_costs_time_and_is_then_avoided(
    answer: Callable[[Wire, Request, list[int]], None],
    counted: str,
    asked: int,
    times: PeerTimes,
    store: _CountingStore,
    tmp_path: Path,
) -> None:
    counts, reads = _against(answer, store, tmp_path, times)
    assert getattr(counts, counted) == asked and counts.objects == 0
    assert len(reads) == 3, "each object came from the store instead"


def test_a_disk_that_fills_while_a_node_gives_is_the_disks_fault(tmp_path: Path) -> None:
    def full(part: object, offset: int) -> None:
        raise OSError(28, "No space left on device")

    store = ObjectStore.open(f"file://{tmp_path}/store")
    a = _Node("a", tmp_path, store)
    store.create(f"{PREFIX}/x", b"sealed")
    with _nodes(a):
        peers = PeerSource([a.known()], "b", _secret(), RUN, times=PATIENT)
        with pytest.raises(OSError, match="No space"):
            peers.fetch(f"{PREFIX}/x", 6, _digest(b"sealed"), full)
        assert set(vars_of(peers.counts()).values()) == {0}


def vars_of(counts: Any) -> dict[str, int]:
    return {name: getattr(counts, name) for name in counts.__dataclass_fields__}


def test_a_server_that_is_closed_leaves_no_thread_and_frees_its_port(
    store: _CountingStore, tmp_path: Path
) -> None:
    a = _Node("a", tmp_path, store)
    host, port = a.server.address
    with socket.create_connection((host, port)):
        with pytest.raises(CannotServePeers, match=f"{host}:{port} cannot be listened on"):
            _Node("b", tmp_path, store, bind=(host, port))
        a.server.close()
    a.server.close()
    assert [each.name for each in threading.enumerate() if each.name.startswith("stoker-peer")] == []
    with _Node("c", tmp_path, store, bind=(host, port)).server as again:
        assert again.address == (host, port)


@pytest.mark.parametrize("given", [b"", bytes(31), bytes(33), bytes(4000)])
def test_a_secret_of_another_length_is_refused(given: bytes) -> None:
    reading, writing = os.pipe()
    os.write(writing, given)
    os.close(writing)
    with pytest.raises(BadPeerSecret, match="32 bytes were expected"):
        read_secret(reading)


def test_a_secret_comes_over_a_descriptor_which_is_closed() -> None:
    reading, writing = os.pipe()
    os.write(writing, SECRET)
    os.close(writing)
    with read_secret(reading) as secret:
        assert secret.view() == SECRET
    with pytest.raises(BadPeerSecret, match="cannot be read"):
        read_secret(reading)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class _Process:
    """tests/support/peer_node.py as a process."""

    def __init__(self, name: str, folder: Path, slow: SlowStore) -> None:
        self.name = name
        reading, writing = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, NODE_SCRIPT, folder / name, slow.url, name, str(reading)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(reading,),
            env=os.environ | slow.environment,
        )
        os.close(reading)
        os.write(writing, SECRET)
        os.close(writing)

    def hear(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{self.name} ended early"
        return json.loads(line)

    def tell(self, value: Any) -> None:
        assert self.process.stdin is not None
        print(json.dumps(value), file=self.process.stdin, flush=True)


def _four_nodes(
    slow: SlowStore, folder: Path, objects: dict[str, bytes], *, asking: bool = True
) -> list[_Process]:
    """Four processes, each with a cache of its own, about to read all objects in an order of its own."""
    nodes = [_Process(f"node{number}", folder, slow) for number in range(4)]
    addresses = [(node.name, *node.hear()) for node in nodes]
    slow.forget()  # the probes of opening the store
    for number, node in enumerate(nodes):
        order = [(key, len(data), _digest(data).hex()) for key, data in objects.items()]
        random.Random(number).shuffle(order)
        node.tell({"nodes": addresses, "asking": asking, "objects": order})
    return nodes


@pytest.fixture
def objects() -> dict[str, bytes]:
    return {f"{PREFIX}/{number:08d}.stk": os.urandom(20_000) for number in range(32)}


def test_four_nodes_read_everything_and_the_store_gives_each_shard_once(
    tmp_path: Path, objects: dict[str, bytes]
) -> None:
    with SlowStore(latency_s=0.02) as slow, pointed_at(slow):
        slow.objects.update(objects)
        nodes = _four_nodes(slow, tmp_path, objects)
        said = []
        for node in nodes:
            assert node.hear() == "half"
            node.tell("go on")
        for node in nodes:
            said.append(node.hear())
        for node in nodes:
            node.tell("end")
            assert node.hear()["strangers"] == 0
            assert node.process.wait() == 0
        assert {key: slow.count("GET", key) for key in objects} == dict.fromkeys(objects, 1)
        assert slow.bytes_sent(f"{PREFIX}/") == 32 * 20_000
    assert sum(each["cache"]["store_bytes"] for each in said) == 32 * 20_000
    assert sum(each["cache"]["peer_bytes"] for each in said) == 3 * 32 * 20_000
    assert all(each["cache"]["store_bytes"] > 0 for each in said), "each fetches a part"


def test_without_asking_each_other_the_store_gives_four_copies(
    tmp_path: Path, objects: dict[str, bytes]
) -> None:
    few = dict(list(objects.items())[:4])
    with SlowStore() as slow, pointed_at(slow):
        slow.objects.update(few)
        nodes = _four_nodes(slow, tmp_path, few, asking=False)
        for node in nodes:
            assert node.hear() == "half"
            node.tell("go on")
            node.hear()
            node.tell("end")
            node.hear()
            assert node.process.wait() == 0
        assert slow.bytes_sent(f"{PREFIX}/") == 4 * 4 * 20_000


@pytest.mark.parametrize("working", [True, False])
def test_when_a_node_is_killed_the_others_finish_and_nothing_is_fetched_three_times(
    working: bool, tmp_path: Path, objects: dict[str, bytes]
) -> None:
    with SlowStore(latency_s=0.02) as slow, pointed_at(slow):
        slow.objects.update(objects)
        nodes = _four_nodes(slow, tmp_path, objects)
        killed = nodes.pop(1)
        assert killed.hear() == "half"
        if working:
            killed.tell("go on")
        killed.process.kill()
        killed.process.wait()
        said = []
        for node in nodes:
            assert node.hear() == "half"
            node.tell("go on")
        for node in nodes:
            said.append(node.hear())
        for node in nodes:
            node.tell("end")
            node.hear()
            assert node.process.wait() == 0
        counts = [slow.count("GET", key) for key in objects]
    assert min(counts) == 1 and max(counts) <= 2
    assert sum(each["peers"]["unreachable"] + each["peers"]["broke_off"] for each in said) > 0
