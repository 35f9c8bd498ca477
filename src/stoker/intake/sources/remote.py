"""A source in an object store: listed once, then read in ranges of the very objects that the listing named.

Read only: nothing is written, not even to try. Credentials come from the environment. Each read names the
entity tag that the listing saw, so an object that changes or shrinks meanwhile is an error, not a mixture.
See docs/design/intake.md, "Sources".
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from stoker.intake.errors import SourceChanged, SourceUnreachable
from stoker.intake.left_out import LeftOutTally, Reason, printable
from stoker.intake.sources.files import CANARY_NAME, Candidate
from stoker.intake.sources.forms import CONTAINER_ENDINGS
from stoker.intake.sources.read_ahead import ReadAhead
from stoker.intake.walk import globs
from stoker.spec.source import ImportSpec, OnFault

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ObjectStore as AnyStore

URL: Final = re.compile(r"(s3|s3a|gs|az|adl|azure|abfs|abfss|memory)://")
_PIECE_BYTES: Final = 8 * 1024 * 1024
_TRIES: Final = 4
_HINT: Final = "Check the URL, the network and the credentials in the environment, then run it again."


def is_url(place: str) -> bool:
    """Whether this names a store rather than a local path."""
    return URL.match(place) is not None


@contextmanager
def open_remote(
    url: str, spec: ImportSpec, left_out: LeftOutTally, store: AnyStore | None = None
) -> Iterator[RemoteFiles]:
    """The objects below `url`, or the one that it names when its name ends as an archive's or a table's does.

    `store` stands in for what the URL names. Raises SourceUnreachable.
    """
    parts = urlsplit(url)
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    only = None
    if parts.path.lower().endswith(CONTAINER_ENDINGS):
        url, _, only = url.rpartition("/")
    files = RemoteFiles(store if store is not None else _connect(url, place), place, spec, left_out, only)
    try:
        yield files
    finally:
        files.close()


def _connect(url: str, place: str) -> AnyStore:
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    try:
        if url.startswith("memory:"):
            return from_url("memory://")
        return from_url(
            url,
            client_options={
                "connect_timeout": timedelta(seconds=10),
                "timeout": timedelta(seconds=120),
                # Options that are given here replace all that the environment says about the client.
                "allow_http": any(
                    os.environ.get(f"{cloud}_ALLOW_HTTP", "").lower() in ("1", "true")
                    for cloud in ("AWS", "GOOGLE", "AZURE")
                ),
            },
            retry_config={"max_retries": 6, "retry_timeout": timedelta(seconds=90)},
        )
    except (BaseError, ValueError, TypeError) as error:
        # The library quotes the URL, which may hold credentials.
        reason = _first_line(error).replace(url, place)
        raise SourceUnreachable(f"{printable(place)} cannot be opened: {reason}.", hint=_HINT) from None


class RemoteFiles:
    """The objects below one URL. Use `open_remote`."""

    def __init__(
        self, store: AnyStore, place: str, spec: ImportSpec, left_out: LeftOutTally, only: str | None
    ) -> None:
        self._store = store
        self._place = place
        self._only = only
        self._left_out = left_out
        self._unreadable = spec.unreadable
        self._read_ahead: ReadAhead | None = None
        self._include = globs(spec.include)
        self._exclude = globs(spec.exclude)

    @property
    def place(self) -> str:
        return printable(self._place)

    def top_folders(self) -> tuple[str, ...]:
        """None: a store has no empty folders."""
        return ()

    def candidates(self) -> list[Candidate]:
        """Every object that include and exclude let through, in the order that a folder would have."""
        found = sorted(self._list(), key=lambda candidate: candidate.path.encode().split(b"/"))
        taken = [candidate for candidate in found if self._takes(candidate)]
        self.close()
        self._read_ahead = ReadAhead(taken, self._fetch)
        return taken

    def _list(self) -> Iterator[Candidate]:
        import obstore

        with _naming(self.place):
            if self._only is not None:
                meta = self._store.head(self._only)
                yield Candidate(self._only, meta["size"], stamp_of(meta))
                return
            for page in obstore.list(self._store):
                for meta in page:
                    yield Candidate(str(meta["path"]), meta["size"], stamp_of(meta))

    def _takes(self, candidate: Candidate) -> bool:
        path, reason = candidate.path, None
        if not self._include.match(path) or self._exclude.match(path):
            reason = Reason.EXCLUDED
        elif path == CANARY_NAME:
            reason = Reason.RESERVED_NAME
        elif candidate.size_bytes == 0:
            reason = Reason.EMPTY
        if reason is not None:
            self._left_out.add(reason, path)
        return reason is None

    def read(self, candidate: Candidate) -> bytes | None:
        """The whole object; None when it is refused to us and the settings leave that out.

        Raises SourceChanged, SourceUnreachable.
        """
        from obstore.exceptions import PermissionDeniedError

        try:
            return self._read_ahead.get(candidate) if self._read_ahead else self._fetch(candidate)
        except SourceUnreachable as error:
            if self._unreadable is OnFault.LEAVE_OUT and isinstance(error.__cause__, PermissionDeniedError):
                self._left_out.add(Reason.UNREADABLE, candidate.path)
                return None
            raise

    def _fetch(self, candidate: Candidate) -> bytes:
        with self.open(candidate) as opened:
            return opened.read(0, candidate.size_bytes)

    def open(self, candidate: Candidate) -> OpenObject:
        """The object for reading in ranges."""
        return OpenObject(self._store, candidate, self.place)

    def close(self) -> None:
        """End what was asked for ahead."""
        if self._read_ahead is not None:
            self._read_ahead.close()
            self._read_ahead = None


class OpenObject:
    """One object, read a piece at a time; the last piece is kept, since most reading goes forward."""

    def __init__(self, store: AnyStore, candidate: Candidate, place: str) -> None:
        self._store = store
        self._candidate = candidate
        self._place = place
        self._piece = b""
        self._start = 0

    def size(self) -> int:
        return self._candidate.size_bytes

    def read(self, start: int, length: int) -> bytes:
        """Exactly these bytes. Raises SourceChanged when the object is another, or shorter than listed."""
        pieces = []
        while length > 0:
            if not self._start <= start < self._start + len(self._piece):
                wanted = min(_PIECE_BYTES, self.size() - start)
                self._piece, self._start = self._fetch(start, wanted), start
            offset = start - self._start
            part = self._piece[offset : offset + length]
            pieces.append(part)
            start, length = start + len(part), length - len(part)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _fetch(self, start: int, length: int) -> bytes:
        """One range. What obstore does not repeat, such as a body that breaks off, is repeated here."""
        from obstore.exceptions import GenericError

        if length <= 0:
            raise _changed(self._candidate.path)
        with _naming(f"{printable(self._candidate.path)} in {self._place}"):
            for attempt in range(_TRIES - 1):
                try:
                    return self._ask(start, length)
                except GenericError:
                    time.sleep(random.uniform(0.0, 0.2) * 2**attempt)  # noqa: S311 - jitter
            return self._ask(start, length)

    def _ask(self, start: int, length: int) -> bytes:
        """Raises SourceChanged when the object is another than the listing named."""
        from obstore.exceptions import PreconditionError

        tag = self._candidate.stamp[0]
        options: GetOptions = {"range": (start, start + length)}
        if tag:
            options["if_match"] = f'"{tag}"'
        try:
            found = self._store.get(self._candidate.path, options=options)
        except (PreconditionError, FileNotFoundError) as error:
            raise _changed(self._candidate.path) from error
        if stamp_of(found.meta) != self._candidate.stamp:
            raise _changed(self._candidate.path)
        data = bytes(found.bytes())
        if len(data) != length:
            raise _changed(self._candidate.path)
        return data

    def __enter__(self) -> OpenObject:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._piece = b""


def stamp_of(meta: Any) -> tuple[int | str | None, ...]:
    """What names an object's bytes, the same from a listing and from a read.

    Azure quotes tags in answers and not in listings; versions come with answers only, in S3 and GCS.
    """
    return ((meta["e_tag"] or "").removeprefix("W/").strip('"'), meta["size"])


@contextmanager
def _naming(what: str) -> Iterator[None]:
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError) as error:
        raise SourceUnreachable(f"{what}: {_first_line(error)}.", hint=_HINT) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _changed(path: str) -> SourceChanged:
    return SourceChanged(
        f"{printable(path)} changed while it was being imported.",
        hint="Import again when nothing writes to the prefix, or import a copy of it.",
    )
