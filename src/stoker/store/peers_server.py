"""A node serves its cached ciphertext to the other nodes of its run. See docs/design/store.md, "Peers"."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from stoker.core.clock import Clock, SystemClock
from stoker.core.errors import StokerError
from stoker.keys.secret import SecretKey
from stoker.store.cache import CachedCopy, NodeCache
from stoker.store.errors import BadObjectKey, CannotServePeers
from stoker.store.objects import check_key
from stoker.store.peers_wire import Answer, PeerFault, PeerTimes, Problem, Request, Wire

MAX_CONNECTIONS: Final = 64

_PART_BYTES: Final = 1 << 20
_REMEMBERED: Final = 1 << 16
_BACKLOG: Final = 128


@dataclass(frozen=True, slots=True)
class ServeCounts:
    """What a server has done since it began."""

    objects: int = 0
    object_bytes: int = 0
    strangers: int = 0
    """Connections that did not prove that they hold the run's secret, or broke the protocol."""
    names_refused: int = 0
    declined: int = 0
    slow: int = 0
    """Connections that missed a deadline."""
    broke_off: int = 0
    over_limit: int = 0


class PeerServer:
    """Serves whole cached objects under some prefixes to who holds the run's secret, until it is closed.

    What the cache lacks is brought in first, from nodes before this one in the object's order, or the store;
    many who ask at once are one flight.
    """

    def __init__(
        self,
        cache: NodeCache,
        secret: SecretKey,
        run: str,
        bind: tuple[str, int] = ("127.0.0.1", 0),
        *,
        prefixes: Sequence[str],
        max_connections: int = MAX_CONNECTIONS,
        times: PeerTimes | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`prefixes` are folders of the store, such as `datasets/NAME/VERSION`: the run's datasets.

        The secret is the caller's to wipe, after `close`. Raises CannotServePeers when the address cannot be
        bound, BadObjectKey.
        """
        self._cache = cache
        self._secret = secret
        self._run = run
        self._prefixes = tuple(f"{check_key(prefix)}/" for prefix in prefixes)
        self._times = times or PeerTimes()
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(ServeCounts.__dataclass_fields__, 0)
        self._sound: dict[tuple[str, bytes], int] = {}  # copies whose digest was compared, by inode
        self._open: dict[socket.socket, threading.Thread] = {}
        self._serving = threading.BoundedSemaphore(max_connections)
        self._most_open = 2 * max_connections
        self._closed = False
        try:
            self._listener = socket.create_server(bind, backlog=_BACKLOG)
        except OSError as error:
            raise CannotServePeers(
                f"{bind[0]}:{bind[1]} cannot be listened on: {error.strerror}.",
                hint="Name an address of this machine and a free port; port 0 takes any.",
            ) from error
        self._accepting = threading.Thread(target=self._accept, name="stoker-peers", daemon=True)
        self._accepting.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that the server listens on."""
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    def counts(self) -> ServeCounts:
        """What has been served and refused so far."""
        with self._lock:
            return ServeCounts(**self._counts)

    def close(self) -> None:
        """Stop listening, break off what is being served, and wait for its threads. May be called again."""
        with self._lock:
            self._closed = True
            open_now = dict(self._open)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept, which closing alone does not
        self._listener.close()
        for sock in open_now:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        for thread in open_now.values():
            thread.join()

    def __enter__(self) -> PeerServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                if self._closed:
                    return
                self._clock.sleep(0.1)  # no descriptor is free; one will be
                continue
            with self._lock:
                refused = self._closed or len(self._open) >= self._most_open
                if refused:
                    self._counts["over_limit"] += 1
                else:
                    thread = threading.Thread(
                        target=self._serve, args=(sock,), name="stoker-peer", daemon=True
                    )
                    self._open[sock] = thread
                    thread.start()
            if refused:
                sock.close()

    def _serve(self, sock: socket.socket) -> None:
        """One connection, from the handshake to its end."""
        with sock:
            try:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._converse(Wire(sock, self._clock, self._clock.monotonic_s() + self._times.handshake_s))
            except PeerFault as fault:
                self._count(_COUNTED_AS[fault.problem], 1)
            finally:
                with self._lock:
                    self._open.pop(sock, None)  # before it is closed: who sees that may come again

    def _converse(self, wire: Wire) -> None:
        wire.welcome(self._secret, self._run)
        request = wire.receive_request()
        if not self._serving.acquire(blocking=False):
            self._count("over_limit", 1)
            self._send(wire, Answer.BUSY)
            return
        try:
            if not self._is_served(request.key):
                self._count("names_refused", 1)
                self._send(wire, Answer.NOT_SERVED)
                return
            with self._brought(wire, request) as source:
                if source is None:
                    self._count("declined", 1)
                    self._send(wire, Answer.LACKS)
                    return
                self._send(wire, Answer.FOUND, source.size())
                for start in range(0, source.size(), _PART_BYTES):
                    wire.extend(self._clock.monotonic_s() + self._times.silent_s)
                    wire.send_part(source.read(start, min(_PART_BYTES, source.size() - start)))
            self._count("objects", 1)
            self._count("object_bytes", request.expected_bytes)
        finally:
            self._serving.release()

    def _send(self, wire: Wire, answer: Answer, size: int = 0) -> None:
        wire.extend(self._clock.monotonic_s() + self._times.silent_s)
        wire.send_answer(answer, size)

    def _is_served(self, key: str) -> bool:
        try:
            return check_key(key).startswith(self._prefixes)
        except BadObjectKey:
            return False

    @contextlib.contextmanager
    def _brought(self, wire: Wire, request: Request) -> Iterator[CachedCopy | None]:
        """The object's copy, sound; None when it cannot be had. Says PENDING while it is on its way."""
        found: list[CachedCopy] = []
        thread = threading.Thread(
            target=self._bring, args=(request, found), name="stoker-peer-fetch", daemon=True
        )
        thread.start()
        try:
            thread.join(self._times.beat_s)
            while thread.is_alive():
                self._send(wire, Answer.PENDING)
                thread.join(self._times.beat_s)
            yield found[0] if found else None
        finally:
            thread.join()  # so that those who go away while they wait leave no more than one thread each
            for source in found:
                source.close()

    def _bring(self, request: Request, found: list[CachedCopy]) -> None:
        """Put the object's copy into `found`, its digest compared once for each file that holds it."""
        key, digest = request.key, request.digest
        try:
            source = self._cache.fetch(key, request.expected_bytes, digest=digest, check=False)
            if not isinstance(source, CachedCopy):
                return  # only whole cached objects are served
            inode = source.inode
            if self._sound.get((key, digest)) != inode:
                if _digest_of(source) != digest:
                    source.close()
                    source = self._cache.fetch(key, request.expected_bytes, digest=digest)
                    if not isinstance(source, CachedCopy):
                        return
                    inode = source.inode
                with self._lock:
                    if len(self._sound) >= _REMEMBERED:
                        self._sound.clear()
                    self._sound[key, digest] = inode
            found.append(source)
        except (StokerError, OSError):
            return  # whoever asked asks the store then, and meets the same error in his own name

    def _count(self, name: str, more: int) -> None:
        with self._lock:
            self._counts[name] += more


_COUNTED_AS: Final = {
    Problem.STRANGER: "strangers",
    Problem.SLOW: "slow",
    Problem.BROKE_OFF: "broke_off",
}


def _digest_of(source: CachedCopy) -> bytes:
    digest, size = hashlib.sha256(), source.size()
    for start in range(0, size, _PART_BYTES):
        digest.update(source.read(start, min(_PART_BYTES, size - start)))
    return digest.digest()
