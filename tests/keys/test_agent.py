"""The key agent: leases are checked for every key, and one bad connection harms no other."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker.core.clock import ManualClock
from stoker.core.errors import Busy, DiskFull, StokerError
from stoker.keys.agent import Ending, KeyAgent
from stoker.keys.agent_client import AgentKeySource
from stoker.keys.agent_protocol import (
    Request,
    decode_answer,
    decode_request,
    encode_error,
    encode_key,
    encode_request,
)
from stoker.keys.caller import Caller, key_sockets
from stoker.keys.errors import AgentLost, KeyDestroyed, LeaseExpired, LeaseRefused, WrongContext
from stoker.keys.file_backend import FileBackend
from stoker.keys.lease import Lease, Use
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey
from support.key_stores import SCOPE, in_child, open_store

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
DATASET, CHECKPOINT = Purpose.DATASET, Purpose.CHECKPOINT


class House:
    """A back end, an agent with a lease, and its connections."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.backend: FileBackend = open_store(folder, clock=self.clock)
        self.data = self.backend.create_kek(SCOPE, DATASET, expires_s=None)
        self.run = self.backend.create_kek("run/r-1", CHECKPOINT, expires_s=None)
        self.foreign = self.backend.create_kek("run/r-2", CHECKPOINT, expires_s=None)
        may_open = frozenset({self.data, self.run})
        expires_s = self.clock.now_s() + 60
        self.lease = Lease("l-1", "r-1", may_open, frozenset({self.run}), "train own-text", expires_s)
        self.agent = KeyAgent(self.backend, self.lease, self.clock)
        self.caller = Caller.this_process()
        self.threads: list[threading.Thread] = []
        self.sockets: list[socket.socket] = []
        self.endings: dict[int, Ending] = {}

    def connect(self) -> socket.socket:
        ours, theirs = key_sockets()
        number = len(self.threads)

        def serve() -> None:
            self.endings[number] = self.agent.serve(ours, self.caller)

        thread = threading.Thread(target=serve)
        thread.start()
        self.threads.append(thread)
        self.sockets.append(theirs)
        return theirs

    def ending(self, number: int) -> Ending:
        self.threads[number].join()
        return self.endings[number]

    def close(self) -> None:
        self.agent.close()
        for thread in self.threads:
            thread.join()
        for each in self.sockets:
            each.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path / "keys")
    yield house
    house.close()


def test_a_lease_covers_opening_and_sealing_apart(house: House) -> None:
    rank = AgentKeySource.of(house.connect(), house.caller)
    _, wrapped = rank.new_partition_key(house.run, CHECKPOINT)
    rank.open_partition_key(house.run, wrapped, CHECKPOINT).wipe()
    with pytest.raises(LeaseRefused, match="seal under KEK dataset/"):
        rank.new_partition_key(house.data, DATASET)
    for use in (
        lambda: rank.open_partition_key(house.foreign, wrapped, CHECKPOINT),
        lambda: rank.new_partition_key(house.foreign, CHECKPOINT),
        lambda: rank.new_partition_key(KekRef("run/r-9", 1), CHECKPOINT),
    ):
        with pytest.raises(LeaseRefused):
            use()


def test_an_expired_lease_gives_no_key_until_it_is_renewed(house: House) -> None:
    rank = AgentKeySource.of(house.connect(), house.caller)
    house.clock.advance(60)
    with pytest.raises(LeaseExpired, match="l-1"):
        rank.new_partition_key(house.run, CHECKPOINT)
    assert house.agent.renew(house.clock.now_s() + 10).expires_s == house.clock.now_s() + 10
    rank.new_partition_key(house.run, CHECKPOINT)[0].wipe()
    house.clock.advance(10)
    with pytest.raises(LeaseExpired):
        rank.new_partition_key(house.run, CHECKPOINT)


def test_a_revoked_lease_is_over_for_every_rank_and_for_good(house: House) -> None:
    ranks = [AgentKeySource.of(house.connect(), house.caller) for _ in range(3)]
    house.agent.revoke()
    for rank in ranks:
        with pytest.raises(LeaseRefused, match="revoked"):
            rank.new_partition_key(house.run, CHECKPOINT)
    with pytest.raises(LeaseRefused, match="revoked"):
        house.agent.renew(house.clock.now_s() + 1000)


def test_a_closed_agent_ends_every_connection(house: House) -> None:
    ranks = [AgentKeySource.of(house.connect(), house.caller) for _ in range(3)]
    ranks[0].new_partition_key(house.run, CHECKPOINT)[0].wipe()
    house.agent.close()
    assert {house.ending(number) for number in range(3)} == {Ending.CLOSED}
    for rank in ranks:
        with pytest.raises(AgentLost) as lost:
            rank.new_partition_key(house.run, CHECKPOINT)
        assert lost.value.hint
    house.connect()
    assert house.ending(3) is Ending.CLOSED


def frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


MALFORMED = {
    "a length above the cap": struct.pack(">I", 4097),
    "a length of 4 GiB": b"\xff\xff\xff\xff" + b"x" * 100,
    "a length of zero": bytes(4),
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "another version": frame(b"\x02\x01\x00\x07run/r-1"),
    "another kind": frame(b"\x01\x03"),
    "an answer": frame(b"\x01\x81" + bytes(34)),
    "no fields": frame(b"\x01\x01"),
    "a field longer than the message": frame(b"\x01\x01\xff\xff" + b"run/r-1#1"),
    "a KEK that is none": frame(b"\x01\x01\x00\x03run\x00\x0acheckpoint"),
    "a KEK that is not ASCII": frame(b"\x01\x01\x00\x02\xff\xfe\x00\x0acheckpoint"),
    "a purpose that is none": frame(b"\x01\x01\x00\x09run/r-1#1\x00\x03fun"),
    "a byte too many": frame(b"\x01\x01\x00\x09run/r-1#1\x00\x0acheckpoint!"),
    "no wrapped key": frame(b"\x01\x02\x00\x09run/r-1#1\x00\x0acheckpoint"),
}


@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_message_closes_only_its_connection(house: House, message: bytes) -> None:
    good, bad = AgentKeySource.of(house.connect(), house.caller), house.connect()
    bad.settimeout(30)  # an agent that waits for more fails the test instead of hanging it
    bad.sendall(message)
    with contextlib.suppress(ConnectionResetError):  # what the agent had not read is thrown away
        assert bad.recv(1) == b""
    assert house.ending(1) is Ending.MALFORMED
    good.new_partition_key(house.run, CHECKPOINT)[0].wipe()


def test_a_rank_that_dies_in_the_middle_of_a_message_harms_nobody(house: House) -> None:
    good, bad = AgentKeySource.of(house.connect(), house.caller), house.connect()
    bad.sendall(struct.pack(">I", 40) + b"\x01")
    bad.close()
    assert house.ending(1) is Ending.MALFORMED
    good.new_partition_key(house.run, CHECKPOINT)[0].wipe()


def test_a_rank_that_closes_before_the_answer_harms_nobody(house: House) -> None:
    good, bad = AgentKeySource.of(house.connect(), house.caller), house.connect()
    bad.sendall(frame(bytes(encode_request(Request(Use.SEAL, house.run, CHECKPOINT)))) * 50)
    bad.close()
    assert house.ending(1) in (Ending.CLOSED, Ending.MALFORMED)
    good.new_partition_key(house.run, CHECKPOINT)[0].wipe()


def test_many_ranks_and_threads_at_once_each_get_their_own_keys(house: House) -> None:
    ranks = [AgentKeySource.of(house.connect(), house.caller) for _ in range(4)]
    seen: list[bytes] = []
    failed: list[int] = []

    def work(number: int) -> None:
        for _ in range(25):
            key, wrapped = ranks[number % 4].new_partition_key(house.run, CHECKPOINT)
            with key, ranks[number % 4].open_partition_key(house.run, wrapped, CHECKPOINT) as opened:
                if opened.view() != key.view():
                    failed.append(number)
                seen.append(bytes(key.view()))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(set(seen)) == 200


def test_atk_066_another_process_on_the_same_socket_gets_no_key(house: House) -> None:
    theirs = house.connect()

    def rank() -> None:
        # The same user and secret, but another process than the one that was started: nothing for it.
        source = AgentKeySource.of(socket.socket(fileno=os.dup(theirs.fileno())), house.caller)
        with pytest.raises(LeaseRefused, match="another process"):
            source.new_partition_key(house.run, CHECKPOINT)

    assert in_child(rank) == 0
    assert house.ending(0) is Ending.STRANGER
    assert house.agent.strangers == 1


def test_the_process_that_was_started_uses_its_inherited_socket(house: House) -> None:
    caller = Caller()
    house.caller = caller
    theirs = house.connect()
    told, tell = os.pipe()

    def rank() -> None:
        os.write(tell, str(os.getpid()).encode())
        source = AgentKeySource.of(socket.socket(fileno=os.dup(theirs.fileno())), caller)
        key, wrapped = source.new_partition_key(house.run, CHECKPOINT)
        assert source.open_partition_key(house.run, wrapped, CHECKPOINT).view() == key.view()

    launcher = threading.Thread(target=lambda: caller.is_process(int(os.read(told, 16))))
    launcher.start()
    assert in_child(rank) == 0
    launcher.join()
    os.close(told)
    os.close(tell)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_keys_never_cross_a_network_socket(house: House, kind: socket.SocketKind) -> None:
    for family in (socket.AF_INET, socket.AF_UNIX):
        if (family, kind) == (socket.AF_UNIX, socket.SOCK_STREAM):
            continue
        with socket.socket(family, kind) as sock:
            with pytest.raises(AgentLost, match="AF_UNIX"):
                AgentKeySource.of(sock, house.caller)
            with pytest.raises(AgentLost, match="AF_UNIX"):
                house.agent.serve(sock, house.caller)


def answering(raw: bytes) -> AgentKeySource:
    """A rank whose agent answers `raw` to anything and closes."""
    ours, theirs = socket.socketpair()
    ours.sendall(raw)
    ours.shutdown(socket.SHUT_WR)

    def drain() -> None:
        with ours:
            while ours.recv(4096):
                pass

    threading.Thread(target=drain, daemon=True).start()
    return AgentKeySource.of(theirs, Caller.this_process())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00\x00",
        b"\xff\xff\xff\xff",
        frame(b"\x01\x81" + bytes(31)),
        frame(b"\x01\x81" + bytes(34)),
        frame(b"\x01\x81" + bytes(32) + b"\x00\x01xx"),
        frame(b"\x02\x81" + bytes(34)),
        frame(b"\x01\x01"),
        frame(b"\x01\x82\x00\x07no-such\x00\x00\x00\x00"),
        frame(b"\x01\x82\x00\x09malformed"),
    ],
)
def test_an_answer_that_is_none_loses_the_agent(raw: bytes) -> None:
    rank = answering(raw)
    with pytest.raises(AgentLost):
        rank.new_partition_key(KekRef("run/r-1", 1), CHECKPOINT)
    rank.close()


@pytest.mark.parametrize("kind", [KeyDestroyed, WrongContext, LeaseExpired, DiskFull, Busy])
def test_an_error_arrives_as_its_own_class(kind: type[StokerError]) -> None:
    body = encode_error(kind("KEK dataset/ü#1 is gone.", hint="Prepare it anew."))
    with pytest.raises(kind) as raised:
        decode_answer(memoryview(body))
    assert (raised.value.message, raised.value.hint) == ("KEK dataset/ü#1 is gone.", "Prepare it anew.")


def test_a_very_long_error_is_cut_to_fit() -> None:
    with pytest.raises(KeyDestroyed, match=r"^é+.?$"):
        decode_answer(memoryview(encode_error(KeyDestroyed("é" * 10_000, hint="x" * 10_000))))


REQUESTS = st.builds(
    lambda epoch, purpose, wrapped: Request(
        Use.OPEN if wrapped else Use.SEAL, KekRef("run/r-1", epoch), purpose, wrapped
    ),
    st.integers(1, 2**32 - 1),
    st.sampled_from(Purpose),
    st.binary(max_size=1024),
)


@UNHURRIED
@given(REQUESTS)
def test_requests_come_back_as_they_were(request: Request) -> None:
    assert decode_request(memoryview(encode_request(request))) == request


@UNHURRIED
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=1024))
def test_keys_come_back_as_they_were(secret: bytes, wrapped: bytes) -> None:
    with SecretKey.adopt(bytearray(secret)) as key:
        opened, again = decode_answer(memoryview(encode_key(key, wrapped)))
    assert bytes(opened.view()) == secret
    assert again == wrapped


@settings(UNHURRIED, max_examples=300)
@given(st.binary(max_size=80).map(lambda tail: bytes([1, tail[0] % 4 if tail else 1]) + tail))
def test_any_bytes_are_a_request_or_refused_as_one(body: bytes) -> None:
    try:
        assert bytes(encode_request(decode_request(memoryview(body)))) == body
    except AgentLost as error:
        assert error.message
